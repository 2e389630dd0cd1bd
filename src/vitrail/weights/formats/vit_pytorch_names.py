"""vit-pytorch's names of tensors, of today's version and of older ones, in ours; those of today are written.

Shapes: D width, C channels, p patch size.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.weights.formats.format import ModelConfig, Shapes
from vitrail.weights.formats.layouts import computed_positions
from vitrail.weights.names import Entry, Layout, Shape, entry, module, reshaped, zeros

if TYPE_CHECKING:
    from torch import Tensor

BLOCK, PATCH, POSITIONS, HEADS = (
    "transformer.layers.",
    "to_patch_embedding",
    "pos_embedding",
    ("mlp_head", "linear_head"),
)
QKV, OUT = "to_qkv.weight", "to_out"
# How the names of a block's attention and MLP go on: now, with a PreNorm around them, and with a residual around that.
_NOW, _PRENORM, _RESIDUAL = "", "fn.", "fn.fn."


def style_of(shapes: Shapes) -> str | None:
    """How a block's names go on, None for the blocks of another library."""
    return next((style for style in (_NOW, _PRENORM, _RESIDUAL) if f"{BLOCK}0.0.{style}{QKV}" in shapes), None)


def vit_entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """Every tensor of ViT, of today's version for writing."""
    yield entry("cls_token", "cls_token", layout=_RESHAPED)
    yield entry("pos_embed", POSITIONS, layout=_RESHAPED)
    yield from _entries(config, theirs, simple=False)


def simple_entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """Every tensor of SimpleViT, which computes its positions."""
    assert isinstance(config, ViTConfig)
    yield entry("reg_token", "register_tokens", layout=_RESHAPED)
    yield entry("pos_embed", layout=computed_positions(config))
    yield from _entries(config, theirs, simple=True)


def _entries(config: ModelConfig, theirs: Shapes, *, simple: bool) -> Iterable[Entry]:
    assert isinstance(config, ViTConfig)
    style = (style_of(theirs) if theirs else None) or _NOW
    yield from _patch_entries(config)
    for i in range(config.depth):
        block, attention, mlp = f"blocks.{i}", f"{BLOCK}{i}.0.{style}", f"{BLOCK}{i}.1."
        before = style.removesuffix("fn.")  # the norm stands outside of what it norms
        yield from module(f"{block}.norm1", f"{BLOCK}{i}.0.{before}norm")
        yield entry(f"{block}.attn.qkv.weight", f"{attention}{QKV}")
        yield from _out(f"{block}.attn.proj", f"{attention}{OUT}", config, simple, theirs)
        yield from module(f"{block}.norm2", f"{mlp}{before}norm" if style else f"{mlp}net.0")
        first, second = mlp_names(theirs, mlp) if theirs else (f"{mlp}net.1", f"{mlp}net.{3 if simple else 4}")
        yield from module(f"{block}.mlp.fc1", first)
        yield from module(f"{block}.mlp.fc2", second)
    yield from module("norm", "transformer.norm")
    for head in (*(name for name in HEADS if f"{name}.1.weight" in theirs), HEADS[simple]):
        yield from module("norm", f"{head}.0")
        yield from module("fc_norm", f"{head}.0")
        if f"{head}.1.weight" in theirs:
            yield from module("head", f"{head}.1")
        yield from module("head", head)


def mlp_names(shapes: Shapes, block: str) -> tuple[str, str]:
    """The two dense layers among what else stands in the sequence of an MLP."""
    dense = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.startswith(block) and ".net." in f".{name}" and name.endswith(".weight") and len(shape) == 2
    ]
    first, second = sorted(dense)[:2] if len(dense) >= 2 else (f"{block}net.1", f"{block}net.4")
    return first, second


def _patch_entries(config: ViTConfig) -> Iterable[Entry]:
    """Pixels of a patch lie row by row, each with its channels: (D, p p C), ours (D, C, p, p)."""
    p, C = config.patch_size, config.channels

    def to_ours(matrix: "Tensor") -> "Tensor":
        return matrix.reshape(-1, p, p, C).permute(0, 3, 1, 2).contiguous()

    def to_theirs(kernel: "Tensor") -> "Tensor":
        return kernel.reshape(-1, C, p, p).permute(0, 2, 3, 1).flatten(1)

    kernel = reshaped(to_ours, to_theirs)
    of_pixels = reshaped(lambda vector: to_ours(vector).flatten(), lambda vector: to_theirs(vector)[0])
    dense = 2 if config.patch_norm else 1
    yield from module("patch_embed.proj", f"{PATCH}.{dense}", layout=kernel)
    yield from (
        entry(f"patch_embed.norm_pixels.{part}", f"{PATCH}.1.{part}", layout=of_pixels) for part in ("weight", "bias")
    )
    yield from module("patch_embed.norm", f"{PATCH}.3")


def _out(ours: str, theirs: str, config: ViTConfig, simple: bool, shapes: Shapes) -> Iterable[Entry]:
    """The projection behind the heads: with dropout after it, bare and without bias, or none for one head of full width."""
    alone = config.heads == 1 and config.attention_width == config.width
    if not simple and (alone if not shapes else not any(name.startswith(theirs) for name in shapes)):
        yield entry(f"{ours}.weight", layout=_identity(config.width))
        yield entry(f"{ours}.bias", layout=zeros("a bias behind its single head"))
    if not simple or f"{theirs}.0.weight" in shapes:
        yield from module(ours, f"{theirs}.0")
    yield entry(f"{ours}.weight", f"{theirs}.weight")
    yield entry(f"{ours}.bias", layout=zeros("a bias behind its heads"))


def _identity(width: int) -> Layout:
    """A matrix that changes nothing, which the origin leaves out."""

    def to_theirs(matrix: "Tensor") -> list["Tensor"]:
        import torch

        if not torch.equal(matrix, torch.eye(width)):
            raise UserError(
                "the model has a matrix behind its single head, which has no place in that format: choose another"
            )
        return []

    def to_ours(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
        import torch

        return torch.eye(width)

    return Layout(to_ours, to_theirs)


# With or without a leading axis of length one, and today without.
_RESHAPED = Layout(lambda tensors, shape: tensors[0].reshape(shape), lambda tensor: [tensor.flatten(0, -2)])
