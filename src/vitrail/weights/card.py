"""The model card: README.md of a model folder, saying what the model is, what it expects and how to use it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vitrail.model import RESNETS, VARIANTS, ModelConfig, ResNetConfig, ViTConfig
from vitrail.model.config import POSITION_SITES
from vitrail.model.cost import Cost, readable
from vitrail.model.resnet_config import ROOT_WIDTH
from vitrail.weights.formats import timm

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

_LABELS_SHOWN = 100
_TIMMS = "bicubic_antialias"  # how timm interpolates learned positions, which its folders cannot say otherwise


def model_card(
    config: ModelConfig,
    labels: Sequence[str],
    preprocess: "Preprocess | None",
    metrics: Mapping[str, object],
    *,
    name: str,
) -> str:
    """Markdown with the Hub's front matter. The licence is left to the person who publishes the model."""
    opens_in_timm = timm.no_equal(config) is None
    kind = "resnet" if isinstance(config, ResNetConfig) else "vision-transformer"
    tags = [kind, "vitrail", *(["timm"] if opens_in_timm else [])]
    front = [
        "---",
        "pipeline_tag: image-classification",
        f"library_name: {'timm' if opens_in_timm else 'vitrail'}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "# license: yours to choose; it must agree with that of the training data",
        "---",
    ]
    parts = [
        "\n".join(front),
        f"# {name}\n\n{_what(config)}",
        _labels(labels),
        _pixels(preprocess),
        _measured(metrics),
        _use(config),
        "## Limits\n\nIt knows only the classes above: an image of anything else also gets one of these labels. "
        "It has been evaluated on nothing but what is stated here.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_POOLING = {
    "token": "class token",
    "avg": "average pooling",
    "token_avg": "class token and average pooling",
    "map": "attention pooling",
}
_POSITIONS = {
    "learned": "learned positions",
    "learned2d": "learned 2-D positions",
    "sincos2d": "sin-cos 2-D positions",
    "relative": "relative positions",
    "relative_bias": "relative position biases",
    "rotary2d": "rotary 2-D positions",
    "none": "no positions",
}
# said where it is not the usual place of the kind
_SITES = {"stem": "at the stem", "layers": "in each block", "shared": "shared by the blocks"}


def architecture(config: ModelConfig) -> str:
    """A configuration in a few words: the variant's name, or its sizes, then what is not the paper's default."""
    if isinstance(config, ResNetConfig):
        return _resnet(config)
    keys = ("width", "depth", "heads", "mlp_width")
    shape = [getattr(config, key) for key in keys]
    named = [name.split("/")[0] for name, values in VARIANTS.items() if [values[key] for key in keys] == shape]
    words = [
        f"ViT-{named[0]}/{config.patch_size}"
        if named
        else f"ViT with patches of {config.patch_size}x{config.patch_size}"
    ]
    words.append(f"width {config.width}, depth {config.depth}, heads {config.heads}, MLP {config.mlp_width}")
    if config.stem == "hybrid":
        words.append(f"hybrid stem of {list(config.stem_layers) or 'one convolution'}")
        words += ["root for small images"] if config.stem_root == "small" else []
        words += [f"root of {config.stem_width} channels"] if config.backbone.root_width != ROOT_WIDTH else []
    elif config.stem != "linear":
        words.append(f"{config.stem} stem")
    words.append(_POOLING[config.pool])
    if config.registers:
        words.append(f"{config.registers} registers")
    if config.position != "learned" or config.site != "stem":
        usual = config.site in (None, *POSITION_SITES[config.position][:1])
        words.append(_POSITIONS[config.position] + ("" if usual else f" {_SITES[config.site or 'stem']}"))
    switches = {
        "distillation token": config.distilled,
        "norms around the patches": config.patch_norm,
        "norm before the blocks": config.pre_norm,
        "norm after pooling": config.final_norm == "pooled",
        "no last norm": config.final_norm == "none",
        "gated MLP": config.gated_mlp,
        "norms of queries and keys": config.qk_norm,
        "LayerScale": config.layer_scale is not None,
    }
    words += [name for name, there in switches.items() if there]
    if config.representation is not None:
        words.append(f"representation layer {config.representation}")
    return ", ".join(words)


def _resnet(config: ResNetConfig) -> str:
    named = [n for n, values in RESNETS.items() if all(getattr(config, key) == value for key, value in values.items())]
    size = named[0] if named else f"of {list(config.layers)} units, width factor {config.width_factor}"
    words = [f"BiT ResNet-v2 {size}"]
    words += [f"root width {config.root_width}"] if config.root_width != ROOT_WIDTH else []
    words += ["stem for small images"] if config.stem == "small" else []
    return ", ".join(words)


def _what(config: ModelConfig) -> str:
    cost, (h, w) = Cost(config), config.image_size
    kind, seen = "Vision Transformer", f" as {config.tokens} tokens" if isinstance(config, ViTConfig) else ""
    if isinstance(config, ResNetConfig):
        kind = "residual network"
    return (
        f"A {kind} for image classification: {architecture(config)}. "
        f"It reads images of {h} x {w} pixels{seen} and has {cost.parameters:,} parameters; "
        f"one image takes {readable(cost.flops, 'FLOPs')}."
    )


def _labels(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    shown = ", ".join(f"`{label}`" for label in labels[:_LABELS_SHOWN])
    more = f" and {len(labels) - _LABELS_SHOWN} more (in config.json)" if len(labels) > _LABELS_SHOWN else ""
    return f"## Classes\n\n{len(labels)}, in the order of the logits: {shown}{more}."


def _pixels(preprocess: "Preprocess | None") -> str:
    if preprocess is None:
        return ""
    (h, w), p = preprocess.image_size, preprocess
    tall, wide = (int(side / p.crop_fraction) for side in p.image_size)
    how = {
        "crop": f"the shorter side is resized and the centre is cropped to {h} x {w} (crop fraction {p.crop_fraction:g})",
        "squash": f"the image is resized to {tall} x {wide}, whatever its shape",
        "pad": f"the image is resized to fit into {tall} x {wide}, and laid on the mean",
        "native": "the image keeps its own aspect ratio",
    }[p.mode]
    if p.patch_size is not None:
        how += (
            f": it is resized to whole patches of {p.patch_size} x {p.patch_size}, at most as many as {h} x {w} has "
            f"({h * w // p.patch_size**2}); libraries without this resize it to {h} x {w}"
        )
    if p.mode != "crop" and (tall, wide) != (h, w):
        how += f", and the centre is cropped to {h} x {w}"
    colours = "colour" if p.channels == 3 else f"{p.channels} channel{'s' if p.channels > 1 else ''}"
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (p.mean, p.std))
    return (
        f"## What it expects\n\nPixels in {colours}; {how}, {p.interpolation} interpolation; "
        f"divided by 255, minus mean ({mean}), divided by deviation ({std})."
    )


def _measured(metrics: Mapping[str, object]) -> str:
    if not metrics:
        return ""
    rows = [f"| {name} | {f'{v:.4f}' if isinstance(v, float) else v} |" for name, v in metrics.items()]
    return "\n".join(["## Measured", "", "| | |", "|---|---|", *rows])


def _use(config: ModelConfig) -> str:
    lines = [
        "## Use\n",
        "```",
        "vitrail predict FOLDER image.jpg",
        "```\n",
        "```python",
        "import vitrail",
        'predictor = vitrail.Predictor("FOLDER")',
        'print(predictor(["image.jpg"])[0].label)',
        "```\n",
    ]
    reason = timm.no_equal(config)
    if reason is None:
        lines += [
            "In timm:\n",
            "```python",
            "import timm",
            'timm.create_model("local-dir:FOLDER", pretrained=True)',
            "```",
        ]
        if isinstance(config, ViTConfig) and config.position == "learned" and config.position_interpolation != _TIMMS:
            own = config.position_interpolation
            lines.append(f"\nAt another image size timm interpolates the positions by {_TIMMS}, and vitrail by {own}.")
    else:
        lines.append(f"timm does not open this folder ({reason}).")
    return "\n".join(lines)
