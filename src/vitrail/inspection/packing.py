"""Arrays for the page: vectors as bytes in base64, and how far attention that is made of them is off.

A vector is kept as int8 with one float32 scale: value = code x scale, and no component is off by more than half a scale,
1/254 of the vector's largest. Before that, queries and keys are brought into a form that bytes hold well and that leaves
every attention weight as it is: keys lose their mean (the same number on every score of a row, which softmax ignores), and
queries and keys are turned together (a rotation keeps their products), so that no single large component sets the scale.

Shapes: L layers, A heads, N tokens, K a head's width, D a token's width, n chosen rows.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitrail.inspection.inspection import Attention, Floats

LEVELS = 127
SAMPLED = 16
"""Rows of each layer by which the error is measured."""
ROWS = 128
"""Rows of attention that are written down at a time for the mean."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Vectors (..., K) as bytes."""

    codes: NDArray[np.int8]
    """(..., K)"""
    scales: Floats
    """(...)"""

    @property
    def values(self) -> Floats:
        """What the page computes with, (..., K)."""
        return self.codes * self.scales[..., None]


@dataclass(frozen=True, eq=False)
class PackedLayer:
    """The attention of one layer: what the page needs of it."""

    queries: Packed
    """(A, N, K)"""
    keys: Packed
    """(A, N, K)"""
    bias: Packed | None
    """(A, N, N), each row less the middle of its range, which softmax ignores."""
    mean: Floats
    """(A, N), attention of the mean of the patches, from the exact numbers."""

    def weights(self, rows: Sequence[int]) -> Floats:
        """What the page shows of the tokens ``rows``, (A, n, N)."""
        bias = None if self.bias is None else self.bias.values
        return attention(self.queries.values, self.keys.values, bias, rows)

    def block(self) -> str:
        """The layer as JSON, of base64 alone: safe inside a script element."""
        parts = {
            "queries": text(self.queries.codes),
            "queryScales": text(self.queries.scales),
            "keys": text(self.keys.codes),
            "keyScales": text(self.keys.scales),
            "mean": text(self.mean),
        }
        if self.bias is not None:
            parts |= {"bias": text(self.bias.codes), "biasScales": text(self.bias.scales)}
        return json.dumps(parts)


def pack(vectors: Floats) -> Packed:
    """Vectors (..., K) as int8 with a scale each; what is no number becomes 0."""
    vectors = np.nan_to_num(vectors, posinf=0, neginf=0)
    scales = (np.abs(vectors).max(axis=-1) / LEVELS).astype(np.float32)
    codes = np.rint(vectors / np.where(scales > 0, scales, 1)[..., None])
    return Packed(np.clip(codes, -LEVELS, LEVELS).astype(np.int8), scales)


def turned(vectors: Floats) -> Floats:
    """Vectors (..., K) under a fixed rotation of their space: the same products, no component much above the others."""
    width = vectors.shape[-1]
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))
    return vectors @ turn.astype(np.float32)


def pack_layer(kept: Attention, layer: int, prefix: int) -> tuple[PackedLayer, float]:
    """One layer as bytes, and the largest error of a weight in the rows that were compared."""
    queries, keys = kept.queries[layer].astype(np.float32), kept.keys[layer].astype(np.float32)
    bias = None if kept.bias is None else kept.bias[layer].astype(np.float32)
    centred = None
    if bias is not None:
        centred = pack(bias - (bias.max(axis=-1, keepdims=True) + bias.min(axis=-1, keepdims=True)) / 2)
    centred_keys = keys - keys.mean(axis=1, keepdims=True)
    count = queries.shape[1]
    mean = np.zeros(queries.shape[:2], np.float32)
    for start in range(prefix, count, ROWS):
        mean += attention(queries, keys, bias, range(start, min(start + ROWS, count))).sum(axis=1)
    packed = PackedLayer(pack(turned(queries)), pack(turned(centred_keys)), centred, mean / max(1, count - prefix))
    rows = np.unique(np.linspace(0, count - 1, SAMPLED).astype(int)).tolist()
    return packed, float(np.abs(packed.weights(rows) - attention(queries, keys, bias, rows)).max())


def attention(queries: Floats, keys: Floats, bias: Floats | None, rows: Sequence[int]) -> Floats:
    """Rows of the attention of one layer: queries and keys (A, N, K), bias (A, N, N) -> (A, n, N)."""
    chosen = slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)
    scores = queries[:, chosen] @ keys.swapaxes(-2, -1) / np.float32(np.sqrt(queries.shape[-1]))
    if bias is not None:
        scores = scores + bias[:, chosen]
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def attention_bytes(kept: Attention) -> int:
    """What all layers take in the page, near enough, before anything is packed."""
    layers, heads, count, width = kept.queries.shape
    a_token = 2 * width + 12 + (0 if kept.bias is None else count + 4)
    return layers * heads * count * a_token * 4 // 3


def vectors_block(vectors: Floats) -> str:
    """Vectors (n, D) as JSON of codes and scales, turned first, so that only their products keep a meaning."""
    packed = pack(turned(vectors.astype(np.float32)))
    return json.dumps({"codes": text(packed.codes), "scales": text(packed.scales)})


def text(array: NDArray[np.generic]) -> str:
    """An array as base64, its numbers with the low byte first."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")
