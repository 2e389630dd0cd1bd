"""Attention as maps and as distances: one layer, all layers rolled into one, and how far each head looks.

No matrix of all tokens against all is kept: a query is a row of shares of the tokens, and is multiplied with the matrices
from the last layer down, a few rows of them at a time.

Shapes: B batch, L layers, H heads, N tokens, n patches, n = h w, h w grid.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vitrail.errors import UserError
from vitrail.inspection.look import Layer, Look, Query


def attention_map(look: Look, layer: int = -1, query: Query = "class", head: int | str | None = None) -> Tensor:
    """How much the query attends to every patch, in one layer: (B, h, w), or (B, H, h, w) for all heads.

    The weights are as the softmax gives them: with those of class token and registers, which are left out, they sum to 1.

    Args:
        look: what ``look`` gave.
        layer: from 0; -1 is the last.
        query: whose attention. That of ``mean`` is the mean of the patches' attention.
        head: one head, from 0; ``all`` for every head by itself; None for their mean.

    Raises:
        UserError: a layer, head or query that is not there.
    """
    depth, heads = len(look.layers), look.config.heads
    _require_index("layer", layer, depth)
    if isinstance(head, str) and head != "all":
        raise UserError(f"head {head!r}: a number from 0 to {heads - 1}, or all")
    row = look.row(query)[None]
    found = look.on_grid(attended(look, look.layers[layer], row))
    if head is None:
        return found.mean(dim=1)
    if isinstance(head, str):
        return found
    _require_index("head", head, heads)
    return found[:, head]


def rollout(look: Look, query: Query = "class", residual: float = 0.5) -> Tensor:
    """How much of every patch is in the query after all layers, were attention all that moves anything: (B, h, w).

    Attention rollout (Abnar and Zuidema, 2020; Dosovitskiy et al., 2021, appendix D.8 and figure 6): each layer is
    A' = (1 - residual) A + residual I, A the mean of the heads' attention, and the map is the query's row of the product
    A'_L ... A'_1. With what falls to class token and registers, which is left out, it sums to 1.

    Args:
        look: what ``look`` gave.
        query: whose row.
        residual: the share of the residual connection, 0 to 1.

    Raises:
        UserError: a query that is not there, a share that is none.
    """
    if not 0 <= residual <= 1:
        raise UserError(f"residual {residual}: a share, from 0 to 1")
    B = look.layers[0].queries.shape[0]
    row = look.row(query).expand(B, -1)
    for layer in reversed(look.layers):
        row = (1 - residual) * attended(look, layer, row).mean(dim=1) + residual * row
    return look.on_grid(row)


def distances(look: Look) -> Tensor:
    """How far each head looks, in pixels: (L, H).

    The mean attention distance (Dosovitskiy et al., 2021, appendix D.7 and figure 7 right): the distances from a patch to
    all patches, between centres, weighted by its attention to them; then the mean over patches and images. Class token and
    registers have no place in the image: what is attended to them is left out, and a patch's weights for the patches
    are brought to a sum of 1.
    """
    P, n = look.prefix, look.count - look.prefix
    device = look.layers[0].queries.device
    centres = torch.cartesian_prod(*(torch.arange(side, device=device) * float(look.patch_size) for side in look.grid))
    found = torch.zeros(len(look.layers), look.config.heads, device=device)
    for index, layer in enumerate(look.layers):
        # softmax over the patches alone is softmax over all tokens, brought to a sum of 1 over the patches
        bias = None if layer.bias is None else layer.bias[:, :, P:, P:]
        patches = Layer(layer.queries[:, :, P:], layer.keys[:, :, P:], bias)
        for rows in look.rows():  # of all tokens, so that the last of them may be short, or empty
            # by differences: cdist's faster way by products finds a patch to be some distance from itself
            far = torch.cdist(centres[rows], centres, compute_mode="donot_use_mm_for_euclid_dist")
            each = torch.einsum("bhij,ij->bhi", patches.weights(rows), far)
            found[index] += each.sum(dim=(0, 2))
    return found / (look.layers[0].queries.shape[0] * n)


def mean_distances(looks: Iterable[Look]) -> Tensor:
    """``distances`` over several batches, every image counted alike: (L, H).

    Looks are asked for one by one, so a generator keeps one of them in memory at a time.

    Raises:
        UserError: no batch.
    """
    total, images = None, 0
    for look in looks:
        B = look.layers[0].queries.shape[0]
        of_batch = distances(look) * B
        total = of_batch if total is None else total + of_batch
        images += B
    if total is None:
        raise UserError("attention distance is a mean over images; got none")
    return total / images


def attended(look: Look, layer: Layer, row: Tensor) -> Tensor:
    """What tokens attend to together: shares of the tokens (B or 1, N) -> of the tokens that they see, (B, H, N)."""
    B, H, N = layer.queries.shape[:3]
    found = torch.zeros(B, H, N, device=row.device)
    for rows in rows_of(look, row):
        found += (row[:, None, None, rows] @ layer.weights(rows))[:, :, 0]
    return found


def rows_of(look: Look, row: Tensor) -> Iterator[slice]:
    """The slices of ``look.rows()``, cut to those tokens between which the row (B or 1, N) is not zero."""
    taken = row.any(dim=0).nonzero()[:, 0].tolist()
    if not taken:
        return
    for rows in look.rows():
        start, stop = max(rows.start, taken[0]), min(rows.stop, taken[-1] + 1)
        if start < stop:
            yield slice(start, stop)


def _require_index(what: str, index: int, count: int) -> None:
    if not -count <= index < count:
        raise UserError(f"{what} {index}: the model has {what}s 0 to {count - 1}")
