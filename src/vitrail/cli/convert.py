"""``vitrail convert``: a model written so that another library opens it, and read again to see that it answers the same."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std

if TYPE_CHECKING:
    from vitrail.model import Model, ModelConfig
    from vitrail.weights.formats.format import Format

TOLERANCE = 1e-4  # of logits and features near 1; float32 and another order of sums stay far below
_OURS = "vitrail"
# What a file of weights without documents does not tell another library: what whoever opens it there chooses, and what
# is fixed there.
_CHOSEN = ("heads", "head_width", "position_interpolation", "rotary_base")
_FIXED = ("activation", "norm_eps")


def convert(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a file of weights, hf:owner/name or timm:NAME.")],
    to: Annotated[str, typer.Option(help="timm, transformers, google, torchvision, facebook, vit-pytorch or vitrail.")],
    out: Annotated[Path, typer.Option(help="The folder to write; for google an .npz file, for others .safetensors.")],
    mean: Mean = None,
    std: Std = None,
    mode: Mode = None,
    crop_fraction: CropFraction = None,
    interpolation: Interpolation = None,
    set_: Settings = None,
) -> None:
    """Write a model as another library opens it, read it again, and compare the answers of both."""
    from vitrail.cli.console import console, note
    from vitrail.cli.models import describe
    from vitrail.cli.pixels import pixels
    from vitrail.weights.load import load_found

    said = pixels(mean, std, mode, crop_fraction, interpolation)
    description = describe(model, set_)
    _check_target(to, description.config)  # before any weights are read
    for text in description.notes[1:]:
        note(text)
    source = load_found(description, said.of(description, model) if said.changes else None)
    known = _write(source, to, out)
    result = console()
    result.print(f"read:    {description.notes[0]}", markup=False)
    result.print(f"written: {out}, {to if known is None else known.name} format", markup=False)
    result.print(f"opens:   {_opening(to, known, source.config, out)}", markup=False)
    again = check(source, out)
    for text in [*_not_kept(source, again), *([] if out.is_dir() else _not_said(source, out))]:
        note(text)
    result.print(f"checked: read again, it answers the same, the largest difference is {again.difference:.1g}")


@dataclass(frozen=True, eq=False)
class ReadAgain:
    """What was written, opened here."""

    model: "Model"
    difference: float
    """The largest of logits and features on random images."""


def check(source: "Model", out: Path) -> ReadAgain:
    """Open what was written and compare its answers with those of the source.

    Raises:
        Failure: the answers differ.
    """
    from vitrail.errors import Failure
    from vitrail.weights.load import load

    again = load(out)
    difference, scale = _difference(source, again)
    if not difference <= TOLERANCE * max(1.0, scale):
        raise Failure(
            f"{out} was written, but answers otherwise than its source: logits or features differ by {difference:.2g} "
            f"(their size is {scale:.2g}); do not use it"
        )
    return ReadAgain(again, difference)


def _difference(one: "Model", other: "Model") -> tuple[float, float]:
    """The largest difference of features and logits on two random images, and their largest value."""
    import torch

    config = one.config
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, config.channels, *config.image_size, generator=generator)
    difference = scale = 0.0
    with torch.inference_mode():
        features = one.features(images), other.features(images)
        # Where the other side's head reads the class token and the mean of the patches, its features are wider than ours.
        pairs = [features] if features[0].shape == features[1].shape or not config.classes else []
        if config.classes:
            pairs.append((one.classify(features[0]), other.classify(features[1])))
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            return float("inf"), 1.0
        difference = max(difference, (ours - theirs).abs().max().item())
        scale = max(scale, ours.abs().max().item())
    return difference, scale


def _check_target(to: str, config: "ModelConfig") -> None:
    from vitrail.errors import UserError, did_you_mean
    from vitrail.weights.formats import origins, writers

    valid = (*origins(), _OURS)
    if to not in valid:
        raise UserError(f"--to {to}: {did_you_mean(to, valid)}")
    if to != _OURS:
        writers(to, config)


def _write(model: "Model", to: str, out: Path) -> "Format | None":
    from vitrail.weights.convert import convert
    from vitrail.weights.folder import save

    if to != _OURS:
        return convert(model, to, out)
    save(model, out)
    return None


def _not_kept(source: "Model", read_again: ReadAgain) -> list[str]:
    """What is not as it was when the files are read again, in sentences."""
    from vitrail.doctor.contract import contract_text

    found, again = [], read_again.model
    if source.preprocess is None:
        found.append("no pixel contract is written, as none is known: --mean and --std give one")
    elif again.preprocess is None:
        found.append(f"the pixel contract is not kept ({contract_text(source.preprocess)}): tell who opens it")
    elif again.preprocess != source.preprocess:
        theirs, ours = vars(again.preprocess), vars(source.preprocess)
        differing = [f"{key} is {theirs[key]} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]]
        found.append(f"the pixel contract is not kept as it is, read again: {'; '.join(differing)}")
        if len(differing) == 1 and theirs["crop_rounding"] != ours["crop_rounding"]:
            found[-1] = "there a centre crop that begins between two pixels may begin one pixel beside ours"
    if source.labels and again.labels != source.labels:
        found.append("the class names are not kept: tell who opens it their order")
    ours_way, their_way = (getattr(model.config, "position_interpolation", "") for model in (source, again))
    if ours_way != their_way:
        found.append(f"at another image size positions are interpolated there by {their_way}, and here by {ours_way}")
    return found


def _not_said(source: "Model", out: Path) -> list[str]:
    """What a file without documents tells vitrail alone, in sentences."""
    from vitrail.errors import UserError
    from vitrail.weights.description import read
    from vitrail.weights.load import load_found

    # as any other file of that origin: without what vitrail wrote beside the tensors
    description = read(out)
    wanted = source.config.to_dict()
    known = {"image_size": wanted["image_size"]}  # which a square grid would tell
    other = replace(description, embedded=None, found=replace(description.found, said=known))
    try:
        there = other.config.to_dict()
    except UserError:  # it can be opened only by one who knows them
        there = {}
    chosen, fixed = (
        {key: wanted[key] for key in keys if key in wanted and there.get(key) != wanted[key]}
        for keys in (_CHOSEN, _FIXED)
    )
    parts = [f"{key} {value}" for key, value in chosen.items()]
    parts += ["the pixel contract"] if source.preprocess is not None else []
    parts += ["the class names"] if source.labels else []
    found = [f"vitrail alone reads from the file: {', '.join(parts)}; tell whoever opens it elsewhere"] if parts else []
    if fixed:
        model = load_found(replace(other, found=replace(other.found, said={**known, **chosen})))
        found.append(
            f"over there it is another {' and '.join(fixed)}: answers differ from ours by "
            f"{_difference(source, model)[0]:.1g} on random images"
        )
    return found


def _opening(to: str, known: "Format | None", config: "ModelConfig", out: Path) -> str:
    """How the other side opens what was written, on one line."""
    if known is None:
        return f'vitrail.load("{out}")'
    if to == "timm":
        return f'timm.create_model("local-dir:{out}", pretrained=True)'
    if to == "transformers":
        name = json.loads((out / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        return f'transformers.{name}.from_pretrained("{out}")'
    if out.suffix == ".npz":
        return _GOOGLE[known.name].format(out)
    # the model of another repository is made by a function of theirs
    made = (
        {"torchvision": _torchvision, "vit-pytorch": _vit_pytorch}[to](config, known) if to != "facebook" else "model"
    )
    return f'{made}.load_state_dict(safetensors.torch.load_file("{out}"))'


# The repositories' own calls; the dots stand for the model's parameters and configuration over there.
_GOOGLE = {
    "google": 'vit_jax.checkpoint.load_pretrained(pretrained_path="{}", init_params=..., model_config=...)',
    "google big_vision": 'big_vision.models.vit.load(init_params=..., init_file="{}", model_cfg=...)',
    "google bit": 'bit_pytorch.models.ResNetV2(...).load_from(numpy.load("{}"))',
}


def _torchvision(config: Any, known: "Format") -> str:
    extra = f", representation_size={config.representation}" if config.representation else ""
    return (
        f"torchvision.models.VisionTransformer({config.image_size[0]}, {config.patch_size}, {config.depth}, "
        f"{config.heads}, {config.width}, {config.mlp_width}, num_classes={config.classes}{extra})"
    )


def _vit_pytorch(config: Any, known: "Format") -> str:
    simple = known.name == "vit-pytorch simple_vit"
    name = "vit_pytorch.SimpleViT" if simple else "vit_pytorch.ViT"
    extra = ", pool='mean'" if not simple and config.pool == "avg" else ""
    if simple and config.registers:
        name = "vit_pytorch.simple_vit_with_register_tokens.SimpleViT"
        extra = f", num_register_tokens={config.registers}"
    return (
        f"{name}(image_size={config.image_size}, patch_size={config.patch_size}, "
        f"num_classes={config.classes}, dim={config.width}, depth={config.depth}, heads={config.heads}, "
        f"mlp_dim={config.mlp_width}, dim_head={config.attention_width // config.heads}, "
        f"channels={config.channels}{extra})"
    )
