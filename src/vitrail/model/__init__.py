"""What a Vision Transformer is. Nothing here knows images on disk, training or files; it imports torch alone.

The names below are loaded on first use, so that configurations can be read and counted without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitrail.model.config import ViTConfig
from vitrail.model.resnet_config import RESNETS, ResNetConfig, is_resnet, resnet_variant
from vitrail.model.variants import VARIANTS, model_variant, variant

if TYPE_CHECKING:
    from vitrail.model.resnet import ResNet
    from vitrail.model.vit import ViT, init_weights

    Model = ViT | ResNet

ModelConfig = ViTConfig | ResNetConfig

__all__ = [
    "RESNETS",
    "VARIANTS",
    "Model",
    "ModelConfig",
    "ResNet",
    "ResNetConfig",
    "ViT",
    "ViTConfig",
    "build",
    "init_weights",
    "is_resnet",
    "model_variant",
    "resnet_variant",
    "variant",
]


def build(config: ModelConfig) -> "Model":
    """The model of a configuration, with initial values from torch's global generator."""
    from vitrail.model.resnet import ResNet
    from vitrail.model.vit import ViT

    return ViT(config) if isinstance(config, ViTConfig) else ResNet(config)


def __getattr__(name: str) -> Any:
    if name in ("ViT", "init_weights"):
        return getattr(import_module("vitrail.model.vit"), name)
    if name == "ResNet":
        return import_module("vitrail.model.resnet").ResNet
    if name == "Model":
        return __getattr__("ViT") | __getattr__("ResNet")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
