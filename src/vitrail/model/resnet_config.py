"""ResNetConfig, every choice that makes a BiT ResNet-v2, and RESNETS, the sizes that have names.

Nothing here imports torch: a configuration can be read, checked and counted before anything is built.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from vitrail.errors import UserError, did_you_mean
from vitrail.model.fields import doc, plain, refuse_unknown, require, require_choice, settle, size_text

RESNET_STEMS = ("large", "small")
ROOT_WIDTH = 64  # channels of the first convolution at width factor 1; a unit gives four times its stage's own
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
    stem: str = doc(
        "large (7x7 convolution, stride 2, then max pooling) or small (3x3, stride 1, no pooling: for small images)",
        default="large",
    )
    drop_path: float = doc("stochastic depth of the last unit, rising linearly from 0 at the first", default=0.0)

    def __post_init__(self) -> None:
        settle(self)
        for name in ("channels", "width_factor"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.classes >= 0, "classes", self.classes, "0 or more")
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "a probability below 1")
        require_choice("stem", self.stem, RESNET_STEMS)
        stages = 1 <= len(self.layers) <= MAX_STAGES and all(1 <= units <= MAX_UNITS for units in self.layers)
        shown = list(self.layers[: MAX_STAGES + 1])
        require(stages, "layers", shown, f"1 to 4 stages of 1 to {MAX_UNITS} units each, such as [3, 4, 6, 3]")
        if min(self.image_size) < self.stride:
            raise UserError(
                f"image size {size_text(self.image_size)} is below {self.stride} pixels, the stride of the network: "
                f"{'take larger images or fewer stages' if self.stem == 'small' else 'set model.stem to small'}"
            )

    @property
    def root_width(self) -> int:
        """Channels after the first convolution."""
        return ROOT_WIDTH * self.width_factor

    @property
    def width(self) -> int:
        """Channels after the last stage, which is the width of the features: 2048 x width factor for four stages."""
        return backbone_width(self.layers) * self.width_factor

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
        return backbone_stride(self.layers) // (1 if self.stem == "large" else backbone_stride(()))

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


def backbone_stride(layers: tuple[int, ...]) -> int:
    """Pixels from one position of the feature map to the next, behind the large stem and these stages.

    The stem divides the image's sides by 4, each stage but the first by 2; no stages leave the stem alone.
    """
    return 4 << max(len(layers) - 1, 0)


def backbone_width(layers: tuple[int, ...]) -> int:
    """Channels of the feature map behind these stages, at width factor 1; no stages leave the stem's."""
    return 4 * ROOT_WIDTH << len(layers) - 1 if layers else ROOT_WIDTH


# Depth -> units of each stage: He et al. (2016), Table 1.
_LAYERS = {"R50": (3, 4, 6, 3), "R101": (3, 4, 23, 3), "R152": (3, 8, 36, 3)}

# The sizes of Kolesnikov et al. (2020).
RESNETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        f"{depth}x{factor}": MappingProxyType({"layers": _LAYERS[depth], "width_factor": factor})
        for depth, factor in (("R50", 1), ("R50", 3), ("R101", 1), ("R101", 3), ("R152", 2), ("R152", 4))
    }
)


def resnet_variant(name: str, **changes: Any) -> ResNetConfig:
    """The configuration of a named ResNet such as ``R50x1``, with some fields changed.

    A depth may be written with any width factor (``R50x2``); an unknown depth is a UserError with the nearest names.
    """
    depth, _, factor = name.partition("x")
    if depth not in _LAYERS or not factor.isdecimal():
        raise UserError(f"unknown variant {name!r}: {did_you_mean(name, RESNETS)}")
    return ResNetConfig(layers=_LAYERS[depth], width_factor=int(factor)).with_changes(**changes)
