"""Multi-head self-attention: the fast path, the explicit path that also gives the attention weights, and packed images.

Shapes: B batch, N tokens, T tokens of a packed sequence, D width, H heads, K width per head.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.model.config import ViTConfig

Rotation = tuple[Tensor, Tensor]  # cosines and sines of each token's angles, (N, K) each
Collected = dict[str, list[Tensor]]  # what is asked for by name, and kept on the way, by layer
Bias = Callable[[Tensor], Tensor]  # queries (B, H, N, K) -> what is added to their scores, (B or 1, H, N, N)


class Segment(NamedTuple):
    """Images of one size in a packed sequence, one after the other."""

    images: int
    tokens: int
    """Of each of them."""
    bias: Bias | None = None


class Place(NamedTuple):
    """What a block is told of where its tokens lie in the image; by default nothing.

    A packed sequence (1, T, D) holds all tokens of several images, one image after the other.
    """

    added: Tensor | None = None
    """Added to the block's input: (1, N, D), or (1, T, D) of a packed sequence."""
    rotation: Rotation | None = None
    """Turns queries and keys."""
    bias: Bias | None = None
    """Adds to the scores q k^T / sqrt(K), before the softmax; of a packed sequence each segment has its own."""
    segments: tuple[Segment, ...] = ()
    """Of a packed sequence, its images: each of them attends to itself alone."""

    @property
    def lengths(self) -> list[int]:
        """Of a packed sequence, the tokens of each image."""
        return [segment.tokens for segment in self.segments for _ in range(segment.images)]

    def of_images(self, chosen: Tensor) -> "Place":
        """That of some images of a batch, (k,) int64, where ``added`` is in the tokens already."""
        if self.rotation is None or self.rotation[0].dim() == 2:  # the same for all
            return self
        cos, sin = self.rotation
        return self._replace(rotation=(cos[chosen], sin[chosen]))


NOWHERE = Place()


def pack(places: Sequence[tuple[Place, int, int]]) -> Place:
    """One place for a packed sequence, from those of its segments, each with its number of images and their tokens.

    What is added to the tokens or turns them is laid out for the whole sequence.
    """
    added = [place.added.expand(images, -1, -1).flatten(0, 1) for place, images, _ in places if place.added is not None]
    rotation = None
    if any(place.rotation is not None for place, *_ in places):
        turned = [[table.repeat(images, 1) for table in place.rotation or ()] for place, images, _ in places]
        rotation = torch.cat([cos for cos, _ in turned]), torch.cat([sin for _, sin in turned])
    segments = tuple(Segment(images, tokens, place.bias) for place, images, tokens in places)
    return Place(torch.cat(added)[None] if added else None, rotation, None, segments)


def keep(collected: Collected, **values: Tensor | None) -> None:
    """Append the values whose names were asked for."""
    for name, value in values.items():
        if name in collected and value is not None:
            collected[name].append(value)


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(K) + bias) v by torch's fused kernels: (B, H, N, K) each -> (B, H, N, K)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def attend_explicitly(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same, written out (equations 6 and 7 of the paper's appendix A), with the weights A: (B, H, N, N).

    The weights are returned as the softmax gives them, before dropout.
    """
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(dim=-1)
    return F.dropout(weights, dropout) @ v, weights


def attend_apart(q: Tensor, k: Tensor, v: Tensor, segments: Sequence[Segment], dropout: float = 0.0) -> Tensor:
    """Each image of a packed sequence by itself, block-diagonal attention without a mask: (1, H, T, K) -> (1, H, T, K).

    Images of one size are a batch, so that nothing is computed between images, and nothing for padding.
    """
    heads, start = [], 0
    for images, tokens, bias in segments:
        own = slice(start, start + images * tokens)
        # (1, H, B N, K) -> (B, H, N, K)
        qi, ki, vi = (x[0, :, own].unflatten(1, (images, tokens)).transpose(0, 1) for x in (q, k, v))
        attended = attend(qi, ki, vi, dropout, None if bias is None else bias(qi).to(qi.dtype))
        heads.append(attended.transpose(0, 1).flatten(1, 2))
        start = own.stop
    return torch.cat(heads, dim=1)[None]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn pairs of a head's channels, k and k + K / 2, by the token's angles (Su et al., 2021): (B, H, N, K)."""
    cos, sin = (table.to(x.dtype) for table in rotation)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Queries, keys and values by one matrix, attention by head, one matrix back: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.width, 3 * config.attention_width, bias=config.qkv_bias)
        K = config.attention_width // config.heads
        self.q_norm = nn.LayerNorm(K, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(K, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(config.attention_width, config.width)
        self.proj_drop = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, place: Place = NOWHERE, collected: Collected | None = None, only: int | None = None
    ) -> Tensor:
        """
        Args:
            x: (B, N, D).
            place: where the tokens lie.
            collected: where to keep what its names ask for, of ``queries``, ``keys``, ``values``, ``bias``, ``heads`` and
                ``attention``, of which the last takes the explicit path.
            only: compute the answers of so many tokens, the first ones, (B, only, D); all of them are still attended to.
                Not for positions that give a score to each pair of tokens.
        """
        collected = {} if collected is None else collected
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self._projected(x, only))
        q, k = self.q_norm(q), self.k_norm(k)
        if place.rotation is not None:
            cos, sin = place.rotation
            q, k = rotate(q, (cos[..., :only, :], sin[..., :only, :])), rotate(k, place.rotation)
        bias = None if place.bias is None else place.bias(q).to(q.dtype)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if place.segments:
            heads = attend_apart(q, k, v, place.segments, dropout)
        elif "attention" in collected:
            heads, weights = attend_explicitly(q, k, v, dropout, bias)
        else:
            heads = attend(q, k, v, dropout, bias)
        keep(collected, queries=q, keys=k, values=v, bias=bias, heads=heads, attention=weights)
        return self.proj_drop(self.proj(heads.transpose(1, 2).flatten(2)))

    def _projected(self, x: Tensor, only: int | None) -> tuple[Tensor, ...]:
        """Queries of all tokens or of the first ones, keys and values of all."""
        if only is None:
            return self.qkv(x).chunk(3, dim=-1)
        weight, bias, A = self.qkv.weight, self.qkv.bias, self.qkv.out_features // 3
        q = F.linear(x[:, :only], weight[:A], None if bias is None else bias[:A])
        return (q, *F.linear(x, weight[A:], None if bias is None else bias[A:]).chunk(2, dim=-1))
