"""``vitrail predict``: labels for files, folders, patterns and data sets."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std

if TYPE_CHECKING:
    from vitrail.prediction import Prediction

T = TypeVar("T")


def predict(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a file of weights, hf:owner/name or timm:NAME.")],
    inputs: Annotated[list[str], typer.Argument(help="Files, folders, patterns, or data sets (CSV, digits ...).")],
    top: Annotated[int, typer.Option(min=1, help="How many labels to give for each image.")] = 5,
    format: Annotated[str | None, typer.Option(help="table, csv, jsonl or parquet; default by --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Another image size than the model's: 224 or 384x256.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the model takes at a time.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    mean: Mean = None,
    std: Std = None,
    mode: Mode = None,
    crop_fraction: CropFraction = None,
    interpolation: Interpolation = None,
    set_: Settings = None,
) -> None:
    """Give the labels of images. One that cannot be read has its error reported and does not stop the others."""
    from vitrail.cli.outputs import WRITERS, choose_format
    from vitrail.cli.pixels import pixels
    from vitrail.cli.sizes import load_at
    from vitrail.prediction import Predictor, expand_inputs

    chosen = choose_format(format, out)
    sources = expand_inputs(inputs)
    said = pixels(mean, std, mode, crop_fraction, interpolation)
    opened = load_at(model, set_, said, image_size, batch_size=batch_size, device=device)
    predictor = Predictor(opened, device=device, batch_size=batch_size)
    to_terminal = out is None and chosen != "table"  # a live bar would run into the rows
    predictions: Iterable[Prediction] = predictor.stream(sources, top=top)
    if not to_terminal:
        predictions = watched(predictions, len(sources), "predicting")
    tally = Tally(predictions)
    WRITERS[chosen](tally, out)
    tally.conclude()


def watched(items: Iterable[T], count: int, what: str) -> Iterator[T]:
    """Pass items on under a bar that a person at a terminal sees."""
    from vitrail.cli.progress import progress

    with progress(what) as move:
        for done, item in enumerate(items, start=1):
            yield item
            move(done, count)


class Tally:
    """Passes predictions on, and counts those that are errors."""

    def __init__(self, predictions: "Iterable[Prediction]") -> None:
        self.predictions = predictions
        self.count = self.bad = 0
        self.first = ""
        """The first error."""

    def __iter__(self) -> "Iterator[Prediction]":
        for prediction in self.predictions:
            self.count += 1
            if prediction.error is not None:
                self.bad, self.first = self.bad + 1, self.first or prediction.error
            yield prediction

    def conclude(self) -> None:
        """Say how many images could not be read.

        Raises:
            UserError: none could.
        """
        from vitrail.cli.console import note
        from vitrail.errors import UserError

        if self.bad == self.count:
            raise UserError(
                self.first if self.count == 1 else f"none of {self.count} images can be read; the first: {self.first}"
            )
        if self.bad:
            note(f"{self.bad} of {self.count} images cannot be read; the first: {self.first}")
