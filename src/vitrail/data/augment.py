"""Augmentation on the batch: small affine changes, flips, colour jitter and erasing, on the model's device.

Every draw is a function of (seed, epoch, sample), so neither the batch a sample falls into nor the number of loader
workers changes its picture. Per-image policies are in policies.py; mixup and cutmix in mixup.py.

Shapes: B batch, C channels, H W height and width.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from vitrail.data.preprocess import on_device
from vitrail.data.randomness import uniforms
from vitrail.errors import UserError, did_you_mean

CROPS = ("none", "random_resized")
POLICIES = ("none", "randaugment", "trivial", "three")
GREY = (0.299, 0.587, 0.114)  # luminance of RGB, ITU-R 601-2
ERASED_AREA = (0.02, 1 / 3)  # share of the image that random erasing takes (Zhong et al., arXiv 1708.04896)
ERASED_RATIO = (0.3, 1 / 0.3)  # its height to its width


@dataclass(frozen=True)
class Augment:
    """What changes an image at random in training. The defaults change nothing."""

    crop: Literal["none", "random_resized"] = "none"
    """none: the evaluation's resize; random_resized: a random part of the image, resized (Inception crop)."""
    scale: tuple[float, float] = (0.08, 1.0)
    """random_resized: smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """random_resized: smallest and largest width to height; in mode native relative to the image's."""
    flip: float = 0.0
    """Probability of a horizontal flip."""
    policy: Literal["none", "randaugment", "trivial", "three"] = "none"
    """Image by image: RandAugment, TrivialAugment, or 3-Augment (greyscale, solarise or blur)."""
    randaugment_layers: int = 2
    """RandAugment: how many operations an image."""
    randaugment_magnitude: int = 10
    """RandAugment: their strength, 0 to 30."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation are each scaled by 1 plus or minus at most this."""
    rotate: float = 0.0
    """Rotation by plus or minus at most so many degrees."""
    translate: float = 0.0
    """Shift by plus or minus at most this share of the height and of the width."""
    zoom: float = 0.0
    """Scaling by 1 plus or minus at most this."""
    shear: float = 0.0
    """Shear by plus or minus at most so many degrees."""
    erase: float = 0.0
    """Probability that a random rectangle is replaced by the image's mean colour."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(float(value) for value in self.scale))
        object.__setattr__(self, "ratio", tuple(float(value) for value in self.ratio))
        for name, valid in (("crop", CROPS), ("policy", POLICIES)):
            if getattr(self, name) not in valid:
                raise UserError(
                    f"augment.{name} {getattr(self, name)!r}: {did_you_mean(str(getattr(self, name)), valid)}"
                )
        for name, low, high in (
            ("flip", 0, 1),
            ("erase", 0, 1),
            ("color_jitter", 0, 1),
            ("translate", 0, 1),
            ("zoom", 0, 0.99),
            ("rotate", 0, 180),
            ("shear", 0, 60),
            ("randaugment_layers", 1, 16),
            ("randaugment_magnitude", 0, 30),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"augment.{name} {getattr(self, name)}: {low} to {high} is possible")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(
                f"augment.scale {self.scale}: two shares of the area, above 0, at most 1, the smaller first"
            )
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"augment.ratio {self.ratio}: two ratios of width to height above 0, the smaller first")

    @property
    def per_image(self) -> bool:
        """Whether images differ from epoch to epoch before they are gathered into a batch."""
        return self.crop != "none" or self.policy != "none"

    @property
    def affine(self) -> bool:
        """Whether a batch is resampled."""
        return max(self.rotate, self.translate, self.zoom, self.shear) > 0


def augment_batch(
    images: torch.Tensor,
    augment: Augment,
    seed: int,
    epochs: np.ndarray | torch.Tensor,
    indices: np.ndarray | torch.Tensor,
) -> torch.Tensor:
    """Change every image at random -> (B, C, H, W), on the images' device.

    Args:
        images: (B, C, H, W), uint8, or floating point in [0, 1].
        augment: what to change, and how much.
        seed: the run's seed.
        epochs: the epoch (B,) that each image is drawn for.
        indices: the sample index (B,) of each image.

    Returns:
        float32 in [0, 1]; or the images' own type where nothing but flips is asked for, which move pixels as they are.
    """
    # one row of draws a sample: 0 flip, 1 rotate, 2 3 translate, 4 zoom, 5 shear, 6 7 8 colour, 9 to 13 erase
    draws = uniforms(seed, "augment", np.asarray(epochs), np.asarray(indices), count=14)
    flipped = draws[:, 0] < augment.flip
    if augment.affine or augment.color_jitter > 0 or augment.erase > 0:
        images = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
    if augment.affine:
        images = _warp(images, affine_matrices(draws[:, 1:6], flipped, augment, images.shape[-2:]))
    elif flipped.any():
        images = _flip(images, flipped)
    if augment.color_jitter > 0:
        images = _jitter(images, _on(images, 1 + augment.color_jitter * (2 * draws[:, 6:9] - 1)))
    if augment.erase > 0:
        images = _erase(images, draws[:, 9:14], augment.erase)
    return images


def affine_matrices(
    draws: np.ndarray, flipped: np.ndarray, augment: Augment, size: tuple[int, int] | torch.Size
) -> np.ndarray:
    """For each sample the matrix (B, 2, 3) from places in the new image to places in the old one, both in [-1, 1].

    Rotation, shear and zoom act on pixels, not on the unit square, so that shapes keep their angles in an image that
    is not square: A' = S^-1 A S with S = diag(width / 2, height / 2).

    Args:
        draws: uniform numbers (B, 5): rotate, shift in x, shift in y, zoom, shear.
        flipped: whether each sample is mirrored, (B,) bool.
    """
    height, width = size
    signed = 2 * draws - 1
    angle = np.radians(augment.rotate) * signed[:, 0]
    shear = np.tan(np.radians(augment.shear) * signed[:, 4])
    inverse_zoom = 1 / (1 + augment.zoom * signed[:, 3])
    cos, sin = np.cos(angle) * inverse_zoom, np.sin(angle) * inverse_zoom
    matrices = np.empty((len(draws), 2, 3))
    matrices[:, 0, 0] = cos
    matrices[:, 0, 1] = (cos * shear - sin) * height / width
    matrices[:, 1, 0] = sin * width / height
    matrices[:, 1, 1] = sin * shear + cos
    matrices[:, :, 2] = 2 * augment.translate * signed[:, 1:3]
    matrices[:, :, 0] *= np.where(flipped, -1.0, 1.0)[:, None]
    return matrices


def _warp(images: torch.Tensor, matrices: np.ndarray) -> torch.Tensor:
    """Resample by the matrices. Beyond the edge the image is reflected: it has no wedges of black, by which a model
    could tell the rotation, and no smeared border."""
    grid = F.affine_grid(_on(images, matrices), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _flip(images: torch.Tensor, flipped: np.ndarray) -> torch.Tensor:
    if images.device.type == "cpu":  # a sixteenth of the time of what follows
        out = images.clone()
        for i in np.flatnonzero(flipped):
            out[i] = images[i].flip(-1)
        return out
    chosen = torch.from_numpy(np.flatnonzero(flipped)).to(images.device, non_blocking=True)
    return images.index_copy(0, chosen, images[chosen].flip(-1))


def _jitter(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Scale brightness, contrast about the image's mean grey, and saturation about each pixel's grey, by (B, 3).

    With grey g(x) = w . x, the three are x' = b x, x'' = c x' + (1 - c) mean g(x'), and s x'' + (1 - s) g(x''). All
    are linear, so together they are one matrix and one offset an image.
    """
    weights = on_device(GREY if images.shape[1] == 3 else (1.0,), images.device).flatten()
    brightness, contrast, saturation = factors[:, :, None, None].unbind(1)  # each (B, 1, 1)
    mean = (images.mean(dim=(-2, -1)) @ weights)[:, None, None]
    colours = saturation * torch.eye(len(weights), device=images.device) + (1 - saturation) * weights
    offset = (1 - contrast) * brightness * mean
    jittered = torch.baddbmm(offset, colours * (contrast * brightness), images.flatten(2))
    return jittered.clamp_(0, 1).view_as(images)


def _erase(images: torch.Tensor, draws: np.ndarray, probability: float) -> torch.Tensor:
    """Replace a rectangle by the image's mean colour in some of the images; ``draws`` (B, 5) are uniform numbers."""
    height, width = images.shape[-2:]
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * draws[:, 1]
    log_low, log_high = math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])
    ratio = np.exp(log_low + (log_high - log_low) * draws[:, 2])
    tall = np.minimum(np.sqrt(area * ratio), 1) * height
    wide = np.minimum(np.sqrt(area / ratio), 1) * width
    top, left = (height - tall) * draws[:, 3], (width - wide) * draws[:, 4]
    tall = np.where(draws[:, 0] < probability, tall, 0)
    rows, columns = torch.arange(height, device=images.device) + 0.5, torch.arange(width, device=images.device) + 0.5
    top, bottom, left, right = (_on(images, side)[:, None] for side in (top, top + tall, left, left + wide))
    inside_rows = (rows >= top) & (rows < bottom)
    inside_columns = (columns >= left) & (columns < right)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(inside, images.mean(dim=(-2, -1), keepdim=True), images)


def _on(images: torch.Tensor, values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(images.device, non_blocking=True)
