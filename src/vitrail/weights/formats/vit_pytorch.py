"""vit-pytorch's ViT and SimpleViT, both ways: one file, which the model's ``load_state_dict`` takes.

Names of older versions are read too, those of today's are written. Shapes: D width, C channels, p patch size.
"""

import math
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.model.fields import as_type
from vitrail.weights.formats.format import Format, ModelConfig
from vitrail.weights.formats.layouts import differs, other_positions, with_prefix_rows
from vitrail.weights.formats.shapes import (
    HEAD_WIDTH,
    count,
    shape_of,
    square_image,
    usual_image,
    usual_image_note,
)
from vitrail.weights.formats.vit_pytorch_names import (
    BLOCK,
    HEADS,
    OUT,
    PATCH,
    POSITIONS,
    QKV,
    mlp_names,
    simple_entries,
    style_of,
    vit_entries,
)
from vitrail.weights.found import Found
from vitrail.weights.names import Tensors, shape_text

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

_NORM_EPS = 1e-5  # torch's, which vit-pytorch leaves as it is

# What every model of the package has.
_FIXED = {
    "stem": "linear",
    "patch_bias": True,
    "patch_norm": True,
    "distilled": False,
    "representation": None,
    "pre_norm": False,
    "final_norm": "tokens",
    "norm_eps": _NORM_EPS,
    "activation": "gelu",
    "gated_mlp": False,
    "qkv_bias": False,
    "qk_norm": False,
    "layer_scale": None,
}


def recognises(found: Found) -> bool:
    """By the names, where no configuration lies beside."""
    return not found.config and f"{PATCH}.1.weight" in found.shapes and style_of(found.shapes) is not None


def _recognises_simple(found: Found) -> bool:
    return recognises(found) and POSITIONS not in found.shapes


def read_config(found: Found) -> ViTConfig:
    """The configuration that the shapes tell.

    Raises:
        UserError: shapes that make no model, or do not tell which.
    """
    shapes, inner = found.shapes, f"{BLOCK}0.0.{style_of(found.shapes)}"
    normed = len(shapes[f"{PATCH}.1.weight"]) == 1
    width, pixels = shape_of(found, f"{PATCH}.{2 if normed else 1}.weight", 2)
    channels, patch = _patch(found, pixels)
    together, rest = divmod(shape_of(found, f"{inner}{QKV}", 2)[0], 3)
    alone = not any(name.startswith(f"{inner}{OUT}") for name in shapes)  # one head as wide as the model
    said = found.said.get("heads")
    if rest or not together or (said is None and together % HEAD_WIDTH and not alone):
        raise UserError(
            f"{found.path}: the file does not tell the number of heads, and the width of all together, {together}, is not "
            f"a multiple of vit-pytorch's {HEAD_WIDTH}: say it with --set model.heads=N"
        )
    heads = as_type("heads", said, int) if said else 1 if alone else together // HEAD_WIDTH
    head = next((name for name in HEADS if any(other.startswith(f"{name}.") for other in shapes)), None)
    classifier = head and (f"{head}.1.weight" if f"{head}.1.weight" in shapes else f"{head}.weight")
    class_token = math.prod(shapes.get("cls_token", (0,))) > 0
    last = "tokens" if "transformer.norm.weight" in shapes or class_token else "pooled"
    registers = shape_of(found, "register_tokens", 2)[0] if "register_tokens" in shapes else 0
    first, _ = mlp_names(shapes, f"{BLOCK}0.1.")
    return ViTConfig(
        **_positions(found, patch, class_token),
        patch_size=patch,
        channels=channels,
        classes=shape_of(found, classifier, 2)[0] if classifier else 0,
        width=width,
        depth=count(found, rf"{BLOCK.replace('.', '[.]')}(\d+)[.]"),
        heads=heads,
        head_width=None if together == width else together // heads,
        mlp_width=shape_of(found, f"{first}.weight", 2)[0],
        patch_norm=normed,
        pool="token" if class_token else "avg",
        class_token=class_token,
        registers=registers,
        final_norm=last,
        norm_eps=_NORM_EPS,
        qkv_bias=False,
    )


def notes(found: Found) -> tuple[str, ...]:
    """What was assumed."""
    config = read_config(found)
    said = [
        "assumed the activation gelu, which vit-pytorch has: weights do not tell (--set model.activation=relu says another)"
    ]
    if config.head_width or config.heads > 1 or config.width == HEAD_WIDTH:
        said.append(
            f"assumed heads of width {HEAD_WIDTH}, {config.heads} in number, as vit-pytorch's dim_head: the file does not tell "
            "(--set model.heads=N --set model.head_width=K says others)"
        )
    if config.position == "sincos2d":
        said.append(usual_image_note(config))
    if config.class_token:
        said.append(
            "assumed that the class token is read: older versions of vit-pytorch could also average all tokens of such a file"
        )
    return (*said, "how it wants its pixels, nobody knows: give --mean and --std as in its training")


def read_preprocess(found: Found, config: ModelConfig) -> "Preprocess | None":
    """Unknown: the package trains nothing itself."""
    return None


def _no_equal_vit(config: Any) -> str | None:
    if reason := _no_equal(config) or differs(config, {"registers": 0}):
        return reason
    if reason := other_positions(config, ("learned", "sincos2d")):
        return reason
    if (config.pool, config.class_token) not in (("token", True), ("avg", False)):
        return f"its pool {config.pool} {'with' if config.class_token else 'without'} a class token"
    return None


def _no_equal_simple(config: Any) -> str | None:
    wanted = {"position": "sincos2d", "pool": "avg", "class_token": False}
    return _no_equal(config) or differs(config, wanted) or other_positions(config, ("sincos2d",))


def _no_equal(config: Any) -> str | None:
    if not isinstance(config, ViTConfig):
        return "it is not a Vision Transformer"
    if not config.classes:
        return "that it has no head"
    return differs(config, _FIXED)


def _for_vit(tensors: Tensors, config: ModelConfig) -> Tensors:
    """Positions for the class token; and without one, a class token of no rows, which ViT has then."""
    import torch

    assert isinstance(config, ViTConfig)
    tensors = with_prefix_rows(tensors, config)
    return tensors if config.class_token else {**tensors, "cls_token": torch.empty(0, config.width)}


def _patch(found: Found, pixels: int) -> tuple[int, int]:
    """Channels and patch size from the number of values in a patch: three channels make no square number of it."""
    for channels in (3, 1):
        side = math.isqrt(pixels // channels)
        if channels * side * side == pixels:
            return channels, side
    raise UserError(f"{found.path}: patches of {pixels} values are square ones neither of 3 channels nor of 1")


def _positions(found: Found, patch: int, class_token: bool) -> dict[str, Any]:
    """A learned table; or, as in SimpleViT, none in the file."""
    shape = found.shapes.get(POSITIONS)
    if shape is None:
        return {"image_size": usual_image(patch), "position": "sincos2d", "prefix_positions": False}
    if len(shape) not in (2, 3):
        raise UserError(f"{found.path}: {POSITIONS} has the shape {shape_text(shape)}, not one of 2 or 3 axes")
    return {"image_size": square_image(found, POSITIONS, shape[-2], int(class_token), patch)}


_EXCUSES = {"cls_token": "it has no rows: the model averages its patches"}

FORMATS = (
    Format(
        "vit-pytorch simple_vit",
        "vit-pytorch",
        _recognises_simple,
        read_config,
        simple_entries,
        read_preprocess,
        notes=notes,
        no_equal=_no_equal_simple,
    ),
    Format(
        "vit-pytorch",
        "vit-pytorch",
        recognises,
        read_config,
        vit_entries,
        read_preprocess,
        notes=notes,
        excuses=_EXCUSES,
        before_writing=_for_vit,
        no_equal=_no_equal_vit,
    ),
)
