"""Maps of attention, rollout and attention distance are their formulas, evaluated without the whole matrix.

Tolerance: 1e-5 against whole matrices in float64; the largest values are about 1.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import vitrail.inspection.look as looking
from positions_cases import PLACED, randomised, small
from vitrail.errors import UserError
from vitrail.inspection.attention import attention_map, distances, mean_distances, rollout
from vitrail.inspection.look import Layer, Look, Query, look
from vitrail.model import ViT

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
HYBRID = {"stem": "hybrid", "stem_layers": (1,), "stem_width": 32, "stem_root": "small", "patch_size": 4}
QUERIES: tuple[Query, ...] = ("class", "mean", (1, 4))
CASES: list[dict[str, Any]] = [
    *({"position": kind, "position_site": site} for kind, site in PLACED),
    {"position": "none"},
    {"registers": 2, "position": "relative_bias"},
    {"registers": 2, "position": "rotary2d"},
    {"class_token": False, "pool": "avg"},
    {"class_token": False, "pool": "avg", "registers": 1, "position": "relative"},
    {"pool": "map"},
    {"pool": "avg"},  # with a class token that the head does not read
    {"pool": "token_avg"},
    {"distilled": True},
    {"stem": "conv"},
    HYBRID,
]


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "CHUNK_BYTES", 1200)


def seen(model: ViT, images: Tensor) -> tuple[Look, list[Tensor]]:
    """The look, and whole matrices of attention in float64, one a layer."""
    with torch.no_grad():
        out = model.double()(images.double(), collect=("attention",))
    found = look(model.float(), images)
    assert len(list(found.rows())) > 1
    return found, out["attention"]


def share(model: ViT, query: Query, grid: tuple[int, int]) -> Tensor:
    """The query as a row, said otherwise than by ``Look.row``."""
    (h, w), P = grid, model.config.prefix_tokens
    mean = torch.cat([torch.zeros(P), torch.full((h * w,), 1 / (h * w))]).double()
    if query == "mean" or (query == "class" and model.config.pool in ("avg", "map")):
        return mean
    if query == "class" and model.config.distilled:
        return torch.nn.functional.pad(torch.tensor([0.5, 0.5]), (0, P - 2 + h * w)).double()
    if query == "class" and model.config.pool == "token_avg":
        return (torch.nn.functional.one_hot(torch.tensor(0), P + h * w) + mean) / 2
    index = 0 if isinstance(query, str) else P + query[0] * w + query[1]
    return torch.nn.functional.one_hot(torch.tensor(index), P + h * w).double()


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_maps_and_rollout_are_rows_of_the_whole_matrices(changes: dict[str, Any]) -> None:
    model = randomised(small(**changes))
    images = torch.randn(2, 3, 8, 28)  # not the model's own grid, and not square
    found, whole = seen(model, images)
    P, grid = model.config.prefix_tokens, (2, 7)
    for query in QUERIES:
        row = share(model, query, grid)
        for layer in (0, -1):
            expected = torch.einsum("n,bhnm->bhm", row, whole[layer])[..., P:].unflatten(-1, grid)
            every = attention_map(found, layer, query, head="all")
            assert every.dtype == torch.float32
            torch.testing.assert_close(every.double(), expected, **CLOSE)
            torch.testing.assert_close(attention_map(found, layer, query, head=1), every[:, 1], **CLOSE)
            torch.testing.assert_close(attention_map(found, layer, query), every.mean(1), **CLOSE)
        for residual in (0.5, 0.2):
            product = torch.eye(P + 14, dtype=torch.float64)
            for matrix in whole:
                mixed = (1 - residual) * matrix.mean(1) + residual * torch.eye(P + 14, dtype=torch.float64)
                product = mixed @ product
            expected = (row @ product)[:, P:].unflatten(-1, grid)
            torch.testing.assert_close(rollout(found, query, residual).double(), expected, **CLOSE)


def test_a_map_sums_to_what_is_not_given_to_the_prefix() -> None:
    model = randomised(small(class_token=False, pool="avg"))
    found = look(model, torch.randn(2, 3, 12, 20))
    for values in (attention_map(found), attention_map(found, 0, (0, 0), head=0), rollout(found)):
        torch.testing.assert_close(values.sum((1, 2)), torch.ones(2), **CLOSE)
    with_prefix = look(randomised(small(registers=2)), torch.randn(2, 3, 12, 20))
    assert (rollout(with_prefix).sum((1, 2)) < 1).all()


def test_nothing_moves_where_all_is_residual() -> None:
    found = look(randomised(small()), torch.randn(1, 3, 12, 20))
    assert rollout(found, (2, 3), residual=1).nonzero().tolist() == [[0, 2, 3]]


def look_at(grid: tuple[int, int], queries: Tensor, keys: Tensor, patch_size: int = 4) -> Look:
    """A look of one layer without a prefix, whose attention is said."""
    config = small(class_token=False, pool="avg", heads=queries.shape[1])
    nothing = torch.zeros(queries.shape[0], 3)
    return Look(config, grid, patch_size, (Layer(queries, keys, None),), nothing, nothing, ())


def test_distance_of_uniform_attention_and_of_attention_to_itself() -> None:
    queries = torch.stack([torch.zeros(6, 6), 1000 * torch.eye(6)])[None]
    uniform, own = distances(look_at((2, 3), queries, torch.eye(6).expand(1, 2, 6, 6)))[0]
    # On 2 x 3 with sides of 1: from each of the four corners 0 1 2 1 sqrt(2) sqrt(5), from the two between 0 1 1 1 sqrt(2)
    # sqrt(2), a sixth of each; patches are 4 pixels wide.
    corner, between = 4 + 2**0.5 + 5**0.5, 3 + 2 * 2**0.5
    assert uniform.item() == pytest.approx(4 * (4 * corner + 2 * between) / 6 / 6, abs=1e-5)
    assert own.item() == 0


@pytest.mark.parametrize(
    "changes", [{}, {"registers": 3, "position": "relative_bias"}, {"position": "relative"}], ids=str
)
def test_distance_is_the_mean_over_patches_of_whole_matrices(changes: dict[str, Any]) -> None:
    model = randomised(small(**changes))
    found, whole = seen(model, torch.randn(3, 3, 8, 28))
    places = [(4.0 * row, 4.0 * column) for row in range(2) for column in range(7)]
    far = torch.tensor([[((a - c) ** 2 + (b - d) ** 2) ** 0.5 for c, d in places] for a, b in places]).double()
    P = model.config.prefix_tokens
    for layer, matrix in zip(distances(found), whole, strict=True):
        patches = matrix[:, :, P:, P:]
        patches = patches / patches.sum(-1, keepdim=True)
        expected = (patches * far).sum(-1).mean((0, 2))
        torch.testing.assert_close(layer.double(), expected, atol=1e-4, rtol=1e-5)  # of distances of up to 24 pixels


def test_every_image_counts_alike_in_the_mean_distance() -> None:
    model = randomised(small())
    images = torch.randn(3, 3, 12, 20)
    whole = distances(look(model, images))
    parts = mean_distances(look(model, part) for part in images.split([1, 2]))
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-5)
    with pytest.raises(UserError, match="none"):
        mean_distances([])


def test_half_precision_is_computed_in_single() -> None:
    found = look(randomised(small()), torch.randn(2, 3, 12, 20))
    halved = tuple(Layer(layer.queries.bfloat16(), layer.keys.bfloat16(), None) for layer in found.layers)
    low = replace(found, layers=halved)
    for values, expected in ((rollout(low), rollout(found)), (distances(low), distances(found))):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, expected, atol=0.05, rtol=0.2)  # bfloat16 has 8 bits


def test_what_is_not_there_is_named() -> None:
    found = look(randomised(small()), torch.randn(1, 3, 12, 20))
    with pytest.raises(UserError, match="layer 2: the model has layers 0 to 1"):
        attention_map(found, 2)
    with pytest.raises(UserError, match="head 2: the model has heads 0 to 1"):
        attention_map(found, head=2)
    with pytest.raises(UserError, match="head 'mean'"):
        attention_map(found, head="mean")
    with pytest.raises(UserError, match="residual 2"):
        rollout(found, residual=2)
