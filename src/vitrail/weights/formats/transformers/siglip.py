"""transformers' SigLIP image towers, both ways (Zhai et al., 2023): attention pooling over patches, no class token.

transformers' classifier is another function: it averages the patches, and the attention pooling is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitrail.model.config import ViTConfig
from vitrail.weights.formats.format import Documents, Format, ModelConfig, Shapes
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
    nested,
    unknown_note,
    vit_fields,
    vit_keys,
)
from vitrail.weights.formats.transformers.layers import CLIP, layers, prefix_in
from vitrail.weights.formats.transformers.pixels import Published, assumed_note, pixel_documents, read_pixels
from vitrail.weights.found import CONFIG, Found
from vitrail.weights.names import UNBATCHED, Entry, Layout, Shape, Tensors, entry, module

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.data.preprocess import Preprocess

_WHOLE, _TOWER = "siglip", "siglip_vision_model"
_SIGLIP, _ALONE, _CLASSIFIER = "SiglipModel", "SiglipVisionModel", "SiglipForImageClassification"
_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}  # fmt: skip
_PREFIXES = ("vision_model.", "")
_HEAD = (
    "probe", "attention.in_proj_weight", "attention.in_proj_bias", "attention.out_proj.weight", "attention.out_proj.bias",
    "layernorm.weight", "layernorm.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias",
)  # fmt: skip
_PROCESSOR = "SiglipImageProcessor"
_PUBLISHED = Published("SigLIP", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), mode="squash", crop_fraction=1.0)


def _keys(found: Found) -> Keys:
    return Keys(found.document, nested(found), _DEFAULTS)


def _class(found: Found) -> str:
    whole = found.config.get("model_type") == _WHOLE
    return architecture(found, (_ALONE, _SIGLIP, _CLASSIFIER), _SIGLIP if whole else _ALONE)


def _recognises(found: Found) -> bool:
    return found.config.get("model_type") in (_WHOLE, _TOWER)


def _read_config(found: Found) -> ViTConfig:
    keys, classifies = _keys(found), _class(found) == _CLASSIFIER
    keys.refuse({})
    return ViTConfig(
        **vit_fields(keys),
        classes=class_count(found.config) if classifies else 0,
        mlp_width=keys.whole("intermediate_size"),
        pool="map" if keys.flag("vision_use_head") and not classifies else "avg",
        class_token=False,
        activation=keys.choice("hidden_act", ACTIVATIONS),
    )


def _part(first: int, last: int) -> Layout:
    """Some thirds of one matrix of queries, keys and values, which is written whole."""

    def to_ours(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
        third = len(tensors[0]) // 3
        return tensors[0][first * third : last * third].clone()

    return Layout(to_ours, lambda tensor: [tensor])


def _entries(config: Any, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    p = prefix_in(theirs, _PREFIXES, "embeddings.patch_embedding.weight", "vision_model.")
    yield entry("pos_embed", f"{p}embeddings.position_embedding.weight", layout=UNBATCHED)
    yield from module("patch_embed.proj", f"{p}embeddings.patch_embedding")
    yield from layers(p, config.depth, CLIP)
    yield from module("norm", f"{p}post_layernorm")
    yield entry("attn_pool.latent", f"{p}head.probe")
    for part in ("weight", "bias"):
        together = f"{p}head.attention.in_proj_{part}"
        yield entry(f"attn_pool.q.{part}", together, layout=_part(0, 1))
        yield entry(f"attn_pool.kv.{part}", together, layout=_part(1, 3))
        yield entry(f"attn_pool.qkv.{part}", together)  # as they are brought together for writing
    yield from module("attn_pool.proj", f"{p}head.attention.out_proj")
    yield from module("attn_pool.norm", f"{p}head.layernorm")
    for name in ("fc1", "fc2"):
        yield from module(f"attn_pool.mlp.{name}", f"{p}head.mlp.{name}")
    yield from module("head", "classifier")


def _read_preprocess(found: Found, config: ModelConfig) -> "Preprocess | None":
    return read_pixels(found, config, _PROCESSOR, _PUBLISHED)


def _read_labels(found: Found) -> tuple[str, ...]:
    return labels(found.config) if _class(found) == _CLASSIFIER else ()


def _notes(found: Found) -> tuple[str, ...]:
    keys = _keys(found)
    said = ("of SigLIP's two towers this is the one for images",) if _class(found) == _SIGLIP else ()
    return said + cut_note(keys) + unknown_note(keys, (), found.config) + assumed_note(found, _PUBLISHED)


def _no_equal(config: Any) -> str | None:
    wanted: dict[str, tuple[Any, ...]] = {
        "pool": ("map", "avg"),
        "class_token": (False,),
        "registers": (0,),
        "distilled": (False,),
        "representation": (None,),
        "position": ("learned", "sincos2d", "none"),
        "pre_norm": (False,),
        "final_norm": ("tokens",),
        "gated_mlp": (False,),
        "qkv_bias": (True,),
        "layer_scale": (None,),
        "head_width": (None,),
    }
    reason = difference(config, wanted)
    if reason is not None:
        return reason
    if config.grid[0] != config.grid[1]:
        return f"its grid of {config.grid[0]} x {config.grid[1]} patches, where it has a square one"
    if config.pool == "map" and config.classes:
        return "its head after attention pooling"
    # average pooling alone is I-JEPA's too, which has fewer keys: SigLIP is written where it was meant
    return difference(config, {"activation": ("gelu_tanh",)}) if config.pool == "avg" else None


def _before_writing(state: Tensors, config: Any) -> Tensors:
    import torch

    from vitrail.weights.formats.transformers.adapt import plain

    state = dict(plain(state, config))
    if config.pool == "map":
        for part in ("weight", "bias"):
            q, kv = state.pop(f"attn_pool.q.{part}"), state.pop(f"attn_pool.kv.{part}")
            state[f"attn_pool.qkv.{part}"] = torch.cat([q, kv])
    return state


def _documents(config: Any, names: Sequence[str], preprocess: "Preprocess | None") -> Documents:
    tower = {
        "model_type": _TOWER,
        **vit_keys(config),
        "intermediate_size": config.mlp_width,
        "hidden_act": activation_key(config),
        "vision_use_head": config.pool == "map",
    }
    if not config.classes:
        values = {"architectures": [_ALONE], **tower}
    else:
        kind = {"architectures": [_CLASSIFIER], "model_type": _WHOLE}
        values = {**kind, "vision_config": tower, **label_keys(config.classes, names)}
    return {CONFIG: values, **pixel_documents(preprocess, _PROCESSOR)}


FORMATS = (
    Format(
        "transformers siglip",
        "transformers",
        _recognises,
        _read_config,
        _entries,
        _read_preprocess,
        read_labels=_read_labels,
        notes=_notes,
        excuses={
            "text_model.*": "the tower for texts",
            "logit_scale": "it scales similarities of images and texts",
            "logit_bias": "it shifts similarities of images and texts",
            "*embeddings.position_ids": "numbers from 0 up, in older files",
            **{f"{p}head.{name}": "the patches are averaged instead" for p in _PREFIXES for name in _HEAD},
        },
        before_writing=_before_writing,
        no_equal=_no_equal,
        documents=_documents,
    ),
)
