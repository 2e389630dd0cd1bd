"""timm's ResNetV2 of BiT: arguments <-> ResNetConfig. The tensors have our names."""

from typing import Any

from vitrail.model.resnet_config import ROOT_WIDTH, ResNetConfig
from vitrail.weights.formats.timm import config as folder
from vitrail.weights.formats.timm.architectures import LAYERS, MODEL, WIDTH_FACTOR, Arguments
from vitrail.weights.formats.timm.config import Json

_READ = frozenset(["in_chans", "num_classes", LAYERS, WIDTH_FACTOR, MODEL])
_NOTHING_ASKED: dict[str, tuple[Any, ...]] = {
    "global_pool": ("avg",),
    "output_stride": (32,),
    "channels": ([256, 512, 1024, 2048],),
    "stem_chs": (64,),
    "avg_down": (False,),
    "preact": (True,),
    "basic": (False,),
    "bottle_ratio": (0.25,),
    "act_layer": ("relu",),
    "zero_init_last": (False, True),
    "features_only": (False,),
}

# timm registers these alone, and their layers cannot be changed by arguments
_REGISTERED: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 1): "resnetv2_50x1_bit",
    ((3, 4, 6, 3), 3): "resnetv2_50x3_bit",
    ((3, 4, 23, 3), 1): "resnetv2_101x1_bit",
    ((3, 4, 23, 3), 3): "resnetv2_101x3_bit",
    ((3, 8, 36, 3), 2): "resnetv2_152x2_bit",
    ((3, 8, 36, 3), 4): "resnetv2_152x4_bit",
}


def read(values: Json, args: Arguments) -> ResNetConfig:
    """The configuration of the model that timm builds from these arguments.

    Raises:
        UserError: an argument that has no equal here, by its key.
    """
    folder.refuse_without_equal(args, _READ, _NOTHING_ASKED)
    return ResNetConfig(
        image_size=folder.image_size(values, args),
        channels=folder.channels(values, args),
        classes=folder.classes(values, args),
        layers=args[LAYERS],
        width_factor=args[WIDTH_FACTOR],
    )


def no_equal(config: ResNetConfig) -> str | None:
    """What keeps timm from building this ResNet, in words; None where nothing does."""
    if config.stem != "large":
        return f"its {config.stem} stem"
    if config.root_channels % ROOT_WIDTH:
        return f"its root of {config.root_channels} channels (timm: a multiple of {ROOT_WIDTH})"
    layers, factor = config.layers, config.root_channels // ROOT_WIDTH
    if (layers, factor) not in _REGISTERED:
        units = "-".join(map(str, layers))
        return f"its ResNet of {units} units a stage at width factor {factor} (timm registers six others)"
    return None


def describe(config: ResNetConfig) -> tuple[str, Arguments]:
    """The registered architecture, and what makes the model of it, but for the number of classes."""
    factor = config.root_channels // ROOT_WIDTH
    return _REGISTERED[config.layers, factor], {"in_chans": config.channels, "global_pool": "avg"}
