"""Whether a pixel contract and a model go together; a model that takes images of one size alone cannot have mode native."""

from typing import TYPE_CHECKING

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess
    from vitrail.model import ModelConfig


def patch_size_of(config: "ModelConfig") -> int:
    """The side of a patch that a contract of mode native counts in.

    Raises:
        UserError: the model has no patches.
    """
    if not isinstance(config, ViTConfig):
        raise UserError(
            "preprocess.mode 'native' packs patches of images of different sizes, and a ResNet has none: take crop, squash "
            "or pad"
        )
    return config.patch_size


def require_fit(preprocess: "Preprocess", config: "ModelConfig") -> None:
    """Refuse a contract of mode native that is not the model's; the other modes give any model images of one size.

    Raises:
        UserError: a ResNet, or another patch size.
    """
    if preprocess.varies and preprocess.patch_size != patch_size_of(config):
        raise UserError(
            f"preprocess.patch_size {preprocess.patch_size} is not the model's {patch_size_of(config)}: make it so, by "
            f"dataclasses.replace(preprocess, patch_size={patch_size_of(config)}) or --mode native"
        )
