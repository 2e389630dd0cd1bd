"""vitrail: from images to a trained, understood and deployed Vision Transformer, at any resolution.

The public names are loaded on first use, so that ``import vitrail`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.data.open import open_data
    from vitrail.data.preprocess import Preprocess
    from vitrail.errors import UserError
    from vitrail.evaluation.run import evaluate
    from vitrail.inspection.inspect import inspect
    from vitrail.model.config import ViTConfig
    from vitrail.model.resnet import ResNet
    from vitrail.model.resnet_config import ResNetConfig, resnet_variant
    from vitrail.model.variants import VARIANTS, variant
    from vitrail.model.vit import ViT
    from vitrail.prediction import Predictor
    from vitrail.recipes.files import load as recipe
    from vitrail.studies.run import study
    from vitrail.training.run import train
    from vitrail.weights.convert import convert
    from vitrail.weights.folder import save
    from vitrail.weights.load import load
    from vitrail.weights.resize import resize

_HOME = {
    "Predictor": "vitrail.prediction:Predictor",
    "Preprocess": "vitrail.data.preprocess:Preprocess",
    "UserError": "vitrail.errors:UserError",
    "VARIANTS": "vitrail.model.variants:VARIANTS",
    "ResNet": "vitrail.model.resnet:ResNet",
    "ResNetConfig": "vitrail.model.resnet_config:ResNetConfig",
    "ViT": "vitrail.model.vit:ViT",
    "ViTConfig": "vitrail.model.config:ViTConfig",
    "convert": "vitrail.weights.convert:convert",
    "evaluate": "vitrail.evaluation.run:evaluate",
    "inspect": "vitrail.inspection.inspect:inspect",
    "load": "vitrail.weights.load:load",
    "open_data": "vitrail.data.open:open_data",
    "recipe": "vitrail.recipes.files:load",
    "resize": "vitrail.weights.resize:resize",
    "resnet_variant": "vitrail.model.resnet_config:resnet_variant",
    "save": "vitrail.weights.folder:save",
    "study": "vitrail.studies.run:study",
    "train": "vitrail.training.run:train",
    "variant": "vitrail.model.variants:variant",
}

__all__ = [
    "VARIANTS",
    "Predictor",
    "Preprocess",
    "ResNet",
    "ResNetConfig",
    "UserError",
    "ViT",
    "ViTConfig",
    "convert",
    "evaluate",
    "inspect",
    "load",
    "open_data",
    "recipe",
    "resize",
    "resnet_variant",
    "save",
    "study",
    "train",
    "variant",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name].split(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
