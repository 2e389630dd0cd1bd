"""What a Vision Transformer is. Nothing here knows images on disk, training or files; it imports torch alone.

The names below are loaded on first use, so that configurations can be read and counted without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitrail.model.config import VARIANTS, ViTConfig, variant

if TYPE_CHECKING:
    from vitrail.model.vit import ViT, init_weights

__all__ = ["VARIANTS", "ViT", "ViTConfig", "init_weights", "variant"]


def __getattr__(name: str) -> Any:
    if name in ("ViT", "init_weights"):
        return getattr(import_module("vitrail.model.vit"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
