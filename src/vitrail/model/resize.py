"""Position embeddings at another grid, (h, w) -> (h', w'), and patch kernels at another size, p -> p': pure functions.

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
    align_corners: bool | None = False
    dtype: torch.dtype = torch.float32
    """What it is computed in: torch computes the places in it too, so that it decides on the last digits."""


# name -> how, and whose way it is
METHODS = {
    "bicubic_antialias": Method("bicubic", antialias=True),  # timm
    "bicubic": Method("bicubic"),  # transformers
    "bicubic_corners": Method("bicubic", align_corners=True),  # torchvision
    "bilinear_corners": Method("bilinear", align_corners=True, dtype=torch.float64),  # Google: scipy's zoom, order 1
    "bilinear": Method("bilinear"),
    "area": Method("area", align_corners=None),  # means of the old places that a new one covers
}

PATCH_METHODS = ("pseudo_inverse", "interpolate")


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
        UserError: unknown method, a table whose length is not that of its grid, or a new grid without places.
    """
    require_method(method)
    if min(new_grid) < 1:
        raise UserError(f"a grid of {new_grid[0]} x {new_grid[1]} is not positive")
    (h, w), D = grid, positions.shape[-1]
    if positions.shape[1] != prefix + h * w:
        raise UserError(f"a position table of {positions.shape[1]} rows is not {prefix} + {h} x {w}: give its own grid")
    if grid == new_grid:
        return positions
    head, patches = positions[:, :prefix], positions[:, prefix:]
    rows = _interpolate(patches.reshape(h, w, D), new_grid, method).reshape(1, new_grid[0] * new_grid[1], D)
    return torch.cat([head, rows], dim=1)


def require_method(method: str) -> None:
    """Raises UserError if ``method`` is no way of interpolating."""
    if method not in METHODS:
        raise UserError(f"unknown interpolation method {method!r}: {did_you_mean(method, METHODS)}")


def resize_axes(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int], *, method: str) -> Tensor:
    """Interpolate a table of rows, then columns, each along its one side: (1, h + w, C) -> (1, h' + w', C)."""
    if grid == new_grid:
        return positions
    rows, columns = positions[0].split(grid)
    rows = _interpolate(rows[:, None], (new_grid[0], 1), method)[:, 0]
    columns = _interpolate(columns[:, None], (new_grid[1], 1), method)[:, 0]
    return torch.cat([rows, columns])[None]


def resize_offsets(table: Tensor, grid: tuple[int, int], new_grid: tuple[int, int], *, method: str) -> Tensor:
    """Interpolate a table of the offsets between patches to another grid.

    The offsets form an image of (2 h - 1) x (2 w - 1), whose middle is no offset at all, and is so at any size: offset
    (r, c) of the new grid is about offset (r h / h', c w / w') of the old one.

    Args:
        table: ((2 h - 1) (2 w - 1) + E, C), row-major from offset (1 - h, 1 - w) to (h - 1, w - 1), then E rows of
            other pairs, which are copied.
        grid: h and w of ``table``.
        new_grid: h' and w' wanted.
        method: a name in ``METHODS``.

    Returns:
        ((2 h' - 1) (2 w' - 1) + E, C); ``table`` itself where the grids are equal.
    """
    if grid == new_grid:
        return table
    (h, w), (h2, w2) = grid, new_grid
    image, others = table.tensor_split([(2 * h - 1) * (2 * w - 1)])
    image = image.reshape(2 * h - 1, 2 * w - 1, -1)
    # a single row of patches has the offset 0 alone, where interpolating would take a mean or a corner of all
    image = image[h - 1 : h] if h2 == 1 else image
    image = image[:, w - 1 : w] if w2 == 1 else image
    return torch.cat([_interpolate(image, (2 * h2 - 1, 2 * w2 - 1), method).flatten(0, 1), others])


def resize_raster_offsets(table: Tensor, grid: tuple[int, int], new_grid: tuple[int, int], *, method: str) -> Tensor:
    """Interpolate a table of the offsets between patches in raster order: (2 h w - 1, C) -> (2 h' w' - 1, C).

    The offset r w + c stands for rows and columns (r, c), so the table is read as an image of these offsets, which is
    resized by ``resize_offsets``. Two offsets of the new image can share a place in raster order; it becomes their
    mean, weighted by the pairs of patches that have each: the table with the least squared error over all pairs.
    What tells the two apart is lost: a step to the right from the end of a row is a step to the left in the next.
    """
    if grid == new_grid:
        return table
    (h, w), places = new_grid, _raster_offsets(new_grid, table.device)
    # in float32, as half precision would not even count many pairs; the answer has the table's type again
    image = resize_offsets(table.float()[_raster_offsets(grid, table.device)], grid, new_grid, method=method)
    rows, columns = (side - torch.arange(1 - side, side, device=table.device).abs() for side in (h, w))
    pairs = (rows[:, None] * columns).flatten().to(image.dtype)
    totals = pairs.new_zeros(2 * h * w - 1).index_add(0, places, pairs)
    sums = image.new_zeros(2 * h * w - 1, image.shape[1]).index_add(0, places, image * pairs[:, None])
    return (sums / totals[:, None]).to(table.dtype)


def resize_kernel(
    kernel: Tensor, size: int, *, method: str = "pseudo_inverse", interpolation: str = "bicubic_antialias"
) -> Tensor:
    """The matrix that turns patches into tokens, for patches of another size: (D, C, p, p) -> (D, C, p', p').

    ``pseudo_inverse`` (FlexiViT: Beyer et al., 2023, section 3.4) takes the kernel whose tokens of enlarged patches are
    the old kernel's tokens of the patches as they were: with R the matrix that resizes a patch, w' = pinv(R^T) w. If
    patches shrink, no kernel can do that for all of them, and w' is the nearest in the least squares.
    ``interpolate`` resizes the kernel as if it were an image, which scales and changes its tokens.

    Args:
        kernel: one for each of D outputs and C channels; for patches of p x p pixels, or places of a feature map.
        size: p'.
        method: a name in ``PATCH_METHODS``.
        interpolation: how a patch, or the kernel, is resized: a name in ``METHODS``.

    Returns:
        The kernel in the type of ``kernel``, through which gradients flow; ``kernel`` itself where the sizes are equal.

    Raises:
        UserError: unknown method or interpolation, or a size below 1.
    """
    require_method(interpolation)
    require_patch_method(method)
    if size < 1:
        raise UserError(f"patch size {size} is not positive")
    p = kernel.shape[-1]
    if size == p:
        return kernel
    if method == "interpolate":
        return (
            _interpolate(kernel.flatten(0, 1).permute(1, 2, 0), (size, size), interpolation)
            .permute(2, 0, 1)
            .reshape(*kernel.shape[:2], size, size)
        )
    inverse = _side_inverse(p, size, interpolation).to(kernel.device, torch.promote_types(kernel.dtype, torch.float32))
    with torch.autocast(kernel.device.type, enabled=False):  # half precision would round the inverse
        return (inverse.T @ kernel.to(inverse.dtype) @ inverse).to(kernel.dtype)


def require_patch_method(method: str) -> None:
    """Raises UserError if ``method`` is no way of resizing a patch kernel."""
    if method not in PATCH_METHODS:
        raise UserError(f"unknown method for patches {method!r}: {did_you_mean(method, PATCH_METHODS)}")


def _side_inverse(p: int, size: int, interpolation: str) -> Tensor:
    """(p, p'): the pseudo-inverse of the matrix that resizes one side of a patch.

    A patch is resized along one side, then along the other: R is the Kronecker product of that matrix with itself, and
    its pseudo-inverse that of their pseudo-inverses.
    """
    basis = torch.eye(p, dtype=torch.float64)[None]
    resized = _interpolate(basis, (1, size), interpolation, torch.float64)[0]  # (p', p)
    return torch.linalg.pinv(resized)


def _raster_offsets(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Row of the raster table for each offset of the image, row-major."""
    h, w = grid
    rows, columns = (torch.arange(1 - side, side, device=device) for side in (h, w))
    return (rows[:, None] * w + columns).flatten() + h * w - 1


def _interpolate(image: Tensor, size: tuple[int, int], method: str, dtype: torch.dtype | None = None) -> Tensor:
    """(h, w, C) -> (h', w', C) in the image's type, computed in ``dtype``: None for the method's own."""
    if size[1] == 1 < size[0]:
        # torch's antialiased kernels give wrong rows where the result is one column wide; one row is right
        return _interpolate(image.transpose(0, 1), (1, size[0]), method, dtype).transpose(0, 1)
    how = METHODS[method]
    resized = F.interpolate(
        image.permute(2, 0, 1)[None].to(dtype or how.dtype),
        size=size,
        mode=how.mode,
        antialias=how.antialias,
        align_corners=how.align_corners,
    )
    return resized[0].permute(1, 2, 0).to(image.dtype)
