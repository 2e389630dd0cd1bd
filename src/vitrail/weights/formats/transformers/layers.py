"""Names of transformers' encoder layers, as they lie on disk and as its current classes name them in memory.

Files hold the names of when a family came to transformers, which newer versions translate. Both are read; the first
spelling given is the one written.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vitrail.weights.formats.format import Shapes
from vitrail.weights.names import Entry, entry, joined, module


@dataclass(frozen=True)
class LayerNames:
    """Names of the modules of one layer, below its own name."""

    layer: str
    """Of the layer, with {} for its number."""
    norms: tuple[str, str]
    attention: Sequence[str]
    """Queries, keys, values and the matrix back."""
    hidden: tuple[str, ...]
    """The MLP's first matrix; where a gate and a value are apart, both."""
    back: str
    """The MLP's last matrix."""
    scales: tuple[str, ...] = ()
    """LayerScales after attention and MLP; tensors, not modules."""

    def with_mlp(self, *hidden: str, back: str) -> "LayerNames":
        """The same with another MLP."""
        return replace(self, hidden=hidden, back=back)


_ON_DISK = tuple(
    f"attention.{name}" for name in ("attention.query", "attention.key", "attention.value", "output.dense")
)
_IN_MEMORY = tuple(f"attention.{name}_proj" for name in "qkvo")

VIT = (
    LayerNames("encoder.layer.{}", ("layernorm_before", "layernorm_after"), _ON_DISK, ("intermediate.dense",), "output.dense"),
    LayerNames("layers.{}", ("layernorm_before", "layernorm_after"), _IN_MEMORY, ("mlp.fc1",), "mlp.fc2"),
)  # fmt: skip
_DINO_SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")
DINOV2 = tuple(
    LayerNames("encoder.layer.{}", ("norm1", "norm2"), attention, ("mlp.fc1",), "mlp.fc2", _DINO_SCALES)
    for attention in (_ON_DISK, _IN_MEMORY)
)
DINOV2_GATED = (
    DINOV2[0].with_mlp("mlp.weights_in", back="mlp.weights_out"),
    DINOV2[1].with_mlp("mlp.gate_proj", "mlp.up_proj", back="mlp.down_proj"),
)
DINOV3 = tuple(
    LayerNames(layer, ("norm1", "norm2"), _IN_MEMORY, ("mlp.up_proj",), "mlp.down_proj", _DINO_SCALES)
    for layer in ("layer.{}", "model.layer.{}")
)
DINOV3_GATED = tuple(names.with_mlp("mlp.gate_proj", "mlp.up_proj", back="mlp.down_proj") for names in DINOV3)
_CLIP_ATTENTION = tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
CLIP = (LayerNames("encoder.layers.{}", ("layer_norm1", "layer_norm2"), _CLIP_ATTENTION, ("mlp.fc1",), "mlp.fc2"),)


def layers(prefix: str, depth: int, spellings: Iterable[LayerNames]) -> Iterator[Entry]:
    """The entries of every block."""
    for names in spellings:
        for index in range(depth):
            ours, theirs = f"blocks.{index}", f"{prefix}{names.layer.format(index)}"
            *qkv, proj = (f"{theirs}.{name}" for name in names.attention)
            yield from joined(f"{ours}.attn.qkv", *qkv)
            yield from module(f"{ours}.attn.proj", proj)
            for number, norm in enumerate(names.norms, start=1):
                yield from module(f"{ours}.norm{number}", f"{theirs}.{norm}")
            yield from joined(f"{ours}.mlp.fc1", *(f"{theirs}.{name}" for name in names.hidden))
            yield from module(f"{ours}.mlp.fc2", f"{theirs}.{names.back}")
            for number, scale in enumerate(names.scales, start=1):
                yield entry(f"{ours}.ls{number}.gamma", f"{theirs}.{scale}")


def prefix_in(theirs: Shapes, prefixes: Sequence[str], name: str, written: str) -> str:
    """What stands before every name of the encoder in a file; ``written`` where there is none yet."""
    return next((prefix for prefix in prefixes if f"{prefix}{name}" in theirs), written)
