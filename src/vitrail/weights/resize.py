"""A model at another image size or patch size: the same weights, brought to it."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from vitrail.errors import UserError
from vitrail.model import Model, ResNetConfig, ViTConfig
from vitrail.model.positions import KINDS
from vitrail.model.resize import require_method, require_patch_method, resize_kernel
from vitrail.weights.build import empty, fill


def resize(
    model: Model,
    image_size: tuple[int, int] | int | None = None,
    patch_size: int | None = None,
    *,
    method: str | None = None,
    patch_method: str = "pseudo_inverse",
) -> Model:
    """The model at another image size, another patch size, or both. The one that is given stays as it is.

    Positions reach the new grid by their own nature (see ``model.positions``): tables are interpolated, sines, cosines and
    angles are computed anew. Tokens that have no place on the grid are not touched. At the model's own sizes nothing is
    computed, and the answers are the same to the bit.

    Args:
        model: any model; a ResNet has neither positions nor patches, so that only its image size is written down.
        image_size: height and width in pixels, or one number for both; None for the model's own, and then the pixel
            contract keeps its own too, which may be another.
        patch_size: side of a patch in pixels; None for the model's own.
        method: how positions are interpolated, a name in ``model.resize.METHODS``; None for the model's own way, which
            the new model keeps in any case.
        patch_method: how the patch kernel is resized, a name in ``model.resize.PATCH_METHODS``.

    Returns:
        A new model in evaluation mode on the same device, with the pixel contract at the new image size, and the labels.

    Raises:
        UserError: sizes that do not go together, an unknown method, or a stem whose patch size is built in.
    """
    config = model.config
    size = config.image_size if image_size is None else image_size
    size = (size, size) if isinstance(size, int) else size
    if method is not None:
        require_method(method)
    require_patch_method(patch_method)
    if isinstance(config, ViTConfig):
        new: ViTConfig | ResNetConfig = config.at_size(size, patch_size)
    elif patch_size is None:
        new = config.with_changes(image_size=size)
    else:
        raise UserError(f"patch size {patch_size}: this model is a ResNet, which has no patches; leave it out")
    preprocess = model.preprocess
    if preprocess is not None:
        p = getattr(new, "patch_size", None)  # mode native counts in patches
        used_at = size if image_size is not None else preprocess.image_size
        new.with_changes(image_size=used_at)  # refuses a contract's size that new patches do not divide
        preprocess = dataclasses.replace(preprocess, image_size=used_at, patch_size=p)
    state = model.state_dict()
    if isinstance(config, ViTConfig) and isinstance(new, ViTConfig):
        state = resized_state(state, config, new, method=method, patch_method=patch_method)
    resized = empty(new).to(next(model.parameters()).dtype)
    fill(resized, {name: tensor.detach().clone() for name, tensor in state.items()})
    resized.preprocess, resized.labels = preprocess, model.labels
    return resized.eval()


def resized_state(
    state: Mapping[str, Tensor],
    old: ViTConfig,
    new: ViTConfig,
    *,
    method: str | None = None,
    patch_method: str = "pseudo_inverse",
) -> dict[str, Tensor]:
    """The tensors of ``old`` for ``new``, which differs from it in its image size and its patch size.

    Raises:
        UserError: as ``resize``.
    """
    resized = dict(state)
    if old.grid != new.grid:
        kind = KINDS[old.position]
        own = old if method is None else old.with_changes(position_interpolation=method)
        for name in position_tables(state):
            resized[name] = kind.resized(state[name], own, new.grid)
    if old.patch_size != new.patch_size:
        side = _kernel_side(old, new)
        resized[_KERNEL] = resize_kernel(state[_KERNEL], side, method=patch_method)
    return resized


def position_tables(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tables of positions, of the model or of its blocks."""
    return [name for name in state if name.rpartition(".")[2] == "pos_embed"]


_KERNEL = "patch_embed.proj.weight"


def _kernel_side(old: ViTConfig, new: ViTConfig) -> int:
    """The side of the new patch kernel: in pixels, or in places of a hybrid's feature map."""
    change = f"patch size {new.patch_size}"
    if old.stem == "conv":
        raise UserError(
            f"{change}: this model's convolutional stem is built for {old.patch_size}, one convolution a halving; train "
            "one with the new size"
        )
    if old.patch_norm:
        raise UserError(
            f"{change}: this model normalises the {old.patch_size}x{old.patch_size} pixels of a patch, each with a factor "
            "of its own, which belongs to that size"
        )
    return new.patch_size // old.backbone.stride if old.stem == "hybrid" else new.patch_size
