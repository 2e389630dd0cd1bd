"""Relevance: which patches speak for one class, or for one class against another.

Gradient-weighted attention (Chefer, Gur and Wolf, 2021, "Generic Attention-Model Explainability", equations 5 and 6). The
gradient with respect to the attention matrix A is never asked of autograd: it is G V^T, G that with respect to what the
heads give. So the forward and the backward pass stay fused, and A and its gradient are written down a few rows at a time.

Shapes: B batch, H heads, N tokens, n patches, K width per head, D width of a token, h w grid.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vitrail.errors import UserError
from vitrail.inspection.attention import rows_of
from vitrail.inspection.look import Layer, Look, require_vit
from vitrail.model import Model, ViT

Target = int | Tensor
"""One class for all images, or (B,) a class for each."""


def relevance(
    model: Model, images: Tensor, target: Target, against: Target | None = None, *, signed: bool = False
) -> Tensor:
    """How much every patch speaks for a class: (B, h, w), float32.

    Each layer is R <- R + mean over heads of relu(dS/dA * A) R, beginning with R = I, and S is the score that is explained:
    the logit of ``target``, less that of ``against``. The map is what attention brings to the tokens that the head
    reads: the class token's row of R; for a model that reads the mean of the patches, the mean of their rows of R - I;
    for the class token and the mean, or for class and distillation token, half of each. Attention pooling is one more
    layer of attention, from its query to the patches. The scale depends on the logits: maps are for comparing patches.

    Args:
        model: a Vision Transformer with a head. Its mode and its parameters are left as they were.
        images: (B, C, H, W), normalised, on the model's device; any size that its patches divide.
        target: the class, by its number.
        against: another class, whose logit is taken away.
        signed: without the relu: positive where attention raises the score, negative where it lowers it.

    Raises:
        UserError: a model without attention or without a head, a class that is not there, a class against itself.
    """
    config = require_vit(model)
    assert isinstance(model, ViT)
    if not config.classes:
        raise UserError("relevance is for a class, and this model has no head: it gives features alone")
    wanted = _classes("target", target, images, config.classes)
    other = None if against is None else _classes("against", against, images, config.classes)
    if other is not None and bool((wanted == other).any()):
        raise UserError(f"class {wanted[wanted == other][0].item()} against itself: its score is always 0")
    with _still(model), torch.enable_grad():
        look, values, gradients, row = _with_gradients(model, images.detach(), wanted, other, signed)
    start = row
    for layer, value, gradient in reversed(list(zip(look.layers, values, gradients, strict=True))):
        row = row + _brought(look, layer, value, gradient, row, signed)
    # what is at a patch from the start came through no attention, unless it came through that of the pool
    return look.on_grid(row if config.pool == "map" else row - start)


def _with_gradients(
    model: ViT, images: Tensor, target: Tensor, against: Tensor | None, signed: bool
) -> tuple[Look, list[Tensor], tuple[Tensor, ...], Tensor]:
    """One pass forward and one back: the look, values and gradients at the heads, and the row to begin with, (B, N)."""
    out = model(images, collect=("queries", "keys", "values", "bias", "heads", "normed"))
    score = _score(out["logits"], target, against)
    gradients = torch.autograd.grad(score, out["heads"])
    config = model.config
    biases = [None if bias is None else bias.detach() for bias in out["bias"] or [None] * config.depth]
    layers = tuple(
        Layer(queries.detach(), keys.detach(), bias)
        for queries, keys, bias in zip(out["queries"], out["keys"], biases, strict=True)
    )
    p = config.patch_size
    grid = images.shape[-2] // p, images.shape[-1] // p
    look = Look(config, grid, p, layers, out["logits"].detach(), out["features"].detach(), ())
    if config.pool == "map":
        patches = out["normed"][0].detach()[:, config.prefix_tokens :]
        row = torch.zeros(len(images), look.count, device=images.device)
        row[:, config.prefix_tokens :] = _pooled(model, patches, target, against, signed)
    else:
        row = look.row("class").expand(len(images), -1)
    return look, [value.detach() for value in out["values"]], gradients, row


def _pooled(model: ViT, patches: Tensor, target: Tensor, against: Tensor | None, signed: bool) -> Tensor:
    """The layer of attention that the pool is, from its query to the patches: (B, n, D) -> (B, n)."""
    pool = model.attn_pool
    assert pool is not None
    q = pool.q(pool.latent).unflatten(-1, (pool.heads, -1)).transpose(1, 2)
    k, v = (part.unflatten(-1, (pool.heads, -1)).transpose(1, 2) for part in pool.kv(patches).chunk(2, dim=-1))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1).detach().requires_grad_()
    x = pool.proj((weights @ v).transpose(1, 2).flatten(2))
    logits = model.classify(model.fc_norm((x + pool.mlp(pool.norm(x)))[:, 0]))
    (gradient,) = torch.autograd.grad(_score(logits, target, against), weights)
    product = (gradient * weights.detach())[:, :, 0].float()
    return (product if signed else product.relu()).mean(dim=1)


def _brought(look: Look, layer: Layer, value: Tensor, gradient: Tensor, row: Tensor, signed: bool) -> Tensor:
    """The row (B, N) times the mean over heads of relu(dS/dA * A), a few rows of A at a time: (B, N)."""
    found = torch.zeros_like(row)
    keyed = value.float().transpose(-2, -1)
    for rows in rows_of(look, row):
        product = (gradient[:, :, rows].float() @ keyed).mul_(layer.weights(rows))
        product = product if signed else product.relu_()
        found += (row[:, None, None, rows] @ product).mean(dim=1)[:, 0]
    return found


def _score(logits: Tensor, target: Tensor, against: Tensor | None) -> Tensor:
    """The sum over images of what is explained; each image's gradient is its own."""
    score = logits.gather(1, target[:, None])
    return (score if against is None else score - logits.gather(1, against[:, None])).sum()


def _classes(name: str, wanted: Target, images: Tensor, classes: int) -> Tensor:
    """(B,), the class of each image."""
    numbers = torch.as_tensor(wanted, device=images.device)
    if numbers.dim() == 0:
        numbers = numbers.expand(len(images))
    if numbers.shape != (len(images),) or numbers.is_floating_point():
        raise UserError(f"{name}: one class for all images, or a whole number for each of the {len(images)}")
    if bool(((numbers < 0) | (numbers >= classes)).any()):
        raise UserError(f"{name} {numbers.tolist()}: the model has classes 0 to {classes - 1}")
    return numbers.long()


@contextmanager
def _still(model: ViT) -> Iterator[None]:
    """The model in evaluation mode, its parameters frozen but one, and everything as it was afterwards.

    Frozen parameters keep most layers from remembering their inputs. The one, in the first block, is where the graph
    begins, so that the stem stays out of it.
    """
    was_training = {module: module.training for module in model.modules()}
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    for parameter in required:
        parameter.requires_grad_(False)
    model.get_parameter("blocks.0.attn.qkv.weight").requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)
        for module, mode in was_training.items():
            module.training = mode
