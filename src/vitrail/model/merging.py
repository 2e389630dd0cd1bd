"""Token merging: patches with similar keys become one, so that the blocks above see fewer of them.

Bolya et al., "Token Merging: Your ViT But Faster" (ICLR 2023). In every block, between attention and MLP: the patches are
dealt into two sets by turns; each of the first finds the one most similar to it in the second; the most similar pairs are
merged to their mean, weighted with how many patches each stands for. Attention counts a merged token as often as it has
patches (their "proportional attention"). The prefix is never merged.

Shapes: B batch, P prefix tokens, M tokens of the first block, N tokens now, H heads, K width per head, C channels; of the
patches, a in the first set and b in the second, r of the first merged away.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.model.attention import Place


class Pairs(NamedTuple):
    """Which patches of the first set stay, and which of them go into which of the second; all by their places there."""

    stay: Tensor
    """(B, a - r), rising."""
    go: Tensor
    """(B, r)."""
    into: Tensor
    """(B, r), of the second set."""


class Merged:
    """The tokens of a batch on their way through the blocks: how many patches each stands for, and, if asked, which."""

    def __init__(self, counts: Sequence[int], prefix: int, z: Tensor, follow: bool) -> None:
        """
        Args:
            counts: how many patches each block merges away.
            prefix: tokens that are never merged.
            z: (B, M, D), the tokens of the first block.
            follow: keep up which of them each token stands for.
        """
        self._counts = iter(counts)
        self._prefix = prefix
        self.sizes: Tensor | None = None
        """(B, N), float32: the patches that each token stands for; None while that is one each."""
        self.members: Tensor | None = None
        """(B, N, M), float32: the share that each of the first block's tokens has in each of today's."""
        if follow:
            self.members = torch.eye(z.shape[1], device=z.device).expand(z.shape[0], -1, -1)

    def place(self, place: Place) -> Place:
        """What a block is told of merged tokens: the means of what holds for their members, and their sizes.

        With the mean of the cosines and sines, a query's score with a merged token is the mean of its scores with the
        members, were they alike but for their places.
        """
        if self.sizes is None:
            return place
        added, rotation = place.added, place.rotation
        if added is not None:
            added = self._mean(added)
        if rotation is not None:
            rotation = self._mean(rotation[0])[:, None], self._mean(rotation[1])[:, None]
        bias = log_sizes(self.sizes)
        return Place(added, rotation, lambda q: bias)

    def merge(self, z: Tensor, keys: Tensor) -> Tensor:
        """One block's merging: (B, N, D) tokens and the keys of its attention, (B, H, N, K) -> (B, N - r, D)."""
        count = next(self._counts)
        if not count:
            return z
        with _exactly(z.device):
            sizes = z.new_ones(z.shape[:2], dtype=torch.float32) if self.sizes is None else self.sizes
            pairs = match(keys, self._prefix, count)
            z = merge(z, sizes, pairs, self._prefix)
            if self.members is not None:
                self.members = merge(self.members, sizes, pairs, self._prefix)
            self.sizes = _summed(sizes, pairs, self._prefix)
        return z

    def origins(self) -> Tensor:
        """(B, M): for each of the first block's tokens, the one of today's N that it is part of."""
        assert self.members is not None
        return self.members.argmax(dim=1)

    def _mean(self, table: Tensor) -> Tensor:
        """A table of the first block's tokens, (M, C) or (1, M, C), as means over members: (B, N, C)."""
        assert self.members is not None
        with _exactly(table.device):
            return (self.members @ table.float()).to(table.dtype)


def log_sizes(sizes: Tensor) -> Tensor:
    """What proportional attention adds to the scores: (B, N) -> (B, 1, 1, N)."""
    return sizes.log()[:, None, None]


def match(keys: Tensor, prefix: int, count: int) -> Pairs:
    """The most similar pairs, by the cosine of the keys' means over heads: (B, H, N, K).

    The sets are those of the tokens with an even and with an odd place in the sequence.
    """
    metric = F.normalize(keys.float().mean(dim=1), dim=-1)
    first, second = _deal(metric, prefix)
    best, nearest = (first @ second.transpose(1, 2)).max(dim=-1)
    order = best.topk(best.shape[1], dim=1).indices  # falling
    go, stay = order[:, :count], order[:, count:]
    stay = stay.sort(dim=1).values  # their order in the image stays, so that neighbours fall into different sets again
    return Pairs(stay, go, nearest.gather(1, go))


def merge(x: Tensor, sizes: Tensor, pairs: Pairs, prefix: int) -> Tensor:
    """Means of what is merged, weighted with the sizes (B, N): (B, N, C) -> (B, N - r, C).

    The prefix comes first, then what stays of the first set, then the second. Rows are taken by one index over the batch
    and summed by a small matrix product, which is fast everywhere, exports, and gives the same at every run.
    """
    B, N, _ = x.shape
    staying = pairs.stay.shape[1]
    taken = torch.cat([pairs.stay, pairs.go], dim=1) * 2 + _first(prefix)
    taken = taken + N * torch.arange(B, device=x.device)[:, None]
    rows = x.flatten(0, 1).index_select(0, taken.flatten()).unflatten(0, (B, -1))
    second = _deal(x, prefix)[1]
    before, arriving = _arriving(sizes, pairs, prefix)  # (B, b), (B, b, r)
    after = before + arriving.sum(dim=2)
    kept = second * (before / after)[..., None].to(x.dtype)
    means = torch.baddbmm(kept, (arriving / after[..., None]).to(x.dtype), rows[:, staying:])
    return torch.cat([x[:, :prefix], rows[:, :staying], means], dim=1)


def _summed(sizes: Tensor, pairs: Pairs, prefix: int) -> Tensor:
    """The sizes behind the merging: (B, N) -> (B, N - r)."""
    before, arriving = _arriving(sizes, pairs, prefix)
    staying = _deal(sizes, prefix)[0].gather(1, pairs.stay)
    return torch.cat([sizes[:, :prefix], staying, before + arriving.sum(dim=2)], dim=1)


def _arriving(sizes: Tensor, pairs: Pairs, prefix: int) -> tuple[Tensor, Tensor]:
    """The second set's sizes (B, b), and the sizes of what goes into each of them (B, b, r)."""
    first, second = _deal(sizes, prefix)
    here = pairs.into[:, None] == torch.arange(second.shape[1], device=sizes.device)[:, None]
    return second, here * first.gather(1, pairs.go)[:, None]


def _deal(x: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """The patches of the first set and of the second: (B, N, ...) -> (B, a, ...), (B, b, ...)."""
    first = _first(prefix)
    return x[:, first::2], x[:, 2 * prefix + 1 - first :: 2]


def _first(prefix: int) -> int:
    """The place of the first set's first patch: the first even one behind the prefix."""
    return prefix + prefix % 2


def _exactly(device: torch.device) -> AbstractContextManager[object]:
    """Without autocast, which would round the tokens that pass through, and the similarities."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()
