"""``vitrail evaluate``: how well a model tells the classes of labelled images apart."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess
    from vitrail.data.samples import Samples
    from vitrail.evaluation.metrics import Evaluation
    from vitrail.model.vit import ViT
    from vitrail.report.page import ReportData


def evaluate(
    model: Annotated[str, typer.Argument(help="A run, a model folder, or hf:owner/name.")],
    data: Annotated[
        str, typer.Argument(help="Folder of class folders, CSV, JSON lines, Parquet, tar shards, hf:NAME, or digits.")
    ],
    split: Annotated[
        str | None, typer.Option(help="test, val or train; without it test if there is one, else val, else all.")
    ] = None,
    calibrate_on: Annotated[
        str | None,
        typer.Option(help="Split to fit the temperature on; without it, on the evaluated images themselves."),
    ] = None,
    image_size: Annotated[str | None, typer.Option(help="Another image size than the model's: 224 or 384x256.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that load images; any number gives the same result.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the numbers as JSON; - for standard output.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with pictures: an HTML file.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
) -> None:
    """Show top-1 and top-5 accuracy, calibration, classes and confident mistakes."""
    from vitrail.cli.console import note
    from vitrail.cli.progress import progress
    from vitrail.cli.scores import show
    from vitrail.cli.workers import loader_workers
    from vitrail.evaluation.run import evaluate as run
    from vitrail.report.cost import machine_rows, model_rows
    from vitrail.report.page import write_report
    from vitrail.training.device import devices
    from vitrail.weights.load import load

    _check_outputs(json_file, report)
    vit = load(model)
    name, samples, calibration = _samples(vit, model, data, split, calibrate_on)
    preprocess = _preprocess(vit, image_size)
    if skip_bad:
        samples = _without_bad(samples, preprocess)
        calibration = calibration and _without_bad(calibration, preprocess)
    with devices() as place:
        vit.to(place.device)
        start = time.perf_counter()
        with progress(f"evaluating {name}") as tell:
            evaluation = run(
                vit,
                samples,
                preprocess=preprocess,
                calibration=calibration,
                calibration_name=calibrate_on or "",
                batch_size=batch_size,
                workers=loader_workers(workers, len(samples), place.device.type),
                progress=tell,
            )
        seconds = time.perf_counter() - start
        if not place.first:
            return
        if json_file is not None:
            head = {"model": model, "data": data, "split": name, "image_size": list(preprocess.image_size)}
            _write_json(json_file, {**head, **evaluation.to_dict()})
        if json_file != "-":
            show(evaluation, f"{name} of {data}")
        if report is not None:
            images = evaluation.n + len(calibration or ())
            cost = {
                **model_rows(vit.config.with_changes(image_size=preprocess.image_size)),
                "evaluation": f"{seconds:.1f} s, {images / seconds:,.0f} images/s",
                **machine_rows(place.device, place.world),
            }
            note(f"report: {write_report(report, _page(model, data, name, evaluation, cost, samples))}")


def _samples(
    vit: "ViT", model: str, data: str, split: str | None, calibrate_on: str | None
) -> "tuple[str, Samples, Samples | None]":
    """The part to evaluate, with the name to give it, and the part to fit the temperature on."""
    from vitrail.cli.console import note
    from vitrail.cli.runs import run_recipe, trained_on, val_fraction
    from vitrail.data.open import open_data
    from vitrail.errors import UserError
    from vitrail.evaluation.run import choose_split

    recipe = run_recipe(model)
    own = trained_on(recipe, data)
    # With no split named nothing is split off data that are new to the model: where they have no parts, all are evaluated.
    fraction = 0.0 if split is None and calibrate_on is None and not own else val_fraction(recipe)
    dataset = open_data(data, val_fraction=fraction, labels=vit.labels or None)
    name, samples = choose_split(dataset, split)
    calibration = None
    if calibrate_on is not None:
        chosen, calibration = choose_split(dataset, calibrate_on)
        if chosen == name:
            raise UserError(f"--calibrate-on {chosen}: these are the evaluated images themselves, name another split")
    if not vit.labels:
        note("the model has no class names: its outputs are taken for the data's classes in their order")
    if split is None and own and name == "val":
        note(f"the model was trained on {data}: the {len(samples):,} images that training held out are evaluated")
    if split is None and name == "train":
        name = "all"
        note(
            f"{data} has no test or val part: all {len(samples):,} images are evaluated; if the model was trained "
            "on them, --split val takes only those that training held out"
        )
    return name, samples, calibration


def _without_bad(samples: "Samples", preprocess: "Preprocess") -> "Samples":
    """The samples that can be decoded; how many cannot is said."""
    import os

    from vitrail.cli.console import note
    from vitrail.data.cache import check_images

    checked = check_images(samples, preprocess, workers=os.cpu_count() or 1, skip_bad=True)
    if checked.bad:
        note(f"{len(checked.bad)} of {len(samples)} images cannot be used and are left out: {checked.bad[0].message}")
    return checked.samples


def _preprocess(vit: "ViT", image_size: str | None) -> "Preprocess":
    """The model's pixel contract, at another image size where one is given."""
    import dataclasses

    from vitrail.cli.sizes import image_size as parse_size
    from vitrail.errors import UserError

    if vit.preprocess is None:
        raise UserError("how this model wants its pixels is not known: its config.json says nothing of mean and std")
    if image_size is None:
        return vit.preprocess
    size = parse_size(image_size)
    vit.config.with_changes(image_size=size)  # refuses a size that the patches do not divide
    return dataclasses.replace(vit.preprocess, image_size=size)


def _check_outputs(json_file: str | None, report: Path | None) -> None:
    """Refuse, before any work, files that cannot be written."""
    from vitrail.errors import UserError

    for option, path in (("--json", json_file), ("--report", report)):
        if path is not None and path != "-" and not Path(path).absolute().parent.is_dir():
            raise UserError(f"{option} {path}: there is no folder {Path(path).parent}")


def _write_json(file: str, values: dict[str, Any]) -> None:
    """One line on standard output for ``-``, else a file that appears whole or not at all."""
    from vitrail.weights import replace

    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    if file == "-":
        print(text)
        return
    with replace.file(Path(file)) as staging:
        staging.write_text(text + "\n", encoding="utf-8")


def _page(
    model: str, data: str, split: str, evaluation: "Evaluation", cost: dict[str, str], samples: "Samples"
) -> "ReportData":
    import shlex

    from vitrail.report.page import ReportData

    option = [] if split == "all" else ["--split", split]
    return ReportData(
        title=f"{Path(model).name} on {Path(data).name}",
        subtitle=f"{model}, evaluated on {evaluation.n:,} images of {data}",
        evaluation=evaluation,
        split=split,
        cost=cost,
        thumbnails=samples.encoded,
        command=shlex.join(["vitrail", "evaluate", model, data, *option, "--report", "report.html"]),
    )
