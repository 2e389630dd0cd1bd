"""``vitrail evaluate``: how well a model tells the classes of labelled images apart."""

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrail.cli.engines import EngineName, Threads
from vitrail.cli.merging import MergeOption
from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std

if TYPE_CHECKING:
    from vitrail.cli.engines import Computed
    from vitrail.data.preprocess import Preprocess
    from vitrail.data.samples import Samples
    from vitrail.evaluation.metrics import Evaluation
    from vitrail.model import Model
    from vitrail.runtimes.engine import Engine
    from vitrail.training.device import Devices


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A run, a model folder, a file of weights, hf:owner/name or timm:NAME; or what vitrail export wrote."
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(help="Folder of class folders, CSV, JSON lines, Parquet, tar shards, IDX, hf:NAME, or digits."),
    ],
    split: Annotated[
        str | None, typer.Option(help="test, val or train; without it test if there is one, else val, else all.")
    ] = None,
    calibrate_on: Annotated[
        str | None,
        typer.Option(help="Split to fit the temperature on; without it, on the evaluated images themselves."),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Another image size than the model's, 224 or 384x256; or several to compare: 160,224,384x256."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that load images; any number gives the same result.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the numbers as JSON; - for standard output.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with pictures: an HTML file.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="With several sizes: draw accuracy against size and FLOPs, in a .png or .svg.")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    mode: Mode = None,
    crop_fraction: CropFraction = None,
    interpolation: Interpolation = None,
    set_: Settings = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    engine: EngineName = "auto",
    threads: Threads = None,
    merge: MergeOption = None,
) -> None:
    """Show top-1 and top-5 accuracy, calibration, classes and confident mistakes; or, at several sizes, accuracy and cost."""
    from vitrail.cli import curve, merge_curve
    from vitrail.cli.engines import computed, open_exported
    from vitrail.cli.merging import merged, mergings
    from vitrail.cli.models import load_model
    from vitrail.cli.pixels import pixels
    from vitrail.cli.scores import show
    from vitrail.cli.sizes import image_sizes, load_at
    from vitrail.training.device import devices

    _check_outputs(json_file, report, figure)
    said = pixels(mean, std, mode, crop_fraction, interpolation)
    sizes = [] if image_size is None else image_sizes(image_size)
    amounts = [] if merge is None else mergings(merge)
    merge_curve.check_options(merge, len(amounts), len(sizes), report, figure, calibrate_on)
    curve.check_options(max(len(sizes), len(amounts)), report, figure, calibrate_on)
    with devices() as place:
        vit: Model | Engine
        exported = open_exported(model, set_, said, image_size, engine=engine, threads=threads)
        if exported is not None:
            _check_alone(model, place, merge)
            vit = exported
        elif len(sizes) > 1:
            curve.check_sizes(model, set_, sizes, batch_size, place)
            vit = load_model(model, set_, said)
        else:
            opened = load_at(
                model, set_, said, image_size, batch_size=batch_size, device=place.device, neighbours=place.neighbours
            )
            vit = merged(opened, merge) if len(amounts) == 1 else opened
        preprocess: Preprocess = vit.preprocess
        name, samples, calibration = _samples(vit, model, data, split, calibrate_on)
        task = Task(model, data, name, vit, preprocess, samples, calibration, calibrate_on or "")
        if len(sizes) > 1:
            scores = curve.run(task, sizes, place, batch_size, workers, skip_bad)
            if place.first:
                curve.tell(task, scores, json_file, figure)
            return
        if len(amounts) > 1:
            merge_scores = merge_curve.run(task, amounts, place, batch_size, workers, skip_bad)
            if place.first:
                merge_curve.tell(task, merge_scores, json_file, figure)
            return
        done = _evaluate(task, place, batch_size, workers, skip_bad)
        if not place.first:
            return
        how = computed(vit)
        if json_file is not None:
            head = {"model": model, "data": data, "split": name, "image_size": list(preprocess.image_size)}
            write_json(json_file, {**head, **how.to_dict(), **done.evaluation.to_dict()})
        if json_file != "-":
            show(done.evaluation, f"{name} of {data}")
        if report is not None:
            _write_page(report, task, done, how, place)


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be evaluated on what."""

    model: str
    data: str
    split: str
    """The name of the part: test, val or train, or all."""
    vit: "Model | Engine"
    """The model, or what runs it where it was exported."""
    preprocess: "Preprocess"
    samples: "Samples"
    calibration: "Samples | None"
    calibration_name: str

    def in_torch(self) -> "Model":
        """The model, which has not been exported."""
        from vitrail.prediction.by_engine import is_engine

        assert not is_engine(self.vit)
        return self.vit


@dataclass(frozen=True, eq=False)
class Done:
    """An evaluation, and what it took."""

    evaluation: "Evaluation"
    samples: "Samples"
    """Those of the task that could be used."""
    images: int
    """That the model has seen, those for the temperature among them."""
    seconds: float


def _evaluate(task: Task, place: "Devices", batch_size: int, workers: int | None, skip_bad: bool) -> Done:
    """Look at all images, then evaluate those that can be used; these are decoded once if they fit into memory."""
    from vitrail.cli.images import checked
    from vitrail.cli.progress import progress
    from vitrail.data.workers import loader_workers
    from vitrail.evaluation.exported import evaluate_exported
    from vitrail.evaluation.run import evaluate as run
    from vitrail.prediction.by_engine import is_engine

    start = time.perf_counter()
    look = partial(
        checked, preprocess=task.preprocess, skip_bad=skip_bad, neighbours=place.neighbours, quiet=not place.first
    )
    calibration = None if task.calibration is None else look(task.calibration).samples
    usable = look(task.samples, keep=True)
    score = (
        partial(evaluate_exported, task.vit)
        if is_engine(task.vit)
        else partial(run, task.in_torch().to(place.device), preprocess=task.preprocess)
    )
    with progress(f"evaluating {task.split}") as tell:
        evaluation = score(
            usable.samples,
            calibration=calibration,
            calibration_name=task.calibration_name,
            cached=usable.cached,
            batch_size=batch_size,
            workers=loader_workers(workers, len(usable.samples), place.device.type, place.neighbours),
            progress=tell,
        )
    images = evaluation.n + len(calibration or ())
    return Done(evaluation, usable.samples, images, time.perf_counter() - start)


def _samples(
    vit: "Model | Engine", model: str, data: str, split: str | None, calibrate_on: str | None
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
    if own and recipe is not None and recipe.data.fraction < 1 and "train" in (name, calibrate_on):
        note(
            f"the model was trained on a share of the train images alone (data.fraction {recipe.data.fraction:g}): "
            "train here is all of them, seen and unseen"
        )
    if split is None and name == "train":
        name = "all"
        note(
            f"{data} has no test or val part: all {len(samples):,} images are evaluated; if the model was trained "
            "on them, --split val takes only those that training held out"
        )
    return name, samples, calibration


def _check_alone(model: str, place: "Devices", merge: str | None) -> None:
    """Refuse to share an exported model's images out between processes, or to change it."""
    from vitrail.errors import UserError

    if merge is not None:
        raise UserError(
            f"--merge {merge}: {model} is an exported model, of which this is fixed: say it to vitrail export"
        )
    if place.world > 1:
        raise UserError(f"{model}: an exported model is evaluated by one process with several threads, not by torchrun")


def _check_outputs(json_file: str | None, report: Path | None, figure: Path | None) -> None:
    """Refuse, before any work, files that cannot be written."""
    from vitrail.cli.outputs import require_file

    for option, path in (("--json", json_file), ("--report", report), ("--figure", figure)):
        if path is not None and path != "-":
            require_file(option, Path(path))


def write_json(file: str, values: dict[str, Any]) -> None:
    """One line on standard output for ``-``, else a file that appears whole or not at all."""
    from vitrail.weights import replace

    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    if file == "-":
        print(text)
        return
    with replace.file(Path(file)) as staging:
        staging.write_text(text + "\n", encoding="utf-8")


def _write_page(file: Path, task: Task, done: Done, how: "Computed", place: "Devices") -> None:
    import shlex
    import sys

    from vitrail.cli.console import note
    from vitrail.report.cost import machine_rows
    from vitrail.report.page import ReportData, write_report

    page = ReportData(
        title=f"{Path(task.model).name} on {Path(task.data).name}",
        subtitle=f"{task.model}, evaluated on {done.evaluation.n:,} images of {task.data}",
        evaluation=done.evaluation,
        split=task.split,
        cost={
            **_model_rows(task, how),
            "evaluation": f"{done.seconds:.1f} s, {done.images / done.seconds:,.0f} images/s",
            **machine_rows(place.device, place.world, how.precision),
        },
        thumbnails=done.samples.encoded,
        command=shlex.join(["vitrail", *sys.argv[1:]]),
    )
    note(f"report: {write_report(file, page)}")


def _model_rows(task: Task, how: "Computed") -> dict[str, str]:
    """What the model is and costs, with its tokens merged as they were, and what has run it."""
    from vitrail.model.cost import flops, readable
    from vitrail.report.cost import model_rows

    config = task.vit.config.with_changes(image_size=task.preprocess.image_size)
    rows = model_rows(config)
    if how.merge is not None:
        rows["merged tokens"] = f"{how.merge}, as --merge has it"
        rows["FLOPs of one image"] = readable(sum(flops(config, how.merge).values()), "FLOPs")
    return {**rows, "engine": how.engine}
