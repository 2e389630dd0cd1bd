"""``vitrail embed``: pooled features of images, for search, clustering or another classifier."""

from pathlib import Path
from typing import Annotated

import typer

from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std


def embed(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a file of weights, hf:owner/name or timm:NAME.")],
    inputs: Annotated[list[str], typer.Argument(help="Files, folders, patterns, or data sets (CSV, digits ...).")],
    out: Annotated[Path, typer.Option(help="The file to write: .npz or .parquet.")],
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
    """Write the features of images, with their names, and their labels where the data have them."""
    from vitrail.cli.console import note
    from vitrail.cli.outputs import FEATURE_WRITERS
    from vitrail.cli.pixels import pixels
    from vitrail.cli.predict import watched
    from vitrail.cli.sizes import load_at
    from vitrail.errors import UserError

    write = FEATURE_WRITERS.get(out.suffix.lower())
    if write is None:
        raise UserError(f"--out {out}: the suffix must be {' or '.join(FEATURE_WRITERS)}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")

    import numpy as np

    from vitrail.prediction import Predictor, expand_inputs

    sources = expand_inputs(inputs, labelled=True)
    said = pixels(mean, std, mode, crop_fraction, interpolation)
    opened = load_at(model, set_, said, image_size, batch_size=batch_size, device=device)
    predictor = Predictor(opened, device=device, batch_size=batch_size)
    found = list(watched(predictor.stream_features(sources), len(sources), "embedding"))
    good = [f for f in found if f.values is not None]
    errors = [f.error for f in found if f.error is not None]
    if not good:
        raise UserError(f"none of {len(found)} images can be read; the first: {errors[0]}")
    values = np.stack([f.values for f in good if f.values is not None])
    write(out, [f.file or "" for f in good], values, [f.label for f in good])
    note(f"{len(good)} images, {values.shape[1]} features each: {out}")
    if errors:
        note(f"{len(errors)} of {len(found)} images cannot be read and are left out; the first: {errors[0]}")
