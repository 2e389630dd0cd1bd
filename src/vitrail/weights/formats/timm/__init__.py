"""timm's model folders, both ways: ``config.json`` <-> configuration, labels and pixels, and the tensors that differ.

Most names of tensors are timm's already. What timm's models do and ours do not is refused by its key.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vitrail.model.config import ViTConfig
from vitrail.model.resnet_config import ResNetConfig
from vitrail.weights.formats.format import Documents, Format, ModelConfig, Shapes
from vitrail.weights.formats.timm import config as folder
from vitrail.weights.formats.timm import eva, resnet, vit
from vitrail.weights.formats.timm.architectures import EVA, MODEL, RESNET, Arguments
from vitrail.weights.found import CONFIG, Found
from vitrail.weights.names import Entry, Tensors, entry

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

_EXCUSES = {
    "attn_pool.*": "the head reads the class token or a mean",  # left in the towers of SigLIP that pool otherwise
    "rope.*": "rotary positions are computed",
}
_IMAGENETS = (1000, 11221, 11821, 21841, 21843)  # classes of ImageNet, its 12k and its 21k in their varieties


def no_equal(config: ModelConfig) -> str | None:
    """What keeps timm from opening a model folder of ours as it is, in words; None where nothing does."""
    if (reason := _no_equal(config)) is not None:
        return reason
    if isinstance(config, ResNetConfig):
        return None
    other = eva.named_otherwise(config) if _is_eva(config) else vit.named_otherwise(config)
    return other and f"{other}: `vitrail convert --to timm` writes a folder for it"


def write(config: ModelConfig, labels: Sequence[str], preprocess: "Preprocess | None") -> dict[str, Any]:
    """timm's keys of our ``config.json``; only those that describe no model where ``no_equal`` says why."""
    if no_equal(config) is not None:
        named = {"label_names": list(labels)} if labels else {}
        return {"num_classes": config.classes, "num_features": config.width, **named}
    return _document(config, labels, preprocess, *_describe(config, dinov3=False))


def recognises(found: Found) -> bool:
    """Whether an architecture is named."""
    return "architecture" in found.config


def read_config(found: Found) -> ModelConfig:
    """The configuration that a timm folder describes.

    Raises:
        UserError: an architecture or an argument that has no equal here, by its key.
    """
    args = folder.settings(found.config)
    if args[MODEL] == RESNET:
        return resnet.read(found.config, args)
    return (eva if args[MODEL] == EVA else vit).read(found.config, args)


def read_labels(found: Found) -> tuple[str, ...]:
    """Class names in the order of the logits; empty where the folder has none, or has gaps in them."""
    return folder.label_names(found.config)


def read_preprocess(found: Found, config: ModelConfig) -> "Preprocess | None":
    """The pixel contract that ``pretrained_cfg`` describes, with timm's defaults for what it leaves out.

    None for images that are neither grey nor colour, which no contract covers.

    Raises:
        UserError: what has no equal here, by its key.
    """
    from vitrail.weights.formats.pixels import from_timm

    if config.channels not in (1, 3):
        return None
    cfg, own = dict(folder.pretrained(found.config)), read_config(found).image_size
    whole, fraction = folder.image_size(found.config, folder.settings(found.config)), cfg.get("crop_pct") or 0.875
    scaled = whole != own and whole[0] * own[1] == whole[1] * own[0]
    if scaled and isinstance(fraction, int | float) and 0 < fraction <= 1:
        # images of the same scale, cut to what whole patches cover; a hair less, as sizes are rounded down
        cfg["crop_pct"] = math.nextafter(fraction * own[0] / whole[0], 0)
    return from_timm(cfg, config.image_size, config.channels)


def notes(found: Found) -> tuple[str, ...]:
    """What timm's model does and ours does in a slightly other way."""
    config, whole = read_config(found), folder.image_size(found.config, folder.settings(found.config))
    said = []
    if config.classes in _IMAGENETS and not read_labels(found):
        said.append(
            "its config.json names no classes: outputs are numbered (timm keeps ImageNet's names in the library itself)"
        )
    if config.image_size != whole:
        (height, width), (rows, columns) = whole, config.image_size
        said.append(
            f"timm takes images of {height} x {width}, of which whole patches cover the upper left {rows} x {columns}: "
            "here images are resized alike, and that size is cut from the middle"
        )
    if isinstance(config, ViTConfig) and config.distilled and not config.classes:
        said.append("without heads timm gives the mean of the two tokens, here they stand side by side")
    return tuple(said)


def entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """Our names are timm's, but for LayerScale in older DeiT III, and what Eva names otherwise."""
    return _entries(config, [*ours, *_forced(config)], dinov3=not theirs and _dinov3(config))


def documents(config: ModelConfig, labels: Sequence[str], preprocess: "Preprocess | None") -> Documents:
    """``config.json`` for timm."""
    return {CONFIG: _document(config, labels, preprocess, *_describe(config, _dinov3(config)))}


def before_writing(tensors: Tensors, config: ModelConfig) -> Tensors:
    """The tensors that timm's class has whatever is asked: with values that change no answer.

    A bias of the patch matrix, which timm lacks in front of a norm, goes into the positions of the patches.
    """
    import torch

    tensors = dict(tensors)
    for name in _forced(config):
        width = config.width
        tensors[name] = torch.ones(width) if name.endswith("gamma") else torch.zeros(width)
    if isinstance(config, ViTConfig) and config.pre_norm and config.patch_bias:
        positions = tensors["pos_embed"].clone()
        prefix = config.position_rows - config.grid[0] * config.grid[1]
        positions[:, prefix:] += tensors.pop("patch_embed.proj.bias")
        tensors["pos_embed"] = positions
    return tensors


def _no_equal(config: ModelConfig) -> str | None:
    """What keeps timm from answering as this model under any names."""
    if isinstance(config, ResNetConfig):
        return resnet.no_equal(config)
    return eva.no_equal(config) if _is_eva(config) else vit.no_equal(config)


def _no_equal_with_bias_of_keys(config: ModelConfig) -> str | None:
    return _no_equal(config) if _is_eva(config) else "it is for rotary positions alone"


def _is_eva(config: ModelConfig) -> bool:
    return isinstance(config, ViTConfig) and config.position == "rotary2d"


def _dinov3(config: ModelConfig) -> bool:
    return isinstance(config, ViTConfig) and _is_eva(config) and eva.as_dinov3(config)


def _forced(config: ModelConfig) -> list[str]:
    """Our names of tensors that timm's class has and the model has not."""
    if isinstance(config, ResNetConfig):
        return []
    names = [] if config.patch_bias or config.pre_norm else ["patch_embed.proj.bias"]
    if _is_eva(config) and config.layer_scale is None and config.norm_eps != vit.EPS:
        names += [f"blocks.{block}.ls{branch}.gamma" for block in range(config.depth) for branch in (1, 2)]
    return names


def _entries(config: ModelConfig, ours: Iterable[str], dinov3: bool) -> Iterable[Entry]:
    """As a table for writing, in which the first entry of a tensor counts; for reading, in which they are alternatives."""
    if not _is_eva(config):
        yield from (entry(name, name) for name in ours)
    if isinstance(config, ViTConfig):
        yield from eva.entries(ours, config.gated_mlp, dinov3)


def _describe(config: ModelConfig, dinov3: bool) -> tuple[str, Arguments]:
    if isinstance(config, ResNetConfig):
        return resnet.describe(config)
    return eva.describe(config, dinov3) if _is_eva(config) else vit.describe(config)


def _document(
    config: ModelConfig, labels: Sequence[str], preprocess: "Preprocess | None", architecture: str, args: Arguments
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": config.classes,
        "num_features": config.width,
        "global_pool": args["global_pool"],
    }
    if labels:
        values["label_names"] = list(labels)
    return {**values, "model_args": args, "pretrained_cfg": _pretrained_cfg(config, preprocess)}


def _pretrained_cfg(config: ModelConfig, preprocess: "Preprocess | None") -> dict[str, Any]:
    from vitrail.weights.formats.pixels import to_timm

    pixels = {} if preprocess is None else to_timm(preprocess)
    cfg: dict[str, Any] = {**pixels, "input_size": [config.channels, *config.image_size], "num_classes": config.classes}
    if isinstance(config, ResNetConfig):
        return {**cfg, "pool_size": list(config.grid), "first_conv": "stem.conv", "classifier": "head.fc"}
    first = "patch_embed.proj"
    if config.stem == "hybrid":
        first = "patch_embed.backbone.stem.conv" if config.stem_layers else "patch_embed.backbone.conv"
    head = ["head", "head_dist"] if config.distilled else "head"
    return {**cfg, "fixed_input_size": True, "pool_size": None, "first_conv": first, "classifier": head}


FORMATS = (
    Format(
        "timm",
        "timm",
        recognises,
        read_config,
        entries,
        read_preprocess,
        read_labels,
        notes,
        excuses=_EXCUSES,
        before_writing=before_writing,
        no_equal=_no_equal,
        documents=documents,
    ),
    # Written where the first has no place for a bias of keys, which a model that was trained further here has.
    Format(
        "timm rope",
        "timm",
        lambda found: False,
        read_config,
        lambda config, theirs, ours: _entries(config, [*ours, *_forced(config)], dinov3=False),
        read_preprocess,
        before_writing=before_writing,
        no_equal=_no_equal_with_bias_of_keys,
        documents=lambda config, labels, pixels: {
            CONFIG: _document(config, labels, pixels, *_describe(config, dinov3=False))
        },
    ),
)
