"""``vitrail inspect``: what a model attends to, and what it has learned, as a page, figures and arrays."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std

if TYPE_CHECKING:
    from vitrail.inspection.inspection import Inspection
    from vitrail.inspection.mistakes import Mistakes
    from vitrail.model import Model

_BATCH = 32  # images that the model takes at a time while mistakes are looked for


def inspect(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a file of weights, hf:owner/name or timm:NAME.")],
    out: Annotated[Path, typer.Option(help="The folder for page, figures and arrays.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, patterns, or data sets; none for what the model has learned alone."),
    ] = None,
    image_size: Annotated[str | None, typer.Option(help="Another image size than the model's: 224 or 384x256.")] = None,
    query: Annotated[
        str, typer.Option(help="Whose attention: class, mean (of the patches), or a patch as ROW,COLUMN from 0.")
    ] = "class",
    layers: Annotated[
        str, typer.Option(help="Layers whose attention is among the maps, from 0 or from -1 backwards: 0,5,-1.")
    ] = "-1",
    target: Annotated[str | None, typer.Option(help="The class to explain; default: what the model says.")] = None,
    against: Annotated[
        str | None, typer.Option(help="The class to explain it against; default: the next in probability.")
    ] = None,
    mistakes: Annotated[
        str | None, typer.Option(metavar="DATA", help="Show the most confident mistakes on these labelled images.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of --mistakes: test, val or train, as for evaluate.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Of --mistakes: how many to show.")] = 8,
    resized: Annotated[
        str | None, typer.Option(help="An image size at which the positions are shown too: 384 or 384x256.")
    ] = None,
    no_faithfulness: Annotated[
        bool, typer.Option("--no-faithfulness", help="Leave out deletion and insertion, which take the most time.")
    ] = False,
    shown: Annotated[
        int, typer.Option(min=1, help="Pictures shown in full; more count in the attention distance alone.")
    ] = 12,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    mean: Mean = None,
    std: Std = None,
    mode: Mode = None,
    crop_fraction: CropFraction = None,
    interpolation: Interpolation = None,
    set_: Settings = None,
) -> None:
    """Look inside a model: what it attends to in pictures, whether the maps can be trusted, what it has learned."""
    from vitrail.cli.console import note
    from vitrail.cli.models import describe, load_model
    from vitrail.cli.pixels import pixels
    from vitrail.cli.progress import progress
    from vitrail.cli.sizes import at_size, require_sizes
    from vitrail.cli.sizes import image_size as parse_size

    _check(out, mistakes, split)
    size, other = (None if text is None else parse_size(text) for text in (image_size, resized))
    asked: dict[str, Any] = {"query": _query(query), "layers": _layers(layers), "target": target, "against": against}

    from vitrail.inspection.inspect import inspect as run
    from vitrail.prediction import expand_inputs

    sources: list[Any] = list(expand_inputs(images or [], labelled=True))
    said = pixels(mean, std, mode, crop_fraction, interpolation)
    config = describe(model, set_).config
    if other is not None:
        require_sizes(config, [other], batch_size=0, device="cpu")
    if size is not None:
        require_sizes(config, [size], batch_size=1 if mistakes is None else _BATCH, device=device)
    without_pixels = not sources and mistakes is None and not said.changes
    opened = load_model(model, set_, None if without_pixels else said)
    if mistakes is not None:
        found = _mistakes(at_size(opened, size) if size else opened, model, mistakes, split, count, device)
        sources = [*found.pictures, *sources]
    with progress("looking") as tell:
        inspection = run(
            opened,
            sources,
            name=model,
            image_size=size,
            resized=other,
            faithfulness=not no_faithfulness,
            shown=max(shown, count if mistakes is not None else 0),
            device=device,
            progress=tell,
            **asked,
        )
    for text in inspection.notes:
        note(text)
    _tell(inspection, inspection.save(out))


def _check(out: Path, mistakes: str | None, split: str | None) -> None:
    from vitrail.errors import UserError
    from vitrail.inspection.save import check_folder

    check_folder(out)
    if split is not None and mistakes is None:
        raise UserError(f"--split {split}: it says which images to look for mistakes in: give --mistakes DATA too")


def _query(text: str) -> str | tuple[int, int]:
    """``class``, ``mean``, or row and column."""
    from vitrail.errors import UserError

    if text in ("class", "mean"):
        return text
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--query {text}: class, mean, or the row and column of a patch, such as 3,5") from None
    return row, column


def _layers(text: str) -> tuple[int, ...]:
    from vitrail.errors import UserError

    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UserError(f"--layers {text}: write numbers with commas between, such as 0,5,-1") from None


def _mistakes(model: "Model", name: str, data: str, split: str | None, count: int, device: str) -> "Mistakes":
    """The most confident mistakes on labelled images: of a run's own data, those that it did not train on."""
    from vitrail.cli.console import note
    from vitrail.cli.images import checked
    from vitrail.cli.progress import progress
    from vitrail.cli.runs import run_recipe, trained_on, val_fraction
    from vitrail.data.open import open_data
    from vitrail.device import named_device
    from vitrail.evaluation.run import choose_split
    from vitrail.inspection.mistakes import mistakes

    recipe = run_recipe(name)
    fraction = val_fraction(recipe) if split is not None or trained_on(recipe, data) else 0.0
    part, samples = choose_split(open_data(data, val_fraction=fraction, labels=model.labels or None), split)
    usable = checked(samples, model.preprocess, skip_bad=True)
    with progress("looking for mistakes") as tell:
        found = mistakes(model.to(named_device(device)), usable.samples, count=count, batch_size=_BATCH, progress=tell)
    of = f"{part} of {data}: {found.wrong:,} of {found.n:,} images are told wrong"
    note(f"{of}; the {len(found.pictures)} most confident are shown" if found.pictures else of)
    return found


def _tell(inspection: "Inspection", page: Path) -> None:
    """Where everything is, and what the numbers say."""
    from vitrail.cli.console import console

    result = console()
    lines = [f"{kind}: {sentence}" for kind, sentence in inspection.verdicts().items()]
    if inspection.distances is not None:
        first, last = inspection.distances[0], inspection.distances[-1]
        lines.append(
            f"attention distance: {first.min():.3g} to {first.max():.3g} pixels in the first layer, "
            f"{last.min():.3g} to {last.max():.3g} in the last"
        )
    if inspection.positions:
        from vitrail.inspection.positions import structure

        found = structure(inspection.positions[0])
        lines += [] if found != found else [f"rows and columns in the positions: {found:.2f} (0 for random ones)"]
    lines.append(f"page: {page}")
    for line in lines:
        result.print(line, markup=False)
