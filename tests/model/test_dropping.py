"""Dropped patches: a training step sees the rest at their places, others for every image and every step."""

from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from positions_cases import PLACED, randomised, small
from vitrail.errors import UserError
from vitrail.model import ViT
from vitrail.model import cost as cost_of
from vitrail.model.cost import flops
from vitrail.model.dropping import draw
from vitrail.model.reduction import Merging

MODELS: list[dict[str, Any]] = [
    {},
    {"pool": "avg", "class_token": False},
    {"pool": "map", "registers": 2},
    {"stem": "conv", "position": "sincos2d"},
    {"stem": "hybrid", "stem_layers": (), "stem_root": "small", "stem_width": 32},
    {"distilled": True, "pre_norm": True},
    {"position": "learned", "position_site": "layers"},
    {"position": "learned2d", "position_site": "shared", "registers": 1},
    {"position": "rotary2d", "qk_norm": True},
    {"position": "none", "pool": "token_avg"},
]


def without(model: ViT, images: Tensor, kept: Tensor) -> Tensor:
    """Features of the tokens ``kept`` (B, k) alone, written out: every other one is hidden from attention and pooling."""
    config, P = model.config, model.config.prefix_tokens
    grid = images.shape[2] // config.patch_size, images.shape[3] // config.patch_size
    z = model.embed(images)
    hidden = torch.full(z.shape[:2], -torch.inf).scatter(1, kept, 0.0)[:, None, None]
    for block, place in zip(model.blocks, model._places([(len(images), grid)], images.device), strict=True):
        z = block(z, place._replace(bias=lambda q: hidden), {})
    rows = model.norm(z).gather(1, kept[..., None].expand(-1, -1, config.width))
    assert torch.equal(kept[:, :P], torch.arange(P).expand(len(images), P))
    return model.pool(rows)


@pytest.mark.parametrize("changes", MODELS, ids=str)
@torch.no_grad()
def test_the_rest_answers_as_if_the_dropped_patches_were_hidden(changes: dict[str, Any]) -> None:
    model = randomised(small(**changes)).train()
    images = torch.randn(4, 3, 12, 20)
    stem = model.patch_embed.eval()  # a batch norm would move
    assert stem is model.patch_embed
    torch.manual_seed(5)
    found = model.features(images, patch_drop=0.4)
    torch.manual_seed(5)
    kept = draw([(4, 15)], model.config.prefix_tokens, 0.4, images.device).index
    assert kept.shape == (4, model.config.prefix_tokens + 9)
    assert all(len(set(row.tolist())) == kept.shape[1] for row in kept)
    torch.testing.assert_close(found, without(model, images, kept), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"position": "rotary2d"}, {"position": "learned", "position_site": "layers"}])
@torch.no_grad()
def test_images_of_several_sizes_lose_the_same_share_each(changes: dict[str, Any]) -> None:
    model = randomised(small(**changes)).train()
    batches = [torch.randn(2, 3, 12, 20), torch.randn(3, 3, 8, 16)]
    torch.manual_seed(6)
    together = model.features(batches, patch_drop=0.5)
    torch.manual_seed(6)
    kept = draw([(2, 15), (3, 8)], 1, 0.5, torch.device("cpu"))
    assert kept.tokens == (1 + 7, 1 + 4)
    own = [kept.index[0, :16].view(2, 8) - 16 * torch.arange(2)[:, None]]
    own.append(kept.index[0, 16:].view(3, 5) - 32 - 9 * torch.arange(3)[:, None])
    parts = [model.embed(batch) for batch in batches]
    assert [index.max().item() < part.shape[1] for index, part in zip(own, parts, strict=True)] == [True, True]
    torch.testing.assert_close(together[:2], without(model, batches[0], own[0]), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(together[2:], without(model, batches[1], own[1]), atol=2e-5, rtol=1e-4)


def test_every_image_and_every_step_loses_others_and_a_seed_gives_them_again() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return draw([(64, 16)], 1, 0.5, torch.device("cpu")).index[:, 1:]

    first = drawn(0)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))
    assert len({tuple(row.tolist()) for row in first}) > 60
    # each of 16 patches is kept by half of 64 images: 32 on average, with a deviation of 4
    assert ((torch.bincount(first.flatten(), minlength=17)[1:] - 32).abs() < 18).all()


@torch.no_grad()
def test_evaluation_sees_whole_images() -> None:
    model = randomised(small())
    images = torch.randn(2, 3, 12, 20)
    assert torch.equal(model(images, patch_drop=0.5), model(images))
    assert not torch.allclose(model.train()(images, patch_drop=0.5), model(images), atol=1e-3)


def test_dropping_nothing_changes_no_bit_and_draws_nothing() -> None:
    model = randomised(small(dropout=0.2, drop_path=0.3)).train()
    images = torch.randn(2, 3, 12, 20)
    torch.manual_seed(3)
    expected, after = model(images), torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(model(images, patch_drop=0.0), expected)
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize(("kind", "site"), [case for case in PLACED if case[0].startswith("relative")])
def test_positions_of_pairs_are_refused_by_name(kind: str, site: str) -> None:
    model = randomised(small(position=kind, position_site=site)).train()
    with pytest.raises(UserError, match=f"patch_drop: {kind} positions belong to pairs"):
        model(torch.randn(1, 3, 12, 20), patch_drop=0.5)


def test_merging_and_dropping_are_not_mixed() -> None:
    with pytest.raises(UserError, match="give one of them"):
        randomised(small()).train()(torch.randn(1, 3, 12, 20), patch_drop=0.5, merge=Merging(1))


@pytest.mark.usefixtures("whole_last_block")
@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_the_work_is_counted_as_it_is_done(changes: dict[str, Any]) -> None:
    model = randomised(small(**changes)).train()
    images = torch.randn(2, 3, 12, 20)
    # written out: the counter of older torch versions does not know the CPU's fused attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(images, patch_drop=0.3)
    assert counter.get_total_flops() == 2 * sum(flops(model.config, dropped=0.3).values())


@pytest.mark.usefixtures("whole_last_block")
@pytest.mark.parametrize(
    "changes", [{}, {"pre_norm": True, "dropout": 0.1}, {"position": "rotary2d"}, {"position_site": "layers"}], ids=str
)
def test_training_keeps_the_activations_that_are_forecast(changes: dict[str, Any]) -> None:
    config = small(**{"image_size": (64, 64), "width": 32, "mlp_width": 64, "depth": 4, **changes})
    model, images = randomised(config).train(), torch.randn(4, 3, 64, 64)
    own = {t.untyped_storage().data_ptr() for t in chain(model.parameters(), model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images, patch_drop=0.5)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    forecast = cost_of.training_activation_bytes(config, 4, dropped=0.5)
    # what is left out (the places of the kept, the head's inputs) does not grow with depth
    assert forecast == pytest.approx(measured, rel=0.04)
    assert forecast < 0.7 * cost_of.training_activation_bytes(config, 4)
