"""The pixel contract of a transformers folder: what ``preprocessor_config.json`` says, or what its authors published."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.weights.formats.format import ModelConfig
from vitrail.weights.formats.pixels import averaged, from_processor, to_processor
from vitrail.weights.found import PROCESSOR, Found


@dataclass(frozen=True)
class Published:
    """How the authors of a family treated pixels: it stands in for a file that a folder lacks."""

    whose: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: Literal["crop", "squash"]
    crop_fraction: float
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


def imagenet_crop(whose: str) -> Published:
    """Of those who evaluate with 224 pixels cut from photographs of 256."""
    return Published(whose, IMAGENET_MEAN, IMAGENET_STD, "crop", 0.875)


def read_pixels(
    found: Found, config: ModelConfig, processor: str, published: Published | None = None
) -> Preprocess | None:
    """The pixel contract; None where nobody knows it, or where the images are neither grey nor colour.

    Args:
        found: the folder.
        config: of the model.
        processor: the family's own class of image processors, where the file names none.
        published: what is assumed without a file.
    """
    if config.channels not in (1, 3):
        return None
    if found.processor:
        return _whole_patches(from_processor(found.processor, config.channels, processor), config)
    if published is None:
        return None
    return Preprocess(
        image_size=config.image_size,
        channels=config.channels,
        mode=published.mode,
        crop_fraction=published.crop_fraction,
        interpolation=published.interpolation,
        mean=averaged(published.mean, config.channels),
        std=averaged(published.std, config.channels),
    )


def _whole_patches(preprocess: Preprocess, config: ModelConfig) -> Preprocess:
    """The middle of images that patches do not fill: what transformers leaves out is below and to the right."""
    patch = getattr(config, "patch_size", 1)
    size = preprocess.image_size
    height, width = (max(side // patch, 1) * patch for side in size)
    if (height, width) == size:
        return preprocess
    fraction = preprocess.crop_fraction * min(height / size[0], width / size[1])
    fraction = math.nextafter(fraction, 0)  # so that what is resized is no smaller than before
    return dataclasses.replace(preprocess, image_size=(height, width), crop_fraction=fraction)


def assumed_note(found: Found, published: Published | None) -> tuple[str, ...]:
    """Says that the pixel contract was assumed."""
    if found.processor or published is None:
        return ()
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (published.mean, published.std))
    return (
        f"without {PROCESSOR}, pixels are treated as {published.whose} publishes: {published.mode}, mean {mean}, std {std}",
    )


def pixel_documents(preprocess: Preprocess | None, processor: str) -> dict[str, Any]:
    """``preprocessor_config.json`` by its name; nothing where the contract is unknown."""
    return {} if preprocess is None else {PROCESSOR: to_processor(preprocess, processor)}
