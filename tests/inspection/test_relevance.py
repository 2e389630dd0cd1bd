"""Relevance is its formula, evaluated without a matrix of all tokens against all, and leaves the model as it was.

Tolerance: 1e-5 of the largest value, against explicit attention and its gradient by autograd, in float64.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

import vitrail.inspection.look as looking
from positions_cases import randomised, small
from vitrail.errors import UserError
from vitrail.inspection.relevance import relevance
from vitrail.model import ResNet, ResNetConfig, ViT

CASES: list[dict[str, Any]] = [
    {},
    {"depth": 3, "registers": 2, "representation": 8},
    {"pool": "avg"},
    {"pool": "avg", "class_token": False, "final_norm": "pooled"},
    {"pool": "token_avg"},
    {"distilled": True},
    {"pool": "map", "class_token": False},
    {"pool": "map", "registers": 1, "final_norm": "pooled"},
    {"position": "relative"},
    {"position": "relative_bias"},
    {"position": "rotary2d", "qk_norm": True},
    {"position": "learned2d", "position_site": "layers"},
    {"stem": "hybrid", "stem_layers": (1,), "stem_width": 32, "stem_root": "small"},
]


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "CHUNK_BYTES", 1200)


def straightforward(model: ViT, images: Tensor, target: Tensor, against: Tensor | None, signed: bool) -> Tensor:
    """R as a whole, from explicit attention and the gradients that autograd gives it, in float64."""
    model, images = model.double(), images.double()
    pooled: list[Tensor] = []  # keys and values of the pool
    if model.attn_pool is not None:
        hook = model.attn_pool.kv.register_forward_hook(lambda module, inputs, output: pooled.append(output))
    out = model(images, collect=("attention",))
    if model.attn_pool is not None:
        hook.remove()
    every = torch.arange(len(images))
    score = out["logits"][every, target].sum()
    if against is not None:
        score = score - out["logits"][every, against].sum()

    def layer(weights: Tensor, gradient: Tensor) -> Tensor:
        return ((weights * gradient) if signed else (weights * gradient).clamp(min=0)).mean(1).detach()

    P, N = model.config.prefix_tokens, out["attention"][0].shape[-1]
    eye = torch.eye(N, dtype=torch.float64)
    R = eye.expand(len(images), N, N)
    gradients = torch.autograd.grad(score, out["attention"], retain_graph=True)
    for weights, gradient in zip(out["attention"], gradients, strict=True):
        R = R + layer(weights, gradient) @ R
    if model.attn_pool is None:
        of_mean = (R - eye)[:, P:, P:].mean(1)
        of_class = R[:, 0, P:]
        found = {"token": of_class, "avg": of_mean, "token_avg": (of_class + of_mean) / 2}[model.config.pool]
        if model.config.distilled:
            found = R[:, :2, P:].mean(1)
    else:
        found = (pool_layer(model, pooled[0], score, layer) @ R[:, P:, P:])[:, 0]
    h, w = images.shape[2] // 4, images.shape[3] // 4
    return found.unflatten(-1, (h, w))


def pool_layer(model: ViT, kv: Tensor, score: Tensor, layer: Any) -> Tensor:
    """The pool's, (B, 1, n). Its heads give A v, so dS/dv = A^T g, from which g = A dS/dv / |A|^2, and dS/dA = g v^T."""
    pool = model.attn_pool
    assert pool is not None
    (of_kv,) = torch.autograd.grad(score, kv, retain_graph=True)
    k, v = (part.unflatten(-1, (pool.heads, -1)).transpose(1, 2) for part in kv.chunk(2, dim=-1))
    of_v = of_kv.chunk(2, dim=-1)[1].unflatten(-1, (pool.heads, -1)).transpose(1, 2)
    q = pool.q(pool.latent)[0].unflatten(-1, (pool.heads, -1)).transpose(0, 1)
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    of_heads = weights @ of_v / weights.square().sum(-1, keepdim=True)
    return layer(weights, of_heads @ v.transpose(-2, -1))


@pytest.mark.parametrize("changes", CASES, ids=str)
@pytest.mark.parametrize("signed", [False, True], ids=["positive", "signed"])
def test_it_is_the_straightforward_product(changes: dict[str, Any], signed: bool) -> None:
    model = randomised(small(**changes))
    images = torch.randn(2, 3, 8, 28)
    target, against = torch.tensor([2, 0]), torch.tensor([1, 1])
    for other in (None, against):
        found = relevance(model.float(), images, target, other, signed=signed)
        assert found.dtype == torch.float32
        assert found.shape == (2, 2, 7)
        expected = straightforward(model, images, target, other, signed)
        scale = expected.abs().max().item()
        assert scale > 1e-3
        torch.testing.assert_close(found.double(), expected, atol=1e-5 * scale, rtol=0)
        assert bool((found < 0).any()) is signed


def test_a_class_for_all_is_that_class_for_each_and_images_do_not_mix() -> None:
    model = randomised(small())
    images = torch.randn(3, 3, 12, 20)
    found = relevance(model, images, 1)
    assert torch.equal(found, relevance(model, images, torch.tensor([1, 1, 1])))
    alone = relevance(model, images[1:2], 1)
    torch.testing.assert_close(found[1:2], alone, atol=1e-5 * alone.max().item(), rtol=0)


def test_in_one_layer_what_speaks_for_this_class_speaks_against_that() -> None:
    model = randomised(small(depth=1))
    images = torch.randn(1, 3, 12, 20)
    for_this = relevance(model, images, 0, 1, signed=True)
    for_that = relevance(model, images, 1, 0, signed=True)
    torch.testing.assert_close(for_this, -for_that, atol=1e-5 * for_this.abs().max().item(), rtol=0)


@pytest.mark.parametrize("pool", ["token", "map"])
def test_the_model_is_left_as_it_was(pool: str) -> None:
    model = randomised(small(pool=pool, dropout=0.5, drop_path=0.2)).train()
    model.blocks[1].eval()
    model.head.weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    images = torch.randn(1, 3, 12, 20)
    with torch.no_grad():  # from where predictions are made
        first, second = relevance(model, images, 0), relevance(model, images, 0)
    assert torch.equal(first, second)
    assert not first.requires_grad
    with pytest.raises(UserError, match="divisible by 4"):
        relevance(model, images[..., :-1], 0)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad


def test_what_cannot_be_explained_is_named() -> None:
    images = torch.randn(2, 3, 12, 20)
    model = randomised(small())
    with pytest.raises(UserError, match="no head"):
        relevance(randomised(small(classes=0)), images, 0)
    with pytest.raises(UserError, match="ResNet"):
        relevance(ResNet(ResNetConfig(layers=(1,), image_size=(32, 32), classes=2)), images, 0)
    with pytest.raises(UserError, match=r"target \[3, 3\]: the model has classes 0 to 2"):
        relevance(model, images, 3)
    with pytest.raises(UserError, match="against: one class for all images"):
        relevance(model, images, 0, torch.tensor([1]))
    with pytest.raises(UserError, match="class 2 against itself"):
        relevance(model, images, torch.tensor([0, 2]), 2)
