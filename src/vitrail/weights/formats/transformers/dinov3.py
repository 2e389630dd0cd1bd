"""transformers' DINOv3 Vision Transformers, both ways (Siméoni et al., 2025): rotary positions, LayerScale, registers.

Queries, keys and values have a bias each or none; where one has none while others have, ours is zero.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.model.config import ViTConfig
from vitrail.weights.formats.format import Documents, Format, ModelConfig, Shapes
from vitrail.weights.formats.transformers.config import (
    ACTIVATIONS,
    Keys,
    activation_key,
    architecture,
    cut_note,
    difference,
    unknown_note,
    vit_fields,
    vit_keys,
)
from vitrail.weights.formats.transformers.layers import DINOV3, DINOV3_GATED, LayerNames, layers
from vitrail.weights.formats.transformers.pixels import (
    Published,
    assumed_note,
    pixel_documents,
    read_pixels,
)
from vitrail.weights.found import CONFIG, Found
from vitrail.weights.names import Entry, Tensors, entry, module, zeros

_CLASSES = ("DINOv3ViTModel", "DINOv3ViTBackbone")
_DEFAULTS: Mapping[str, Any] = {
    "patch_size": 16, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12,
    "num_attention_heads": 6, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rope_theta": 100.0, "image_size": 224,
    "num_channels": 3, "query_bias": True, "key_bias": False, "value_bias": True, "proj_bias": True, "mlp_bias": True,
    "layerscale_value": 1.0, "use_gated_mlp": False, "num_register_tokens": 0,
}  # fmt: skip
_OF_TRAINING = ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale", "return_class_token")
_PROCESSOR = "DINOv3ViTImageProcessor"
_PUBLISHED = Published("DINOv3", IMAGENET_MEAN, IMAGENET_STD, "squash", 1.0, "bilinear")
_BIASES = ("query_bias", "key_bias", "value_bias")


def _keys(found: Found) -> Keys:
    return Keys(found.document, found.config, _DEFAULTS)


def _recognises(found: Found) -> bool:
    return found.config.get("model_type") == "dinov3_vit"


def _read_config(found: Found) -> ViTConfig:
    keys = _keys(found)
    architecture(found, _CLASSES, _CLASSES[0])
    keys.refuse({})
    return ViTConfig(
        **vit_fields(keys),
        classes=0,
        mlp_width=keys.whole("intermediate_size"),
        registers=keys.whole("num_register_tokens"),
        position="rotary2d",
        rotary_base=keys.number("rope_theta"),
        activation=keys.choice("hidden_act", ACTIVATIONS),
        gated_mlp=keys.flag("use_gated_mlp"),
        qkv_bias=any(keys.flag(key) for key in _BIASES),
        layer_scale=keys.number("layerscale_value"),
    )


def _entries(config: Any, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    from vitrail.weights.formats.transformers.adapt import beside

    class_token, mask_token, registers = (
        f"embeddings.{name}" for name in ("cls_token", "mask_token", "register_tokens")
    )
    if not theirs and not config.registers:  # its class has both whatever the configuration says
        width = config.width
        yield entry("cls_token", class_token, mask_token, registers, layout=beside((1, 1, width), (1, 0, width)))
    if not theirs:
        yield entry("cls_token", class_token, mask_token, layout=beside((1, 1, config.width)))
    if theirs.get(registers) == (1, 0, config.width):
        yield entry("cls_token", class_token, registers, layout=beside((1, 0, config.width)))
    yield entry("cls_token", class_token)
    yield entry("reg_token", registers)
    yield from module("patch_embed.proj", "embeddings.patch_embeddings")
    spellings = DINOV3_GATED if config.gated_mlp else DINOV3
    yield from layers("", config.depth, spellings)
    yield from _without_some_biases(spellings, config.depth, theirs)
    yield from module("norm", "norm")


def _without_some_biases(spellings: Sequence[LayerNames], depth: int, theirs: Shapes) -> Iterable[Entry]:
    """Entries for a file in which no layer has some of the biases that all of ours have."""
    from vitrail.weights.formats.transformers.adapt import some_of_qkv

    endings = {
        name.partition(".attention.")[2] or name.rpartition(".mlp.")[2] for name in theirs if name.endswith("bias")
    }
    for names in spellings if theirs else ():
        *qkv, proj = (name.removeprefix("attention.") + ".bias" for name in names.attention)
        present = [name in endings for name in qkv]
        for index in range(depth):
            block, layer = f"blocks.{index}", names.layer.format(index)
            if any(present):
                some = (f"{layer}.attention.{name}" for name, there in zip(qkv, present, strict=True) if there)
                yield entry(f"{block}.attn.qkv.bias", *some, layout=some_of_qkv(present))
            if proj not in endings:
                yield entry(f"{block}.attn.proj.bias", layout=zeros("a bias behind attention"))
            if "down_proj.bias" not in endings:
                yield entry(f"{block}.mlp.fc1.bias", layout=zeros("a bias in its MLP"))
                yield entry(f"{block}.mlp.fc2.bias", layout=zeros("a bias in its MLP"))


def _read_preprocess(found: Found, config: ModelConfig) -> Preprocess | None:
    return read_pixels(found, config, _PROCESSOR, _PUBLISHED)


def _notes(found: Found) -> tuple[str, ...]:
    keys = _keys(found)
    return cut_note(keys) + unknown_note(keys, _OF_TRAINING) + assumed_note(found, _PUBLISHED)


def _no_equal(config: Any) -> str | None:
    wanted: dict[str, tuple[Any, ...]] = {
        "position": ("rotary2d",),
        "classes": (0,),
        "class_token": (True,),
        "distilled": (False,),
        "representation": (None,),
        "pool": ("token",),
        "pre_norm": (False,),
        "final_norm": ("tokens", "pooled"),
        "head_width": (None,),
    }
    return difference(config, wanted)


def _before_writing(state: Tensors, config: Any) -> Tensors:
    from vitrail.weights.formats.transformers import adapt

    return adapt.unit_layer_scales(adapt.on_tokens(adapt.with_patch_bias(state, config), config), config)


def _documents(config: Any, names: Sequence[str], preprocess: Preprocess | None) -> Documents:
    values = {
        "architectures": [_CLASSES[0]],
        "model_type": "dinov3_vit",
        **vit_keys(config),
        "intermediate_size": config.mlp_width,
        "hidden_act": activation_key(config),
        "rope_theta": config.rotary_base,
        **dict.fromkeys(_BIASES, config.qkv_bias),
        "layerscale_value": 1.0 if config.layer_scale is None else config.layer_scale,
        "use_gated_mlp": config.gated_mlp,
        "num_register_tokens": config.registers,
    }
    return {CONFIG: values, **pixel_documents(preprocess, _PROCESSOR)}


FORMATS = (
    Format(
        "transformers dinov3_vit",
        "transformers",
        _recognises,
        _read_config,
        _entries,
        _read_preprocess,
        notes=_notes,
        excuses={
            "embeddings.mask_token": "it stands for masked patches, in training alone",
            "rope_embeddings.*": "computed from the configuration",
        },
        before_writing=_before_writing,
        no_equal=_no_equal,
        documents=_documents,
    ),
)
