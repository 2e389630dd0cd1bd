"""ViTConfig, every choice that makes a Vision Transformer, and VARIANTS, the sizes that have names.

Nothing here imports torch: a configuration can be read, checked and counted before anything is built.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from math import isfinite
from numbers import Integral, Real
from types import MappingProxyType, NoneType
from typing import Any, get_args, get_type_hints

from vitrail.errors import UserError, did_you_mean

STEMS = ("linear", "conv")
POOLS = ("token", "avg", "map")
POSITIONS = ("learned", "sincos2d", "none")
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")


def _doc(text: str, **kwargs: Any) -> Any:
    """A dataclass field with its description, which the command line and the docs show."""
    return field(metadata={"doc": text}, **kwargs)


@dataclass(frozen=True)
class ViTConfig:
    """The shape and the choices of one Vision Transformer. Refuses combinations that cannot be built.

    The defaults are ViT-B/16 of Dosovitskiy et al. (2021), Table 1.
    """

    image_size: tuple[int, int] = _doc("height and width in pixels", default=(224, 224))
    patch_size: int = _doc("side of a patch in pixels; 1 makes every pixel a token", default=16)
    channels: int = _doc("channels of the images: 3 for colour, 1 for grey", default=3)
    classes: int = _doc("outputs of the head; 0 leaves the head out", default=1000)
    width: int = _doc("D, the width of a token", default=768)
    depth: int = _doc("number of blocks", default=12)
    heads: int = _doc("number of attention heads", default=12)
    head_width: int | None = _doc(
        "width of one head's queries, keys and values; null means width / heads", default=None
    )
    mlp_width: int = _doc("hidden width of a block's MLP", default=3072)
    stem: str = _doc(
        "how pixels become tokens: linear (one matrix a patch) or conv (3x3 convolutions)", default="linear"
    )
    stem_width: int | None = _doc("channels after the conv stem's first convolution; null derives it", default=None)
    pool: str = _doc(
        "what the head reads: token (class token), avg (mean of patches) or map (attention)", default="token"
    )
    class_token: bool = _doc("prepend a learned class token", default=True)
    registers: int = _doc("number of register tokens (Darcet et al., 2024)", default=0)
    representation: int | None = _doc(
        "width of the tanh layer before the head (pre-training); null for none", default=None
    )
    position: str = _doc("position embedding: learned (1-D), sincos2d (fixed) or none", default="learned")
    norm_eps: float = _doc("epsilon of every LayerNorm", default=1e-6)
    activation: str = _doc("non-linearity of the MLP: gelu, gelu_tanh, quick_gelu, relu or silu", default="gelu")
    qkv_bias: bool = _doc("bias on queries, keys and values", default=True)
    layer_scale: float | None = _doc("initial LayerScale (Touvron et al., 2021); null for none", default=None)
    dropout: float = _doc("dropout after dense layers (not qkv) and after adding positions", default=0.0)
    attention_dropout: float = _doc("dropout on the attention weights", default=0.0)
    drop_path: float = _doc("stochastic depth of the last block, rising linearly from 0 at the first", default=0.0)

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            object.__setattr__(self, name, _as_type(name, getattr(self, name), hint))
        self._check_numbers()
        self._check_choices()
        self._check_grid()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token, then the registers."""
        return int(self.class_token) + self.registers

    @property
    def tokens(self) -> int:
        """Length of the sequence that the blocks see."""
        return self.prefix_tokens + self.grid[0] * self.grid[1]

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

    def with_changes(self, **changes: Any) -> "ViTConfig":
        """A copy with some fields changed, checked again; an unknown field is a UserError."""
        _refuse_unknown(changes)
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON (``image_size`` as a list)."""
        return {**asdict(self), "image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ViTConfig":
        """The inverse of ``to_dict``; an unknown field is a UserError with the nearest valid name."""
        _refuse_unknown(values)
        return cls(**values)

    def _check_numbers(self) -> None:
        for name in ("patch_size", "channels", "width", "depth", "heads", "mlp_width"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("classes", "registers"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("head_width", "stem_width", "representation"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1, or null")
        for name in ("dropout", "attention_dropout", "drop_path"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a probability below 1")
        _require(self.norm_eps > 0, "norm_eps", self.norm_eps, "above 0")

    def _check_choices(self) -> None:
        for name, valid in (("stem", STEMS), ("pool", POOLS), ("position", POSITIONS), ("activation", ACTIVATIONS)):
            value = getattr(self, name)
            if value not in valid:
                raise UserError(f"model.{name} is {value!r}: {did_you_mean(str(value), valid)}")
        if self.pool == "token" and not self.class_token:
            raise UserError(
                "model.pool is token but model.class_token is false: set pool to avg or map, or add the token"
            )
        if self.head_width is None and self.width % self.heads:
            raise UserError(
                f"model.width {self.width} is not divisible by model.heads {self.heads}: "
                "change one, or set model.head_width"
            )
        if self.pool == "map" and self.width % self.heads:
            raise UserError(f"attention pooling needs model.width {self.width} divisible by model.heads {self.heads}")
        if self.position == "sincos2d" and self.width % 4:
            raise UserError(f"sin-cos positions need model.width divisible by 4, not {self.width}")
        if self.stem == "conv" and (self.patch_size < 2 or self.patch_size & (self.patch_size - 1)):
            raise UserError(f"the conv stem takes a patch size of 2, 4, 8, 16 ... (it halves), not {self.patch_size}")

    def _check_grid(self) -> None:
        p = self.patch_size
        if any(side < 1 for side in self.image_size):
            raise UserError(f"image size {_size(self.image_size)} is not positive")
        if any(side % p for side in self.image_size):
            low = tuple(max(p, side // p * p) for side in self.image_size)
            high = tuple(-(-side // p) * p for side in self.image_size)
            nearest = f"sizes are {_size(low)} and {_size(high)}" if low != high else f"size is {_size(low)}"
            raise UserError(
                f"image size {_size(self.image_size)} is not divisible by patch size {p}: the nearest {nearest}"
            )


# Name -> (width, depth, heads, mlp width, the patch sizes with a name). Ti..H: Dosovitskiy et al. (2021), Table 1, and
# Steiner et al. (2022), Table 1; g, G: Zhai et al. (2022), Table 2, G's MLP as released (8192).
_SIZES = {
    "Ti": (192, 12, 3, 768, (16, 8)),
    "S": (384, 12, 6, 1536, (32, 16, 14, 8)),
    "B": (768, 12, 12, 3072, (32, 16, 14, 8)),
    "L": (1024, 24, 16, 4096, (32, 16, 14)),
    "H": (1280, 32, 16, 5120, (14, 16)),
    "g": (1408, 40, 16, 6144, (14, 16)),
    "G": (1664, 48, 16, 8192, (14,)),
}

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        f"{size}/{patch}": MappingProxyType(
            {"patch_size": patch, "width": width, "depth": depth, "heads": heads, "mlp_width": mlp_width}
        )
        for size, (width, depth, heads, mlp_width, patches) in _SIZES.items()
        for patch in patches
    }
)


def variant(name: str, **changes: Any) -> ViTConfig:
    """The configuration of a named variant such as ``B/16``, with some fields changed.

    A size may be written with any patch size (``Ti/4``); an unknown size is a UserError with the nearest names. An
    image size that is not given is 224 x 224, rounded down to a multiple of the patch size.
    """
    size, _, patch = name.partition("/")
    if size not in _SIZES or not patch.isdecimal():
        raise UserError(f"unknown variant {name!r}: {did_you_mean(name, VARIANTS)}")
    width, depth, heads, mlp_width, _ = _SIZES[size]
    values: dict[str, Any] = {
        "patch_size": int(patch), "width": width, "depth": depth, "heads": heads, "mlp_width": mlp_width
    }  # fmt: skip
    _refuse_unknown(changes)
    values |= changes
    p = max(1, _as_type("patch_size", values["patch_size"], int))
    values.setdefault("image_size", (max(p, 224 // p * p),) * 2)
    return ViTConfig(**values)


def documented_fields() -> dict[str, str]:
    """Field name -> its description, in the order of ``ViTConfig``."""
    return {f.name: f.metadata["doc"] for f in fields(ViTConfig)}


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    valid = [f.name for f in fields(ViTConfig)]
    for name in values:
        if name not in valid:
            raise UserError(f"unknown model field {name!r}: {did_you_mean(name, valid)}")


def _require(condition: bool, name: str, value: object, accepted: str) -> None:
    if not condition:
        raise UserError(f"model.{name} is {value}: it must be {accepted}")


@cache
def _hints() -> dict[str, Any]:
    """Field name -> the type that it is annotated with."""
    return get_type_hints(ViTConfig)


def _as_type(name: str, value: Any, hint: Any) -> Any:
    """A value as the plain Python type of its field; NumPy's integers are whole numbers, and those are numbers."""
    if name == "image_size":
        return _pair(value)
    kind, *others = get_args(hint) or (hint,)
    if kind is str or (value is None and NoneType in others):
        return value  # every string is one of a few choices, which are checked, and listed, by _check_choices
    accepted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
    fits = {int: _is_whole, float: _is_number, bool: lambda v: isinstance(v, bool)}[kind](value)
    if not fits:
        raise UserError(f"model.{name} is {value!r}: it must be {accepted}{', or null' if others else ''}")
    return kind(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _pair(size: Any) -> tuple[int, int]:
    sides = (size, size) if _is_whole(size) else size
    if not isinstance(sides, tuple | list) or len(sides) != 2 or not all(map(_is_whole, sides)):
        raise UserError(f"image size {size!r}: it must be one whole number, or height and width")
    return int(sides[0]), int(sides[1])


def _size(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"
