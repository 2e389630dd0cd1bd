"""Preprocess: the contract for pixels, the same in training, evaluation, prediction, export and serving.

Importing this does not import torch, so that a contract can be read and shown at once; using it does.

Shapes: B batch, C channels, H W height and width.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from vitrail.data.aspect import grid_of
from vitrail.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import torch

    from vitrail.data.decode import OpenedImage
    from vitrail.data.resample import Box

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MODES = ("crop", "squash", "pad", "native")
INTERPOLATIONS = ("bicubic", "bilinear")
ROUNDINGS = ("even", "down")
SMALLEST_FRACTION = 0.01
LARGEST_SIDE = 16_384  # pixels; an image of twice that would need gigabytes

# 1: crop_fraction was saved, but had no effect, in modes squash and pad; 2: there was no mode native
VERSION = 3

_BY_MODE: Any = None  # replaced when the contract is built, so that whoever reads it finds a number
_FRACTIONS = {"crop": 0.875, "squash": 1.0, "pad": 1.0, "native": 1.0}
_DECODED = 2  # a JPEG is decoded at no less than so many times the size that it is resized to
_EXCESS = 16  # an image that would be resized to more than so many times the pixels of the result is not resized whole


@dataclass(frozen=True)
class Preprocess:
    """The whole deterministic way of an image from a file to the model. It is saved with the weights.

    Every size and offset is the one of timm's evaluation transform, or of transformers' image processors where
    ``crop_rounding`` says down.
    """

    image_size: tuple[int, int]
    """(height, width) that the model takes, in pixels. In mode native, the patches of this size are the most that an
    image has."""
    channels: int = 3
    """3 for RGB, 1 for luminance."""
    mode: Literal["crop", "squash", "pad", "native"] = "crop"
    """How an image is resized before its centre is cut out. crop: to cover; squash: to either side, whatever its aspect
    ratio; pad: to fit inside, with the mean around it; native: to its own aspect ratio in whole patches, so that images
    have different sizes (see `size_of`)."""
    crop_fraction: float = _BY_MODE
    """The share of the resized height and width that the centre crop keeps: images are resized to image_size /
    crop_fraction; 0.01 to 1. 0.875 in mode crop and 1 in the others where it is left out; always 1 in mode native."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """The resampling filter, antialiased in either case."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted from the pixels in [0, 1], one value a channel."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divides them then, one value a channel."""
    crop_rounding: Literal["even", "down"] = "even"
    """Where the centre crop begins if that is halfway between two pixels. even: at the even one (torchvision, timm);
    down: at the first (transformers)."""
    patch_size: int | None = None
    """The side of the model's patches in pixels, which mode native cannot do without; the others do not need it, and have
    None in any case."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"preprocess.mode {self.mode!r}: {did_you_mean(str(self.mode), MODES)}")
        if self.crop_fraction is None:
            object.__setattr__(self, "crop_fraction", _FRACTIONS[self.mode])
        # lists come from JSON; tuples compare and hash
        object.__setattr__(self, "image_size", tuple(int(side) for side in self.image_size))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise UserError(f"preprocess.image_size {self.image_size}: two positive numbers (height, width) are needed")
        if max(self.image_size) > LARGEST_SIDE:
            raise UserError(
                f"preprocess.image_size {self.image_size}: at most {LARGEST_SIDE} pixels a side are possible"
            )
        if self.channels not in (1, 3):
            raise UserError(f"preprocess.channels {self.channels}: 1 (luminance) or 3 (RGB) is possible")
        for name, value, known in (
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("crop_rounding", self.crop_rounding, ROUNDINGS),
        ):
            if value not in known:
                raise UserError(f"preprocess.{name} {value!r}: {did_you_mean(str(value), known)}")
        if not SMALLEST_FRACTION <= self.crop_fraction <= 1:
            raise UserError(f"preprocess.crop_fraction {self.crop_fraction}: {SMALLEST_FRACTION:g} to 1 is possible")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise UserError(f"preprocess.{name} {values}: one value for each of {self.channels} channels is needed")
            if not all(map(math.isfinite, values)):
                raise UserError(f"preprocess.{name} {values}: finite numbers are needed")
        if min(self.std) <= 0:
            raise UserError(f"preprocess.std {self.std}: values above 0 are needed")
        if self.varies:
            self._check_native()
        else:
            object.__setattr__(self, "patch_size", None)  # so that equal contracts compare equal

    def _check_native(self) -> None:
        p, (height, width) = self.patch_size, self.image_size
        if not isinstance(p, int) or p < 1:
            raise UserError(f"preprocess.patch_size {p!r}: mode native needs the side of the model's patches in pixels")
        if height % p or width % p:
            raise UserError(
                f"preprocess.image_size {self.image_size}: mode native counts whole patches, and {p} does not divide it"
            )
        if self.crop_fraction != 1:
            raise UserError(
                f"preprocess.crop_fraction {self.crop_fraction}: mode native cuts nothing off, leave it out"
            )

    @property
    def varies(self) -> bool:
        """Whether images come out at different sizes: in mode native."""
        return self.mode == "native"

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that an image of ``size`` has for the model: ``image_size``, but in mode native its own.

        Then the sides are whole patches, no more of them together than ``image_size`` has, and as near to the image's
        aspect ratio and to all of these patches as goes (Dehghani et al., 2023, "Patch n' Pack", section 2.1). A small
        image is enlarged to this as a large one is reduced, and a strip becomes one row or column of patches.
        """
        if self.patch_size is None:
            return self.image_size
        rows, columns = grid_of(size, self.image_size[0] * self.image_size[1] // self.patch_size**2)
        return rows * self.patch_size, columns * self.patch_size

    def load(self, data: bytes, name: str = "image") -> "torch.Tensor":
        """Decode and resize an encoded image -> uint8 (C, h, w).

        A large JPEG is decoded at reduced scale, no smaller than twice the size it is resized to.

        Raises:
            ImageError: see `decode.open_image` and `decode.OpenedImage.pixels`.
        """
        from vitrail.data.resample import picture_in

        opened, size, wanted, enough = self._opened(data, name)
        image = opened.pixels(self.channels, at_least=enough)
        return self._fit(image, size, wanted, picture_in(opened, (image.shape[-2], image.shape[-1])))

    def load_array(self, data: bytes, name: str = "image") -> "np.ndarray":
        """The same pixels as `load` gives, to the bit, as an array: nothing here imports torch.

        Raises:
            ImageError: as `load`.
        """
        from vitrail.data.resample import picture_in

        opened, size, wanted, enough = self._opened(data, name)
        image = opened.array(self.channels, at_least=enough)
        return self._fit_array(image, size, wanted, picture_in(opened, (image.shape[0], image.shape[1])))

    def resize(self, image: "torch.Tensor") -> "torch.Tensor":
        """Resize, then crop or pad: uint8 (C, H, W) -> uint8 (C, h, w)."""
        own = image.shape[-2], image.shape[-1]
        return self._fit(image, self._resized(own), self.size_of(own), None)

    def normalize(self, images: "torch.Tensor") -> "torch.Tensor":
        """(x - mean) / std, on the images' own device -> float32 (B, C, H, W).

        Args:
            images: (B, C, H, W), uint8 from 0 to 255 or floating point from 0 to 1.
        """
        import torch

        mean, std = (on_device(values, images.device) for values in (self.mean, self.std))
        if images.dtype == torch.uint8:  # in place after the one copy: on a CPU, memory costs more than arithmetic
            return images.float().mul_(1 / (255 * std)).sub_(mean / std)
        return images.float().sub(mean).div(std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"version": VERSION, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `to_dict`, whichever version wrote it. Without a version, it is 1.

        Raises:
            UserError: an unknown key or an impossible value.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"preprocess: not a usable contract: {str(values)[:80]}")
        values = dict(values)
        version = values.pop("version", 1)
        if version not in range(1, VERSION + 1):
            raise UserError(f"preprocess.version {version!r}: this vitrail reads up to {VERSION}; upgrade it")
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise UserError(f"preprocess.{key} is unknown; {did_you_mean(key, known)}")
        if "image_size" not in values:
            raise UserError("preprocess.image_size is missing; it is the (height, width) that the model takes")
        try:
            contract = cls(**values)
            if version == 1 and contract.mode != "crop":
                return cls(**{**values, "crop_fraction": 1.0})
            return contract
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"preprocess: not a usable contract ({error}): {str(values)[:300]}") from error

    def _opened(
        self, data: bytes, name: str
    ) -> "tuple[OpenedImage, tuple[int, int], tuple[int, int], tuple[int, int]]":
        """The image, the size it is resized to, the size that the model takes, and one that is enough to decode."""
        from vitrail.data.decode import open_image

        opened = open_image(data, name)
        size = self._resized(opened.size)
        return opened, size, self.size_of(opened.size), (_DECODED * size[0], _DECODED * size[1])

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that an image of ``size`` has after the resize, before the crop or the padding."""
        if self.varies:
            return self.size_of(size)
        height, width = (math.floor(side / self.crop_fraction) for side in self.image_size)
        if self.mode == "squash":
            return height, width
        if self.mode == "crop" and height == width:
            # as torchvision rounds it: the side that just covers is exact, the other one is cut to a whole number
            return max(height, height * size[0] // size[1]), max(width, width * size[1] // size[0])
        # as timm's ResizeKeepRatio does, in the same order of floating-point operations
        ratios = size[0] / height, size[1] / width
        ratio = min(ratios) if self.mode == "crop" else max(ratios)
        return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))

    def _fit(
        self, image: "torch.Tensor", size: tuple[int, int], wanted: tuple[int, int], picture: "Box | None"
    ) -> "torch.Tensor":
        """Resize to ``size``, then cut the centre of ``wanted`` out, or lay it on the mean."""
        import torch

        from vitrail.data.resize import planar, resample, resample_part

        spans = [self._span(own, side) for own, side in zip(size, wanted, strict=True)]
        (top, down, rows), (left, right, columns) = spans
        if size[0] * size[1] > _EXCESS * rows * columns:
            part = resample_part(image, size, (top, left, rows, columns), self.interpolation, picture)
        else:
            part = resample(image, size, self.interpolation, picture)[:, top : top + rows, left : left + columns]
        if (rows, columns) == wanted:
            return planar(part)
        canvas = torch.tensor(self._border(), dtype=torch.uint8)[:, None, None].repeat(1, *wanted)
        canvas[:, down : down + rows, right : right + columns] = part
        return canvas

    def _fit_array(
        self, image: "np.ndarray", size: tuple[int, int], wanted: tuple[int, int], picture: "Box | None"
    ) -> "np.ndarray":
        """As `_fit`, of an image (H, W, C)."""
        import numpy as np

        from vitrail.data.resample import resample_array, resample_array_part

        spans = [self._span(own, side) for own, side in zip(size, wanted, strict=True)]
        (top, down, rows), (left, right, columns) = spans
        where = (top, left, rows, columns)
        if size[0] * size[1] > _EXCESS * rows * columns:
            part = resample_array_part(image, size, where, self.interpolation, picture).transpose(2, 0, 1)
        else:
            part = resample_array(image, size, self.interpolation, picture, where)
        if (rows, columns) == wanted:
            return np.ascontiguousarray(part)
        canvas = np.empty((self.channels, *wanted), dtype=np.uint8)
        canvas[:] = np.array(self._border(), dtype=np.uint8)[:, None, None]
        canvas[:, down : down + rows, right : right + columns] = part
        return canvas

    def _border(self) -> list[int]:
        """The mean as a pixel, one value a channel."""
        return [min(255, max(0, round(255 * value))) for value in self.mean]

    def _span(self, own: int, wanted: int) -> tuple[int, int, int]:
        """One side of the resized image: where the part that is kept begins, where it is laid, and its length."""
        if own < wanted:
            return 0, (wanted - own) // 2, own
        rest = own - wanted
        return rest // 2 if self.crop_rounding == "down" else round(rest / 2), 0, wanted


@functools.lru_cache(maxsize=64)
def on_device(values: tuple[float, ...], device: "torch.device") -> "torch.Tensor":
    """One value a channel, (C, 1, 1) float32, made once: a copy to a GPU makes the program wait for all that it computes."""
    import torch

    with torch.inference_mode(False):  # what is made in inference mode could not be used in training
        return torch.tensor(values, device=device)[:, None, None]
