"""transformers' Dinov2 and Dinov2WithRegisters, both ways (Oquab et al., 2024; Darcet et al., 2024).

A classifier reads the class token and the mean of the patches. Its layers have LayerScale; ours without are written with
scales of one, and a head that reads only one of the two is written with zeros for the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from vitrail.model.config import ViTConfig
from vitrail.weights.formats.format import Documents, Format, ModelConfig, Shapes
from vitrail.weights.formats.layouts import without_register_rows
from vitrail.weights.formats.transformers.config import (
    ACTIVATIONS,
    Keys,
    activation_key,
    architecture,
    class_count,
    cut_note,
    difference,
    label_keys,
    labels,
    unknown_note,
    vit_fields,
    vit_keys,
)
from vitrail.weights.formats.transformers.layers import DINOV2, DINOV2_GATED, layers, prefix_in
from vitrail.weights.formats.transformers.pixels import (
    assumed_note,
    imagenet_crop,
    pixel_documents,
    read_pixels,
)
from vitrail.weights.found import CONFIG, Found
from vitrail.weights.names import SAME, Entry, Tensors, entry, module

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

PLAIN, REGISTERS = "dinov2", "dinov2_with_registers"
_STEMS = {PLAIN: "Dinov2", REGISTERS: "Dinov2WithRegisters"}  # of the names of their classes
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4, "hidden_act": "gelu",
    "layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 14, "num_channels": 3, "qkv_bias": True,
    "layerscale_value": 1.0, "use_swiglu_ffn": False,
}  # fmt: skip
_DEFAULTS_OF = {PLAIN: _DEFAULTS, REGISTERS: {**_DEFAULTS, "patch_size": 16, "num_register_tokens": 4}}
# DINOv2's are interpolated as its authors do, those with registers antialiased as theirs do
_INTERPOLATIONS = {PLAIN: "bicubic", REGISTERS: "bicubic_antialias"}
_PROCESSOR = "BitImageProcessor"
_PUBLISHED = imagenet_crop("DINOv2")
_RATIOS = range(1, 65)  # of MLPs, that a configuration of these families can say


def _keys(kind: str, found: Found) -> Keys:
    return Keys(found.document, found.config, _DEFAULTS_OF[kind])


def _classifies(kind: str, found: Found) -> bool:
    stem = _STEMS[kind]
    classifier = f"{stem}ForImageClassification"
    return architecture(found, (f"{stem}Model", classifier, f"{stem}Backbone"), f"{stem}Model") == classifier


def _recognises(kind: str, found: Found) -> bool:
    return found.config.get("model_type") == kind


def _read_config(kind: str, found: Found) -> ViTConfig:
    keys = _keys(kind, found)
    keys.refuse({})
    width, gated = keys.whole("hidden_size"), keys.flag("use_swiglu_ffn")
    hidden = int(width * keys.number("mlp_ratio"))
    classifies = _classifies(kind, found)
    return ViTConfig(
        **{**vit_fields(keys), "position_interpolation": _INTERPOLATIONS[kind]},
        classes=class_count(found.config) if classifies else 0,
        head_width=keys.head_width(),
        mlp_width=_gated_width(hidden) if gated else hidden,
        pool="token_avg" if classifies else "token",
        registers=keys.whole("num_register_tokens") if kind == REGISTERS else 0,
        activation="silu" if gated else keys.choice("hidden_act", ACTIVATIONS),
        gated_mlp=gated,
        qkv_bias=keys.flag("qkv_bias"),
        layer_scale=keys.number("layerscale_value"),
    )


def _gated_width(hidden: int) -> int:
    """Of the two halves of a gated MLP with about as many parameters: two thirds, in multiples of eight."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def _entries(kind: str, config: ViTConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    base = f"{kind}."
    p = prefix_in(theirs, ("", base), "embeddings.cls_token", base if _is_classifier(config) else "")
    class_token, mask_token, registers = (
        f"{p}embeddings.{name}" for name in ("cls_token", "mask_token", "register_tokens")
    )
    positions = SAME
    if kind == REGISTERS:
        from vitrail.weights.formats.transformers.adapt import beside

        positions = without_register_rows(config.registers)
        if not theirs:  # its class has a mask token whatever the configuration says
            yield entry("cls_token", class_token, mask_token, layout=beside((1, config.width)))
        if theirs.get(registers) == (1, 0, config.width):
            yield entry("cls_token", class_token, registers, layout=beside((1, 0, config.width)))
        yield entry("reg_token", registers)
    yield entry("cls_token", class_token)
    yield entry("pos_embed", f"{p}embeddings.position_embeddings", layout=positions)
    yield from module("patch_embed.proj", f"{p}embeddings.patch_embeddings.projection")
    yield from layers(p, config.depth, DINOV2_GATED if config.gated_mlp else DINOV2)
    yield from module("norm", f"{p}layernorm")
    yield from module("head", "classifier")


def _read_preprocess(found: Found, config: ModelConfig) -> "Preprocess | None":
    return read_pixels(found, config, _PROCESSOR, _PUBLISHED)


def _read_labels(kind: str, found: Found) -> tuple[str, ...]:
    return labels(found.config) if _classifies(kind, found) else ()


def _notes(kind: str, found: Found) -> tuple[str, ...]:
    keys = _keys(kind, found)
    return cut_note(keys) + unknown_note(keys, ("head_dim", "use_mask_token")) + assumed_note(found, _PUBLISHED)


def _is_classifier(config: ViTConfig) -> bool:
    """Whether it is written as a classifier, if only to give the features that its head reads."""
    return config.classes > 0 or config.pool == "token_avg"


def _mlp_ratio(config: ViTConfig) -> int | None:
    """The whole number that gives the width of the MLP; None where no number does."""
    for ratio in _RATIOS:
        hidden = config.width * ratio
        if config.mlp_width == (_gated_width(hidden) if config.gated_mlp else hidden):
            return ratio
    return None


def _no_equal(kind: str, config: Any) -> str | None:
    wanted: dict[str, tuple[Any, ...]] = {
        "class_token": (True,),
        "distilled": (False,),
        "representation": (None,),
        "position": ("learned", "sincos2d", "none"),
        "pre_norm": (False,),
        "pool": ("token_avg", "token", "avg"),
    }
    reason = difference(config, wanted)
    if reason is not None:
        return reason
    if (config.registers > 0) != (kind == REGISTERS):
        return f"its {config.registers} registers"
    if config.pool == "avg" and not config.classes:
        return "its average pooling without a head"
    if config.final_norm != "tokens" and (config.final_norm, config.pool) != ("pooled", "token"):
        return f"its final_norm {config.final_norm} with pool {config.pool}"
    if config.gated_mlp and config.activation != "silu":
        return f"its gate of {config.activation}, where it has silu"
    if config.grid[0] != config.grid[1]:
        return f"its grid of {config.grid[0]} x {config.grid[1]} patches, where it has a square one"
    if _mlp_ratio(config) is None:
        return f"its mlp_width {config.mlp_width}, which no whole mlp_ratio gives"
    return None


def _before_writing(state: Tensors, config: Any) -> Tensors:
    from vitrail.weights.formats.transformers import adapt

    state = adapt.fold_register_positions(adapt.plain(state, config), config)
    return adapt.head_on_token_and_average(adapt.unit_layer_scales(state, config), config)


def _documents(kind: str, config: ViTConfig, names: Sequence[str], preprocess: "Preprocess | None") -> Documents:
    classifies = _is_classifier(config)
    values: dict[str, Any] = {
        "architectures": [f"{_STEMS[kind]}{'ForImageClassification' if classifies else 'Model'}"],
        "model_type": kind,
        **vit_keys(config),
        "mlp_ratio": _mlp_ratio(config),
        "hidden_act": "gelu" if config.gated_mlp else activation_key(config),
        "qkv_bias": config.qkv_bias,
        "layerscale_value": 1.0 if config.layer_scale is None else config.layer_scale,
        "use_swiglu_ffn": config.gated_mlp,
        **({"num_register_tokens": config.registers} if kind == REGISTERS else {"use_mask_token": False}),
        **({"head_dim": config.head_width} if config.head_width else {}),
        **(label_keys(config.classes, names) if classifies else {}),
    }
    return {CONFIG: values, **pixel_documents(preprocess, _PROCESSOR)}


_EXCUSES: Mapping[str, str] = {"*embeddings.mask_token": "it stands for masked patches, in training alone"}

FORMATS = tuple(
    Format(
        f"transformers {kind}",
        "transformers",
        partial(_recognises, kind),
        partial(_read_config, kind),
        partial(_entries, kind),
        _read_preprocess,
        read_labels=partial(_read_labels, kind),
        notes=partial(_notes, kind),
        excuses=_EXCUSES,
        before_writing=_before_writing,
        no_equal=partial(_no_equal, kind),
        documents=partial(_documents, kind),
    )
    for kind in (PLAIN, REGISTERS)
)
