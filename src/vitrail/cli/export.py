"""``vitrail export``: a model in the form of a runtime, checked on images before it is there."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.merging import MergeOption
from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std

if TYPE_CHECKING:
    from vitrail.runtimes.check import Check
    from vitrail.runtimes.export import Done

_ANY = "dynamic"


def export(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a file of weights, hf:owner/name or timm:NAME.")],
    to: Annotated[str, typer.Option(help="onnx, openvino, or pt2 for torch.export.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="Compute in whole numbers: faster and smaller.")] = False,
    calibrate: Annotated[
        str | None, typer.Option(metavar="DATA", help="For --int8: images such as the model will see.")
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Images to compare on, labelled or not; without it others of --calibrate."),
    ] = None,
    max_loss: Annotated[
        float,
        typer.Option(help="Points of accuracy that int8 may cost; without labels, half the points of changed labels."),
    ] = 0.5,
    image_size: Annotated[str | None, typer.Option(help="Another image size than the model's: 224 or 384x256.")] = None,
    batch: Annotated[str, typer.Option(metavar="N", help="Images at a time: dynamic for any number, or one.")] = _ANY,
    merge: MergeOption = None,
    mean: Mean = None,
    std: Std = None,
    mode: Mode = None,
    crop_fraction: CropFraction = None,
    interpolation: Interpolation = None,
    set_: Settings = None,
) -> None:
    """Write a model for ONNX Runtime, OpenVINO or torch.export, and compare its answers with those of the model."""
    from vitrail.cli.console import console, note
    from vitrail.cli.merging import merging
    from vitrail.cli.models import load_model
    from vitrail.cli.pixels import pixels
    from vitrail.cli.runs import run_recipe, trained_on
    from vitrail.cli.sizes import image_size as size_of
    from vitrail.runtimes.export import Plan, check_target
    from vitrail.runtimes.export import export as run

    said = pixels(mean, std, mode, crop_fraction, interpolation)
    plan = Plan(
        to=to,
        int8=int8,
        calibrate=calibrate,
        check=check,
        image_size=None if image_size is None else size_of(image_size),
        batch=_batch(batch),
        merge=None if merge is None else merging(merge),
        max_loss=max_loss,
    )
    check_target(out)
    vit = load_model(model, set_, said)
    named = [data for data in (calibrate, check) if data is not None]
    recipe = run_recipe(model) if named else None
    plan = replace(plan, trained_on=tuple(data for data in named if trained_on(recipe, data)))
    done = run(vit, out, plan, note)
    result = console()
    for line in _lines(done):
        result.print(line, markup=False)


def _batch(text: str) -> int | None:
    from vitrail.errors import UserError

    if text == _ANY:
        return None
    if not text.isdecimal() or not int(text):
        raise UserError(f"--batch {text}: give {_ANY}, or 1 or more images")
    return int(text)


def _lines(done: "Done") -> list[str]:
    exported = done.exported
    size = sum((exported.folder / name).stat().st_size for name in exported.digests)
    lines = [f"written: {exported.folder}, {exported.form} in {exported.precision}, {size / 1e6:,.1f} MB"]
    kept = exported.details.get("in_float32")
    if kept:
        lines.append(f"float32: {', '.join(kept)}")
    for check in done.checks:
        lines += _check(check)
    return lines


def _check(check: "Check") -> list[str]:
    """The comparison with one engine."""
    changed = check.changed
    head = f"checked: {check.engine} on {check.source}"
    differing = (
        f"  differs by {check.mean:.2g} in the mean and {check.largest:.2g} at most; values reach {check.scale:.3g}"
    )
    if changed.agreement is None:
        differing += f"; cosine {changed.similarity:.6f}"
    else:
        differing += f"; {100 * changed.agreement:.2f} % of the first labels are the same"
    lines = [head, differing]
    if check.confidence is not None:
        lines.append(f"  mean confidence {check.confidence[0]:.4f}, exported {check.confidence[1]:.4f}")
    if changed.before is not None and changed.after is not None:
        before, after = changed.before, changed.after
        lines.append(
            f"  accuracy {before.top1:.4f}, exported {after.top1:.4f}; calibration error {before.ece:.4f}, exported "
            f"{after.ece:.4f}"
        )
    if changed.lost is not None and changed.lost_ci95 is not None:
        low, high = (100 * end for end in changed.lost_ci95)
        lines.append(f"  {100 * changed.lost:.2f} points of accuracy lost (95 % interval {low:.2f} to {high:.2f})")
    speeds = [
        f"{theirs:g} ({theirs / ours:.2f} times torch) at {count}" for count, (ours, theirs) in check.speed.items()
    ]
    return [*lines, f"  images/s: {', '.join(speeds)} at a time"]
