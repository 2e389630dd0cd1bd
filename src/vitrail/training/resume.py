"""A run that goes on: from its newest whole checkpoint, with the recipe and the images that it began with."""

from pathlib import Path
from typing import Any

from vitrail.data.changes import changes, describe
from vitrail.data.identity import Identity
from vitrail.errors import UserError
from vitrail.model import build
from vitrail.recipes import files
from vitrail.recipes.recipe import Recipe
from vitrail.training import checkpoint
from vitrail.training.checkpoint import Checkpoint
from vitrail.training.device import Devices
from vitrail.training.metrics import REPORT, MetricsLog
from vitrail.training.plan import Plan
from vitrail.training.progress import TrainingProgress
from vitrail.training.state import RunState
from vitrail.weights import replace
from vitrail.weights.folder import write
from vitrail.weights.load import load_folder

_IDENTITY = "data.parquet"
FREE = frozenset(
    {
        *("data.workers", "data.cache", "data.cache_folder", "data.source", "init"),
        *("checkpoint.every", "checkpoint.keep", "parallel"),
    }
)
"""What may differ when a run goes on, as it changes nothing that is computed. That the images of another source are the
same is seen to by itself; of the start model the shape alone is still needed. Any key of ``guard`` may differ too."""


def is_free(path: str) -> bool:
    """Whether a recipe's key may have another value when a run goes on."""
    return path in FREE or path.startswith("guard.")


def may_differ(path: str, was: object, now: object) -> bool:
    """Whether a recipe's key may change from one value to another when a run goes on.

    A start model may have moved; a run that had none did not begin from one, nor the reverse.
    """
    return is_free(path) and not (path == "init" and was != now and None in (was, now))


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
    if checkpoints.exists() and not checkpoints.is_dir():
        raise UserError(f"{checkpoints} is not a folder: remove it, or begin a new run in another --out")
    found, damaged = checkpoint.newest_valid(checkpoints)
    for line in damaged:
        progress.say(line)
    if found is None and damaged:
        raise UserError(
            f"none of the {len(damaged)} checkpoints in {checkpoints} is whole; the newest: {damaged[0]}. Bring one back, "
            "or begin a new run in another --out"
        )
    if found is None and (last := _saved_before(folder, plan)):
        raise UserError(
            f"{checkpoints} has none of the checkpoints of this run, which got to step {last}: bring them back, or begin a "
            "new run in another --out, from this one's model with --init"
        )
    if not place.agreed(-1 if found is None else found.step):
        raise UserError(
            f"processes find other checkpoints in {checkpoints}: put --out on a disk that all machines share"
        )
    if found is not None:
        try:
            before, data = found.state["recipe"], found.state["data"]
        except KeyError as missing:
            raise UserError(_other_version(found)) from missing
        for note in _recipe_changes(before, plan.recipe, folder):
            progress.say(note)
        changed = _data_changes(plan, folder, same=data == state.data, allowed=allow_data_change)
        if changed and not allow_data_change:
            raise UserError(
                f"{plan.name} has changed since this run began: {changed}. Bring the data back, go on with what is there "
                "now with --allow-data-change, or begin a new run from this one's model with --init"
            )
        if changed:
            progress.say(f"{plan.name} has changed since this run began: {changed}")
        try:
            state.restore(found, place.control)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(_other_version(found)) from error
    progress.say(f"going on from step {state.step} of the run in {folder}")
    place.barrier()  # every process has read what it goes on from
    if place.first:
        checkpoint.set_aside_after(checkpoints, state.step)
    _see_to_the_model(state, plan, folder, progress, place)
    if place.first and (wrong := MetricsLog(folder).cut_after(state.step, state.evaluated, state.logged)):
        progress.say(wrong)


def _saved_before(folder: Path, plan: Plan) -> int:
    """The last step of a run that must have written a checkpoint, by its log and its report; 0 where it need not have.

    The first one is on the disk when the second is begun.
    """
    last = MetricsLog(folder).last_step()
    before = files.load(folder / "recipe.yaml")  # in the plan's recipe this key may be another
    every = before.checkpoint.every or plan.evaluate_every
    return last if last > 2 * every or (last and (folder / REPORT).exists()) else 0


def _see_to_the_model(state: RunState, plan: Plan, folder: Path, progress: TrainingProgress, place: Devices) -> None:
    """The kept model, where it was removed or damaged: from the checkpoint of its step, or else from the next evaluation."""
    if state.best is None:
        return
    model, problem = folder / "model", None
    try:
        load_folder(model)
    except UserError as error:
        problem = str(error)
    if not place.any(problem is not None):
        return
    found, _ = checkpoint.newest_valid(folder / "checkpoints", at_most=state.best.step)
    if found is None or found.step != state.best.step or not found.tensors:
        progress.say(f"{problem}: the next evaluation keeps another")
        state.best, state.evaluated = None, min(state.evaluated, state.step - 1)
        return
    if place.first:
        kept = build(plan.config)
        kept.load_state_dict(found.tensors.get("ema", found.tensors["model"]))
        kept.preprocess, kept.labels = plan.preprocess, plan.labels
        write(kept, model, metrics=MetricsLog(folder).scores(found.step))
        progress.say(f"{problem}: written anew from the checkpoint of step {found.step}")
    place.barrier()


def _other_version(found: Checkpoint) -> str:
    return (
        f"{found.path} holds another model or was written by another version of vitrail: go on with that one, or begin a "
        "new run from this one's model with --init"
    )


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


def _data_changes(plan: Plan, folder: Path, *, same: bool, allowed: bool) -> str:
    """What has changed in the images since the run began, in words; empty for nothing.

    Args:
        plan: with the images as they are now.
        folder: of the run.
        same: whether names, classes and number of steps are those of the checkpoint.
        allowed: whether to go on in any case, even without knowing what there was.

    Raises:
        UserError: the classes are others, so that the model does not fit them.
    """
    path = folder / _IDENTITY
    try:
        found = changes(Identity.load(path), _identity(plan))
    except UserError as error:
        if allowed:
            return str(error)
        raise UserError(f"{error}: go on with the images that are there now with --allow-data-change") from error
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
    usual = files.paths(Recipe(epochs=1).to_dict())
    for path in sorted(old.keys() | new.keys()):
        was, now = old.get(path), new.get(path)
        of_later_version = path not in old and now == usual.get(path)
        if was == now or of_later_version or (path == "init" and _same_place(was, now)):
            continue
        if not may_differ(path, was, now) or _matters_here(path, was, now, recipe):
            raise UserError(
                f"{folder / 'recipe.yaml'}: {path} is {now}, and the run was trained with {was}: put it back, or remove the "
                "file, and --resume writes it anew; or begin a new run, from this one's model with --init"
            )
        notes.append(f"{path} is {now} from here on, and was {was}")
    return notes


def _matters_here(path: str, was: object, now: object, recipe: Recipe) -> bool:
    """Whether a key that is mostly free changes what is computed after all."""
    if path == "checkpoint.every":
        return recipe.guard.spike is not None  # weights go back to one of them
    # images kept before they are cut are resized twice; those kept as they are used, and those decoded anew, are not
    return path == "data.cache" and isinstance(was, str) != isinstance(now, str)


def _same_place(one: object, other: object) -> bool:
    return Path(str(one)).resolve() == Path(str(other)).resolve()
