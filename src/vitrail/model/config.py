"""ViTConfig, every choice that makes a Vision Transformer.

Nothing here imports torch: a configuration can be read, checked and counted before anything is built.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from vitrail.errors import UserError
from vitrail.model.fields import (
    descriptions,
    doc,
    plain,
    refuse_unknown,
    require,
    require_choice,
    settle,
    size_text,
)
from vitrail.model.resnet_config import (
    MAX_STAGES,
    MAX_UNITS,
    ROOT_WIDTH,
    ROOTS,
    BackboneConfig,
    require_root_width,
)

STEMS = ("linear", "conv", "hybrid")
POOLS = ("token", "avg", "token_avg", "map")
# kind of position embedding -> where it can come in, its usual place first
POSITION_SITES: Mapping[str, tuple[str, ...]] = {
    "learned": ("stem", "layers", "shared"),
    "learned2d": ("stem", "layers", "shared"),
    "sincos2d": ("stem", "shared"),
    "relative": ("layers", "shared"),
    "relative_bias": ("layers", "shared"),
    "rotary2d": ("shared",),
    "none": (),
}
POSITIONS = tuple(POSITION_SITES)
INTERPOLATIONS = ("bicubic_antialias", "bicubic", "bicubic_corners", "bilinear_corners", "bilinear", "area")
FINAL_NORMS = ("tokens", "pooled", "none")
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "stem": STEMS,
    "stem_root": ROOTS,
    "pool": POOLS,
    "position": POSITIONS,
    "position_interpolation": INTERPOLATIONS,
    "final_norm": FINAL_NORMS,
    "activation": ACTIVATIONS,
}


@dataclass(frozen=True)
class ViTConfig:
    """The shape and the choices of one Vision Transformer. Refuses combinations that cannot be built.

    The defaults are ViT-B/16 of Dosovitskiy et al. (2021), Table 1.
    """

    image_size: tuple[int, int] = doc("height and width in pixels", default=(224, 224))
    patch_size: int = doc("side of a patch in pixels; 1 makes every pixel a token", default=16)
    channels: int = doc("channels of the images: 3 for colour, 1 for grey", default=3)
    classes: int = doc("outputs of the head; 0 leaves the head out", default=1000)
    width: int = doc("D, the width of a token", default=768)
    depth: int = doc("number of blocks", default=12)
    heads: int = doc("number of attention heads", default=12)
    head_width: int | None = doc("width of one head's queries, keys and values; null means width / heads", default=None)
    mlp_width: int = doc("hidden width of a block's MLP", default=3072)
    stem: str = doc(
        "how pixels become tokens: linear (one matrix a patch), conv (3x3 convolutions) or hybrid (a ResNet-v2 first)",
        default="linear",
    )
    stem_width: int | None = doc(
        "channels after the first convolution of a conv or hybrid stem; null derives it, and means 64 of a hybrid",
        default=None,
    )
    stem_layers: tuple[int, ...] = doc(
        "hybrid stem: residual units of each ResNet stage; none leaves the first convolution alone", default=(3, 4, 9)
    )
    stem_root: str = doc(
        "hybrid stem: its first layer, large (7x7 convolution, stride 2, then max pooling) or small (3x3, stride 1, no "
        "pooling: for small images)",
        default="large",
    )
    patch_bias: bool = doc("bias on the patch matrix", default=True)
    patch_norm: bool = doc(
        "a norm over a patch's pixels and one over its token, around the patch matrix", default=False
    )
    pool: str = doc(
        "what the head reads: token (class token), avg (mean of patches), token_avg (both) or map (attention)",
        default="token",
    )
    class_token: bool = doc("prepend a learned class token", default=True)
    distilled: bool = doc(
        "a second token with a head of its own; the two heads' logits are averaged (DeiT)", default=False
    )
    registers: int = doc("number of register tokens (Darcet et al., 2024)", default=0)
    representation: int | None = doc(
        "width of the tanh layer before the head (pre-training); null for none", default=None
    )
    position: str = doc(
        "position embedding: learned (1-D), learned2d (rows and columns), sincos2d (fixed), relative (queries times "
        "learned offsets), relative_bias (a learned number an offset), rotary2d (of queries and keys) or none",
        default="learned",
    )
    position_site: str | None = doc(
        "where positions come in: stem (once, before the blocks), layers (in every block, each with its own) or shared "
        "(in every block, the same); null for the usual place of the kind",
        default=None,
    )
    prefix_positions: bool = doc(
        "the position table (learned, sincos2d, relative_bias) has rows for class token and registers too; other kinds have "
        "none for them either way",
        default=True,
    )
    position_interpolation: str = doc(
        "how learned positions reach another grid: bicubic_antialias (timm), bicubic (transformers, DINO), "
        "bicubic_corners (torchvision), bilinear_corners (Google), bilinear or area (means of what a new place covers)",
        default="bicubic_antialias",
    )
    position_grid: tuple[int, int] | None = doc(
        "sin-cos positions: the grid in whose rows and columns they count, so that a place in the image keeps its "
        "position when the image is cut otherwise; null for the grid of image_size",
        default=None,
    )
    rotary_base: float = doc("rotary positions: the ratio of the longest period to the shortest", default=100.0)
    pre_norm: bool = doc("a norm before the first block (CLIP)", default=False)
    final_norm: str = doc(
        "where the last norm stands: tokens (before pooling), pooled (after it) or none", default="tokens"
    )
    norm_eps: float = doc("epsilon of every LayerNorm", default=1e-6)
    activation: str = doc("non-linearity of the MLP: gelu, gelu_tanh, quick_gelu, relu or silu", default="gelu")
    gated_mlp: bool = doc("the MLP has a gate: with silu it is SwiGLU (Shazeer, 2020)", default=False)
    qkv_bias: bool = doc("bias on queries, keys and values", default=True)
    qk_norm: bool = doc("a norm over each head's queries and keys", default=False)
    layer_scale: float | None = doc("initial LayerScale (Touvron et al., 2021); null for none", default=None)
    dropout: float = doc(
        "dropout after dense layers (not qkv), and on the tokens before the first block; positions that come in at the "
        "stem are among them, those added in the blocks are not dropped",
        default=0.0,
    )
    attention_dropout: float = doc("dropout on the attention weights", default=0.0)
    drop_path: float = doc("stochastic depth of the last block, rising linearly from 0 at the first", default=0.0)

    def __post_init__(self) -> None:
        settle(self)
        self._check_numbers()
        self._check_choices()
        self._check_grid()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token, the distillation token, then the registers."""
        return int(self.class_token) + int(self.distilled) + self.registers

    @property
    def tokens(self) -> int:
        """Length of the sequence that the blocks see."""
        return self.prefix_tokens + self.grid[0] * self.grid[1]

    @property
    def position_rows(self) -> int:
        """Rows of a table of positions on the configuration's own grid, of a kind with a row for each token."""
        return self.tokens if self.prefix_positions else self.tokens - self.prefix_tokens

    @property
    def position_shape(self) -> tuple[int, ...]:
        """Shape of a table of positions on the configuration's own grid; () for a kind that has none."""
        h, w = self.grid
        of_prefix = 3 if self.prefix_tokens and self.prefix_positions else 0  # to patches, from patches, among itself
        return {
            "learned": (1, self.position_rows, self.width),
            "learned2d": (1, h + w, self.width // 2),
            "sincos2d": (1, self.position_rows, self.width),
            "relative": (2 * h * w - 1, self.attention_width),
            "relative_bias": ((2 * h - 1) * (2 * w - 1) + of_prefix, self.heads),
        }.get(self.position, ())

    @property
    def site(self) -> str | None:
        """Where positions come in: ``position_site``, or the kind's usual place; None where there are none."""
        return self.position_site or next(iter(POSITION_SITES[self.position]), None)

    @property
    def feature_width(self) -> int:
        """Width of the pooled features, which the head reads."""
        return 2 * self.width if self.distilled or self.pool == "token_avg" else self.width

    @property
    def head_inputs(self) -> int:
        """Inputs of the head, or of each of the two heads of a distilled model."""
        return self.representation or (self.width if self.distilled else self.feature_width)

    @property
    def attention_width(self) -> int:
        """Width of all heads together: heads x head width."""
        return self.heads * (self.head_width or self.width // self.heads)

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """Channels after each 3x3 convolution of the conv stem, doubling from ``stem_width``.

        Where that is not given, the last convolution has the model's width: (48, 96, 192) at width 192, patch size 8.
        """
        steps = self.patch_size.bit_length() - 1
        first = self.stem_width or max(8, self.width >> (steps - 1))
        return tuple(first << step for step in range(steps))

    @property
    def backbone(self) -> BackboneConfig:
        """The ResNet that the hybrid stem begins with."""
        return BackboneConfig(self.channels, self.stem_layers, self.stem_root, self.stem_width or ROOT_WIDTH)

    def at_size(self, image_size: tuple[int, int] | None = None, patch_size: int | None = None) -> "ViTConfig":
        """The configuration of the same model at another image size or patch size; None leaves what it is.

        Raises:
            UserError: a size that the patches do not divide.
        """
        p = self.patch_size if patch_size is None else patch_size
        new = self.with_changes(image_size=image_size or self.image_size, patch_size=p, position_grid=None)
        counted = self.position_grid or self.grid
        return new.with_changes(position_grid=counted) if self.position == "sincos2d" and counted != new.grid else new

    def with_changes(self, **changes: Any) -> "ViTConfig":
        """A copy with some fields changed, checked again; an unknown field is a UserError."""
        refuse_unknown(ViTConfig, changes)
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON (tuples as lists)."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ViTConfig":
        """The inverse of ``to_dict``; an unknown field is a UserError with the nearest valid name."""
        refuse_unknown(ViTConfig, values)
        return cls(**values)

    def _check_numbers(self) -> None:
        for name in ("patch_size", "channels", "width", "depth", "heads", "mlp_width"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("classes", "registers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("head_width", "stem_width", "representation"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1, or null")
        for name in ("dropout", "attention_dropout", "drop_path"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a probability below 1")
        sides = self.position_grid or (1,)
        require(min(sides) >= 1, "position_grid", self.position_grid, "rows and columns, at least 1 each, or null")
        for name in ("norm_eps", "rotary_base"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        stages = len(self.stem_layers) <= MAX_STAGES and all(1 <= units <= MAX_UNITS for units in self.stem_layers)
        accepted = f"at most {MAX_STAGES} stages of 1 to {MAX_UNITS} units each"
        require(stages, "stem_layers", list(self.stem_layers[: MAX_STAGES + 1]), accepted)

    def _check_choices(self) -> None:
        for name, valid in _CHOICES.items():
            require_choice(name, getattr(self, name), valid)
        if self.pool in ("token", "token_avg") and not self.class_token:
            raise UserError(
                f"model.pool is {self.pool} but model.class_token is false: set pool to avg or map, or add the token"
            )
        if self.distilled and (self.pool, self.representation, self.final_norm) != ("token", None, "tokens"):
            raise UserError(
                "model.distilled needs pool token, final_norm tokens and no representation: each token has its own head"
            )
        if self.head_width is None and self.width % self.heads:
            raise UserError(
                f"model.width {self.width} is not divisible by model.heads {self.heads}: "
                "change one, or set model.head_width"
            )
        if self.pool == "map" and self.width % self.heads:
            raise UserError(f"attention pooling needs model.width {self.width} divisible by model.heads {self.heads}")
        if self.position_site is not None:
            self._check_site(self.position_site)
        if self.position_grid is not None and self.position != "sincos2d":
            raise UserError(f"model.position_grid is of sincos2d positions, not of {self.position} ones: leave it out")
        if self.position == "learned2d" and self.width % 2:
            raise UserError(f"learned2d positions need an even model.width, not {self.width}: half is for the row")
        if self.position == "sincos2d" and self.width % 4:
            raise UserError(f"sin-cos positions need model.width divisible by 4, not {self.width}")
        if self.position == "rotary2d" and (self.attention_width // self.heads) % 4:
            raise UserError(
                f"rotary positions need a head width divisible by 4, not {self.attention_width // self.heads}: "
                "change model.width or model.heads, or set model.head_width"
            )
        if self.patch_norm and self.stem != "linear":
            raise UserError(f"model.patch_norm needs the linear stem, not {self.stem}")
        if self.stem_width is not None and self.stem == "linear":
            raise UserError(
                f"model.stem_width {self.stem_width} needs the conv or the hybrid stem, not linear: leave it out"
            )
        if self.stem_layers != ViTConfig.stem_layers and self.stem != "hybrid":
            raise UserError(
                f"model.stem_layers {list(self.stem_layers)} needs the hybrid stem, not {self.stem}: leave it out"
            )
        if self.stem_root != "large" and self.stem != "hybrid":
            raise UserError(f"model.stem_root {self.stem_root} needs the hybrid stem, not {self.stem}")
        if self.stem == "hybrid" and self.patch_size % self.backbone.stride:
            raise UserError(
                f"a hybrid stem of {len(self.stem_layers)} stages and a {self.stem_root} root takes a patch size "
                f"divisible by {self.backbone.stride}, not {self.patch_size}"
            )
        if self.stem == "hybrid":
            require_root_width("stem_width", self.backbone.root_width)
        if self.stem == "conv" and (self.patch_size < 2 or self.patch_size & (self.patch_size - 1)):
            raise UserError(f"the conv stem takes a patch size of 2, 4, 8, 16 ... (it halves), not {self.patch_size}")

    def _check_site(self, site: str) -> None:
        require_choice("position_site", site, ("stem", "layers", "shared"))
        sites = POSITION_SITES[self.position]
        if site not in sites:
            raise UserError(
                f"model.position_site is {site}, where {self.position} positions have {' or '.join((*sites, 'null'))}"
            )

    def _check_grid(self) -> None:
        p = self.patch_size
        if any(side < 1 for side in self.image_size):
            raise UserError(f"image size {size_text(self.image_size)} is not positive")
        if any(side % p for side in self.image_size):
            low = tuple(max(p, side // p * p) for side in self.image_size)
            high = tuple(-(-side // p) * p for side in self.image_size)
            nearest = (
                f"sizes are {size_text(low)} and {size_text(high)}" if low != high else f"size is {size_text(low)}"
            )
            raise UserError(
                f"image size {size_text(self.image_size)} is not divisible by patch size {p}: the nearest {nearest}"
            )


def documented_fields() -> dict[str, str]:
    """Field name -> its description, in the order of ``ViTConfig``."""
    return descriptions(ViTConfig)
