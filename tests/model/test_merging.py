"""Merged tokens: the model answers as the paper's description, followed token by token, does."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from positions_cases import PLACED, randomised, small
from vitrail.errors import UserError
from vitrail.model import ViT
from vitrail.model.cost import flops
from vitrail.model.reduction import Merging

MODELS: list[dict[str, Any]] = [
    {},
    {"pool": "avg", "class_token": False},
    {"pool": "map", "registers": 2},
    {"pool": "token_avg", "registers": 1, "final_norm": "pooled"},
    {"distilled": True, "layer_scale": 0.5},
    {"position": "sincos2d", "qk_norm": True},
    {"position": "none", "pre_norm": True, "head_width": 4},
    {"position": "learned", "position_site": "layers"},
    {"position": "learned2d", "position_site": "shared", "registers": 2},
    {"position": "sincos2d", "position_site": "shared", "pool": "avg"},
    {"position": "rotary2d"},
    {"position": "rotary2d", "pool": "avg", "class_token": False},
]
SIZES = {"depth": 3, "image_size": (12, 20)}  # 15 patches


def made(**changes: Any) -> ViT:
    return randomised(small(**{**SIZES, **changes}))


def images(model: ViT, count: int = 3) -> Tensor:
    return torch.randn(count, 3, *model.config.image_size)


def by_hand(model: ViT, image: Tensor, counts: tuple[int, ...]) -> tuple[Tensor, list[list[int]]]:
    """Features of one image (C, H, W), and the first tokens in each of the last: lists and loops, after the paper."""
    config, P = model.config, model.config.prefix_tokens
    z = list(model.embed(image[None])[0])
    members = [[i] for i in range(len(z))]
    places = list(model._places([(1, config.grid)], image.device))
    for block, place, count in zip(model.blocks, places, counts, strict=True):

        def mean(table: Tensor, of: list[list[int]] = members) -> Tensor:
            return torch.stack([table[group].mean(0) for group in of])

        x = torch.stack(z) if place.added is None else torch.stack(z) + mean(place.added[0])
        q, k, v = (
            part.unflatten(-1, (config.heads, -1)).transpose(0, 1)
            for part in block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
        )
        q, k = block.attn.q_norm(q), block.attn.k_norm(k)
        if place.rotation is not None:
            cos, sin = mean(place.rotation[0]), mean(place.rotation[1])
            q, k = ((t * cos + torch.cat([-t.chunk(2, -1)[1], t.chunk(2, -1)[0]], -1) * sin) for t in (q, k))
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        scores = scores + torch.tensor([math.log(len(group)) for group in members])
        heads = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + block.ls1(block.attn.proj(heads))
        metric = k.mean(0)
        rows = range(P, len(z))
        first, second = [i for i in rows if i % 2 == 0], [i for i in rows if i % 2 == 1]
        found = []
        for i in first:
            near = {j: torch.cosine_similarity(metric[i], metric[j], dim=0).item() for j in second}
            j = max(near, key=near.__getitem__)
            found.append((near[j], i, j))
        gone = {i: j for _, i, j in sorted(found, reverse=True)[:count]}
        stay = [*range(P), *(i for i in first if i not in gone), *second] if count else list(range(len(z)))
        into = {j: [j, *(i for i in gone if gone[i] == j)] for j in stay}
        weights = {i: len(members[i]) for i in range(len(z))}
        z = [sum(x[i] * weights[i] for i in into[j]) / sum(weights[i] for i in into[j]) for j in stay]
        members = [[m for i in into[j] for m in members[i]] for j in stay]
        x = torch.stack(z)
        z = list(x + block.ls2(block.mlp(block.norm2(x))))
    last = model.norm(torch.stack(z))
    # a token repeated as often as it has members: the plain means of it are the weighted ones
    repeated = [last[i] for i in range(P)] + [last[i] for i in range(P, len(z)) for _ in members[i]]
    return model.pool(torch.stack(repeated)[None])[0], members


@pytest.mark.parametrize("changes", MODELS, ids=str)
@pytest.mark.parametrize("merging", [Merging(2), Merging(0.6, falling=True)], ids=str)
@torch.no_grad()
def test_the_answers_are_those_of_the_papers_description(changes: dict[str, Any], merging: Merging) -> None:
    model = made(**changes)
    x = images(model)
    found = model.features(x, merge=merging)
    counts = merging.counts(15, 3)
    expected = [by_hand(model, image, counts) for image in x]
    torch.testing.assert_close(found, torch.stack([row for row, _ in expected]), atol=2e-5, rtol=1e-4)
    assert (found - model.features(x)).abs().max() > 1e-3
    origins = model(x, collect=("merges",), merge=merging)["merges"][0]
    for row, (_, members) in zip(origins, expected, strict=True):
        assert row.tolist() == [next(i for i, group in enumerate(members) if m in group) for m in range(len(row))]


@pytest.mark.parametrize("changes", MODELS, ids=str)
@torch.no_grad()
def test_merging_nothing_changes_no_bit(changes: dict[str, Any]) -> None:
    model = made(**changes)
    x = images(model)
    assert torch.equal(model(x, merge=Merging(0)), model(x))
    origins = model(x, collect=("merges",))["merges"][0]
    assert torch.equal(origins, torch.arange(model.config.tokens).expand(3, -1))


@pytest.mark.parametrize("pool", ["token", "avg", "token_avg", "map"])
@torch.no_grad()
def test_merging_equal_tokens_changes_no_answer(pool: str) -> None:
    model = made(pool=pool, position="none", depth=2)
    kinds = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 0]])  # both kinds stand in both sets, by turns
    patches = torch.randn(2, 3, 4, 4)[kinds]  # (rows, columns, C, 4, 4)
    x = patches.permute(2, 0, 3, 1, 4).reshape(1, 3, 12, 16)
    all_at_once = Merging(3, falling=True)  # of the first set each patch: all of them find an equal one
    torch.testing.assert_close(model(x, merge=all_at_once), model(x), atol=1e-5, rtol=1e-5)
    z = model._encode(x, {}, None, all_at_once)
    assert z.z.shape[1] == 13 - 6
    assert z.sizes is not None
    assert z.sizes.sum().item() == 13


@torch.no_grad()
def test_every_patch_is_counted_once() -> None:
    model = made(registers=1)
    x = images(model)
    z, _, sizes = model._encode(x, {}, None, Merging(4))
    assert sizes is not None
    assert z.shape[1] == sizes.shape[1] == 17 - 4 - 4 - 3  # of seven patches, three at most
    assert torch.equal(sizes[:, :2], torch.ones(3, 2))
    torch.testing.assert_close(sizes.sum(1), torch.full((3,), 17.0))
    origins = model(x, collect=("merges",), merge=Merging(4))["merges"][0]
    counted = torch.stack([torch.bincount(row, minlength=sizes.shape[1]) for row in origins])
    assert torch.equal(counted, sizes.long())


@torch.no_grad()
def test_an_image_is_merged_by_itself_whatever_is_beside_it() -> None:
    model = made()
    x = images(model, 4)
    together = model(x, merge=Merging(2))
    alone = torch.cat([model(image[None], merge=Merging(2)) for image in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    wide = torch.randn(2, 3, 8, 28)
    torch.testing.assert_close(
        model([x, wide], merge=Merging(0.5)), torch.cat([model(b, merge=Merging(0.5)) for b in (x, wide)])
    )


@pytest.mark.parametrize(("kind", "site"), [case for case in PLACED if case[0].startswith("relative")])
def test_positions_of_pairs_are_refused_by_name(kind: str, site: str) -> None:
    model = made(position=kind, position_site=site)
    with pytest.raises(UserError, match=f"merge: {kind} positions belong to pairs"):
        model(images(model), merge=Merging(2))


def test_what_needs_every_token_is_not_collected_of_merged_ones() -> None:
    model = made()
    with pytest.raises(UserError, match="tokens is collected of whole images"):
        model(images(model), collect=("merges", "tokens"), merge=Merging(2))


@pytest.mark.usefixtures("whole_last_block")
@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_the_work_is_counted_as_it_is_done(changes: dict[str, Any]) -> None:
    model = made(**changes)
    x = images(model, 2)
    for merging in (Merging(3), Merging(0.4)):
        # written out: the counter of older torch versions does not know the CPU's fused attention
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(x, merge=merging)
        assert counter.get_total_flops() == 2 * sum(flops(model.config, merging).values())


@torch.no_grad()
def test_autocast_rounds_neither_the_tokens_nor_their_similarities() -> None:
    model = made(depth=2)
    x = images(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, merge=Merging(3))
    torch.testing.assert_close(found.float(), model(x, merge=Merging(3)), atol=0.1, rtol=0.1)


def test_gradients_flow_through_merged_tokens() -> None:
    model = made().train()
    model(images(model), merge=Merging(3)).square().sum().backward()
    missed = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missed == []


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"pool": "avg"}, {"position": "rotary2d"}], ids=str)
@torch.no_grad()
def test_a_model_that_merges_is_exported_for_any_number_of_images(changes: dict[str, Any]) -> None:
    model = made(**changes)

    class Merges(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x, merge=Merging(3))

    program = torch.export.export(
        Merges().eval(), (images(model),), dynamic_shapes=({0: torch.export.Dim("images")},)
    ).module()
    for count in (1, 5):
        x = images(model, count)
        torch.testing.assert_close(program(x), model(x, merge=Merging(3)), atol=1e-5, rtol=1e-5)
