"""What several origins need to write: tensors that lie otherwise there, and words for what an origin lacks."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from vitrail.errors import UserError
from vitrail.model.config import POSITION_SITES, ViTConfig
from vitrail.model.resnet_config import ROOT_WIDTH
from vitrail.weights.formats.format import ModelConfig
from vitrail.weights.names import Layout, Shape, Tensors, reshaped

if TYPE_CHECKING:
    from torch import Tensor

# A convolution's kernel: theirs (p, p, C, D), ours (D, C, p, p).
HWIO = reshaped(lambda kernel: kernel.permute(3, 2, 0, 1).contiguous(), lambda kernel: kernel.permute(2, 3, 1, 0))


def differs(config: ViTConfig, allowed: Mapping[str, object]) -> str | None:
    """The first field of a configuration that an origin lacks, in words: name -> the only value it may have."""
    for name, value in allowed.items():
        if getattr(config, name) != value:
            hint = f": --set model.norm_eps={value} takes it" if name == "norm_eps" else ""
            return f"its {name} of {getattr(config, name)!r}, where there is only {value!r}{hint}"
    return None


def other_heads(config: ViTConfig) -> str | None:
    """Words for heads that do not add up to the width, which most libraries lack."""
    if config.attention_width != config.width:
        return f"its heads, which add up to {config.attention_width} and not to the width {config.width}"
    return None


def other_root(config: ViTConfig) -> str | None:
    """Words for a hybrid whose ResNet begins otherwise than the published ones, which are all that others know."""
    if config.stem != "hybrid":
        return None
    if config.stem_root != "large":
        return f"its hybrid stem with a {config.stem_root} root"
    if (width := config.backbone.root_width) != ROOT_WIDTH:
        return f"its hybrid stem with a root of {width} channels, where there is only {ROOT_WIDTH}"
    return None


def other_positions(config: ViTConfig, known: Collection[str]) -> str | None:
    """Words for a position embedding that an origin lacks, or has only at the usual place."""
    if config.position == "none" and "none" not in known:
        return "that it has no positions (timm and transformers take that)"
    if config.position not in known:
        out = " (one trained with model.position=learned has one)" if config.position == "learned2d" else ""
        return f"its {config.position} positions{out}"
    if config.position_site not in (None, *POSITION_SITES[config.position][:1]):
        return f"its {config.position} positions in every block, which are added once there, before the first"
    return None


def with_prefix_rows(tensors: Tensors, config: ModelConfig) -> Tensors:
    """Zero rows for class token and registers in a table of positions that leaves them out: the same model."""
    import torch

    assert isinstance(config, ViTConfig)
    if config.prefix_positions or config.position not in ("learned", "sincos2d"):
        return tensors
    table = tensors["pos_embed"]
    prefix = torch.zeros(1, config.prefix_tokens, config.width, dtype=table.dtype)
    return {**tensors, "pos_embed": torch.cat([prefix, table], dim=1)}


def without_register_rows(registers: int) -> Layout:
    """A table without rows for the registers: in ours they are zero, after the class token's."""

    def to_ours(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
        import torch

        table = tensors[0]
        return torch.cat([table[:, :1], table.new_zeros(1, registers, table.shape[2]), table[:, 1:]], dim=1)

    def to_theirs(table: "Tensor") -> list["Tensor"]:
        import torch

        return [torch.cat([table[:, :1], table[:, 1 + registers :]], dim=1)]

    return Layout(to_ours, to_theirs)


def computed_positions(config: ViTConfig) -> Layout:
    """The fixed table of sines and cosines, which the origin computes and does not save."""
    import torch

    from vitrail.model.positions import KINDS

    def compute() -> "Tensor":
        table = KINDS["sincos2d"].create(config.with_changes(position_grid=None))
        assert isinstance(table, torch.Tensor)
        return table

    def to_theirs(table: "Tensor") -> list["Tensor"]:
        if not torch.allclose(table, compute(), rtol=0, atol=1e-5):
            raise UserError("the model's sin-cos table is not the computed one, which that format has: choose another")
        return []

    return Layout(lambda tensors, shape: compute(), to_theirs)
