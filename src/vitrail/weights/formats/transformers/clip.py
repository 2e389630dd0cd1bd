"""transformers' CLIP image towers, both ways (Radford et al., 2021): alone, with the projection, or in a whole CLIP.

The projection into the space shared with texts is our head; it has no bias. transformers' classifier is another function:
it averages the patches and has no norm after the last block.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitrail.model.config import ViTConfig
from vitrail.weights.formats.format import Documents, Format, ModelConfig, Shapes
from vitrail.weights.formats.pixels import CLIP_MEAN, CLIP_STD
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
from vitrail.weights.names import UNBATCHED, Entry, Tensors, entry, module, reshaped, zeros

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

_WHOLE, _TOWER = "clip", "clip_vision_model"
_CLIP, _ALONE, _PROJECTED, _CLASSIFIER = (
    "CLIPModel",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
    "CLIPForImageClassification",
)
_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "projection_dim": 512, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}  # fmt: skip
_OLDER = ("vision_config_dict", "text_config_dict")
_PROCESSOR = "CLIPImageProcessor"
_PUBLISHED = Published("CLIP", CLIP_MEAN, CLIP_STD, mode="crop", crop_fraction=1.0)
_VECTOR = reshaped(lambda tensor: tensor[None, None], lambda tensor: tensor[0, 0])  # (D,) and (1, 1, D)


def _keys(found: Found) -> Keys:
    return Keys(found.document, nested(found, _DEFAULTS), _DEFAULTS)


def _class(found: Found) -> str:
    whole = found.config.get("model_type") == _WHOLE
    return architecture(found, (_ALONE, _PROJECTED, _CLIP, _CLASSIFIER), _CLIP if whole else _ALONE)


def _recognises(found: Found) -> bool:
    return found.config.get("model_type") in (_WHOLE, _TOWER)


def _read_config(found: Found) -> ViTConfig:
    keys, named = _keys(found), _class(found)
    keys.refuse({})
    classifies = named == _CLASSIFIER
    shared = Keys(found.document, found.config, _DEFAULTS) if named == _CLIP else keys
    classes = {_ALONE: 0, _CLASSIFIER: class_count(found.config)}
    return ViTConfig(
        **vit_fields(keys),
        classes=classes[named] if named in classes else shared.whole("projection_dim"),
        mlp_width=keys.whole("intermediate_size"),
        pool="avg" if classifies else "token",
        pre_norm=True,
        final_norm="none" if classifies else "tokens",
        patch_bias=False,
        activation=keys.choice("hidden_act", ACTIVATIONS),
    )


def _entries(config: Any, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    p = prefix_in(theirs, ("vision_model.", ""), "embeddings.class_embedding", "vision_model.")
    yield entry("cls_token", f"{p}embeddings.class_embedding", layout=_VECTOR)
    yield entry("pos_embed", f"{p}embeddings.position_embedding.weight", layout=UNBATCHED)
    yield entry("patch_embed.proj.weight", f"{p}embeddings.patch_embedding.weight")
    if config.final_norm == "none" and not theirs:
        from vitrail.weights.formats.transformers.adapt import beside

        for part, value in (("weight", 1.0), ("bias", 0.0)):  # the classifier has this norm, and does not use it
            both = f"{p}pre_layrnorm.{part}", f"{p}post_layernorm.{part}"
            yield entry(f"norm_pre.{part}", *both, layout=beside((config.width,), value=value))
    yield from module("norm_pre", f"{p}pre_layrnorm")
    yield from layers(p, config.depth, CLIP)
    yield from module("norm", f"{p}post_layernorm")
    if config.final_norm == "none":
        yield from module("head", "classifier")
    else:
        yield entry("head.weight", "visual_projection.weight")
        yield entry("head.bias", layout=zeros("a bias on its head"))


def _read_preprocess(found: Found, config: ModelConfig) -> "Preprocess | None":
    return read_pixels(found, config, _PROCESSOR, _PUBLISHED)


def _read_labels(found: Found) -> tuple[str, ...]:
    return labels(found.config) if _class(found) == _CLASSIFIER else ()


def _notes(found: Found) -> tuple[str, ...]:
    keys, named = _keys(found), _class(found)
    said = {
        _CLIP: ("of CLIP's two towers this is the one for images, its head the projection into the shared space",),
        _PROJECTED: ("its head is the projection into the space shared with texts: its outputs are no classes",),
    }
    return (
        said.get(named, ())
        + cut_note(keys)
        + unknown_note(keys, _OLDER, found.config)
        + assumed_note(found, _PUBLISHED)
    )


def _no_equal(config: Any) -> str | None:
    wanted: dict[str, tuple[Any, ...]] = {
        "pre_norm": (True,),
        "class_token": (True,),
        "distilled": (False,),
        "registers": (0,),
        "representation": (None,),
        "position": ("learned", "sincos2d", "none"),
        "patch_bias": (False,),
        "gated_mlp": (False,),
        "layer_scale": (None,),
        "head_width": (None,),
        "pool": ("token", "avg"),
    }
    reason = difference(config, wanted)
    if reason is not None:
        return reason
    if config.grid[0] != config.grid[1]:
        return f"its grid of {config.grid[0]} x {config.grid[1]} patches, where it has a square one"
    if config.pool == "avg" and not config.classes:
        return "its average pooling without a head"
    norms = ("none",) if config.pool == "avg" else ("tokens", "pooled")
    return difference(config, {"final_norm": norms})


def _before_writing(state: Tensors, config: Any) -> Tensors:
    from vitrail.weights.formats.transformers import adapt

    return adapt.with_qkv_bias(adapt.on_tokens(adapt.full_positions(state, config), config), config)


def _documents(config: Any, names: Sequence[str], preprocess: "Preprocess | None") -> Documents:
    tower = {
        **vit_keys(config),
        "intermediate_size": config.mlp_width,
        "hidden_act": activation_key(config),
    }
    if config.pool == "avg":
        kind = {"architectures": [_CLASSIFIER], "model_type": _WHOLE}
        values = {**kind, "vision_config": {"model_type": _TOWER, **tower}, **label_keys(config.classes, names)}
    elif config.classes:
        kind = {"architectures": [_PROJECTED], "model_type": _TOWER}
        values = {**kind, **tower, "projection_dim": config.classes}
    else:
        values = {"architectures": [_ALONE], "model_type": _TOWER, **tower}
    return {CONFIG: values, **pixel_documents(preprocess, _PROCESSOR)}


FORMATS = (
    Format(
        "transformers clip",
        "transformers",
        _recognises,
        _read_config,
        _entries,
        _read_preprocess,
        read_labels=_read_labels,
        notes=_notes,
        excuses={
            "text_model.*": "the tower for texts",
            "text_projection.*": "of the tower for texts",
            "logit_scale": "it scales similarities of images and texts",
            "*embeddings.position_ids": "numbers from 0 up, in older files",
            "*post_layernorm.*": "the classifier does not use it",
        },
        before_writing=_before_writing,
        no_equal=_no_equal,
        documents=_documents,
    ),
)
