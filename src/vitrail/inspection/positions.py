"""Position similarity: how alike a model's positions are, each with every other, whatever kind they are.

The paper's figure 7 (Dosovitskiy et al., 2021) compares learned vectors. Here every kind gives a position one vector, that
of its effect, and positions are compared by the cosine of their vectors:

==========================  =========================================================================================
learned, learned2d,         what is added to the token at position i
sincos2d
rotary2d                    one vector of equal length at all frequencies, turned as the token at i is turned; the cosine
                            is the mean over the frequencies of cos(angle_i - angle_j). Nothing of it is learned
relative_bias               what i, as a query, adds to the scores of all keys: b_i = (bias_ij, all patches j, all heads),
                            each head's mean taken off, which the softmax does not see. Alike are positions from which
                            attention is drawn to the same places
relative                    the same, where bias_ij = q_i r_(i - j) depends on the query: b_i b_j is its mean over queries
                            that point to all directions alike
==========================  =========================================================================================

Shapes: h w grid, n = h w patches, P tokens before them, H heads, A width of all heads together.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.errors import UserError
from vitrail.inspection.inspection import Positions
from vitrail.inspection.look import require_vit
from vitrail.model import Model, ViT, ViTConfig
from vitrail.model.positions import KINDS


@torch.no_grad()
def position_similarity(model: Model, image_size: tuple[int, int] | None = None, layer: int = 0) -> Positions:
    """The cosine of every position with every other; of patches alone, without the tokens before them.

    Args:
        model: a Vision Transformer.
        image_size: height and width of images, to whose grid the positions are brought in their own way, as the model
            does it; None for the model's own.
        layer: the block whose positions are meant, where each has its own; -1 is the last.

    Returns:
        The similarity (h, w, h, w), from -1 to 1, each position's with itself 1; 0 where a position has no effect.

    Raises:
        UserError: a ResNet, a model without positions, a size that the patches do not divide, or a block that is not there.
    """
    config = require_vit(model)
    assert isinstance(model, ViT)
    if config.site is None:
        raise UserError("this model has no position embedding (position: none), so that all positions are alike")
    if not -config.depth <= layer < config.depth:
        raise UserError(f"layer {layer}: this model has blocks 0 to {config.depth - 1}")
    holder = model.blocks[layer] if config.site == "layers" else model
    grid = config.at_size(image_size).grid
    kind, device = KINDS[config.position], next(model.parameters()).device
    own = holder.pos_embed
    table = kind.resized(own.float(), config, grid) if isinstance(own, Tensor) else None
    products, what = _products(table, config, grid, device)
    lengths = products.diagonal().clamp_min(0).sqrt()
    cosine = products / lengths.outer(lengths).clamp_min(torch.finfo(torch.float32).tiny)
    if config.site == "layers":
        what += f", in block {layer % config.depth}"
    return Positions(grid, cosine.clamp(-1, 1).reshape(*grid, *grid).cpu().numpy(), what)


def structure(positions: Positions) -> float:
    """How far positions show rows and columns: how much more alike two of one row or column are than others as far apart.

    The mean similarity of pairs within a row or column, minus that of other pairs at the same distance (rounded to whole
    patches), averaged over the former. Neighbours are left out, as no others are as near. So positions that are merely
    alike where they are near give about 0, as random ones do.

    Returns:
        From -2 to 2; nan for a grid without such pairs, of one row, one column or 2 x 2.
    """
    h, w = positions.grid
    places = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = np.abs(places[:, None] - places)
    distance = np.hypot(offsets[..., 0], offsets[..., 1]).round().astype(int).ravel()
    aligned = (offsets == 0).any(axis=-1).ravel()
    values = positions.similarity.ravel().astype(np.float64)
    bins = distance.max() + 1

    def by_distance(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs, and the sum of their similarities, at each distance."""
        counts = np.bincount(distance[chosen], minlength=bins)
        return counts, np.bincount(distance[chosen], weights=values[chosen], minlength=bins)

    (count, total), (other_count, other_total) = by_distance(aligned), by_distance(~aligned)
    both = (count > 0) & (other_count > 0) & (np.arange(bins) >= 2)
    if not both.any():
        return float("nan")
    differences = total[both] / count[both] - other_total[both] / other_count[both]
    return float(np.average(differences, weights=count[both]))


def _products(
    table: Tensor | None, config: ViTConfig, grid: tuple[int, int], device: torch.device
) -> tuple[Tensor, str]:
    """The inner products (n, n) of the patches' vectors, and what these are, in words; ``table`` is that of the grid."""
    preferred = "cosine of what two positions add to the attention scores of all patches"
    if config.position == "relative":
        assert table is not None
        return _products_of_offsets(table), preferred
    P = config.prefix_tokens
    place = KINDS[config.position].place(table, config, grid, device)
    if place.added is not None:
        vectors = place.added[0, P:]
        return vectors @ vectors.T, "cosine of the vectors that are added to the tokens"
    if place.rotation is not None:
        vectors = torch.cat([angles[P:] for angles in place.rotation], dim=1)
        return vectors @ vectors.T, "cosine of one vector, turned as the tokens of two positions are"
    assert place.bias is not None
    bias = place.bias(torch.empty(0))[0, :, P:, P:]  # whatever the queries
    rows = bias - bias.mean(dim=2, keepdim=True)
    return torch.einsum("hij,hkj->ik", rows, rows), preferred


def _products_of_offsets(table: Tensor) -> Tensor:
    """(2 n - 1, A), a vector r for each offset in raster order -> (n, n): what two positions add, over unit queries.

    For positions i and j it is the sum over patches m of r_(i - m) r_(j - m), means over m taken off. From one place to the
    next along a diagonal that sum gains one product and loses another, so that it is not computed anew for every pair.
    """
    n = (len(table) + 1) // 2
    r = table.double() - table.double().mean(dim=0)  # in double precision, as rounding would add up along the diagonals
    gram = r @ r.T
    products = gram.new_empty(n, n)
    products[0] = products[:, 0] = sum(gram[m, m : m + n] for m in range(n))
    for i in range(n - 1):
        products[i + 1, 1:] = products[i, :-1] + gram[i + n, n:] - gram[i, : n - 1]
    sums = F.pad(r.cumsum(dim=0), (0, 0, 1, 0))
    means = (sums[n:] - sums[:n]) / n
    return (products - n * means @ means.T).float()
