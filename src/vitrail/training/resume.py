"""A run that goes on: from its newest whole checkpoint, with the recipe and the images that it began with."""

from pathlib import Path
from typing import Any

from vitrail.data.changes import changes, describe
from vitrail.data.identity import Identity
from vitrail.errors import UserError
from vitrail.recipes import files
from vitrail.recipes.recipe import Recipe
from vitrail.training import checkpoint
from vitrail.training.device import Devices
from vitrail.training.metrics import MetricsLog
from vitrail.training.plan import Plan
from vitrail.training.progress import TrainingProgress
from vitrail.training.state import RunState
from vitrail.weights import replace

_IDENTITY = "data.parquet"
FREE = frozenset({"data.workers", "data.cache", "data.source", "checkpoint.every", "checkpoint.keep", "parallel"})
"""What may differ when a run goes on, as it changes nothing that is computed. That the images of another source are the
same is seen to by itself. Any key of ``guard`` may differ too."""


def is_free(path: str) -> bool:
    """Whether a recipe's key may have another value when a run goes on."""
    return path in FREE or path.startswith("guard.")


def go_on(
    state: RunState,
    plan: Plan,
    folder: Path,
    progress: TrainingProgress,
    place: Devices,
    *,
    allow_data_change: bool,
) -> None:
    """Bring a run to where its newest whole checkpoint is; without any checkpoint, to its start.

    Raises:
        UserError: the recipe or the images are not those of the checkpoint, or every checkpoint is damaged.
    """
    checkpoints = folder / "checkpoints"
    found, damaged = checkpoint.newest_valid(checkpoints)
    for line in damaged:
        progress.say(line)
    if found is None and damaged:
        raise UserError(
            f"none of the {len(damaged)} checkpoints in {checkpoints} is whole; the newest: {damaged[0]}. Bring one back, "
            "or begin a new run in another --out"
        )
    if found is not None:
        for note in _recipe_changes(found.state["recipe"], plan.recipe, folder):
            progress.say(note)
        changed = _data_changes(plan, folder, same=found.state["data"] == state.data)
        if changed and not allow_data_change:
            raise UserError(
                f"{plan.name} has changed since this run began: {changed}. Bring the data back, go on with what is there "
                "now with --allow-data-change, or begin a new run from this one's model with --init"
            )
        if changed:
            progress.say(f"{plan.name} has changed since this run began: {changed}")
        state.restore(found, place.control)
    progress.say(f"going on from step {state.step} of the run in {folder}")
    place.barrier()  # every process has read what it goes on from
    if place.first:
        checkpoint.set_aside_after(checkpoints, state.step)
        MetricsLog(folder).cut_after(state.step)


def save_recipe(recipe: Recipe, folder: Path, reasons: list[str]) -> None:
    """The recipe of a run, as it computes it now."""
    with replace.file(folder / "recipe.yaml") as staging:
        files.save(recipe, staging, comments=reasons)


def save_identity(plan: Plan, folder: Path) -> None:
    """What the run knows of its images: names, classes, sizes, contents."""
    with replace.file(folder / _IDENTITY) as staging:
        _identity(plan).save(staging)


def _identity(plan: Plan) -> Identity:
    parts = {"train": plan.train, "val": plan.val, "test": plan.test}
    return Identity.of({name: part for name, part in parts.items() if part is not None})


def _data_changes(plan: Plan, folder: Path, *, same: bool) -> str:
    """What has changed in the images since the run began, in words; empty for nothing.

    Args:
        plan: with the images as they are now.
        folder: of the run.
        same: whether names, classes and number of steps are those of the checkpoint.

    Raises:
        UserError: the classes are others, so that the model does not fit them.
    """
    path = folder / _IDENTITY
    found = changes(Identity.load(path), _identity(plan)) if path.is_file() else []
    if any(change.what == "classes" for change in found):
        raise UserError(f"{plan.name} has other classes than this run: {describe(found)}. Bring them back")
    if found:
        return describe(found)
    return "" if same else "its training images, or how many steps they make, are others"


def _recipe_changes(before: dict[str, Any], recipe: Recipe, folder: Path) -> list[str]:
    """A note on each value that has changed since the checkpoint was written.

    Raises:
        UserError: one that changes what is computed.
    """
    old, new, notes = files.paths(before), files.paths(recipe.to_dict()), []
    for path in sorted(old.keys() | new.keys()):
        was, now = old.get(path), new.get(path)
        of_later_version = path not in old and not path.startswith("model.")
        if was == now or of_later_version or (path == "init" and _same_place(was, now)):
            continue
        if not is_free(path):
            raise UserError(
                f"{folder / 'recipe.yaml'}: {path} is {now}, and the run was trained with {was}: put it back, or begin "
                "a new run, from this one's model with --init"
            )
        notes.append(f"{path} is {now} from here on, and was {was}")
    return notes


def _same_place(one: object, other: object) -> bool:
    return Path(str(one)).resolve() == Path(str(other)).resolve()
