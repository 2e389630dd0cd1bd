"""``vitrail probe``: what frozen features are worth on some data, in seconds and without training."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Pixels, Std

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from rich.table import Table

    from vitrail.data.samples import Samples
    from vitrail.evaluation.probe import Probe
    from vitrail.model import Model, ViT

LARGEST, FEWEST_PATCHES = 224, 4
LOOK_AT = 20_000  # images of a part, so that a probe of millions stays a matter of seconds

_ALL = "all"


def probe(
    data: Annotated[
        str,
        typer.Argument(help="Folder of class folders, CSV, JSON lines, Parquet, tar shards, IDX, hf:NAME, or digits."),
    ],
    init: Annotated[
        list[str] | None,
        typer.Option(
            help="A run, a model folder, a file of weights, hf:owner/name, timm:NAME, or a variant; repeatable."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Without --init: the variant whose random weights are probed.")] = "S/16",
    image_size: Annotated[str | None, typer.Option(help="Another image size: 224 or 384x256.")] = None,
    shots: Annotated[
        str, typer.Option(help="Training images a class, separated by commas; all for every one.")
    ] = "1,5,10,25",
    limit: Annotated[
        int, typer.Option(min=1, help="Most images to compare with, and most to judge; drawn with a fixed seed.")
    ] = 10_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that load images; any number gives the same result.")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    mode: Mode = None,
    crop_fraction: CropFraction = None,
    interpolation: Interpolation = None,
    set_: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
) -> None:
    """Show few-shot and nearest-neighbour accuracy of frozen features, for several models side by side.

    Few-shot: ridge regression in closed form on whitened features, as in Google's big_vision; mean of three draws.
    """
    from vitrail.cli.console import console, note
    from vitrail.cli.pixels import pixels
    from vitrail.cli.progress import progress
    from vitrail.data.workers import loader_workers
    from vitrail.device import best_device
    from vitrail.evaluation.probe import probe as run

    numbers, said = _numbers(shots), pixels(mean, std, mode, crop_fraction, interpolation)
    device = best_device()
    _check_models(init or [model], image_size, set_, batch_size, device)
    train, test = (_usable(part, skip_bad) for part in _parts(data, init or []))
    every = _largest_class(train) if None in numbers else None
    results = []
    for name, vit in _models(init or [model], image_size, train, said, set_):
        vit.to(device)
        with progress(name) as tell:
            found = run(
                vit,
                train,
                test,
                name=name,
                shots=[number or every or 1 for number in numbers],
                limit=limit,
                batch_size=batch_size,
                workers=loader_workers(workers, len(train), device.type),
                progress=tell,
            )
        results.append(found)
    if as_json:
        print(json.dumps({"data": data, "classes": len(train.labels), "models": [r.to_dict() for r in results]}))
        return
    console().print(_table(results, every))
    for few in results[0].few_shot:
        if few.short_classes and few.shots != every:
            note(f"{few.shots} shots: {few.short_classes} of {len(train.labels)} classes have fewer training images")


def _numbers(shots: str) -> list[int | None]:
    """Images a class; None for all."""
    from vitrail.errors import UserError

    parts = [part.strip() for part in shots.split(",")]
    if not all(part == _ALL or (part.isdecimal() and int(part) > 0) for part in parts):
        raise UserError(f"--shots {shots}: write numbers of images a class, such as 1,5,10,25, or all")
    return [None if part == _ALL else int(part) for part in parts]


def _largest_class(train: "Samples") -> int:
    """Images of the class that has most."""
    import numpy as np

    return int(np.bincount(train.targets).max()) if train.targets is not None else 1


def _parts(data: str, names: list[str]) -> "tuple[Samples, Samples]":
    """The images to learn from and those to judge by: train and test, else train and val, else a part split off.

    What is split off is what the models' own training held out, so that none is judged by images it has learnt.
    """
    from vitrail.cli.runs import run_recipe, trained_on, val_fraction
    from vitrail.data.open import open_data
    from vitrail.errors import UserError

    dataset = open_data(data, val_fraction=0.0)
    if dataset.test is None and dataset.val is None:
        recipes = [recipe for recipe in map(run_recipe, names) if trained_on(recipe, data)]
        fraction = min((val_fraction(recipe) for recipe in recipes), default=val_fraction(None))
        dataset = open_data(data, val_fraction=fraction)
    test = dataset.test if dataset.test is not None else dataset.val
    if dataset.train is None or test is None:
        raise UserError(f"{data} has no {'train' if dataset.train is None else 'held-out'} part: a probe needs both")
    return dataset.train, test


def _usable(samples: "Samples", skip_bad: bool) -> "Samples":
    """The samples that can be decoded. To leave out all that cannot, all are decoded, else ``LOOK_AT`` at most."""
    from vitrail.cli.images import checked
    from vitrail.data.preprocess import Preprocess

    # at any size: whether an image can be decoded does not depend on it, and each model has its own
    return checked(samples, Preprocess((64, 64)), skip_bad=skip_bad, at_most=None if skip_bad else LOOK_AT).samples


def _check_models(
    names: list[str], image_size: str | None, settings: list[str] | None, batch_size: int, device: "torch.device"
) -> None:
    """Refuse, before any work, a name that means nothing, and a size that one of the models cannot have."""
    from vitrail.cli.models import describe
    from vitrail.cli.sizes import image_size as parse_size
    from vitrail.cli.sizes import require_sizes
    from vitrail.model.variants import variant
    from vitrail.weights.find import find

    if image_size is None:
        for name in names:
            _ = _is_variant(name) or find(name)
        return
    size = parse_size(image_size)
    for name in names:
        config = variant(name, image_size=size) if _is_variant(name) else describe(name, settings).config
        require_sizes(config, [size], batch_size=batch_size, device=device)


def _models(
    names: list[str], image_size: str | None, train: "Samples", said: Pixels, settings: list[str] | None
) -> "Iterator[tuple[str, Model]]":
    """Each name with its model, at the image size given."""
    from vitrail.cli.models import load_model
    from vitrail.cli.sizes import at_size
    from vitrail.cli.sizes import image_size as parse_size

    size = None if image_size is None else parse_size(image_size)
    for name in names:
        if _is_variant(name):
            yield f"{name}, random weights", _random(name, size, train, said)
            continue
        vit = load_model(name, settings, said)
        yield name, vit if size is None else at_size(vit, size)


def _is_variant(name: str) -> bool:
    from vitrail.errors import UserError
    from vitrail.model.variants import variant

    if Path(name).exists():
        return False
    try:
        variant(name)
    except UserError:
        return False
    return True


def _random(name: str, size: tuple[int, int] | None, train: "Samples", said: Pixels) -> "ViT":
    """A variant with the initial weights of seed 0: the baseline that any training has to beat."""
    import torch

    from vitrail.data.preprocess import Preprocess
    from vitrail.model import ViT
    from vitrail.model.variants import variant

    size = size or _fitting_size(variant(name).patch_size, train)
    torch.manual_seed(0)
    vit = ViT(variant(name, image_size=size, classes=0)).eval()
    vit.preprocess = said.contract(Preprocess(size), vit.config, name)
    return vit


def _fitting_size(patch: int, train: "Samples") -> tuple[int, int]:
    """The images' own size, within 4 patches and 224 pixels a side, as a whole number of patches."""
    from vitrail.data.open import typical_size

    side = max(FEWEST_PATCHES * patch, min(LARGEST, *typical_size(train)))
    return side // patch * patch, side // patch * patch


def _table(results: "list[Probe]", every: int | None) -> "Table":
    from rich.table import Table
    from rich.text import Text

    first = results[0]
    table = Table(
        title=f"accuracy in % on {first.test_images:,} held-out images",
        title_justify="left",
        caption=f"few-shot: mean ± deviation of {len(first.few_shot[0].accuracies)} draws; "
        f"k-NN: k = {first.k}, cosine, of {first.train_images:,} training images",
        caption_justify="left",
        header_style="bold",
    )
    table.add_column("features of", overflow="fold")
    for heading in (*("all" if few.shots == every else f"{few.shots}-shot" for few in first.few_shot), "k-NN", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in results:
        few_shot = (f"{100 * few.accuracy:.1f} ±{100 * few.deviation:.1f}" for few in r.few_shot)
        table.add_row(Text(r.name), *few_shot, f"{100 * r.knn:.1f}", f"{r.seconds:.1f} s")
    return table
