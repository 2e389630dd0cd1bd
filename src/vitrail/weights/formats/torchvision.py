"""torchvision's vit_b_16 and its siblings, both ways: one file, which the model's ``load_state_dict`` takes."""

from collections.abc import Iterable, Sequence
from typing import Any

from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.weights.formats.format import Format, ModelConfig, Shapes
from vitrail.weights.formats.layouts import differs, other_heads, other_positions, with_prefix_rows
from vitrail.weights.formats.shapes import (
    contract,
    count,
    heads_note,
    published_heads,
    shape_of,
    square_image,
    square_patch,
)
from vitrail.weights.found import Found
from vitrail.weights.names import Entry, entry, module

_LAYERS = "encoder.layers.encoder_layer_"
_COLOURS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}

# What every VisionTransformer of torchvision has.
_FIXED = {
    "stem": "linear",
    "patch_bias": True,
    "patch_norm": False,
    "channels": 3,
    "pool": "token",
    "distilled": False,
    "registers": 0,
    "pre_norm": False,
    "final_norm": "tokens",
    "norm_eps": 1e-6,
    "activation": "gelu",
    "gated_mlp": False,
    "qkv_bias": True,
    "qk_norm": False,
    "layer_scale": None,
}

# (width, patch size) of the models that have weights at 224 pixels of either kind, or of the second alone
_V1, _LINEAR, _E2E = "IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1", "IMAGENET1K_SWAG_E2E_V1"
_AT_224: dict[tuple[int, int], Sequence[str]] = {
    (768, 16): (_V1, _LINEAR),
    (1024, 16): (_V1, _LINEAR),
    (1280, 14): (_LINEAR,),
}
_RESIZED = {(1024, 16): 242}  # of IMAGENET1K_V1, the side before the crop to 224; 256 for the others


def recognises(found: Found) -> bool:
    """By the names, where no configuration lies beside."""
    return not found.config and "class_token" in found.shapes and "encoder.pos_embedding" in found.shapes


def read_config(found: Found) -> ViTConfig:
    """The configuration that the shapes tell.

    Raises:
        UserError: a convolutional stem, which no published weights have; or shapes that make no model.
    """
    if "conv_proj.conv_last.weight" in found.shapes:
        raise UserError(
            f"{found.path}: a torchvision model with a convolutional stem (conv_stem_configs) has no equal here"
        )
    width, channels, *sides = shape_of(found, "conv_proj.weight", 4)
    patch = square_patch(found, "conv_proj.weight", tuple(sides))
    rows = shape_of(found, "encoder.pos_embedding", 3)[1]
    representation = "heads.pre_logits.weight" in found.shapes
    head = "heads.head.weight" in found.shapes
    mlp = next((name for name in _mlp(f"{_LAYERS}0") if f"{name[0]}.weight" in found.shapes), _mlp(f"{_LAYERS}0")[0])
    return ViTConfig(
        image_size=square_image(found, "encoder.pos_embedding", rows, 1, patch),
        patch_size=patch,
        channels=channels,
        classes=shape_of(found, "heads.head.weight", 2)[0] if head else 0,
        width=width,
        depth=count(found, rf"{_LAYERS.replace('.', '[.]')}(\d+)[.]"),
        heads=published_heads(found, width),
        mlp_width=shape_of(found, f"{mlp[0]}.weight", 2)[0],
        representation=shape_of(found, "heads.pre_logits.weight", 2)[0] if representation else None,
        position_interpolation="bicubic_corners",
        norm_eps=1e-6,
    )


def entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """Every tensor; the MLP of files from before torchvision 0.14 has other names."""
    assert isinstance(config, ViTConfig)
    yield entry("cls_token", "class_token")
    yield entry("pos_embed", "encoder.pos_embedding")
    yield from module("patch_embed.proj", "conv_proj")
    for i in range(config.depth):
        block, layer = f"blocks.{i}", f"{_LAYERS}{i}"
        yield from module(f"{block}.norm1", f"{layer}.ln_1")
        yield entry(f"{block}.attn.qkv.weight", f"{layer}.self_attention.in_proj_weight")
        yield entry(f"{block}.attn.qkv.bias", f"{layer}.self_attention.in_proj_bias")
        yield from module(f"{block}.attn.proj", f"{layer}.self_attention.out_proj")
        yield from module(f"{block}.norm2", f"{layer}.ln_2")
        for first, second in _mlp(layer):
            yield from module(f"{block}.mlp.fc1", first)
            yield from module(f"{block}.mlp.fc2", second)
    yield from module("norm", "encoder.ln")
    yield from module("pre_logits", "heads.pre_logits")
    yield from module("head", "heads.head")


def read_preprocess(found: Found, config: ModelConfig) -> Preprocess | None:
    """The pixel contract of the published weights that the shapes fit."""
    assert isinstance(config, ViTConfig)
    if _published(config)[0] == _V1:
        resized = _RESIZED.get((config.width, config.patch_size), 256)
        return contract(config, crop_fraction=224 / resized, interpolation="bilinear", **_COLOURS)
    return contract(config, crop_fraction=1.0, interpolation="bicubic", **_COLOURS)


def notes(found: Found) -> tuple[str, ...]:
    """What was assumed."""
    config = read_config(found)
    taken, *others = _published(config)
    pixels = f"pixels as {taken} of torchvision has them"
    if others:
        pixels += (
            f": the default there; {others[0]} has the same shapes, with bicubic interpolation and no margin around the "
            "crop (--interpolation bicubic --crop-fraction 1)"
        )
    return heads_note(config), pixels


def no_equal(config: Any) -> str | None:
    """What keeps torchvision from building a configuration, in words; None where nothing does."""
    if not isinstance(config, ViTConfig):
        return "it is not a Vision Transformer"
    if reason := other_positions(config, ("learned", "sincos2d")):
        return reason
    if config.image_size[0] != config.image_size[1]:
        return "its images, which are not square"
    if not config.classes:
        return "that it has no head"
    return other_heads(config) or differs(config, _FIXED)


def _mlp(layer: str) -> tuple[tuple[str, str], ...]:
    """Names of the MLP's two dense layers, now and before torchvision 0.14."""
    return (f"{layer}.mlp.0", f"{layer}.mlp.3"), (f"{layer}.mlp.linear_1", f"{layer}.mlp.linear_2")


def _published(config: ViTConfig) -> Sequence[str]:
    """The published weights that a model of these shapes may have, the one that is taken first."""
    if config.image_size == (224, 224):
        return _AT_224.get((config.width, config.patch_size), (_V1,))
    return (_E2E,) if config.image_size[0] in (384, 512, 518) else (_V1,)


FORMATS = (
    Format(
        "torchvision",
        "torchvision",
        recognises,
        read_config,
        entries,
        read_preprocess,
        notes=notes,
        before_writing=with_prefix_rows,
        no_equal=no_equal,
    ),
)
