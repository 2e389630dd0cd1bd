"""What shapes tell of a model whose file has no configuration, and what the published models add to that.

Shapes: D width, C channels, p patch size, N rows of a table of positions.
"""

import math
import re
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.model.fields import as_type
from vitrail.weights.files.untrusted import shown
from vitrail.weights.formats.pixels import averaged
from vitrail.weights.found import Found
from vitrail.weights.names import Shape, nearest, shape_text

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

HEAD_WIDTH = 64  # of the published models, but for these:
# Width -> heads. H/14 (Dosovitskiy et al., 2021, Table 1); g/14 and G/14 (Zhai et al., 2022, Table 2); So400m (Alabdulmohsin
# et al., 2023); 7B (DINOv3, 2025).
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16, 4096: 32}
_SIDE = 224  # pixels, where the weights do not depend on the size
_DIGITS = 6  # of the number of a layer; a longer one is a name of something else
_LAYERS = 1000  # at most; the deepest model published has a tenth of them


def shape_of(found: Found, name: str, axes: int) -> Shape:
    """The shape of a tensor that the model must have. Raises UserError where it is missing or has other axes."""
    shape = found.shapes.get(name)
    if shape is None:
        near = nearest(name, found.shapes)
        raise UserError(
            f"{found.path} has no tensor {shown(name)}" + (f"; the nearest is {shown(near)}" if near else "")
        )
    if len(shape) != axes or not all(shape):
        raise UserError(f"{found.path}: {shown(name)} has the shape {shape_text(shape)}, not one of {axes} axes")
    return shape


def count(found: Found, pattern: str, first: int = 0) -> int:
    """How many layers there are: ``pattern`` matches the begin of their names, their number from ``first`` on its group.

    Raises:
        UserError: none, or numbers left out.
    """
    begin = re.compile(pattern)
    numbers = {int(match[1]) for match in map(begin.match, found.shapes) if match and len(match[1]) <= _DIGITS}
    missing = next((i for i in range(first, first + max(len(numbers), 1)) if i not in numbers), None)
    if len(numbers) > _LAYERS:
        raise UserError(
            f"{found.path} has {len(numbers)} layers of names such as {shown(pattern)}: at most {_LAYERS} open here"
        )
    if missing is not None:
        raise UserError(f"{found.path} has no layer {missing} of names such as {shown(pattern)}: part of it is missing")
    return len(numbers)


def square_patch(found: Found, name: str, sides: Shape) -> int:
    """The side of a patch from those of its kernel. Raises UserError where they differ."""
    if sides[0] != sides[1]:
        raise UserError(f"{found.path}: {name} has patches of {shape_text(sides)}: only square ones open here")
    return sides[0]


def published_heads(found: Found, width: int) -> int:
    """Heads of the published models of a width, which a matrix of queries, keys and values in one does not tell.

    Raises:
        UserError: no published model has that width.
    """
    if "heads" in found.said:
        heads: int = as_type("heads", found.said["heads"], int)
        return heads
    if width not in _HEADS and width % HEAD_WIDTH:
        raise UserError(
            f"{found.path}: the file does not tell the number of heads, and no published model has the width {width}: "
            "say it with --set model.heads=N"
        )
    return _HEADS.get(width, width // HEAD_WIDTH)


def grid_side(rows: int) -> int | None:
    """The side of a square grid of so many patches; None where they are no square."""
    side = math.isqrt(max(rows, 0))
    return side if side and side * side == rows else None


def square_image(found: Found, name: str, rows: int, prefix: int, patch: int) -> tuple[int, int]:
    """The image size of a table of positions, ``prefix`` of whose rows are no patches.

    Raises:
        UserError: the grid is not square, so that its sides cannot be told from their product.
    """
    if "image_size" in found.said:
        image_size: tuple[int, int] = as_type("image_size", found.said["image_size"], tuple)
        return image_size
    side = grid_side(rows - prefix)
    if side is None:
        raise UserError(
            f"{found.path}: {name} has {rows} rows, and {rows - prefix} patches are no square grid: "
            "say it with --set model.image_size=[H,W]"
        )
    return side * patch, side * patch


def usual_image(patch: int) -> tuple[int, int]:
    """224 x 224, or the nearest size below that the patch size divides: where weights do not depend on the size."""
    side = max(patch, _SIDE // patch * patch)
    return side, side


def heads_note(config: ViTConfig) -> str:
    """What ``published_heads`` assumed."""
    return (
        f"assumed heads of width {config.attention_width // config.heads}, {config.heads} in number, as published models "
        "of this width have: the file does not tell (--set model.heads=N says another number)"
    )


def usual_image_note(config: ViTConfig) -> str:
    """What ``usual_image`` assumed."""
    h, w = config.image_size
    return f"assumed images of {h}x{w}: its positions are computed for any size (--set model.image_size=[H,W])"


def contract(config: Any, **pixels: Any) -> "Preprocess | None":
    """A pixel contract at the model's size, if no other is given; None for images that are neither grey nor colour.

    A mean and deviation of three channels are averaged for grey.
    """
    from vitrail.data.preprocess import Preprocess

    if config.channels not in (1, 3):
        return None
    for name in ("mean", "std"):
        pixels[name] = averaged(pixels[name], config.channels)
    return Preprocess(**{"image_size": config.image_size, "channels": config.channels, **pixels})
