"""``vitrail predict``: labels for files, folders, patterns and data sets."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from vitrail.prediction import Prediction

T = TypeVar("T")


def predict(
    model: Annotated[str, typer.Argument(help="A run, a model folder, or hf:owner/name.")],
    inputs: Annotated[list[str], typer.Argument(help="Files, folders, patterns, or data sets (CSV, digits ...).")],
    top: Annotated[int, typer.Option(min=1, help="How many labels to give for each image.")] = 5,
    format: Annotated[str | None, typer.Option(help="table, csv, jsonl or parquet; default by --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the model takes at a time.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
) -> None:
    """Give the labels of images. One that cannot be read has its error reported and does not stop the others."""
    from vitrail.cli.outputs import WRITERS, choose_format
    from vitrail.prediction import Predictor, expand_inputs

    chosen = choose_format(format, out)
    sources = expand_inputs(inputs)
    predictor = Predictor(model, device=device, batch_size=batch_size)
    to_terminal = out is None and chosen != "table"  # a live bar would run into the rows
    predictions: Iterable[Prediction] = predictor.stream(sources, top=top)
    if not to_terminal:
        predictions = watched(predictions, len(sources), "predicting")
    predictions = usable(predictions, len(sources))
    WRITERS[chosen](predictions, out)


def watched(items: Iterable[T], count: int, what: str) -> Iterator[T]:
    """Pass items on under a bar that a person at a terminal sees."""
    from vitrail.cli.progress import progress

    with progress(what) as move:
        for done, item in enumerate(items, start=1):
            yield item
            move(done, count)


def usable(predictions: "Iterable[Prediction]", count: int) -> "Iterator[Prediction]":
    """Pass predictions on, counting the errors for a note at the end.

    Raises:
        UserError: not one image could be read; nothing has been passed on then.
    """
    from vitrail.cli.console import note
    from vitrail.errors import UserError

    held: list[Prediction] = []
    good = bad = 0
    first = ""
    for prediction in predictions:
        if prediction.error is not None:
            bad, first = bad + 1, first or prediction.error
        else:
            good += 1
        held.append(prediction)
        if good:
            yield from held
            held = []
    if not good:
        raise UserError(first if count == 1 else f"none of {count} images can be read; the first: {first}")
    if bad:
        note(f"{bad} of {count} images cannot be read; the first: {first}")
