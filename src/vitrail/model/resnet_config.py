"""ResNetConfig, every choice that makes a BiT ResNet-v2, and RESNETS, the sizes that have names.

Nothing here imports torch: a configuration can be read, checked and counted before anything is built.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import gcd
from types import MappingProxyType
from typing import Any

from vitrail.errors import UserError, did_you_mean
from vitrail.model.fields import doc, plain, refuse_unknown, require, require_choice, settle, size_text

ROOTS = ("large", "small")  # the first convolution: 7x7, stride 2, then pooling; or 3x3, stride 1, without
ROOT_WIDTH = 64  # its channels at width factor 1, as published; a unit of the first stage gives four times as many
MAX_STAGES, MAX_UNITS = 4, 1000


@dataclass(frozen=True)
class ResNetConfig:
    """The shape of one pre-activation ResNet-v2 with GroupNorm and standardised kernels.

    The defaults are R50x1 of Kolesnikov et al. (2020), "Big Transfer (BiT): General visual representation learning".
    """

    image_size: tuple[int, int] = doc("height and width in pixels", default=(224, 224))
    channels: int = doc("channels of the images: 3 for colour, 1 for grey", default=3)
    classes: int = doc("outputs of the head; 0 leaves the head out", default=1000)
    layers: tuple[int, ...] = doc("residual units of each stage, 1 to 4 stages", default=(3, 4, 6, 3))
    width_factor: int = doc("channels as a multiple of those of an ordinary ResNet", default=1)
    root_width: int = doc(
        "channels of the first convolution at width factor 1, which all others follow; an even number",
        default=ROOT_WIDTH,
    )
    stem: str = doc(
        "large (7x7 convolution, stride 2, then max pooling) or small (3x3, stride 1, no pooling: for small images)",
        default="large",
    )
    drop_path: float = doc("stochastic depth of the last unit, rising linearly from 0 at the first", default=0.0)

    def __post_init__(self) -> None:
        settle(self)
        for name in ("channels", "width_factor"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require_root_width("root_width", self.root_width)
        require(self.classes >= 0, "classes", self.classes, "0 or more")
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "a probability below 1")
        require_choice("stem", self.stem, ROOTS)
        stages = 1 <= len(self.layers) <= MAX_STAGES and all(1 <= units <= MAX_UNITS for units in self.layers)
        shown = list(self.layers[: MAX_STAGES + 1])
        require(stages, "layers", shown, f"1 to 4 stages of 1 to {MAX_UNITS} units each, such as [3, 4, 6, 3]")
        if min(self.image_size) < self.stride:
            raise UserError(
                f"image size {size_text(self.image_size)} is below {self.stride} pixels, the stride of the network: "
                f"{'take larger images or fewer stages' if self.stem == 'small' else 'set model.stem to small'}"
            )

    @property
    def root_channels(self) -> int:
        """Channels after the first convolution."""
        return self.root_width * self.width_factor

    @property
    def width(self) -> int:
        """Channels after the last stage, which is the width of the features: 2048 x width factor for four stages."""
        return backbone_width(self.layers, self.root_channels)

    @property
    def feature_width(self) -> int:
        """Width of the pooled features, which the head reads; a ViT's configuration has it by the same name."""
        return self.width

    @property
    def depth(self) -> int:
        """Residual units of all stages together."""
        return sum(self.layers)

    @property
    def stride(self) -> int:
        """Pixels from one position of the last feature map to the next."""
        return backbone_stride(self.layers, self.stem)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last feature map: the image's by the stride, rounded up."""
        return -(-self.image_size[0] // self.stride), -(-self.image_size[1] // self.stride)

    def with_changes(self, **changes: Any) -> "ResNetConfig":
        """A copy with some fields changed, checked again; an unknown field is a UserError."""
        refuse_unknown(ResNetConfig, changes)
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON (tuples as lists)."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ResNetConfig":
        """The inverse of ``to_dict``; an unknown field is a UserError with the nearest valid name."""
        refuse_unknown(ResNetConfig, values)
        return cls(**values)


@dataclass(frozen=True)
class BackboneConfig:
    """The ResNet below a hybrid Vision Transformer, whose configuration has checked it."""

    channels: int
    """Of the images."""
    layers: tuple[int, ...]
    """Residual units of each stage; none leaves the first layer alone."""
    root: str = "large"
    """The first layer: large (7x7 convolution, stride 2, then max pooling) or small (3x3, stride 1, no pooling)."""
    root_width: int = ROOT_WIDTH
    """Channels after the first layer."""

    @property
    def stride(self) -> int:
        """Pixels from one position of the feature map to the next."""
        return backbone_stride(self.layers, self.root)

    @property
    def width(self) -> int:
        """Channels of the feature map."""
        return backbone_width(self.layers, self.root_width)


def require_root_width(name: str, value: int) -> None:
    """Refuse channels of a first convolution that norms of two channels a group cannot have."""
    require(value >= 2 and value % 2 == 0, name, value, "an even number, at least 2")


def norm_groups(channels: int) -> int:
    """Groups of a GroupNorm: 32, as published; of few channels the largest power of two that leaves two to a group.

    With one channel to a group, a feature map of one position would become 0 whatever it shows.
    """
    groups = gcd(32, channels)
    return groups if channels >= 2 * groups else groups // 2


def backbone_stride(layers: tuple[int, ...], root: str = "large") -> int:
    """Pixels from one position of the feature map to the next, behind the first layer and these stages.

    A large root divides the image's sides by 4, a small one leaves them; each stage but the first divides by 2.
    """
    return (4 if root == "large" else 1) << max(len(layers) - 1, 0)


def backbone_width(layers: tuple[int, ...], root_width: int = ROOT_WIDTH) -> int:
    """Channels of the feature map behind these stages; no stages leave the root's."""
    return 4 * root_width << len(layers) - 1 if layers else root_width


# Depth -> units of each stage: He et al. (2016), Table 1.
_LAYERS = {"R50": (3, 4, 6, 3), "R101": (3, 4, 23, 3), "R152": (3, 8, 36, 3)}

# The sizes of Kolesnikov et al. (2020).
RESNETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        f"{depth}x{factor}": MappingProxyType({"layers": _LAYERS[depth], "width_factor": factor})
        for depth, factor in (("R50", 1), ("R50", 3), ("R101", 1), ("R101", 3), ("R152", 2), ("R152", 4))
    }
)


def is_resnet(name: str) -> bool:
    """Whether a variant's name is meant as a ResNet's, such as ``R50x1``; ``R50+B/16`` is a hybrid's."""
    return re.fullmatch(r"R\d+x\d+", name) is not None


def resnet_variant(name: str, **changes: Any) -> ResNetConfig:
    """The configuration of a named ResNet such as ``R50x1``, with some fields changed.

    A depth may be written with any width factor (``R50x2``); an unknown depth is a UserError with the nearest names.
    """
    depth, _, factor = name.partition("x")
    if depth not in _LAYERS or not factor.isdecimal():
        raise UserError(f"unknown variant {name!r}: {did_you_mean(name, RESNETS)}")
    return ResNetConfig(layers=_LAYERS[depth], width_factor=int(factor)).with_changes(**changes)
