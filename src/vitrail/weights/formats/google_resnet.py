"""Google's BiT ResNet-v2, both ways: ``resnet/block1/unit01/a/...``. Our names are timm's."""

from collections.abc import Iterable
from typing import Any

from vitrail.errors import UserError
from vitrail.model.resnet_config import MAX_STAGES, ROOT_WIDTH, ResNetConfig
from vitrail.weights.formats.format import ModelConfig, Shapes
from vitrail.weights.formats.layouts import HWIO
from vitrail.weights.formats.shapes import count, shape_of
from vitrail.weights.found import Found
from vitrail.weights.names import Entry, entry

_ROOT, _CONV, _NORM = "resnet/", "standardized_conv2d/kernel", "group_norm"
_FIRST, _HEAD = f"{_ROOT}root_block/{_CONV}", f"{_ROOT}head/conv2d"


def recognises(found: Found) -> bool:
    """By the names, where no configuration lies beside."""
    return not found.config and _FIRST in found.shapes


def read_config(found: Found) -> ResNetConfig:
    """The configuration that the shapes tell, for images of 224 x 224.

    Raises:
        UserError: shapes that make no such model.
    """
    side, _, channels, width = shape_of(found, _FIRST, 4)
    if side != 7 or width % ROOT_WIDTH:
        raise UserError(
            f"{found.path}: {_FIRST} is not a 7x7 kernel to a multiple of {ROOT_WIDTH} channels: no BiT model"
        )
    stages = min(count(found, rf"{_ROOT}block(\d+)/", 1), MAX_STAGES + 1)  # one more is refused
    return ResNetConfig(
        channels=channels,
        classes=shape_of(found, f"{_HEAD}/kernel", 4)[3] if f"{_HEAD}/kernel" in found.shapes else 0,
        layers=tuple(count(found, rf"{_ROOT}block{stage + 1}/unit(\d+)/", 1) for stage in range(stages)),
        width_factor=width // ROOT_WIDTH,
    )


def entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """Every tensor."""
    assert isinstance(config, ResNetConfig)
    yield entry("stem.conv.weight", _FIRST, layout=HWIO)
    for stage, units in enumerate(config.layers):
        for unit in range(units):
            own, name = f"stages.{stage}.blocks.{unit}.", f"{_ROOT}block{stage + 1}/unit{unit + 1:02d}/"
            for layer, letter in enumerate("abc", 1):
                yield entry(f"{own}conv{layer}.weight", f"{name}{letter}/{_CONV}", layout=HWIO)
                yield from _norm(f"{own}norm{layer}", f"{name}{letter}/{_NORM}")
            yield entry(f"{own}downsample.conv.weight", f"{name}a/proj/{_CONV}", layout=HWIO)
    yield from _norm("norm", f"{_ROOT}{_NORM}")
    yield entry("head.fc.weight", f"{_HEAD}/kernel", layout=HWIO)
    yield entry("head.fc.bias", f"{_HEAD}/bias")


def no_equal(config: Any) -> str | None:
    """What keeps BiT's code from building a configuration, in words; None where nothing does."""
    if not isinstance(config, ResNetConfig):
        return "it is not a ResNet"
    if config.stem != "large":
        return f"its {config.stem} stem"
    if config.root_channels % ROOT_WIDTH:
        return f"its root of {config.root_channels} channels (BiT: a multiple of {ROOT_WIDTH})"
    return None


def _norm(ours: str, theirs: str) -> list[Entry]:
    return [entry(f"{ours}.weight", f"{theirs}/gamma"), entry(f"{ours}.bias", f"{theirs}/beta")]
