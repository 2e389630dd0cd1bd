"""transformers' ViT and those of its shape: DeiT, ViT-MAE's encoder, ViT-MSN and I-JEPA, the last without a class token.

ViT, DeiT and I-JEPA are written too; an encoder of ViT-MAE or ViT-MSN is written as the ViT that it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
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
    unknown_note,
    vit_fields,
    vit_keys,
)
from vitrail.weights.formats.transformers.layers import VIT, layers, prefix_in
from vitrail.weights.formats.transformers.pixels import (
    Published,
    assumed_note,
    imagenet_crop,
    pixel_documents,
    read_pixels,
)
from vitrail.weights.found import CONFIG, Found
from vitrail.weights.names import Entry, Tensors, entry, module

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3,
    "qkv_bias": True, "pooler_act": "tanh",
}  # fmt: skip
_UNREAD = ("head_dim", "pooler_output_size", "decoder_hidden_size", "decoder_intermediate_size", "mask_ratio",
           "decoder_num_attention_heads", "decoder_num_hidden_layers", "norm_pix_loss")  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    """What makes one family differ from the others."""

    model_type: str
    models: tuple[str, ...]
    """Classes of transformers without a head, the plainest first."""
    classifiers: tuple[str, ...]
    prefix: str
    """Before the encoder's names, in models that have anything else."""
    published: Published | None = None
    defaults: Mapping[str, Any] = field(default_factory=lambda: _DEFAULTS)
    class_token: bool = True
    distillation_token: bool = False
    processor: str = "ViTImageProcessor"
    written: bool = True

    @property
    def pooled(self) -> tuple[str, ...]:
        """Classes that may have a pooler, which is our representation layer."""
        return self.models[:1]


_KINDS = (
    _Kind("vit", ("ViTModel", "ViTForMaskedImageModeling"), ("ViTForImageClassification",), "vit."),
    _Kind(
        "deit",
        ("DeiTModel", "DeiTForMaskedImageModeling"),
        ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
        "deit.",
        imagenet_crop("DeiT"),
        distillation_token=True,
        processor="DeiTImageProcessor",
    ),
    _Kind("vit_mae", ("ViTMAEModel", "ViTMAEForPreTraining"), (), "vit.", imagenet_crop("MAE"), written=False),
    _Kind(
        "vit_msn",
        ("ViTMSNModel",),
        ("ViTMSNForImageClassification",),
        "vit.",
        imagenet_crop("MSN"),
        defaults={**_DEFAULTS, "layer_norm_eps": 1e-6},
        written=False,
    ),
    _Kind(
        "ijepa", ("IJepaModel",), ("IJepaForImageClassification",), "ijepa.", imagenet_crop("I-JEPA"), class_token=False
    ),
)


def _keys(kind: _Kind, found: Found) -> Keys:
    return Keys(found.document, found.config, kind.defaults)


def _class(kind: _Kind, found: Found) -> str:
    return architecture(found, (*kind.models, *kind.classifiers), kind.models[0])


def _recognises(kind: _Kind, found: Found) -> bool:
    return found.config.get("model_type") == kind.model_type


def _read_config(kind: _Kind, found: Found) -> ViTConfig:
    keys, named = _keys(kind, found), _class(kind, found)
    keys.refuse({})
    distilled = named.endswith("WithTeacher")
    return ViTConfig(
        **vit_fields(keys),
        classes=class_count(found.config) if named in kind.classifiers else 0,
        head_width=keys.head_width(),
        mlp_width=keys.whole("intermediate_size"),
        pool="token" if kind.class_token else "avg",
        class_token=kind.class_token,
        distilled=distilled,
        registers=int(kind.distillation_token and not distilled),
        representation=_representation(kind, keys, found) if named in kind.pooled else None,
        activation=keys.choice("hidden_act", ACTIVATIONS),
        qkv_bias=keys.flag("qkv_bias"),
    )


def _representation(kind: _Kind, keys: Keys, found: Found) -> int | None:
    """Width of the pooler, which a file may or may not have."""
    if not any(f"{prefix}pooler.dense.weight" in found.shapes for prefix in ("", kind.prefix)):
        return None
    keys.refuse({"pooler_act": ("tanh",)})
    return keys.whole("pooler_output_size" if keys["pooler_output_size"] else "hidden_size")


def _entries(kind: _Kind, config: ViTConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    written = kind.prefix if config.classes else ""
    p = prefix_in(theirs, ("", kind.prefix), "embeddings.position_embeddings", written)
    yield entry("cls_token", f"{p}embeddings.cls_token")
    yield entry("dist_token" if config.distilled else "reg_token", f"{p}embeddings.distillation_token")
    yield entry("pos_embed", f"{p}embeddings.position_embeddings")
    yield from module("patch_embed.proj", f"{p}embeddings.patch_embeddings.projection")
    yield from layers(p, config.depth, VIT)
    if p:  # ViT-MSN's classifier, as transformers 5 saves it
        yield from layers("", config.depth, VIT)
    yield from module("norm", f"{p}layernorm")
    yield from module("pre_logits", f"{p}pooler.dense")
    yield from module("head", "cls_classifier" if config.distilled else "classifier")
    yield from module("head_dist", "distillation_classifier")


def _read_preprocess(kind: _Kind, found: Found, config: ModelConfig) -> "Preprocess | None":
    return read_pixels(found, config, kind.processor, kind.published)


def _read_labels(kind: _Kind, found: Found) -> tuple[str, ...]:
    return labels(found.config) if _class(kind, found) in kind.classifiers else ()


def _notes(kind: _Kind, found: Found) -> tuple[str, ...]:
    keys, named = _keys(kind, found), _class(kind, found)
    said: tuple[str, ...] = ()
    if kind.distillation_token and not named.endswith("WithTeacher"):
        said = ("its distillation token is a register here: the class token alone is read",)
    elif not kind.class_token and named in kind.models:
        said = ("its features are the mean of the patches: the model itself pools none",)
    return said + cut_note(keys) + unknown_note(keys, _UNREAD) + assumed_note(found, kind.published)


def _no_equal(kind: _Kind, config: Any) -> str | None:
    wanted: dict[str, tuple[Any, ...]] = {
        "pool": ("token",) if kind.class_token else ("avg",),
        "class_token": (kind.class_token,),
        "position": ("learned", "sincos2d", "none"),
        "pre_norm": (False,),
        "gated_mlp": (False,),
        "layer_scale": (None,),
        "final_norm": ("tokens", "pooled") if kind.class_token else ("tokens",),
    }
    reason = difference(config, wanted)
    if reason is not None:
        return reason
    if config.registers + config.distilled != kind.distillation_token:
        return f"its {config.registers} registers{' and its distillation token' if config.distilled else ''}"
    if config.distilled and not config.classes:
        return "its distillation token without heads"
    if config.representation and (config.classes or not kind.class_token):
        return "its representation layer before a head"
    return None


def _before_writing(state: Tensors, config: Any) -> Tensors:
    from vitrail.weights.formats.transformers.adapt import plain

    return plain(state, config)


def _documents(kind: _Kind, config: ViTConfig, names: Sequence[str], preprocess: "Preprocess | None") -> Documents:
    values: dict[str, Any] = {
        "architectures": [kind.classifiers[config.distilled] if config.classes else kind.models[0]],
        "model_type": kind.model_type,
        **vit_keys(config),
        "intermediate_size": config.mlp_width,
        "hidden_act": activation_key(config),
        "qkv_bias": config.qkv_bias,
        **({"pooler_output_size": config.representation, "pooler_act": "tanh"} if config.representation else {}),
        **({"head_dim": config.head_width} if config.head_width else {}),
        **(label_keys(config.classes, names) if config.classes else {}),
    }
    return {CONFIG: values, **pixel_documents(preprocess, kind.processor)}


_EXCUSES: Mapping[str, str] = {
    "*embeddings.mask_token": "it stands for masked patches, in training alone",
    "decoder.*": "the decoder of pre-training gives no features",
    "*pooler.dense.*": "its class does not pool, or not here",
}


def _format(kind: _Kind) -> Format:
    return Format(
        f"transformers {kind.model_type}",
        "transformers",
        partial(_recognises, kind),
        partial(_read_config, kind),
        partial(_entries, kind),
        partial(_read_preprocess, kind),
        read_labels=partial(_read_labels, kind),
        notes=partial(_notes, kind),
        excuses=_EXCUSES,
        before_writing=_before_writing,
        no_equal=partial(_no_equal, kind) if kind.written else None,
        documents=partial(_documents, kind),
    )


FORMATS = tuple(_format(kind) for kind in _KINDS if kind.class_token)
WITHOUT_CLASS_TOKEN = tuple(_format(kind) for kind in _KINDS if not kind.class_token)
