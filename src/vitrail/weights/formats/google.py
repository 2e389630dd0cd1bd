"""Google's ``.npz``, both ways: vision_transformer and AugReg, plain and hybrid; big_vision; BiT.

A Vision Transformer is written in vision_transformer's names where that code has an equal of it. big_vision's are taken
for what it alone has: attention pooling, sin-cos positions, and positions that leave the class token out.
"""

import re
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.model.resnet_config import MAX_STAGES, ROOT_WIDTH, backbone_stride
from vitrail.weights.formats import google_resnet
from vitrail.weights.formats.format import Format, ModelConfig
from vitrail.weights.formats.google_names import VISION_TRANSFORMER, Names, big_vision_entries, names_of, plain_entries
from vitrail.weights.formats.layouts import differs, other_heads, other_positions, other_root
from vitrail.weights.formats.shapes import (
    contract,
    count,
    grid_side,
    shape_of,
    square_image,
    square_patch,
    usual_image,
    usual_image_note,
)
from vitrail.weights.found import Found

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

# Google's gelu is flax's, whose default is the approximation by tanh. Other libraries compute the exact one with these
# weights; so a model that has it is written too.
_ACTIVATION = "gelu_tanh"
_ACTIVATIONS = ("gelu_tanh", "gelu")

_EXCUSES = {
    "*txt/*": "the text tower",
    "t": "the temperature of image and text",
    "*/t": "the temperature of image and text",
    "b": "the bias of image and text",
    "*/b": "the bias of image and text",
    "opt/state/*": "the optimiser's state",
    "*global_step": "the number of the training step",
}

# What every Vision Transformer of Google's has.
_FIXED = {
    "patch_bias": True,
    "patch_norm": False,
    "distilled": False,
    "registers": 0,
    "pre_norm": False,
    "final_norm": "tokens",
    "norm_eps": 1e-6,
    "gated_mlp": False,
    "qkv_bias": True,
    "qk_norm": False,
    "layer_scale": None,
}


def read_config(found: Found) -> ViTConfig:
    """The configuration that the shapes tell.

    Raises:
        UserError: shapes that make no model, or do not tell which.
    """
    names = names_of(found.shapes)
    assert names is not None
    root, leading = names.prefix, int(names.stacked)
    query = shape_of(found, names.query(0), 3 + leading)
    width, heads, head_width = query[leading:]
    mapped, class_token = f"{root}MAPHead_0/probe" in found.shapes, f"{root}cls" in found.shapes
    stem = _stem(found, root)
    return ViTConfig(
        **stem,
        **_positions(found, names, stem["patch_size"]),
        classes=_outputs(found, f"{root}head") or 0,
        width=width,
        depth=query[0] if names.stacked else count(found, rf"{re.escape(root)}Transformer/encoderblock_(\d+)/"),
        heads=heads,
        head_width=None if heads * head_width == width else head_width,
        mlp_width=shape_of(found, f"{names.block(0)}MlpBlock_{names.mlp}/Dense_0/kernel", 2 + leading)[-1],
        pool="map" if mapped else "token" if class_token else "avg",
        class_token=class_token,
        representation=_outputs(found, f"{root}pre_logits"),
        norm_eps=1e-6,
        activation=_ACTIVATION,
        position_interpolation="bilinear_corners",
    )


def read_preprocess(found: Found, config: ModelConfig) -> "Preprocess | None":
    """Google's: squashed to the model's size, pixels from -1 to 1."""
    half = (0.5, 0.5, 0.5)
    return contract(config, mode="squash", interpolation="bilinear", mean=half, std=half)


def notes(found: Found) -> tuple[str, ...]:
    """What was assumed."""
    config = read_config(found)
    said = [usual_image_note(config)] if config.position == "sincos2d" else []
    if config.pool == "avg":
        said.append("assumed that the patches are averaged: there is neither a class token nor attention pooling")
    return (
        *said,
        "activation gelu_tanh, as Google's own code computes gelu; other libraries compute the exact one with these weights "
        "(--set model.activation=gelu)",
        _PIXELS,
    )


_PIXELS = (
    "pixels as in Google's input pipeline: squashed to the model's size, bilinear, mean and deviation 0.5; where its "
    "published accuracy is that of a crop, give --mode crop --crop-fraction 0.875"
)


def _resnet_notes(found: Found) -> tuple[str, ...]:
    return (
        "assumed images of 224x224, as in pre-training: the file does not tell; what was fine-tuned on ImageNet has 480 "
        "(--set model.image_size=480)",
        _PIXELS,
    )


def _recognises_plain(found: Found) -> bool:
    names = _names(found)
    return names is not None and names.attention == VISION_TRANSFORMER.attention


def _recognises_big_vision(found: Found) -> bool:
    return _names(found) is not None


def _names(found: Found) -> Names | None:
    return None if found.config else names_of(found.shapes)


def _stem(found: Found, root: str) -> dict[str, Any]:
    """Patches cut from the image, or from a ResNet's feature map."""
    name = f"{root}embedding/kernel"
    *sides, channels, _ = shape_of(found, name, 4)
    patch = square_patch(found, name, tuple(sides))
    if f"{root}conv_root/kernel" not in found.shapes:
        return {"patch_size": patch, "channels": channels}
    channels, root_width = shape_of(found, f"{root}conv_root/kernel", 4)[2:]
    if root_width != ROOT_WIDTH:
        raise UserError(
            f"{found.path}: a hybrid of {root_width} channels after conv_root; those of {ROOT_WIDTH} open here"
        )
    staged = any(other.startswith(f"{root}block1/") for other in found.shapes)
    begin = rf"{re.escape(root)}block"
    stages = min(count(found, rf"{begin}(\d+)/unit", 1), MAX_STAGES + 1) if staged else 0  # one more is refused
    layers = tuple(count(found, rf"{begin}{stage + 1}/unit(\d+)/", 1) for stage in range(stages))
    stem = {"stem": "hybrid", "stem_layers": layers}
    return {"patch_size": patch * backbone_stride(layers), "channels": channels, **stem}


def _positions(found: Found, names: Names, patch: int) -> dict[str, Any]:
    """A learned table with or without a row for the class token; or, without one, the computed table."""
    name = f"{names.prefix}{names.positions}"
    if name not in found.shapes:
        return {"image_size": usual_image(patch), "position": "sincos2d", "prefix_positions": False}
    rows, token = shape_of(found, name, 3)[1], int(f"{names.prefix}cls" in found.shapes)
    always = names.positions == VISION_TRANSFORMER.positions  # big_vision added the class token later since 2022
    prefix = token if always or grid_side(rows - token) else 0
    image = square_image(found, name, rows, prefix, patch)
    return {"image_size": image, "prefix_positions": prefix == token}


def _outputs(found: Found, dense: str) -> int | None:
    return shape_of(found, f"{dense}/kernel", 2)[1] if f"{dense}/kernel" in found.shapes else None


def _no_equal(config: Any) -> str | None:
    if not isinstance(config, ViTConfig):
        return "it is not a Vision Transformer"
    if config.activation not in _ACTIVATIONS:
        return f"its activation {config.activation}"
    return other_heads(config) or differs(config, _FIXED)


def _no_equal_plain(config: Any) -> str | None:
    """vision_transformer: a class token with a position, or the mean of patches."""
    if reason := _no_equal(config):
        return reason
    if config.stem not in ("linear", "hybrid"):
        return f"its {config.stem} stem"
    if reason := other_root(config):
        return reason
    if (config.pool, config.class_token) not in (("token", True), ("avg", False)):
        return f"its pool {config.pool} {'with' if config.class_token else 'without'} a class token"
    if config.position != "learned" or (config.class_token and not config.prefix_positions):
        return f"its {config.position} positions" + (
            "" if config.prefix_positions else " without one for the class token"
        )
    return other_positions(config, ("learned",))


def _no_equal_big_vision(config: Any) -> str | None:
    """big_vision: a class token without a position, the mean of patches, or attention pooling."""
    if reason := _no_equal(config) or differs(config, {"stem": "linear"}):
        return reason
    if (config.pool, config.class_token) not in (("token", True), ("avg", False), ("map", False)):
        return f"its pool {config.pool} {'with' if config.class_token else 'without'} a class token"
    if reason := other_positions(config, ("learned", "sincos2d")):
        return reason
    if config.class_token and config.prefix_positions and config.position == "learned":
        return "that its class token has a position"
    return None


_NPZ = "model.npz"

FORMATS = (
    Format(
        "google",
        "google",
        _recognises_plain,
        read_config,
        plain_entries,
        read_preprocess,
        notes=notes,
        excuses=_EXCUSES,
        no_equal=_no_equal_plain,
        weights_file=_NPZ,
    ),
    Format(
        "google big_vision",
        "google",
        _recognises_big_vision,
        read_config,
        big_vision_entries,
        read_preprocess,
        notes=notes,
        excuses=_EXCUSES,
        no_equal=_no_equal_big_vision,
        weights_file=_NPZ,
    ),
    Format(
        "google bit",
        "google",
        google_resnet.recognises,
        google_resnet.read_config,
        google_resnet.entries,
        read_preprocess,
        notes=_resnet_notes,
        excuses=_EXCUSES,
        no_equal=google_resnet.no_equal,
        weights_file=_NPZ,
    ),
)
