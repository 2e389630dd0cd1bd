"""Patch dropout: a training step sees a random part of each image's patches, so that it costs less.

Liu et al., "PatchDropout: Economizing Vision Transformers Using Patch Dropout" (WACV 2023); Li et al., "Scaling
Language-Image Pre-training via Masking" (FLIP, CVPR 2023). Every image keeps as many, others each time; the prefix stays.

Shapes: B batch, P prefix tokens, N = P + n tokens of an image, k of its patches kept, T tokens of a packed sequence,
D width, K width per head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.model.attention import Place, Segment
from vitrail.model.reduction import kept_patches


@dataclass(frozen=True)
class Kept:
    """The tokens that a step keeps, by their places."""

    index: Tensor
    """(B, P + k), in each image; or, of a packed sequence, (1, T') in the sequence."""
    packed: bool
    tokens: tuple[int, ...]
    """P + k of each batch."""

    def select(self, z: Tensor) -> Tensor:
        """(B, N, D) -> (B, P + k, D); (1, T, D) -> (1, T', D)."""
        B, N, _ = z.shape
        rows = self.index + N * torch.arange(B, device=z.device)[:, None]
        return z.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, (B, -1))

    def place(self, place: Place) -> Place:
        """What a block is told of the places of the kept tokens, from that of all."""
        added, rotation = place.added, place.rotation
        if added is not None:
            added = added[0][self.index]
        if rotation is not None:
            cos, sin = (table[self.index] for table in rotation)
            rotation = (cos[0], sin[0]) if self.packed else (cos[:, None], sin[:, None])
        of_segments = zip(place.segments, self.tokens, strict=True) if self.packed else ()
        segments = tuple(Segment(segment.images, tokens) for segment, tokens in of_segments)
        return Place(added, rotation, None, segments)


def draw(shapes: Sequence[tuple[int, int]], prefix: int, dropped: float, device: torch.device) -> Kept:
    """Draw the patches to keep, from torch's generator of the device, as dropout does.

    Args:
        shapes: of each batch its images and their patches; of several, the tokens are packed one image after the other.
        prefix: tokens of each image that all stay.
        dropped: the share of the patches that goes, below 1.
        device: where the tokens are.
    """
    indices, tokens, start = [], [], 0
    for images, patches in shapes:
        order = torch.rand(images, patches, device=device).argsort(dim=1)
        chosen = order[:, : kept_patches(patches, dropped)].sort(dim=1).values + prefix
        index = torch.cat([torch.arange(prefix, device=device).expand(images, -1), chosen], dim=1)
        tokens.append(index.shape[1])
        if len(shapes) > 1:
            index = (index + start + (prefix + patches) * torch.arange(images, device=device)[:, None]).reshape(1, -1)
        start += images * (prefix + patches)
        indices.append(index)
    return Kept(torch.cat(indices, dim=1) if len(shapes) > 1 else indices[0], len(shapes) > 1, tuple(tokens))
