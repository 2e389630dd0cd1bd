"""Every kind of position embedding, at every place where it can come in."""

import copy

import pytest
import torch

from positions_cases import PLACED, randomised, small
from vitrail.model import ViT
from vitrail.model.config import POSITION_SITES
from vitrail.model.positions import KINDS

LEARNED = [(kind, site) for kind, site in PLACED if kind not in ("sincos2d", "rotary2d")]


@torch.no_grad()
@pytest.mark.parametrize(("kind", "site"), [("none", None), *PLACED])
@pytest.mark.parametrize("prefix", [{"class_token": False}, {"registers": 2}])
def test_the_order_of_the_patches_matters_if_and_only_if_there_are_positions(
    kind: str, site: str | None, prefix: dict
) -> None:
    model = randomised(small(position=kind, position_site=site, pool="avg", **prefix))
    images = torch.randn(2, 3, 12, 20)
    tiles = images.unflatten(3, (5, 4)).unflatten(2, (3, 4)).permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
    moved = tiles[torch.randperm(15)].unflatten(0, (3, 5)).permute(2, 3, 0, 4, 1, 5).reshape(2, 3, 12, 20)
    difference = (model(images) - model(moved)).abs().max()
    if kind == "none":
        assert difference < 1e-5
    else:
        assert difference > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["learned", "learned2d", "relative", "relative_bias"])
def test_equal_positions_in_every_block_are_shared_ones(kind: str) -> None:
    shared = randomised(small(position=kind, position_site="shared", registers=1, pool="avg"))
    layers = ViT(shared.config.with_changes(position_site="layers")).eval()
    state = shared.state_dict()
    table = state.pop("pos_embed")
    layers.load_state_dict({**state, **{f"blocks.{i}.pos_embed": table for i in range(2)}})
    images = torch.randn(2, 3, 20, 8)
    torch.testing.assert_close(layers(images), shared(images), rtol=0, atol=0)
    layers.blocks[1].pos_embed += torch.randn_like(table)  # and each block reads its own
    assert not torch.allclose(layers(images), shared(images), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["learned", "learned2d", "sincos2d"])
@pytest.mark.parametrize("prefix_positions", [True, False])
def test_before_one_block_is_once_before_the_blocks(kind: str, prefix_positions: bool) -> None:
    stem = randomised(small(position=kind, depth=1, registers=1, prefix_positions=prefix_positions))
    shared = ViT(stem.config.with_changes(position_site="shared")).eval()
    shared.load_state_dict(stem.state_dict())
    images = torch.randn(2, 3, 12, 20)
    torch.testing.assert_close(shared(images), stem(images), rtol=0, atol=0)
    assert not torch.allclose(stem.embed(images), shared.embed(images))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["learned", "learned2d"])
def test_a_table_joins_the_tokens_before_the_block(kind: str) -> None:
    """With attention and MLP silenced, a block's output is its input and the positions."""
    model = randomised(small(position=kind, position_site="layers"))
    for block in model.blocks:
        for dense in (block.attn.proj, block.mlp.fc2):
            dense.weight.zero_()
            dense.bias.zero_()
    stem = ViT(small(position=kind)).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if "pos_embed" not in name}
    tables = [block.pos_embed for block in model.blocks]
    stem.load_state_dict({**state, "pos_embed": tables[0] + tables[1]})
    images = torch.randn(2, 3, 12, 20)
    tokens = model(images, collect=["tokens"])["tokens"][-1]
    torch.testing.assert_close(tokens, stem.embed(images))


@pytest.mark.parametrize(("kind", "site"), LEARNED)
def test_every_table_learns(kind: str, site: str) -> None:
    model = randomised(small(position=kind, position_site=site, registers=1, pool="avg")).train()
    model(torch.randn(2, 3, 12, 20)).square().sum().backward()
    tables = {name: p for name, p in model.named_parameters() if name.endswith("pos_embed")}
    names = ["blocks.0.pos_embed", "blocks.1.pos_embed"] if site == "layers" else ["pos_embed"]
    assert list(tables) == names
    for table in tables.values():
        assert (table.grad != 0).float().mean() > 0.9  # of relative ones, a far offset may have few pairs


@pytest.mark.parametrize(("kind", "site"), LEARNED)
def test_tables_start_at_a_deviation_of_a_fiftieth(kind: str, site: str) -> None:
    torch.manual_seed(0)
    model = ViT(small(position=kind, position_site=site, image_size=(64, 64), width=64, heads=8))
    tables = [p for name, p in model.named_parameters() if name.endswith("pos_embed")]
    assert len(tables) == (2 if site == "layers" else 1)
    for table in tables:
        assert table.std().item() == pytest.approx(0.02, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "site"), PLACED)
def test_another_size_gives_what_a_model_of_that_size_gives_with_the_resized_tables(kind: str, site: str) -> None:
    model = randomised(small(position=kind, position_site=site, registers=1, pool="avg"))
    larger = ViT(model.config.with_changes(image_size=(24, 16))).eval()
    state = {
        name: KINDS[kind].resized(tensor, model.config, (6, 4)) if name.endswith("pos_embed") else tensor
        for name, tensor in model.state_dict().items()
    }
    larger.load_state_dict(state)
    images = torch.randn(2, 3, 24, 16)
    torch.testing.assert_close(model(images), larger(images), rtol=0, atol=0)


def test_the_usual_place_is_the_same_as_the_place_by_name() -> None:
    for kind, sites in POSITION_SITES.items():
        usual = small(position=kind)
        assert usual.site == (sites[0] if sites else None)
        if sites:
            torch.manual_seed(0)
            one = ViT(usual)
            torch.manual_seed(0)
            other = ViT(usual.with_changes(position_site=sites[0]))
            images = torch.randn(1, 3, 12, 20)
            torch.testing.assert_close(one.features(images), other.features(images), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "site"), PLACED)
def test_a_copy_in_half_precision_answers_nearly_the_same(kind: str, site: str) -> None:
    model = randomised(small(position=kind, position_site=site))
    half = copy.deepcopy(model).to(torch.bfloat16)
    for size in ((12, 20), (20, 12)):
        images = torch.randn(2, 3, *size)
        answer, rough = model(images), half(images.bfloat16()).float()
        assert (answer - rough).norm() < 0.1 * answer.norm()  # bfloat16 has three digits
