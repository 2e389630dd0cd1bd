"""``vitrail evaluate`` with several amounts of merging: a table, JSON, and a figure of accuracy against speed."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.cli import curve
from vitrail.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from vitrail.cli.evaluate import Task
    from vitrail.evaluation.merging import MergeScore
    from vitrail.model.reduction import Merging
    from vitrail.training.device import Devices


def check_options(
    merge: str | None, amounts: int, sizes: int, report: Path | None, figure: Path | None, calibrate_on: str | None
) -> None:
    """Refuse options that do not go with so many amounts of merging.

    Raises:
        UserError: the first such option.
    """
    if amounts and sizes > 1:
        raise UserError(f"--merge {merge}: with several image sizes nothing is merged; name one --image-size")
    if amounts == 1 and figure is not None:
        raise UserError(f"--figure {figure}: a curve needs several amounts, such as --merge 0,4,8,12")
    if amounts < 2:
        return
    if report is not None:
        raise UserError(f"--report {report}: the page is about one --merge; for several, --figure FILE draws the curve")
    if calibrate_on is not None:
        raise UserError(
            f"--calibrate-on {calibrate_on}: no temperature is fitted for several amounts; name one --merge"
        )


def run(
    task: "Task", amounts: "list[Merging]", place: "Devices", batch_size: int, workers: int | None, skip_bad: bool
) -> "list[MergeScore]":
    """The scores of each amount, in order, and before them of whole images where 0 is not among them.

    All images are looked at once, and decoded once if they fit into memory.
    """
    from vitrail.cli.console import note
    from vitrail.cli.images import checked
    from vitrail.cli.progress import progress
    from vitrail.data.workers import loader_workers
    from vitrail.evaluation.merging import compare, run_with
    from vitrail.model import ViT
    from vitrail.model.reduction import Merging, require_reducible

    model = task.in_torch()
    require_reducible(model.config, "--merge")
    assert isinstance(model, ViT)
    if all(one.amount for one in amounts):
        amounts = [Merging(0), *amounts]
        if place.first:
            note("whole images are evaluated too: the others are compared with them")
    usable = checked(
        task.samples, task.preprocess, skip_bad=skip_bad, keep=True, neighbours=place.neighbours, quiet=not place.first
    )
    model.to(place.device)
    runs = []
    for one in amounts:
        with progress(f"evaluating {task.split}, merging {one}") as tell:
            found = run_with(
                model,
                usable.samples,
                one,
                cached=usable.cached,
                batch_size=batch_size,
                workers=loader_workers(workers, len(usable.samples), place.device.type, place.neighbours),
                progress=tell,
            )
        runs.append(found)
    return compare(runs)


def tell(task: "Task", scores: "list[MergeScore]", json_file: str | None, figure: Path | None) -> None:
    """What a person and a machine get, and the figure."""
    from vitrail.cli.merge_figure import save

    found = {"image_size": list(task.preprocess.image_size), "merges": [score.to_dict() for score in scores]}
    curve.show(task, scores[0].n, _table(scores), found, json_file)
    curve.draw(task, partial(save, scores), figure)


def _table(scores: "list[MergeScore]") -> "Table":
    from rich.table import Table

    whole = next(score for score in scores if score.difference is None)
    table = Table(
        header_style="bold",
        caption="left: tokens behind the last block. second lines: 95 % intervals, and speed to whole images. difference: in "
        "points; same: images with the same label; both to whole images. images/s: of the model alone",
        caption_justify="left",
    )
    for heading in ("merge", "left", "FLOPs", "top-1", "difference", "same", "images/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for score in scores:
        low, high = score.top1_ci95
        table.add_row(
            score.merge,
            f"{score.tokens:,}",
            f"{score.flops / whole.flops:.0%}",
            f"{score.top1:.2%}\n{100 * low:.1f}–{100 * high:.1f}",
            curve.difference(score, "whole images"),
            f"{score.agreement:.2%}",
            f"{score.images_per_second:,.0f}\n{score.speed:.2f} x",
        )
    return table
