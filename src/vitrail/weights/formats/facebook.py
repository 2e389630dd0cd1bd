"""Facebook's DINO, MAE, I-JEPA, DeiT, DeiT III, DINOv2 and DINOv3 as published, both ways: one file of tensors.

A file of timm's names without its ``config.json`` is read here too: DINO, MAE and DeiT have the same.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.model.config import ViTConfig
from vitrail.weights.formats import facebook_names as names
from vitrail.weights.formats.facebook_names import PATCHES, block_name, is_dinov3, read_config
from vitrail.weights.formats.facebook_writing import WRITTEN
from vitrail.weights.formats.format import Format, ModelConfig, Shapes
from vitrail.weights.formats.pixels import CLIP_MEAN, CLIP_STD
from vitrail.weights.formats.shapes import contract, heads_note, usual_image_note
from vitrail.weights.found import Found
from vitrail.weights.names import Entry

_IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_CLIP = {"mean": CLIP_MEAN, "std": CLIP_STD}
_CROP = {**_IMAGENET, "crop_fraction": 0.875, "interpolation": "bicubic"}
_CROP_WORDS = "ImageNet's mean and deviation, bicubic, the crop of 224 from 256"
_OTHERS = "timm's AugReg weights of the same names want mean and deviation 0.5 (--mean 0.5 --std 0.5)"
_LARGE = (518, 518)  # of the table of positions of DINOv2
_OFFSET = (
    "its positions of 518x518 are interpolated to the sides of 224x224; DINOv2's own code adds 0.1 to the sides before "
    "it divides, and so its answers there differ a little"
)

_EXCUSES = {
    "mask_token": "it stands for masked patches in pre-training",
    "decoder_*": "MAE's decoder is for pre-training alone",
    "head.mlp.*": "the projection head of self-supervised training",
    "head.last_layer.*": "the projection head of self-supervised training",
    "dino_head.*": "the projection head of self-supervised training",
    "ibot_head.*": "the projection head of self-supervised training",
    "projectors.*": "the projections of distillation",
    "local_cls_norm.*": "a norm for small crops in training",
    names.PERIODS: f"computed: rotary positions of base {names.ROTARY_BASE:g}, as in every published model",
}


@dataclass(frozen=True)
class _Kind:
    """A family of models: how it is known by its names, and what its files do not say."""

    name: str
    recognises: Callable[[Found], bool]
    pixels: Mapping[str, Any]
    """Of a Preprocess."""
    taken: str
    """What was taken for the pixels and why, in a sentence."""
    entries: Callable[[ModelConfig, Shapes, Shapes], Iterable[Entry]] = names.entries
    origin: str = "facebook"
    evaluated: tuple[int, int] | None = None
    """The size of images in its evaluation, where it is not that of the table of positions."""


def _has(*wanted: str) -> Callable[[Found], bool]:
    return lambda found: any(name in found.shapes for name in wanted)


def _dinov2(found: Found) -> bool:
    shapes, block = found.shapes, block_name(found.shapes, 0)
    if "register_tokens" in shapes or f"{block}mlp.w12.weight" in shapes or block.count(".") > 2:
        return True
    if "mask_token" in shapes:
        return "decoder_embed.weight" not in shapes
    return f"{block}ls1.gamma" in shapes and "reg_token" not in shapes and shapes[PATCHES][-1] == 14


# Asked in this order.
_KINDS = (
    _Kind(
        "facebook dinov3",
        lambda found: is_dinov3(found.shapes),
        {**_IMAGENET, "mode": "squash", "interpolation": "bilinear"},
        "pixels as for DINOv3's LVD-1689M weights (ImageNet's mean and deviation, squashed, bilinear); its SAT-493M weights "
        "want --mean 0.430,0.411,0.296 --std 0.213,0.156,0.143",
        names.dinov3_entries,
    ),
    _Kind(
        "facebook dinov2",
        _dinov2,
        _CROP,
        f"pixels as in DINOv2's evaluation: {_CROP_WORDS}",
        names.dinov2_entries,
        evaluated=(224, 224),
    ),
    _Kind(
        "facebook mae",
        _has("decoder_embed.weight"),
        _CROP,
        f"taken for MAE's pre-training, of which the encoder is kept; pixels as in its evaluation: {_CROP_WORDS}",
    ),
    _Kind(
        "timm tensors",
        lambda found: names.is_timm(found.shapes),
        {**_HALF, "crop_fraction": 0.9, "interpolation": "bicubic"},
        "taken for a model of timm without its config.json; pixels as most of timm's have them (bicubic, the crop of 0.9), "
        "with CLIP's mean and deviation behind a norm before the blocks, 0.5 elsewhere",
        names.deit3_entries,
        "timm",
    ),
    _Kind(
        "facebook deit",
        _has("dist_token"),
        _CROP,
        f"taken for a distilled DeiT; pixels as in its evaluation: {_CROP_WORDS}",
    ),
    _Kind(
        "facebook mae",
        _has("fc_norm.weight"),
        _CROP,
        f"taken for a fine-tuned MAE (a norm after pooling); pixels as in its evaluation: {_CROP_WORDS}",
    ),
    _Kind(
        "facebook deit3",
        lambda found: _has("blocks.0.gamma_1", "blocks.0.ls1.gamma")(found),
        {**_CROP, "crop_fraction": 1.0},
        "taken for DeiT III (LayerScale); pixels as in its evaluation: ImageNet's mean and deviation, bicubic, the whole crop",
        names.deit3_entries,
    ),
    _Kind(
        "facebook i-jepa",
        lambda found: "cls_token" not in found.shapes,
        _CROP,
        f"taken for I-JEPA (no class token): patches are averaged; pixels as in its evaluation: {_CROP_WORDS}; {_OTHERS}",
    ),
    _Kind(
        "facebook",
        lambda found: True,
        _CROP,
        f"taken for DINO, MAE's encoder or DeiT, which have the same names; pixels as in their evaluations: {_CROP_WORDS}; "
        f"{_OTHERS}",
    ),
)


def _recognised(found: Found) -> _Kind | None:
    """The kind of a model that has no configuration beside it, None where it is of other names."""
    shapes = found.shapes if not found.config else {}
    if len(shapes.get(PATCHES, ())) != 4 or f"{block_name(shapes, 0)}attn.qkv.weight" not in shapes:
        return None
    return next(kind for kind in _KINDS if kind.recognises(found))


def _format(kind: _Kind) -> Format:
    def read_preprocess(found: Found, config: ModelConfig) -> Preprocess | None:
        pixels = dict(kind.pixels)
        if isinstance(config, ViTConfig) and config.pre_norm:
            pixels |= _CLIP
        if kind.evaluated and config.image_size == _LARGE:
            pixels["image_size"] = kind.evaluated
        return contract(config, **pixels)

    def notes(found: Found) -> tuple[str, ...]:
        config = read_config(found)
        told = names.PERIODS in found.shapes
        computed = (usual_image_note(config),) if "pos_embed" not in found.shapes else ()
        stretched = kind.evaluated and config.image_size == _LARGE and not config.registers
        return (
            *(() if told else (heads_note(config),)),
            *computed,
            kind.taken,
            *((_OFFSET,) if stretched else ()),
        )

    return Format(
        kind.name,
        kind.origin,
        lambda found: _recognised(found) is kind,
        read_config,
        kind.entries,
        read_preprocess,
        notes=notes,
        excuses=_EXCUSES,
        **WRITTEN.get(kind.name, {}),
    )


FORMATS = tuple(_format(kind) for kind in _KINDS)
