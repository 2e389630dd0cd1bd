"""Preprocess: the contract for pixels, the same in training, evaluation, prediction, export and serving.

Shapes: B batch, C channels, H W height and width.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F

from vitrail.data.decode import open_image
from vitrail.errors import UserError, did_you_mean

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MODES = ("crop", "squash", "pad")
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True)
class Preprocess:
    """The whole deterministic way of an image from a file to the model. It is saved with the weights."""

    image_size: tuple[int, int]
    """(height, width) that the model takes, in pixels."""
    channels: int = 3
    """3 for RGB, 1 for luminance."""
    mode: Literal["crop", "squash", "pad"] = "crop"
    """crop: cover the image size, then cut out the centre; squash: ignore the aspect ratio; pad: fit inside, and
    fill up with the mean."""
    crop_fraction: float = 0.875
    """In mode crop, the share of the resized image's height and width that the centre crop keeps; 0 to 1."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """The resampling filter, antialiased in either case."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted from the pixels in [0, 1], one value a channel."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divides them then, one value a channel."""

    def __post_init__(self) -> None:
        # lists come from JSON; tuples compare and hash
        object.__setattr__(self, "image_size", tuple(int(side) for side in self.image_size))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise UserError(f"preprocess.image_size {self.image_size}: two positive numbers (height, width) are needed")
        if self.channels not in (1, 3):
            raise UserError(f"preprocess.channels {self.channels}: 1 (luminance) or 3 (RGB) is possible")
        if self.mode not in MODES:
            raise UserError(f"preprocess.mode {self.mode!r}: {did_you_mean(str(self.mode), MODES)}")
        if self.interpolation not in INTERPOLATIONS:
            hint = did_you_mean(str(self.interpolation), INTERPOLATIONS)
            raise UserError(f"preprocess.interpolation {self.interpolation!r}: {hint}")
        if not 0 < self.crop_fraction <= 1:
            raise UserError(f"preprocess.crop_fraction {self.crop_fraction}: more than 0 and at most 1 is possible")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise UserError(f"preprocess.{name} {values}: one value for each of {self.channels} channels is needed")
        if min(self.std) <= 0:
            raise UserError(f"preprocess.std {self.std}: values above 0 are needed")

    def load(self, data: bytes, name: str = "image") -> torch.Tensor:
        """Decode and resize an encoded image -> uint8 (C, h, w).

        A large JPEG is decoded at reduced scale, no smaller than the size it is resized to.

        Raises:
            ImageError: see `decode.open_image` and `decode.OpenedImage.pixels`.
        """
        opened = open_image(data, name)
        return self.resize(opened.pixels(self.channels, at_least=self._resized(opened.size)))

    def resize(self, image: torch.Tensor) -> torch.Tensor:
        """Resize, then crop or pad: uint8 (C, H, W) -> uint8 (C, h, w)."""
        height, width = self.image_size
        if self.mode == "crop":
            image = self._without_excess(image)
        size = self._resized((image.shape[-2], image.shape[-1]))
        image = resample(image, size, self.interpolation)
        if self.mode == "crop":
            top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
            return image[:, top : top + height, left : left + width].contiguous()
        if self.mode == "pad":
            fill = torch.tensor([round(255 * value) for value in self.mean]).clamp(0, 255).to(torch.uint8)
            canvas = fill[:, None, None].expand(self.channels, height, width).contiguous()
            top, left = (height - size[0]) // 2, (width - size[1]) // 2
            canvas[:, top : top + size[0], left : left + size[1]] = image
            return canvas
        return image.contiguous()

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """(x - mean) / std, on the images' own device -> float32 (B, C, H, W).

        Args:
            images: (B, C, H, W), uint8 from 0 to 255 or floating point from 0 to 1.
        """
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        if images.dtype == torch.uint8:  # in place after the one copy: on a CPU, memory costs more than arithmetic
            return images.float().mul_(1 / (255 * std)).sub_(mean / std)
        return images.float().sub(mean).div(std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `to_dict`. Raises UserError on an unknown key or an impossible value."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise UserError(f"preprocess.{key} is unknown; {did_you_mean(key, known)}")
        if "image_size" not in values:
            raise UserError("preprocess.image_size is missing; it is the (height, width) that the model takes")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise UserError(f"preprocess: not a usable contract ({error}): {dict(values)}") from error

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that an image of ``size`` has after the resize, before the crop or the padding."""
        (height, width), (own_height, own_width) = self.image_size, size
        if self.mode == "squash":
            return height, width
        if self.mode == "pad":
            scale = min(height / own_height, width / own_width)
            return (
                min(height, max(1, round(own_height * scale))),
                min(width, max(1, round(own_width * scale))),
            )
        # as torchvision and timm round it: the side that just covers is exact, the other one is cut to a whole number
        height, width = math.floor(height / self.crop_fraction), math.floor(width / self.crop_fraction)
        if height * own_width >= width * own_height:
            return height, max(width, own_width * height // own_height)
        return max(height, own_height * width // own_width), width

    def _without_excess(self, image: torch.Tensor) -> torch.Tensor:
        """Cut the ends off a very long image: resized whole, a strip of 10 x 100,000 pixels would fill the memory."""
        height, width = image.shape[-2:]
        scale = max(self.image_size[0] / height, self.image_size[1] / width) / self.crop_fraction
        need = [math.ceil(2 * side / scale) for side in self.image_size]
        top, left = max(0, (height - need[0]) // 2), max(0, (width - need[1]) // 2)
        return image[:, top : height - top, left : width - left]


def resample(image: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Antialiased resize, uint8 (C, H, W) -> uint8 (C, *size). Agrees with Pillow's to a grey level or two."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    # torch resizes interleaved pixels twice as fast, if the strides say clearly that they are interleaved
    batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size=size, mode=interpolation, antialias=True)[0]
