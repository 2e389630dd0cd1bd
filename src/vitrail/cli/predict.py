"""``vitrail predict``: labels for files, folders, patterns and data sets."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from vitrail.cli.batch import Restart
from vitrail.cli.engines import EngineName, Threads
from vitrail.cli.merging import MergeOption
from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std

if TYPE_CHECKING:
    from vitrail.batch.part import Answer
    from vitrail.inputs import Source
    from vitrail.prediction import Prediction

T = TypeVar("T")
_FIRST_NAMES = 3  # of each kind of error
_MOST_KINDS = 20


def predict(
    model: Annotated[
        str, typer.Argument(help="A run, a model folder, a file of weights, an export, hf:owner/name or timm:NAME.")
    ],
    inputs: Annotated[list[str], typer.Argument(help="Files, folders, patterns, or data sets (CSV, digits ...).")],
    top: Annotated[int, typer.Option(min=1, help="How many labels to give for each image.")] = 5,
    format: Annotated[str | None, typer.Option(help="table, csv, jsonl or parquet; default by --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Another image size than the model's: 224 or 384x256.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the model takes at a time.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    engine: EngineName = "auto",
    threads: Threads = None,
    merge: MergeOption = None,
    restart: Restart = False,
    mean: Mean = None,
    std: Std = None,
    mode: Mode = None,
    crop_fraction: CropFraction = None,
    interpolation: Interpolation = None,
    set_: Settings = None,
) -> None:
    """Give the labels of images. One that cannot be read has its error reported and does not stop the others.

    With --out, the same command goes on where it was interrupted.
    """
    from vitrail.cli.batch import asked, leave
    from vitrail.cli.outputs import WRITERS, choose_format
    from vitrail.cli.pixels import pixels

    chosen = choose_format(format, out)
    said = pixels(mean, std, mode, crop_fraction, interpolation)
    request = asked(inputs, out, restart=restart) if out is not None else None

    from vitrail.batch.part import Answer
    from vitrail.batch.work import survey
    from vitrail.cli.engines import open_predictor
    from vitrail.inputs import Inputs

    images = request.inputs if request is not None else Inputs(inputs)
    count = request.survey.count if request is not None else survey(images, None).count
    predictor = open_predictor(
        model,
        set_,
        said,
        image_size,
        batch_size=batch_size,
        device=device,
        engine=engine,
        threads=threads,
        merge=merge,
        continued=request is not None and request.long(batch_size),
    )
    width = max(1, min(top, len(predictor.labels)))
    if request is None:
        predictions: Iterable[Prediction] = predictor.stream(images, top=top)
        if chosen == "table":  # a live bar would run into the rows of the others
            predictions = watched(predictions, count, "predicting")
        tally = Tally(predictions)
        WRITERS[chosen](tally, None, width)
        tally.conclude()
        leave()
        return

    def answers(wanted: "Iterator[Source]") -> "Iterator[Answer]":
        return (Answer(vars(found)) for found in predictor.stream(wanted, top=top))

    own = {"command": "predict", "top": top}
    with request.answered(predictor, answers, lambda: {**own, **predictor.identity()}, "predicting") as (
        job,
        found,
    ):
        tally = Tally(_prediction(answer.row) for answer in found())
        WRITERS[chosen](tally, job.target, width)
        job.deliver()
    tally.conclude()
    leave()


def watched(items: Iterable[T], count: int, what: str) -> Iterator[T]:
    """Pass items on under a bar that a person at a terminal sees."""
    from vitrail.cli.progress import progress

    with progress(what) as move:
        for done, item in enumerate(items, start=1):
            yield item
            move(done, count)


class Errors:
    """The images that could not be read, counted by the kind of reason, with the first names of each."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""
        """The first error."""
        self.kinds: dict[str, tuple[int, list[str]]] = {}

    def add(self, name: str, error: str) -> None:
        self.count, self.first = self.count + 1, self.first or error
        kind = kind_of(error.removeprefix(f"{name}: "))
        if kind not in self.kinds and len(self.kinds) >= _MOST_KINDS:
            kind = "other reasons"
        number, names = self.kinds.get(kind, (0, []))
        self.kinds[kind] = (number + 1, names if len(names) == _FIRST_NAMES else [*names, name])

    def lines(self) -> list[str]:
        """A line for each kind, the most frequent first: how many, why, which; nothing where there is one image."""
        if self.count < 2:
            return []
        ranked = sorted(self.kinds.items(), key=lambda kind: -kind[1][0])
        return [
            f"{number:6,}  {kind}: {', '.join(names)}{', ...' if number > len(names) else ''}"
            for kind, (number, names) in ranked
        ]


def kind_of(reason: str) -> str:
    """A reason without what differs from image to image.

    >>> kind_of("20000x30000 pixels are more than the limit of 100,000,000; make it smaller")
    'more pixels than the limit of 100,000,000; make it smaller'
    """
    reason = re.sub(r"^[\d,.x]+ (pixels|bytes) are more than", r"more \1 than", reason)
    return reason if reason.startswith("cannot be read") else reason.partition(" (")[0]


class Tally:
    """Passes predictions on, and counts those that are errors."""

    def __init__(self, predictions: "Iterable[Prediction]") -> None:
        self.predictions = predictions
        self.count = 0
        self.errors = Errors()

    def __iter__(self) -> "Iterator[Prediction]":
        for prediction in self.predictions:
            self.count += 1
            if prediction.error is not None:
                self.errors.add(prediction.file or "", prediction.error)
            yield prediction

    def conclude(self) -> None:
        """Say how many images could not be read, and why.

        Raises:
            UserError: none could.
        """
        from vitrail.cli.console import note
        from vitrail.cli.outputs import shown
        from vitrail.errors import UserError

        bad, first = self.errors.count, shown(self.errors.first)
        if bad == self.count:
            raise UserError(first if bad == 1 else f"none of {bad} images can be read; the first: {first}")
        if bad:
            note(f"{bad} of {self.count} images cannot be read; the first: {first}")
            for line in self.errors.lines():
                note(shown(line))


def _prediction(row: dict[str, Any]) -> "Prediction":
    """A prediction as it was before it was kept as JSON."""
    from vitrail.prediction import Prediction

    return Prediction(**{**row, "top": tuple((label, probability) for label, probability in row["top"])})
