"""Look: what a model computed for a batch of images, kept so that attention can be asked for row by row.

The forward pass takes the fused attention, which never writes the weights down. They are computed afterwards from queries
and keys, a few rows at a time, so that a large image does not fill the memory.

Shapes: B batch, L layers, H heads, N tokens, P of them before the patches, n chosen tokens, K width per head, D width of
a token, h w grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.errors import UserError
from vitrail.model import Model, ViT, ViTConfig

CHUNK_BYTES = 8 << 20
"""Of attention weights that are written down at a time. More is slower: fresh memory has to be mapped each time."""

Query = str | tuple[int, int]
"""Whose attention: ``class`` (what the head reads: the class token, or the mean of the patches of a model that pools them),
``mean`` (the mean of the patches), or the row and column of a patch, from 0."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The attention of one block."""

    queries: Tensor
    """(B, H, N, K)"""
    keys: Tensor
    """(B, H, N, K)"""
    bias: Tensor | None
    """What positions add to the scores, (B or 1, H, N, N); None where they add nothing."""

    def weights(self, rows: slice) -> Tensor:
        """Rows of the attention matrix: what the tokens in ``rows`` attend to, (B, H, n, N) float32; each row sums to 1."""
        q, k = self.queries[:, :, rows].float(), self.keys.float()
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if self.bias is not None:
            scores += self.bias[:, :, rows].float()
        return scores.softmax(dim=-1)


@dataclass(frozen=True, eq=False)
class Look:
    """One batch of images of one size, as a Vision Transformer saw them."""

    config: ViTConfig
    grid: tuple[int, int]
    """Rows and columns of patches of these images."""
    patch_size: int
    layers: tuple[Layer, ...]
    logits: Tensor
    """(B, classes)"""
    features: Tensor
    """(B, feature width), what the head reads."""
    tokens: tuple[Tensor, ...]
    """(B, N, D), the output of each block; none, unless they were asked for."""

    @property
    def prefix(self) -> int:
        """P: class token, distillation token and registers."""
        return self.config.prefix_tokens

    @property
    def count(self) -> int:
        """N."""
        return self.prefix + self.grid[0] * self.grid[1]

    def rows(self) -> Iterator[slice]:
        """All tokens in slices whose attention weights, of all heads, stay below ``CHUNK_BYTES``."""
        B, H, N = self.layers[0].queries.shape[:3]
        step = max(1, CHUNK_BYTES // (B * H * N * 4))
        return (slice(start, min(start + step, N)) for start in range(0, N, step))

    def row(self, query: Query) -> Tensor:
        """The query as shares of the tokens, (N,), which sum to 1.

        Raises:
            UserError: a query of another form, or a patch that is not there.
        """
        device = self.layers[0].queries.device
        row = torch.zeros(self.count, device=device)
        (h, w), P, pool = self.grid, self.prefix, self.config.pool
        if query == "mean" or (query == "class" and pool in ("avg", "map")):
            row[P:] = 1 / (h * w)
        elif query == "class" and pool == "token_avg":
            row[0], row[P:] = 0.5, 0.5 / (h * w)
        elif query == "class":
            row[: 2 if self.config.distilled else 1] = 0.5 if self.config.distilled else 1
        elif not isinstance(query, str) and len(query) == 2:
            if not (0 <= query[0] < h and 0 <= query[1] < w):
                raise UserError(f"query {query[0]},{query[1]}: rows go from 0 to {h - 1} and columns from 0 to {w - 1}")
            row[P + query[0] * w + query[1]] = 1
        else:
            raise UserError(f"query {query!r}: class, mean, or the row and column of a patch such as 3,5")
        return row

    def on_grid(self, values: Tensor) -> Tensor:
        """What each token has, (..., N) -> (..., h, w), that of the patches."""
        return values[..., self.prefix :].unflatten(-1, self.grid)


def look(model: Model, images: Tensor, *, tokens: bool = False) -> Look:
    """Run a model over images of one size, and keep what its attention is made of.

    Args:
        model: a Vision Transformer, in evaluation mode or set to it here for this once.
        images: (B, C, H, W), normalised, on the model's device; any size that its patches divide.
        tokens: keep the output of every block too.

    Raises:
        UserError: a ResNet, which has no attention; images that the model does not take.
    """
    config = require_vit(model)
    names = ("queries", "keys", "bias", *(["tokens"] if tokens else []))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = model(images, collect=names)
    finally:
        model.train(was_training)
    biases = out["bias"] or [None] * config.depth
    layers = tuple(Layer(*parts) for parts in zip(out["queries"], out["keys"], biases, strict=True))
    p = config.patch_size
    grid = images.shape[-2] // p, images.shape[-1] // p
    return Look(config, grid, p, layers, out["logits"], out["features"], tuple(out.get("tokens", ())))


def require_vit(model: Model) -> ViTConfig:
    """The configuration of a Vision Transformer; a ResNet is refused."""
    if not isinstance(model, ViT):
        raise UserError("this model is a ResNet, which has no attention and no tokens to look at")
    return model.config
