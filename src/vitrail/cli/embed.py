"""``vitrail embed``: pooled features of images, for search, clustering or another classifier."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.batch import Restart
from vitrail.cli.engines import EngineName, Threads
from vitrail.cli.merging import MergeOption
from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std

if TYPE_CHECKING:
    from vitrail.batch.part import Answer
    from vitrail.inputs import Source


def embed(
    model: Annotated[
        str, typer.Argument(help="A run, a model folder, a file of weights, an export, hf:owner/name or timm:NAME.")
    ],
    inputs: Annotated[list[str], typer.Argument(help="Files, folders, patterns, or data sets (CSV, digits ...).")],
    out: Annotated[Path, typer.Option(help="The file to write: .npz or .parquet.")],
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
    """Write the features of images, with their names, and their labels where the data have them.

    The same command goes on where it was interrupted.
    """
    from vitrail.cli.batch import asked, leave
    from vitrail.cli.console import note
    from vitrail.cli.features import FEATURE_WRITERS, Features
    from vitrail.cli.outputs import require_file, shown
    from vitrail.cli.pixels import pixels
    from vitrail.cli.predict import Errors
    from vitrail.errors import UserError

    write = FEATURE_WRITERS.get(out.suffix.lower())
    if write is None:
        raise UserError(f"--out {out}: the suffix must be {' or '.join(FEATURE_WRITERS)}")
    require_file("--out", out)
    said = pixels(mean, std, mode, crop_fraction, interpolation)
    request = asked(inputs, out, labelled=True, restart=restart)

    from vitrail.batch.part import Answer
    from vitrail.cli.engines import open_predictor

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
        continued=request.long(batch_size),
    )

    def answers(wanted: "Iterator[Source]") -> "Iterator[Answer]":
        for found in predictor.stream_features(wanted):
            yield Answer({"file": found.file, "label": found.label, "error": found.error}, found.values)

    own = {"command": "embed"}
    with request.answered(predictor, answers, lambda: {**own, **predictor.identity()}, "embedding") as (
        job,
        found,
    ):
        errors = Errors()
        for answer in found():
            if answer.row["error"] is not None:
                errors.add(answer.row["file"], answer.row["error"])
        features = Features.of(found)
        if features.count:
            write(job.target, features)
            job.deliver()
        else:
            job.discard()
    count = features.count + errors.count
    if not features.count:
        raise UserError(f"none of {count} images can be read; the first: {shown(errors.first)}")
    note(f"{features.count} images, {features.width} features each: {out}")
    if errors.count:
        note(f"{errors.count} of {count} images cannot be read and are left out; the first: {shown(errors.first)}")
        for line in errors.lines():
            note(shown(line))
    leave()
