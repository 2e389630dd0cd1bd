"""Position embeddings at another grid: pure functions, grid (h, w) -> (h', w').

The libraries that publish checkpoints interpolate differently, and the difference is not small; each way has its name.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.errors import UserError, did_you_mean


class Method(NamedTuple):
    """Arguments of torch's ``interpolate``."""

    mode: str
    antialias: bool = False
    align_corners: bool = False


# name -> how, and whose way it is
METHODS = {
    "bicubic_antialias": Method("bicubic", antialias=True),  # timm
    "bicubic": Method("bicubic"),  # transformers
    "bicubic_corners": Method("bicubic", align_corners=True),  # torchvision
    "bilinear_corners": Method("bilinear", align_corners=True),  # Google: scipy's zoom with order 1
}


def resize_positions(
    positions: Tensor,
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    prefix: int = 0,
    method: str = "bicubic_antialias",
) -> Tensor:
    """Interpolate a table of position embeddings to another grid (Dosovitskiy et al., 2021, section 3.2).

    Args:
        positions: (1, prefix + h w, D), the patches in row-major order after ``prefix`` rows that have no place on the
            grid (class token, registers); these are copied.
        grid: h and w of ``positions``.
        new_grid: h' and w' wanted.
        prefix: number of leading rows that are copied.
        method: a name in ``METHODS``.

    Returns:
        (1, prefix + h' w', D) in the type of ``positions``; ``positions`` itself where the grids are equal.

    Raises:
        UserError: unknown method, or a table whose length is not that of its grid.
    """
    if method not in METHODS:
        raise UserError(f"unknown interpolation method {method!r}: {did_you_mean(method, METHODS)}")
    (h, w), D = grid, positions.shape[-1]
    if positions.shape[1] != prefix + h * w:
        raise UserError(f"a position table of {positions.shape[1]} rows is not {prefix} + {h} x {w}: give its own grid")
    if grid == new_grid:
        return positions
    head, patches = positions[:, :prefix], positions[:, prefix:]
    image = patches.reshape(1, h, w, D).permute(0, 3, 1, 2).float()
    how = METHODS[method]
    resized = F.interpolate(
        image, size=new_grid, mode=how.mode, antialias=how.antialias, align_corners=how.align_corners
    )
    rows = resized.permute(0, 2, 3, 1).reshape(1, new_grid[0] * new_grid[1], D)
    return torch.cat([head, rows.to(positions.dtype)], dim=1)
