"""Positions are compared by what they do, whatever their kind, and rows and columns show where they are."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from positions_cases import PLACED, randomised, small
from vitrail.errors import UserError
from vitrail.inspection.inspection import Positions
from vitrail.inspection.positions import position_similarity, structure
from vitrail.model import ResNet, ResNetConfig, ViT
from vitrail.weights.resize import resize

CLOSE = {"atol": 2e-6, "rtol": 1e-5}  # float32 sums of some dozens to some hundreds


def of(grid: tuple[int, int], similarity: torch.Tensor) -> Positions:
    return Positions(grid, similarity.reshape(*grid, *grid).float().numpy(), "")


@pytest.mark.parametrize("prefix", [{}, {"registers": 2}, {"class_token": False, "pool": "avg"}], ids=str)
@pytest.mark.parametrize(("kind", "site"), PLACED)
def test_every_kind_gives_a_cosine_at_its_own_grid_and_at_another(kind: str, site: str, prefix: dict[str, Any]) -> None:
    model = randomised(small(position=kind, position_site=site, **prefix))
    for size, grid in ((None, (3, 5)), ((16, 8), (4, 2))):
        found = position_similarity(model, size)
        values = found.similarity.reshape(grid[0] * grid[1], -1)
        assert found.grid == grid
        assert found.similarity.shape == (*grid, *grid)
        assert found.what.startswith("cosine of")
        np.testing.assert_allclose(values.diagonal(), 1, **CLOSE)
        np.testing.assert_allclose(values, values.T, **CLOSE)
        assert np.abs(values).max() <= 1
        assert values.std() > 0.05


@pytest.mark.parametrize(("kind", "site"), PLACED)
def test_another_size_is_what_the_resized_model_has(kind: str, site: str) -> None:
    model = randomised(small(position=kind, position_site=site))
    resized = resize(model, (24, 32))
    for layer in (0, 1):
        expected = position_similarity(resized, layer=layer).similarity
        np.testing.assert_allclose(position_similarity(model, (24, 32), layer).similarity, expected, **CLOSE)


def test_learned_positions_are_compared_without_those_of_the_prefix() -> None:
    model = randomised(small(position="learned", registers=1))
    assert model.pos_embed is not None
    table = model.pos_embed.detach()[0, 2:].reshape(3, 5, 16)
    expected = F.cosine_similarity(table[1, 3], table, dim=-1)
    np.testing.assert_allclose(position_similarity(model).similarity[1, 3], expected.numpy(), **CLOSE)


def test_rows_and_columns_are_compared_together() -> None:
    model = randomised(small(position="learned2d"))
    assert model.pos_embed is not None
    rows, columns = model.pos_embed.detach()[0].split([3, 5])
    expected = F.cosine_similarity(torch.cat([rows[2], columns[0]]), torch.cat([rows[1], columns[4]]), dim=0)
    assert position_similarity(model).similarity[2, 0, 1, 4] == pytest.approx(expected.item(), abs=2e-6)


def test_each_block_has_positions_of_its_own() -> None:
    model = randomised(small(position="learned", position_site="layers"))
    first, last = position_similarity(model, layer=0), position_similarity(model, layer=-1)
    assert np.abs(first.similarity - last.similarity).max() > 0.1
    assert first.what.endswith("in block 0")
    assert last.what.endswith("in block 1")


def test_turned_positions_are_alike_as_a_turned_vector_is() -> None:
    model = randomised(small(position="rotary2d"))
    # one vector, of the same length in each of the K / 2 planes, turned as the forward pass turns it
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias.fill_(1.0)
        queries = model(torch.randn(1, 3, 12, 20), collect=("queries",))["queries"][0][0, 0, 1:]
    expected = F.cosine_similarity(queries[:, None], queries[None], dim=-1).reshape(3, 5, 3, 5)
    np.testing.assert_allclose(position_similarity(model).similarity, expected.numpy(), **CLOSE)


def test_biased_positions_are_alike_where_they_prefer_the_same_places() -> None:
    model = randomised(small(position="relative_bias"))
    with torch.no_grad():
        bias = model(torch.randn(1, 3, 12, 20), collect=("bias",))["bias"][0][0, :, 1:, 1:]
    preferred = (bias - bias.mean(dim=2, keepdim=True)).transpose(0, 1).flatten(1)
    expected = F.cosine_similarity(preferred[:, None], preferred[None], dim=-1).reshape(3, 5, 3, 5)
    np.testing.assert_allclose(position_similarity(model).similarity, expected.numpy(), **CLOSE)


def test_positions_that_queries_attend_to_are_a_mean_over_all_queries() -> None:
    model = randomised(small(position="relative"))
    table = model.blocks[0].pos_embed.detach().unflatten(1, (2, 8))  # (2 n - 1, H, K)
    offsets = torch.arange(15)[:, None] - torch.arange(15) + 14
    queries = torch.randn(10_000, 8)
    added = torch.einsum("qk,ijhk->iqhj", queries, table[offsets])
    preferred = (added - added.mean(dim=3, keepdim=True)).flatten(1)
    lengths = preferred.norm(dim=1)
    sampled = (preferred @ preferred.T / lengths.outer(lengths)).reshape(3, 5, 3, 5)
    found = position_similarity(model).similarity
    np.testing.assert_allclose(found, sampled.numpy(), atol=0.02)  # the sampled mean is off by about 0.005
    # the same over unit queries is that mean without chance
    added = table[offsets].permute(0, 3, 2, 1)  # (n, K, H, m)
    preferred = (added - added.mean(dim=3, keepdim=True)).flatten(1)
    expected = F.cosine_similarity(preferred[:, None], preferred[None], dim=-1).reshape(3, 5, 3, 5)
    np.testing.assert_allclose(found, expected.numpy(), **CLOSE)


def test_structure_is_seen_in_rows_and_columns_and_not_in_chance_or_nearness() -> None:
    torch.manual_seed(0)
    grid, (h, w) = (8, 6), (8, 6)
    rows, columns = torch.randn(h, 64), torch.randn(w, 64)
    crossed = torch.cat([rows[:, None].expand(h, w, 64), columns.expand(h, w, 64)], dim=2).flatten(0, 1)
    places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).float()

    def alike(vectors: torch.Tensor) -> Positions:
        return of(grid, F.cosine_similarity(vectors[:, None], vectors[None], dim=-1))

    assert structure(alike(crossed)) == pytest.approx(0.5, abs=0.05)  # one half is shared
    assert abs(structure(alike(torch.randn(h * w, 128)))) < 0.02
    near = of(grid, torch.exp(-torch.cdist(places, places) / 3))
    assert abs(structure(near)) < 0.02
    assert structure(alike(crossed + 0.02 * torch.randn(h * w, 128))) > 0.4


def test_structure_by_hand() -> None:
    # 3 x 2: at distance 2 are the ends of each column, 4 ordered pairs, and places like (0, 0) and (2, 1), 4 as well
    similarity = np.zeros((3, 2, 3, 2), np.float32)
    for column in (0, 1):
        similarity[0, column, 2, column] = similarity[2, column, 0, column] = 0.75
        similarity[0, column, 2, 1 - column] = similarity[2, column, 0, 1 - column] = 0.25
    assert structure(Positions((3, 2), similarity, "")) == pytest.approx(0.5)
    for grid in ((1, 4), (2, 2), (1, 1)):
        assert np.isnan(structure(Positions(grid, np.ones((*grid, *grid), np.float32), "")))


@pytest.mark.parametrize("kind", ["learned", "relative", "relative_bias"])
def test_an_untrained_models_positions_have_no_structure(kind: str) -> None:
    torch.manual_seed(0)
    model = ViT(small(position=kind, image_size=(24, 24), width=64, heads=4))
    assert abs(structure(position_similarity(model))) < 0.03


@pytest.mark.parametrize(("kind", "least"), [("learned2d", 0.3), ("sincos2d", 0.03), ("rotary2d", 0.1)])
def test_positions_made_of_rows_and_columns_show_them(kind: str, least: float) -> None:
    torch.manual_seed(0)
    model = ViT(small(position=kind, image_size=(24, 24), width=64, heads=4))
    assert structure(position_similarity(model)) > least


def test_half_precision_is_compared_in_full() -> None:
    model = randomised(small(position="relative_bias"))
    expected = position_similarity(model).similarity
    found = position_similarity(model.half()).similarity
    np.testing.assert_allclose(found, expected, atol=2e-3)  # the weights themselves were rounded
    assert found.dtype == np.float32


def test_what_has_no_positions_is_refused_in_one_line() -> None:
    model = randomised(small(position="none"))
    with pytest.raises(UserError, match="no position embedding"):
        position_similarity(model)
    with pytest.raises(UserError, match="ResNet"):
        position_similarity(ResNet(ResNetConfig(layers=(1,), image_size=(32, 32), classes=2)))
    placed = randomised(small(position="learned", position_site="layers"))
    for layer in (2, -3):
        with pytest.raises(UserError, match="blocks 0 to 1"):
            position_similarity(placed, layer=layer)
    with pytest.raises(UserError, match="divi"):
        position_similarity(placed, (13, 20))
