"""Every way of resizing is that of the library it is named after; patch kernels keep what they say of an image."""

import math
import os
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.errors import UserError
from vitrail.model.config import INTERPOLATIONS
from vitrail.model.resize import METHODS, PATCH_METHODS, resize_axes, resize_kernel, resize_offsets, resize_positions

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers: nothing here is fetched

Grid = tuple[int, int]

RELATIVE = 1e-6  # of the largest value: float32 has seven digits
GRIDS: list[tuple[Grid, Grid]] = [
    ((14, 14), (7, 28)),  # as many tokens, another grid
    ((7, 28), (14, 14)),
    ((14, 14), (28, 7)),
    ((4, 9), (6, 6)),
    ((14, 14), (24, 24)),  # 224 to 384 pixels
    ((24, 24), (14, 14)),
    ((14, 14), (16, 24)),
    ((16, 24), (14, 14)),
    ((37, 37), (16, 16)),
    ((37, 37), (16, 32)),
    ((37, 37), (32, 16)),
    ((16, 16), (37, 37)),
    ((7, 7), (12, 12)),
    ((12, 12), (7, 7)),
    ((13, 9), (21, 5)),
    ((9, 13), (5, 21)),
    ((9, 13), (9, 26)),
    ((9, 13), (27, 13)),
    ((15, 15), (10, 10)),
    ((24, 24), (12, 48)),
    ((3, 5), (5, 3)),
    ((14, 14), (1, 14)),
    ((14, 14), (14, 1)),
    ((5, 1), (7, 4)),
    ((1, 9), (4, 5)),
    ((1, 1), (3, 4)),
    ((6, 4), (1, 1)),
]
SQUARE = [(old[0], new) for old, new in GRIDS if old[0] == old[1] and old[0] > 1]
SQUARE += [(n, new) for n in (5, 10, 16) for new in ((8, 8), (6, 13), (20, 7), (9, 25))]


def table(grid: Grid, prefix: int, width: int = 6) -> Tensor:
    torch.manual_seed(grid[0] * 100 + grid[1])
    return torch.randn(1, prefix + grid[0] * grid[1], width)


def assert_near(ours: Tensor, theirs: Tensor, relative: float = RELATIVE) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= relative * theirs.abs().max()


def test_every_way_can_be_a_models_own() -> None:
    assert tuple(METHODS) == INTERPOLATIONS


# --- positions, against the libraries themselves

# where scipy loses the last row or column
LOST: list[tuple[Grid, Grid]] = [((7, 28), (14, 14)), ((28, 28), (14, 14)), ((32, 8), (16, 26)), ((24, 30), (22, 15))]


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("old", "new"), [pair for pair in GRIDS if pair not in LOST], ids=str)
def test_order_one_is_the_zoom_that_googles_code_calls(old: Grid, new: Grid, prefix: int) -> None:
    from scipy.ndimage import zoom

    positions = table(old, prefix)
    image = positions[0, prefix:].reshape(*old, -1).numpy()
    zoomed = torch.from_numpy(zoom(image, (new[0] / old[0], new[1] / old[1], 1), order=1))
    ours = resize_positions(positions, old, new, prefix=prefix, method="bilinear_corners")
    assert_near(ours, torch.cat([positions[:, :prefix], zoomed.reshape(1, new[0] * new[1], -1)], dim=1))


@pytest.mark.parametrize(("old", "new"), LOST, ids=str)
def test_the_last_row_and_column_are_not_lost_to_rounding_as_in_scipy(old: Grid, new: Grid) -> None:
    """At some sizes scipy's last place lies beyond the edge by the last digit of a float64, and is filled with zeros."""
    from scipy.ndimage import zoom

    image = table(old, 0).reshape(*old, -1)
    factors = (new[0] / old[0], new[1] / old[1], 1)
    ours = resize_positions(image.reshape(1, -1, 6), old, new, method="bilinear_corners").reshape(*new, -1)
    zoomed = torch.from_numpy(zoom(image.numpy(), factors, order=1))
    assert not zoomed[-1, -1].any()
    assert_near(ours[:-1, :-1], zoomed[:-1, :-1])
    assert_near(ours, torch.from_numpy(zoom(image.numpy(), factors, order=1, mode="nearest")))
    torch.testing.assert_close(ours[-1, -1], image[-1, -1], rtol=0, atol=0)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("old", "new"), GRIDS, ids=str)
def test_antialiased_bicubic_is_timms(old: Grid, new: Grid, prefix: int) -> None:
    layers = pytest.importorskip("timm.layers")
    positions = table(old, prefix)
    if new[1] == 1 < new[0]:  # torch gives wrong values one column wide: there timm is right for the transposed grid
        turned = positions[:, prefix:].unflatten(1, old).transpose(1, 2).flatten(1, 2)
        theirs = layers.resample_abs_pos_embed(turned, new_size=[1, new[0]], old_size=old[::-1], num_prefix_tokens=0)
        theirs = torch.cat([positions[:, :prefix], theirs], dim=1)
    else:
        theirs = layers.resample_abs_pos_embed(positions, new_size=new, old_size=old, num_prefix_tokens=prefix)
    assert_near(resize_positions(positions, old, new, prefix=prefix, method="bicubic_antialias"), theirs)


def embeddings_of(kind: str, side: int) -> Any:
    """The embeddings of a model of transformers with a square grid, and random positions."""
    hf = pytest.importorskip("transformers")
    modules: dict[str, Any] = {
        "vit": (hf.models.vit.modeling_vit.ViTEmbeddings, hf.ViTConfig),
        "dinov2": (hf.models.dinov2.modeling_dinov2.Dinov2Embeddings, hf.Dinov2Config),
        "dinov2_with_registers": (
            hf.models.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersEmbeddings,
            hf.Dinov2WithRegistersConfig,
        ),
    }
    module, config = modules[kind]
    embeddings = module(config(hidden_size=6, num_attention_heads=1, image_size=4 * side, patch_size=4))
    torch.nn.init.normal_(embeddings.position_embeddings)
    return embeddings


@torch.no_grad()
@pytest.mark.parametrize(("side", "new"), SQUARE, ids=str)
@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov2_with_registers"])
def test_bicubic_is_that_of_transformers(kind: str, side: int, new: Grid) -> None:
    method = "bicubic"
    if kind == "dinov2_with_registers":
        method = "bicubic_antialias"
        new = new if new[1] > 1 else new[::-1]  # torch gives wrong values one column wide, and transformers with it
    embeddings = embeddings_of(kind, side)
    positions = embeddings.position_embeddings
    tokens = torch.empty(1, 1 + new[0] * new[1], 6)
    theirs = embeddings.interpolate_pos_encoding(tokens, 4 * new[0], 4 * new[1])
    assert_near(resize_positions(positions, (side, side), new, prefix=1, method=method), theirs)


@pytest.mark.parametrize(
    ("old", "new"),
    [(14, n) for n in (1, 7, 9, 12, 13, 15, 16, 20, 24, 28, 32, 37)]
    + [(37, 16), (37, 32), (24, 14), (16, 37), (7, 12), (12, 7), (5, 8), (8, 5), (3, 10), (10, 3)],
)
def test_bicubic_with_fixed_corners_is_torchvisions(old: int, new: int) -> None:
    from torchvision.models.vision_transformer import interpolate_embeddings

    positions = table((old, old), 1)
    state = OrderedDict({"encoder.pos_embedding": positions.clone()})
    theirs = interpolate_embeddings(new * 16, 16, state)["encoder.pos_embedding"]
    assert_near(resize_positions(positions, (old, old), (new, new), prefix=1, method="bicubic_corners"), theirs)


def covered_mean(n: int, new: int) -> np.ndarray:
    """(new, n): each new place is the mean of the old ones it covers, in part or whole."""
    matrix = np.zeros((new, n))
    for i in range(new):
        first, end = i * n // new, -(-(i + 1) * n // new)
        matrix[i, first:end] = 1 / (end - first)
    return matrix


def between_centres(n: int, new: int) -> np.ndarray:
    """(new, n): each new centre on the line between the two old centres beside it; the outermost ones beyond."""
    matrix = np.zeros((new, n))
    for i in range(new):
        place = min(max((i + 0.5) * n / new - 0.5, 0), n - 1)
        low = min(int(place), n - 2) if n > 1 else 0
        matrix[i, low] += 1 - (place - low)
        if n > 1:
            matrix[i, low + 1] += place - low
    return matrix


@pytest.mark.parametrize(("old", "new"), GRIDS, ids=str)
@pytest.mark.parametrize(
    ("method", "matrix", "relative"),
    # torch computes the centres in float32: at place 37 their last digit is worth 4e-6 of the distance of two
    [("area", covered_mean, RELATIVE), ("bilinear", between_centres, 4 * RELATIVE)],
    ids=["area", "bilinear"],
)
def test_area_and_bilinear_are_what_their_definition_says(
    method: str, matrix: Any, relative: float, old: Grid, new: Grid
) -> None:
    positions = table(old, 1)
    rows, columns = (matrix(*sides) for sides in zip(old, new, strict=True))
    image = positions[0, 1:].reshape(*old, -1).double().numpy()
    expected = np.einsum("ih,jw,hwd->ijd", rows, columns, image).reshape(1, new[0] * new[1], -1)
    ours = resize_positions(positions, old, new, prefix=1, method=method)
    assert_near(ours[:, 1:], torch.from_numpy(expected).float(), relative)


# --- positions, what holds for every way


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("method", METHODS)
def test_the_prefix_is_untouched_and_the_same_grid_is_nothing_to_do(method: str, prefix: int) -> None:
    positions = table((6, 9), prefix)
    resized = resize_positions(positions, (6, 9), (11, 4), prefix=prefix, method=method)
    assert torch.equal(resized[:, :prefix], positions[:, :prefix])
    assert resize_positions(positions, (6, 9), (6, 9), prefix=prefix, method=method) is positions


# The difference of tables as smooth as learned ones are (the first four cosines of each side), as a share of their norm.
# Lines and means cut peaks, and the fewer places there are in between, the more. Where the places lie regularly, each
# way but the antialiased one brings some tables back as they were.
UP_AND_DOWN = {
    (16, 16): (0.01, 0.03, 0.03, 0.08, 0.08, 0.15),
    (24, 24): (0.01, 0.02, 0.02, 0.04, 0.06, 0.15),
    (28, 28): (0.01, 0.02, 0.02, 0.04, 0.06, 1e-6),
    (42, 42): (0.01, 1e-6, 0.02, 0.04, 1e-6, 1e-6),
    (21, 35): (0.02, 0.02, 0.02, 0.04, 0.06, 0.15),
}


@pytest.mark.parametrize("up", UP_AND_DOWN, ids=str)
def test_up_and_down_again_is_nearly_where_it_was(up: Grid) -> None:
    torch.manual_seed(0)
    cosines = torch.cos(math.pi * torch.arange(4)[:, None] * (torch.arange(14) + 0.5) / 14)
    smooth = torch.einsum("abd,ah,bw->hwd", torch.randn(4, 4, 16), cosines, cosines).reshape(1, 196, 16)
    for method, bound in zip(METHODS, UP_AND_DOWN[up], strict=True):
        there = resize_positions(smooth, (14, 14), up, method=method)
        again = resize_positions(there, up, (14, 14), method=method)
        assert (again - smooth).norm() <= bound * smooth.norm(), method


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_a_table_keeps_its_type_and_is_computed_in_more_digits(method: str, dtype: torch.dtype) -> None:
    positions = table((5, 7), 1).to(dtype)
    resized = resize_positions(positions, (5, 7), (8, 6), prefix=1, method=method)
    assert resized.dtype == dtype
    in_full = resize_positions(positions.float(), (5, 7), (8, 6), prefix=1, method=method)
    assert_near(resized.float(), in_full.to(dtype).float())
    offsets = torch.randn(9 * 13 + 3, 2).to(dtype)
    assert resize_offsets(offsets, (5, 7), (8, 6), method=method).dtype == dtype
    assert resize_axes(positions[:, :12], (5, 7), (8, 6), method=method).dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_every_row_that_is_used(method: str) -> None:
    positions = table((5, 7), 2).requires_grad_()
    resize_positions(positions, (5, 7), (10, 9), prefix=2, method=method).square().sum().backward()
    assert positions.grad is not None
    assert (positions.grad != 0).all()


# --- patch kernels

PATCHES = [(16, 32), (16, 20), (8, 12), (14, 16), (1, 2), (3, 7), (16, 14), (16, 8), (32, 16), (8, 5), (4, 1)]
LARGER = [(p, new) for p, new in PATCHES if new > p]


def kernel(p: int) -> Tensor:
    torch.manual_seed(p)
    return torch.randn(10, 3, p, p)


def resizing(p: int, new: int) -> Tensor:
    """(p' p', p p): the matrix that resizes a patch."""
    basis = torch.eye(p * p, dtype=torch.float64).reshape(p * p, 1, p, p)
    return F.interpolate(basis, size=(new, new), mode="bicubic", antialias=True).flatten(1).T


@pytest.mark.parametrize(("p", "new"), PATCHES)
def test_the_pseudo_inverse_kernel_is_timms(p: int, new: int) -> None:
    patch_embed = pytest.importorskip("timm.layers.patch_embed")
    ours = resize_kernel(kernel(p), new)
    # timm inverts in float32, and is up to 3e-6 away from the inverse in float64, which ours is
    assert_near(ours, patch_embed.resample_patch_embed(kernel(p), [new, new]), 4e-6)
    exact = kernel(p).double().flatten(2) @ torch.linalg.pinv(resizing(p, new))
    assert_near(ours, exact.float().unflatten(2, (new, new)))


@pytest.mark.parametrize(("p", "new"), LARGER)
def test_tokens_of_enlarged_patches_stay(p: int, new: int) -> None:
    w = kernel(p)
    patches = torch.randn(20, 3, p, p)
    enlarged = F.interpolate(patches, size=(new, new), mode="bicubic", antialias=True)
    before, after = F.conv2d(patches, w).flatten(1), F.conv2d(enlarged, resize_kernel(w, new)).flatten(1)
    assert_near(after, before, 1e-4)
    scaled = F.conv2d(enlarged, resize_kernel(w, new, method="interpolate")).flatten(1)
    assert (scaled - before).abs().max() > 0.1 * before.abs().max()


@pytest.mark.parametrize(("p", "new"), [(p, new) for p, new in PATCHES if new < p])
def test_smaller_patches_get_the_nearest_kernel_in_the_least_squares(p: int, new: int) -> None:
    R, w = resizing(p, new), kernel(p).double().flatten(2).flatten(0, 1).T  # tokens w^T x, and those of R x
    nearest = torch.linalg.lstsq(R.T, w).solution
    ours = resize_kernel(kernel(p), new).double().flatten(2).flatten(0, 1).T
    assert_near(ours, nearest)
    assert (R.T @ ours - w).norm() > 0.1 * w.norm()  # for patches that shrink, no kernel does it


@pytest.mark.parametrize(("p", "new"), [(8, 12), (12, 8)])
def test_plain_interpolation_takes_the_kernel_for_an_image(p: int, new: int) -> None:
    plain = resize_kernel(kernel(p), new, method="interpolate")
    assert_near(plain, F.interpolate(kernel(p), size=(new, new), mode="bicubic", antialias=True))
    assert not torch.allclose(plain, resize_kernel(kernel(p), new), rtol=0, atol=0.1)


@pytest.mark.parametrize("method", PATCH_METHODS)
def test_a_kernel_of_the_same_size_is_itself_and_any_keeps_its_type(method: str) -> None:
    w = kernel(6)
    assert resize_kernel(w, 6, method=method) is w
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        resized = resize_kernel(w.to(dtype), 9, method=method)
        assert (resized.shape, resized.dtype) == ((10, 3, 9, 9), dtype)
        assert_near(resized.float(), resize_kernel(w.to(dtype).float(), 9, method=method).to(dtype).float())


@pytest.mark.parametrize(("p", "new"), [(3, 4), (4, 3)])
def test_gradients_flow_through_a_kernel_also_after_it_was_first_used_without(p: int, new: int) -> None:
    with torch.inference_mode():
        resize_kernel(kernel(p).double(), new, interpolation="bilinear")
    w = torch.randn(1, 1, p, p, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: resize_kernel(w, new, interpolation="bilinear"), w)


def test_mixed_precision_does_not_reach_the_pseudo_inverse() -> None:
    w = kernel(16)
    with torch.autocast("cpu", torch.bfloat16):
        rough = resize_kernel(w, 24)
    assert torch.equal(rough, resize_kernel(w, 24))


def test_unknown_ways_and_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match="unknown method for patches 'pseudoinverse': did you mean pseudo_inverse"):
        resize_kernel(kernel(4), 8, method="pseudoinverse")
    with pytest.raises(UserError, match="unknown interpolation method 'lanczos'"):
        resize_kernel(kernel(4), 8, interpolation="lanczos")
    for size in (0, -4):
        with pytest.raises(UserError, match=f"patch size {size} is not positive"):
            resize_kernel(kernel(4), size)
    for new in ((0, 4), (4, -1)):
        with pytest.raises(UserError, match="is not positive"):
            resize_positions(table((4, 4), 0), (4, 4), new)
