"""What a run is to do: the recipe, chosen or given, and its data; and the folder that it is written to."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrail.data.open import Dataset, open_data, with_test
from vitrail.data.split import share_of
from vitrail.errors import UserError
from vitrail.model import ViTConfig
from vitrail.model.cost import Cost
from vitrail.recipes import files
from vitrail.recipes.choose import Choice, choose, give_middle_size, give_size, start_size
from vitrail.recipes.recipe import Recipe
from vitrail.training import checkpoint
from vitrail.training.device import Devices, resolve_precision
from vitrail.training.forecast import BUDGET, Work, cheaper, seconds_per_image
from vitrail.training.memory import check_memory
from vitrail.training.plan import pixels_of, start_of
from vitrail.training.progress import clock
from vitrail.training.resolution import mean_flops, step_of
from vitrail.training.resume import is_free, may_differ
from vitrail.weights import replace as atomic


@dataclass(frozen=True)
class Begun:
    """A run that is known but for what its images and its start model decide."""

    recipe: Recipe
    data: Dataset
    folder: Path
    reasons: list[str]
    """Why the recipe is what it is; kept with the run."""
    goes_on: bool
    """Whether the folder holds this run already."""
    notes: list[str]
    """What to say at the beginning: the reasons, and what is about to happen."""


def begin(
    recipe: Recipe | str | Path | None,
    data: str | Path | None,
    changes: dict[str, Any],
    folder: Path | None,
    resume: bool,
    place: Devices,
    *,
    restarted: bool = False,
) -> Begun:
    """The run in ``folder`` if ``resume`` and it is there, else a new one.

    ``restarted``: by torchrun, whose command may be that of a new run. Then it goes on too.

    Raises:
        UserError: the folder is taken, or holds another run than the one asked for; wrong keys, no such data.
    """
    asked, resume = resume, resume or restarted
    looking = "looking at the images of {}"
    if resume and folder is not None and (back := _recipe_is_there(folder)) is not None:
        own, dataset, reasons = saved(folder, recipe, data, changes)
        return Begun(own, dataset, folder, reasons, True, [*back, *reasons, looking.format(dataset.name)])
    if asked and recipe is None and data is None and not changes:
        raise UserError(
            f"{folder} holds no run to go on with: give the folder of one as --out, or name the data to begin one there"
        )
    resolved, dataset, reasons = decide(recipe, data, changes, place)
    new = new_folder(folder, dataset.name)
    notes = [*reasons, looking.format(dataset.name)]
    if resume:
        notes.insert(0, f"no run in {new} yet: this one starts from the beginning")
    return Begun(resolved, dataset, new, reasons, False, notes)


def _recipe_is_there(folder: Path) -> list[str] | None:
    """What to say of a run's recipe, which was taken from its newest checkpoint if it was gone; None without either.

    Raises:
        UserError: something that is no file has its name.
    """
    path = folder / "recipe.yaml"
    if path.is_file():
        return []
    if path.is_symlink() or path.exists():
        raise UserError(f"{path} is not a file: remove it, and --resume writes it anew from the newest checkpoint")
    found, _ = checkpoint.newest_valid(folder / "checkpoints")
    if found is None:
        return None
    with atomic.file(path) as staging:
        files.save(files.from_dict(found.state["recipe"]), staging)
    return [f"{path} was gone: written anew from the checkpoint of step {found.step}"]


def decide(
    recipe: Recipe | str | Path | None, data: str | Path | None, changes: dict[str, Any], place: Devices
) -> tuple[Recipe, Dataset, list[str]]:
    """The recipe of a new run and its data, with the reasons for what was chosen and not given."""
    named = recipe if isinstance(recipe, Recipe) or recipe is None else files.load(recipe)
    settings = {path: value for path, value in changes.items() if path.startswith("data.") or path == "seed"}
    own = files.changed(named or Recipe(epochs=1), settings)
    source = str(data) if data is not None else own.data.source or "digits"
    dataset, share = _open(source, own)
    changes["data.source"] = source
    init = changes.get("init", named.init if named else None)
    reasons: list[str] = []
    chosen = named is None
    if named is None:
        choice: Choice = choose(
            dataset,
            source=source,
            init=init,
            named_variant="model.variant" in changes,
            named_length=bool({"epochs", "steps"} & changes.keys()),
            named_stem="model.stem" in changes,
        )
        named, reasons = choice.recipe, list(choice.reasons)
    resolved = files.changed(named, changes)
    if resolved.init:
        may_shorten = chosen and not {"epochs", "steps"} & changes.keys()
        resolved, size_reasons = _fit_start(resolved, dataset, place, may_shorten)
    else:
        resolved, size_reasons = give_size(resolved, dataset)
    return resolved, dataset, [*share, *reasons, *size_reasons]


def _open(source: str, recipe: Recipe) -> tuple[Dataset, list[str]]:
    """The images of a run, of which the recipe may take a share to train on, and a note of that."""
    data = with_test(open_data(source, val_fraction=recipe.data.val_fraction), recipe.data.test_fraction)
    fraction, whole = recipe.data.fraction, data.train
    if fraction == 1 or whole is None:
        return data, []
    train = share_of(whole, fraction, recipe.seed)
    note = f"{len(train):,} of {len(whole):,} training images: data.fraction {fraction:g}"
    return replace(data, train=train), [note]


def _fit_start(recipe: Recipe, data: Dataset, place: Devices, may_shorten: bool) -> tuple[Recipe, list[str]]:
    """The image size of a run from a start model where none is named; and, on a CPU, a run that ends within the hour.

    What was named is never changed: the length only if ``may_shorten``, the image size only if none was given.
    """
    start = start_of(recipe)
    config, reasons = start.config, list[str]()
    if start.format.origin != "vitrail":
        reasons += start.notes
        reasons += start.found.weights.notes if start.found.config else ()
    pixels = pixels_of(start, recipe)
    if pixels is None and None in (recipe.data.mean, recipe.data.std):
        reasons.append(
            f"how {recipe.init} wants its pixels is not known: mean and std of 0.5 are taken, unless "
            "--set data.mean=[...] and --set data.std=[...] say better"
        )
    may_shrink = recipe.image_size is None and recipe.resolution.sizes is None
    if recipe.image_size is None and recipe.resolution.sizes is not None:
        recipe, middle = give_middle_size(recipe, recipe.model.get("patch_size") or step_of(config))
        reasons += middle
    if may_shrink:
        size, why = start_size(config, pixels.image_size if pixels else config.image_size, data)
        recipe = files.changed(recipe, {"image_size": size})
        reasons.append(f"image size {size[0]}x{size[1]}: {why}")
    if not may_shorten or data.train is None or place.device.type != "cpu" or place.world > 1:
        return recipe, reasons
    if isinstance(config, ViTConfig):
        config = config.at_size(recipe.image_size, recipe.model.get("patch_size"))
    else:
        config = config.with_changes(image_size=recipe.image_size)
    config = config.with_changes(classes=len(data.labels))
    work = Work(
        images=len(data.train),
        epochs=recipe.epochs or 1,
        val=len(data.val or ()),
        evaluations=min(20, round(recipe.epochs or 1)),
        test=len(data.test or ()),
        share=mean_flops(recipe, config) / Cost(config).flops,
    )
    precision = resolve_precision(recipe.precision, place.device)
    check_memory(recipe, config, place, precision)  # before it is tried out
    of_image = seconds_per_image(config, place.device, precision)
    if work.seconds(of_image) <= BUDGET:
        return recipe, reasons
    epochs, size = cheaper(config, work, of_image, BUDGET, may_shrink=may_shrink)
    reasons.append(
        f"{work.epochs:g} epochs of {config.image_size[0]}x{config.image_size[1]} pixels would take about "
        f"{clock(work.seconds(of_image))} on this CPU: made {epochs} epochs of {size[0]}x{size[1]}; "
        "name --epochs and --image-size to have it otherwise"
    )
    return files.changed(recipe, {"epochs": epochs, "image_size": size}), reasons


def saved(
    folder: Path, recipe: Recipe | str | Path | None, data: str | Path | None, changes: dict[str, Any]
) -> tuple[Recipe, Dataset, list[str]]:
    """The recipe and data of the run that is there; what is asked for besides must not contradict them."""
    path = folder / "recipe.yaml"
    try:
        own_recipe = files.load(path)
    except UserError as error:
        raise UserError(
            f"{error}; mend it, or remove it: --resume writes it anew from the newest checkpoint"
        ) from error
    if data is not None:
        changes["data.source"] = str(data)
    given: dict[str, Any] = {}
    if recipe is not None:
        asked = recipe if isinstance(recipe, Recipe) else files.load(recipe)
        given = files.paths(asked.model_dump(exclude_unset=True))
        instead = files.paths(files.changed(asked, changes).to_dict())
        # what is named besides takes others away: epochs takes steps, a variant the recipe's own sizes
        given = {key: value for key, value in given.items() if value is not None and instead.get(key) is not None}
    changes = {**given, **changes}
    wanted = files.changed(own_recipe, changes)
    for key in sorted(changes):
        own, other = _at(own_recipe, key), _at(wanted, key)
        if own != other and not may_differ(key, own, other):
            raise UserError(
                f"--resume goes on with {path}, where {key} is {own}, not {other}: "
                "leave it out, or begin a new run, from this one's model with --init"
            )
    own_recipe = files.changed(own_recipe, {key: value for key, value in changes.items() if is_free(key)})
    dataset, _ = _open(own_recipe.data.source or "digits", own_recipe)
    return own_recipe, dataset, files.comments(path)


def _at(recipe: Recipe, path: str) -> Any:
    value: Any = recipe.to_dict()
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def new_folder(folder: Path | None, name: str) -> Path:
    """The folder of a new run, not yet made: the one given, or the first free one below ``runs``."""
    if folder is not None:
        if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
            what = "already holds a run" if (folder / "recipe.yaml").is_file() else "is not empty"
            raise UserError(
                f"{folder} {what}: choose another --out" + (", or go on with --resume" if "run" in what else "")
            )
        return folder
    base, number = Path("runs") / short_name(name), 1
    while (candidate := base if number == 1 else base.with_name(f"{base.name}-{number}")).exists():
        number += 1
    return candidate


def short_name(data: str) -> str:
    """A name for files and titles: ``hf:owner/pets`` and ``photos/pets.csv`` are ``pets``."""
    last = Path(data.removeprefix("hf:")).resolve().name
    stem = re.sub(r"\.(csv|tsv|jsonl|ndjson|parquet|tar)$", "", last)
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "run"
