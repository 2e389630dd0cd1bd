"""Tokens: the patches that a picture is cut into, how long their tokens are, and how alike.

Shapes: B batch, L layers, N tokens, P of them before the patches, D width, h w grid, H W height and width of a picture.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vitrail.errors import UserError
from vitrail.inspection.look import Look

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

DEVIATIONS = 6.0
"""By how many deviations of ordinary tokens an outlier is longer than their median."""
MAD_TO_DEVIATION = 1.4826
"""A normal distribution's deviation, over its median distance from the median."""
_LONG_SIDE = 1000  # pixels of a numbered picture, or about that
_LEGIBLE = 70  # a line of digits is at least this part of the picture's longer side high


def norms(look: Look) -> Tensor:
    """The length of every token after each block: (B, L, N).

    Raises:
        UserError: a look that has not kept its tokens.
    """
    _require_tokens(look)
    return torch.stack([tokens.float().norm(dim=-1) for tokens in look.tokens], dim=1)


def outliers(norms: Tensor, prefix: int = 0) -> Tensor:
    """Patches whose tokens are far longer than the others of their picture: (..., L, N) -> bool (..., N).

    Such tokens stand on plain background and hold facts of the whole picture in place of their patch's: the artefacts that
    registers mend (Darcet et al., 2024, "Vision transformers need registers", section 2). They arise in the middle of a
    model and stay, so a token's length is taken as the mean over the last quarter of the layers. It is an outlier above

        median + max(6 x 1.4826 x MAD, median / 2)

    over the patches of its picture, MAD the median distance from the median. The second term keeps patches that are all
    nearly alike from being told apart by little.

    Args:
        norms: lengths, as ``norms`` gives them.
        prefix: P; these tokens are not judged, and none of them is marked.
    """
    last = norms[..., -max(1, norms.shape[-2] // 4) :, :].mean(dim=-2)
    patches = last[..., prefix:]
    middle = patches.quantile(0.5, dim=-1, keepdim=True)
    spread = (patches - middle).abs().quantile(0.5, dim=-1, keepdim=True)
    limit = middle + torch.maximum(DEVIATIONS * MAD_TO_DEVIATION * spread, middle / 2)
    return F.pad(patches > limit, (prefix, 0))


def patch_features(look: Look, layer: int = -1) -> Tensor:
    """The patches' tokens after a block, before the final norm: (B, h, w, D) float32.

    Raises:
        UserError: a look that has not kept its tokens, or a block that is not there.
    """
    _require_tokens(look)
    if not -len(look.tokens) <= layer < len(look.tokens):
        raise UserError(f"layer {layer}: this model has blocks 0 to {len(look.tokens) - 1}")
    return look.tokens[layer][:, look.prefix :].float().unflatten(1, look.grid)


def similarity(features: Tensor, patch: tuple[int, int]) -> Tensor:
    """The cosine of one patch's features with those of all: (B, h, w, D) and its row and column -> (B, h, w).

    Raises:
        UserError: a patch that is not there.
    """
    (row, column), (h, w) = patch, features.shape[1:3]
    if not (0 <= row < h and 0 <= column < w):
        raise UserError(f"patch {row},{column}: rows go from 0 to {h - 1} and columns from 0 to {w - 1}")
    directions = F.normalize(features, dim=-1)
    return torch.einsum("bhwd,bd->bhw", directions, directions[:, row, column]).clamp(-1, 1)


def colours(features: Tensor) -> Tensor:
    """The three main directions of the features as red, green and blue: (..., D) -> (..., 3) from 0 to 1.

    They are principal components over all patches that are given, so that patches of several pictures with one colour are
    alike. Each channel spans the values from the 1st to the 99th percentile, beyond which it is cut off. Signs are settled by
    the largest entry of each direction. Where features have fewer than three directions, the other channels are 0.5.
    """
    points = features.reshape(-1, features.shape[-1]).double()
    centred = points - points.mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)  # rising
    directions = directions.flip(1)[:, :3]
    strongest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    values = centred @ (directions * strongest.sign())
    low, high = (values.quantile(q, dim=0) for q in (0.01, 0.99))
    real = variances.flip(0)[:3] > 1e-12 * variances[-1]  # below that it is rounding
    spread = torch.where(real, high - low, 0)
    scaled = torch.where(spread > 0, ((values - low) / spread).clamp(0, 1), 0.5)
    scaled = F.pad(scaled, (0, 3 - scaled.shape[1]), value=0.5)
    return scaled.reshape(*features.shape[:-1], 3).to(features.dtype)


def numbered_patches(image: NDArray[np.uint8], patch_size: int) -> "Image":
    """A picture, cut into its patches, with their numbers: row by row from 0, so that number n is row n // w, column n % w.

    Pixels are drawn as squares, so that nothing is blurred. Where patches are too small for their numbers, some have none: a
    number stands in the upper left corner of its own patch and may reach over others to the right.

    Args:
        image: (H, W, 3), as the model gets it.
        patch_size: side of a patch in pixels.

    Returns:
        About 1,000 pixels on the longer side; more where the picture itself has more.

    Raises:
        UserError: a picture of another form, or one that the patches do not divide.
    """
    from PIL import Image, ImageDraw

    p = patch_size
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] % p or image.shape[1] % p or not image.size:
        raise UserError(f"a picture of (H, W, 3), H and W divisible by {p}, can be cut into patches; got {image.shape}")
    h, w = image.shape[0] // p, image.shape[1] // p
    cell = p * max(1, round(_LONG_SIDE / max(h, w) / p))
    gap = max(1, cell // 16)
    enlarged = image.repeat(cell // p, axis=0).repeat(cell // p, axis=1).reshape(h, cell, w, cell, 3)
    canvas = np.full((h, cell + gap, w, cell + gap, 3), 255, np.uint8)
    canvas[:, :cell, :, :cell] = enlarged
    cut = canvas.reshape(h * (cell + gap), w * (cell + gap), 3)[:-gap, :-gap]
    drawn = Image.fromarray(np.ascontiguousarray(cut))
    _number(ImageDraw.Draw(drawn), (h, w), cell, cell + gap)
    return drawn


def _number(draw: "ImageDraw", grid: tuple[int, int], cell: int, pitch: int) -> None:
    """Write each patch's number, or as many as there is room for: into cells of ``cell`` pixels, ``pitch`` apart."""
    from PIL import ImageFont

    h, w = grid
    longest = str(h * w - 1)
    long_side = pitch * max(h, w)
    fitting = min(0.3 * cell, 1.2 * cell / len(longest), long_side / 25)  # a digit is about 0.6 of its line wide
    size = max(fitting, long_side / _LEGIBLE)
    font, margin = ImageFont.load_default(size=size), max(2, round(size / 6))
    _, _, width, height = draw.textbbox((margin, margin), longest, font=font, stroke_width=1)
    step = math.ceil((max(width, height) + margin) / pitch)
    for row in range(0, h, step):
        for column in range(0, w, step):
            place, number = (column * pitch + margin, row * pitch + margin), str(row * w + column)
            _, _, right, bottom = draw.textbbox(place, number, font=font, stroke_width=1)
            if right < w * pitch and bottom < h * pitch:  # a number that the edge cuts would be another number
                draw.text(place, number, font=font, fill="white", stroke_width=max(1, margin // 2), stroke_fill="black")


def _require_tokens(look: Look) -> None:
    if not look.tokens:
        raise UserError("this look has not kept its tokens: take it with look(model, images, tokens=True)")
