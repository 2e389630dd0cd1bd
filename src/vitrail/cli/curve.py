"""``vitrail evaluate`` at several image sizes: a table, JSON, and a figure of accuracy against size and cost."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from vitrail.cli.evaluate import Task
    from vitrail.evaluation.merging import MergeScore
    from vitrail.evaluation.sizes import Size, SizeScore
    from vitrail.training.device import Devices

FIGURES = (".png", ".svg")


def check_options(sizes: int, report: Path | None, figure: Path | None, calibrate_on: str | None) -> None:
    """Refuse options that the number of sizes leaves nothing to do.

    Raises:
        UserError: the first such option.
    """
    if figure is not None and sizes < 2:
        raise UserError(f"--figure {figure}: a curve needs several sizes, such as --image-size 160,224,288")
    if figure is not None and figure.suffix.lower() not in FIGURES:
        raise UserError(f"--figure {figure}: the suffix must be {' or '.join(FIGURES)}")
    if sizes > 1 and report is not None:
        raise UserError(f"--report {report}: the page is about one size; for several, --figure FILE draws the curve")
    if sizes > 1 and calibrate_on is not None:
        raise UserError(f"--calibrate-on {calibrate_on}: no temperature is fitted at several sizes; name one size")


def check_sizes(model: str, settings: list[str] | None, sizes: "list[Size]", batch_size: int, place: "Devices") -> None:
    """Refuse, before any weights are read, sizes that the model cannot have or the memory cannot hold."""
    from vitrail.cli.models import describe
    from vitrail.cli.sizes import require_sizes

    config = describe(model, settings).config
    require_sizes(config, sizes, batch_size=batch_size, device=place.device, neighbours=place.neighbours)


def run(
    task: "Task", sizes: "list[Size]", place: "Devices", batch_size: int, workers: int | None, skip_bad: bool
) -> "list[SizeScore]":
    """The scores at each size, in order, and before them at the model's own where it is not among them.

    All images are looked at once, so that every size is judged by the same ones.
    """
    from vitrail.cli.console import note
    from vitrail.cli.images import checked
    from vitrail.cli.progress import progress
    from vitrail.data.workers import loader_workers
    from vitrail.evaluation.sizes import compare, run_at
    from vitrail.model.fields import size_text

    own = task.preprocess.image_size
    if own not in sizes:
        sizes = [own, *sizes]
        if place.first:
            note(f"the model's own size, {size_text(own)}, is evaluated too: the others are compared with it")
    usable = checked(
        task.samples, task.preprocess, skip_bad=skip_bad, neighbours=place.neighbours, quiet=not place.first
    ).samples
    model = task.in_torch().to(place.device)
    runs = []
    for size in sizes:
        with progress(f"evaluating {task.split} at {size_text(size)}") as tell:
            found = run_at(
                model,
                usable,
                size,
                batch_size=batch_size,
                workers=loader_workers(workers, len(usable), place.device.type, place.neighbours),
                progress=tell,
            )
        runs.append(found)
    return compare(runs, own)


def tell(task: "Task", scores: "list[SizeScore]", json_file: str | None, figure: Path | None) -> None:
    """What a person and a machine get, and the figure."""
    from vitrail.cli.size_figure import save

    found = {"own_size": list(task.preprocess.image_size), "sizes": [score.to_dict() for score in scores]}
    show(task, scores[0].n, _table(scores), found, json_file)
    draw(task, partial(save, scores), figure)


def show(task: "Task", n: int, table: "Table", found: "dict[str, Any]", json_file: str | None) -> None:
    """A curve's table for a person, and what was found for a machine; for that alone if it is to standard output."""
    from rich.text import Text

    from vitrail.cli.console import console
    from vitrail.cli.evaluate import write_json

    if json_file is not None:
        write_json(json_file, {"model": task.model, "data": task.data, "split": task.split, **found})
    if json_file != "-":
        console().print(Text(f"{task.split} of {task.data}, {n:,} images", style="bold"))
        console().print(table)


def draw(task: "Task", save: "Callable[[str, Path], None]", figure: Path | None) -> None:
    """A curve's figure, if it is asked for; ``save`` is given its title and its file."""
    from vitrail.cli.console import note

    if figure is not None:
        save(f"{Path(task.model).name} on {task.split} of {Path(task.data).name}", figure)
        note(f"figure: {figure}")


def _table(scores: "list[SizeScore]") -> "Table":
    from rich.table import Table

    from vitrail.model.cost import readable
    from vitrail.model.fields import size_text

    table = Table(
        header_style="bold",
        caption="second lines: 95 % intervals. difference: in points, to the own size, over the same images",
        caption_justify="left",
    )
    for heading in ("size", "tokens", "FLOPs", "top-1", "difference", "loss", "images/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for score in scores:
        low, high = score.top1_ci95
        table.add_row(
            size_text(score.image_size),
            "–" if score.tokens is None else f"{score.tokens:,}",
            readable(score.flops, "FLOPs").removesuffix("FLOPs"),
            f"{score.top1:.2%}\n{100 * low:.1f}–{100 * high:.1f}",
            difference(score, "own size"),
            f"{score.nll:.4f}",
            f"{score.images_per_second:,.0f}",
        )
    return table


def difference(score: "SizeScore | MergeScore", reference: str) -> str:
    """Points to the reference, with their interval; the reference's own row has its name."""
    if score.difference is None or score.difference_ci95 is None:
        return reference
    low, high = (100 * end for end in score.difference_ci95)
    return f"{100 * score.difference:+.2f}\n{low:+.1f} to {high:+.1f}"
