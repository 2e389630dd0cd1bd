"""Image sizes as a person writes them, 224 or 384x256 (height, then width), and a model at such a size."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vitrail.errors import UserError

if TYPE_CHECKING:
    import torch

    from vitrail.cli.pixels import Pixels
    from vitrail.model import Model, ModelConfig

Size = tuple[int, int]

_MARGIN = 0.9  # of what is free: the estimate leaves out what libraries keep for themselves
_COPIES = 2  # of the weights beside the model: those at the new size, and what interpolating them takes
_FLOAT32 = 4


def image_size(text: str) -> Size:
    """Height and width in pixels.

    Raises:
        UserError: anything but one number, or two with an x between; more pixels a side than an image can have here.
    """
    from vitrail.data.preprocess import LARGEST_SIDE

    match = re.fullmatch(r"0*(\d+)(?:\s*[xX×]\s*0*(\d+))?", text.strip())
    sides = [] if match is None else [match[1], match[2] or match[1]]
    if not sides or "0" in sides:
        raise UserError(f"image size {text!r}: write 224, or 384x256 for a height of 384 and a width of 256")
    if any(len(side) > len(str(LARGEST_SIDE)) or int(side) > LARGEST_SIDE for side in sides):
        raise UserError(f"image size {text.strip()[:40]}: at most {LARGEST_SIDE} pixels a side are possible")
    return int(sides[0]), int(sides[1])


def image_sizes(text: str) -> list[Size]:
    """One or several sizes with commas between, in the order in which they are written.

    Raises:
        UserError: as ``image_size``; a size that is written twice.
    """
    from vitrail.model.fields import size_text

    parts = text.split(",")
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise UserError(f"image sizes {text!r}: write sizes with one comma between, such as 160,224,384x256")
    sizes = [image_size(part) for part in parts]
    for size in sizes:
        if sizes.count(size) > 1:
            raise UserError(f"image sizes {text!r}: {size_text(size)} is written twice")
    return sizes


def load_at(
    name: str,
    settings: list[str] | None,
    pixels: "Pixels",
    text: str | None,
    *,
    batch_size: int,
    device: "torch.device | str",
    neighbours: int = 1,
) -> "Model":
    """The model that a name means, as ``load_model`` opens it, at the image size that ``--image-size`` gives.

    Its weights are brought to that size once, here, and not in every forward pass. None leaves the model as it is.

    Args:
        name, settings, pixels: as for ``load_model``.
        text: a size as a person writes it.
        batch_size, device, neighbours: as for ``require_sizes``.

    Raises:
        UserError: as ``load_model``; before any weights are read, a size that the model cannot have, or one for which
            there is not the memory.
    """
    from vitrail.cli.models import describe, load_model

    if text is None:
        return load_model(name, settings, pixels)
    size = image_size(text)
    config = describe(name, settings).config
    require_sizes(config, [size], batch_size=batch_size, device=device, neighbours=neighbours)
    return at_size(load_model(name, settings, pixels), size)


def at_size(model: "Model", size: Size) -> "Model":
    """The model at that image size, in its own way of interpolating; itself where it has that size."""
    from vitrail.weights.resize import resize

    if size == model.config.image_size == model.preprocess.image_size:
        return model
    return resize(model, size)


def require_sizes(
    config: "ModelConfig", sizes: Sequence[Size], *, batch_size: int, device: "torch.device | str", neighbours: int = 1
) -> None:
    """Refuse sizes that the model cannot have, or at which a batch does not fit into the memory that is free now.

    Args:
        config: the model's configuration.
        sizes: height and width in pixels.
        batch_size: images that the model takes at a time.
        device: the device, or its name as for ``named_device``.
        neighbours: processes that share the machine's memory.

    Raises:
        UserError: the first such size, with a size or a number of images that is possible.
    """
    changed = [config.with_changes(image_size=size) for size in sizes]

    import torch

    from vitrail.device import named_device
    from vitrail.training import memory

    place = device if isinstance(device, torch.device) else named_device(device)
    free = memory.free_bytes(place) // (1 if place.type == "cuda" else neighbours)
    for one in changed:
        if inference_bytes(one, batch_size) > _MARGIN * free:
            raise UserError(_too_large(one, batch_size, free))


def inference_bytes(config: "ModelConfig", batch_size: int) -> int:
    """An estimate of what it takes to bring a model to ``config`` and then to give it one batch, if it has images."""
    from vitrail.model import cost

    weights = sum(cost.parameters(config).values()) * _FLOAT32
    return _COPIES * weights + (cost.inference_activation_bytes(config, batch_size) if batch_size else 0)


def _too_large(config: "ModelConfig", batch_size: int, free: int) -> str:
    """What is too large, and the batch that fits, or else the largest size."""
    from vitrail.model.fields import size_text
    from vitrail.training.memory import gigabytes

    def fits(at: "ModelConfig", images: int) -> bool:
        return inference_bytes(at, images) <= _MARGIN * free

    images = batch_size
    while images > 1 and not fits(config, images):
        images //= 2
    many = {0: "the model alone", 1: "1 image"}.get(batch_size, f"a batch of {batch_size} images")
    text = (
        f"image size {size_text(config.image_size)} needs about {gigabytes(inference_bytes(config, batch_size))} for {many}, "
        f"and {gigabytes(free)} are free: "
    )
    if images and fits(config, images):
        return f"{text}use --batch-size {images}"
    smaller = _largest(config, lambda at: fits(at, min(batch_size, 1)))
    if smaller is None:
        return f"{text}this model fits at no size; take a smaller one"
    alone = "" if batch_size < 2 else " with --batch-size 1"
    return f"{text}the largest size of this shape that fits{alone} is {size_text(smaller)}"


def _largest(config: "ModelConfig", fits: Callable[["ModelConfig"], bool]) -> Size | None:
    """The largest size of about the same aspect ratio, in whole patches, that fits."""
    from vitrail.model import ViTConfig

    step = config.patch_size if isinstance(config, ViTConfig) else config.stride
    height, width = config.image_size
    rows = height // step
    low, high = 0, rows  # rows of patches: ``low`` fits, ``high`` does not

    def at(count: int) -> "ModelConfig":
        return config.with_changes(image_size=(count * step, max(1, round(width / step * count / rows)) * step))

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(at(middle)) else (low, middle)
    return at(low).image_size if low else None
