"""Google's names of a Vision Transformer's tensors, in ours: vision_transformer's and big_vision's.

The two number the parts of a block otherwise, and keep the positions at other places; big_vision may have all blocks in
one stack. Shapes: D width, H heads, K width per head, C channels, p patch size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vitrail.model.config import ViTConfig
from vitrail.weights.formats.format import ModelConfig, Shapes
from vitrail.weights.formats.layouts import HWIO, computed_positions
from vitrail.weights.names import SAME, TRANSPOSED, Entry, Layout, Shape, entry, reshaped

if TYPE_CHECKING:
    from torch import Tensor

_ENCODER_NORM, _STACK = "Transformer/encoder_norm/scale", "Transformer/encoderblock/"


@dataclass(frozen=True)
class Names:
    """One way of naming."""

    attention: int
    """Number of a block's attention: MultiHeadDotProductAttention_0 or _1."""
    norm: int
    """Number of a block's second norm."""
    mlp: int
    """Number of a block's MLP."""
    positions: str = "pos_embedding"
    prefix: str = ""
    """Before every name: ``params/``, ``opt/target/``, ``params/img/`` ..."""
    stacked: bool = False
    """All blocks in one, with a leading axis."""

    def block(self, i: int) -> str:
        """How the names of a block begin."""
        return self.prefix + (_STACK if self.stacked else f"Transformer/encoderblock_{i}/")

    def query(self, i: int) -> str:
        """The kernel of a block's queries, (D, H, K)."""
        return f"{self.block(i)}MultiHeadDotProductAttention_{self.attention}/query/kernel"


# vision_transformer, in which every layer of a block has a number; big_vision, in which every kind of layer has its own
# (and of older files the positions lie in the encoder).
VISION_TRANSFORMER = Names(1, 2, 3, "Transformer/posembed_input/pos_embedding")
BIG_VISION = Names(0, 1, 0)
_POSITIONS = (BIG_VISION.positions, "Transformer/pos_embedding", VISION_TRANSFORMER.positions)


def names_of(shapes: Shapes) -> Names | None:
    """How the tensors of a file are named; None where they are not Google's."""
    for prefix in [name.removesuffix(_ENCODER_NORM) for name in shapes if name.endswith(_ENCODER_NORM)]:
        for known in (VISION_TRANSFORMER, BIG_VISION, replace(BIG_VISION, stacked=True)):
            names = replace(known, prefix=prefix)
            if names.query(0) in shapes and f"{prefix}embedding/kernel" in shapes:
                places = [place for place in _POSITIONS if f"{prefix}{place}" in shapes]
                return replace(names, positions=places[0]) if places else names
    return None


def plain_entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """vision_transformer's names, or those of the file."""
    return _entries(config, names_of(theirs) or VISION_TRANSFORMER)


def big_vision_entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """big_vision's names, or those of the file."""
    return _entries(config, names_of(theirs) or BIG_VISION)


def _entries(config: ModelConfig, names: Names) -> Iterable[Entry]:
    assert isinstance(config, ViTConfig)
    root = names.prefix
    yield entry("cls_token", f"{root}cls")
    if config.position == "sincos2d":
        yield entry("pos_embed", layout=computed_positions(config))
    else:
        yield entry("pos_embed", f"{root}{names.positions}")
    if config.stem == "hybrid":
        yield from _backbone(config, root)
    yield entry("patch_embed.proj.weight", f"{root}embedding/kernel", layout=HWIO)
    yield entry("patch_embed.proj.bias", f"{root}embedding/bias")
    for i in range(config.depth):
        for one in _block(config, names, f"blocks.{i}", names.block(i)):
            yield replace(one, layout=_slice(i, one.layout)) if names.stacked else one
    yield from _norm("norm", f"{root}Transformer/encoder_norm")
    yield from _attention_pool(config, f"{root}MAPHead_0/")
    yield from _dense("pre_logits", f"{root}pre_logits")
    yield from _dense("head", f"{root}head")


def _block(config: ViTConfig, names: Names, ours: str, theirs: str) -> Iterable[Entry]:
    attention = f"{theirs}MultiHeadDotProductAttention_{names.attention}"
    yield from _norm(f"{ours}.norm1", f"{theirs}LayerNorm_0")
    yield from _heads(f"{ours}.attn.qkv", [f"{attention}/{part}" for part in ("query", "key", "value")], config)
    yield from _out(f"{ours}.attn.proj", f"{attention}/out", config)
    yield from _norm(f"{ours}.norm2", f"{theirs}LayerNorm_{names.norm}")
    yield from _dense(f"{ours}.mlp.fc1", f"{theirs}MlpBlock_{names.mlp}/Dense_0")
    yield from _dense(f"{ours}.mlp.fc2", f"{theirs}MlpBlock_{names.mlp}/Dense_1")


def _attention_pool(config: ViTConfig, theirs: str) -> Iterable[Entry]:
    attention = f"{theirs}MultiHeadDotProductAttention_0"
    yield entry("attn_pool.latent", f"{theirs}probe")
    yield from _heads("attn_pool.q", [f"{attention}/query"], config)
    yield from _heads("attn_pool.kv", [f"{attention}/key", f"{attention}/value"], config)
    yield from _out("attn_pool.proj", f"{attention}/out", config)
    yield from _norm("attn_pool.norm", f"{theirs}LayerNorm_0")
    yield from _dense("attn_pool.mlp.fc1", f"{theirs}MlpBlock_0/Dense_0")
    yield from _dense("attn_pool.mlp.fc2", f"{theirs}MlpBlock_0/Dense_1")


def _backbone(config: ViTConfig, root: str) -> Iterable[Entry]:
    """The ResNet below a hybrid; its first layer alone where it has no stages."""
    ours = "patch_embed.backbone."
    stem = f"{ours}stem." if config.stem_layers else ours
    yield entry(f"{stem}conv.weight", f"{root}conv_root/kernel", layout=HWIO)
    yield from _norm(f"{stem}norm", f"{root}gn_root", _FLAT)
    for stage, units in enumerate(config.stem_layers):
        for unit in range(units):
            own, theirs = f"{ours}stages.{stage}.blocks.{unit}.", f"{root}block{stage + 1}/unit{unit + 1}/"
            for layer in (1, 2, 3):
                yield entry(f"{own}conv{layer}.weight", f"{theirs}conv{layer}/kernel", layout=HWIO)
                yield from _norm(f"{own}norm{layer}", f"{theirs}gn{layer}", _FLAT)
            yield entry(f"{own}downsample.conv.weight", f"{theirs}conv_proj/kernel", layout=HWIO)
            yield from _norm(f"{own}downsample.norm", f"{theirs}gn_proj", _FLAT)


# A norm over groups of channels; older files have (1, 1, 1, C).
_FLAT = reshaped(lambda vector: vector.flatten(), lambda vector: vector)


def _norm(ours: str, theirs: str, layout: Layout = SAME) -> list[Entry]:
    return [
        entry(f"{ours}.weight", f"{theirs}/scale", layout=layout),
        entry(f"{ours}.bias", f"{theirs}/bias", layout=layout),
    ]


def _dense(ours: str, theirs: str) -> list[Entry]:
    return [entry(f"{ours}.weight", f"{theirs}/kernel", layout=TRANSPOSED), entry(f"{ours}.bias", f"{theirs}/bias")]


def _heads(ours: str, theirs: Sequence[str], config: ViTConfig) -> list[Entry]:
    """Projections to all heads, (D, H, K) each, one above the other in ours: (parts H K, D)."""
    H, K = config.heads, config.attention_width // config.heads

    def kernels(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
        import torch

        return torch.cat([tensor.flatten(1).T for tensor in tensors])

    def biases(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
        import torch

        return torch.cat([tensor.flatten() for tensor in tensors])

    def apart(tensor: "Tensor") -> Sequence["Tensor"]:
        return [part.T.contiguous().unflatten(-1, (H, K)) for part in tensor.chunk(len(theirs))]

    def biases_apart(tensor: "Tensor") -> Sequence["Tensor"]:
        return [part.contiguous().unflatten(0, (H, K)) for part in tensor.chunk(len(theirs))]

    return [
        entry(f"{ours}.weight", *(f"{name}/kernel" for name in theirs), layout=Layout(kernels, apart)),
        entry(f"{ours}.bias", *(f"{name}/bias" for name in theirs), layout=Layout(biases, biases_apart)),
    ]


def _out(ours: str, theirs: str, config: ViTConfig) -> list[Entry]:
    """The projection of all heads, (H, K, D): ours (D, H K)."""
    H, K = config.heads, config.attention_width // config.heads
    kernel = reshaped(
        lambda tensor: tensor.flatten(0, 1).T.contiguous(), lambda tensor: tensor.T.contiguous().unflatten(0, (H, K))
    )
    return [entry(f"{ours}.weight", f"{theirs}/kernel", layout=kernel), entry(f"{ours}.bias", f"{theirs}/bias")]


def _slice(i: int, layout: Layout) -> Layout:
    """The same for one block of a stack."""

    def to_ours(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
        return layout.to_ours([tensor[i].clone() for tensor in tensors], shape)

    return Layout(to_ours, layout.to_theirs)
