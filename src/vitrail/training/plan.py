"""Plan: all that a run has decided before anything is computed or written, so that bad input costs nothing."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vitrail.data.augment import Augment
from vitrail.data.cache import Checked, Memory
from vitrail.data.open import Dataset
from vitrail.data.preprocess import Preprocess
from vitrail.data.resolutions import Resolutions, Size, different_sizes
from vitrail.errors import UserError
from vitrail.model import ModelConfig, ResNetConfig, ViTConfig, is_resnet, model_variant
from vitrail.recipes.files import changed
from vitrail.recipes.recipe import Recipe, no_such_choice
from vitrail.training.images import Look
from vitrail.training.resolution import pairs_of
from vitrail.weights.contract import patch_size_of
from vitrail.weights.description import Description, read
from vitrail.weights.embedded import UNSAID

_PIXEL_KEYS = ("mode", "crop_fraction", "interpolation", "mean", "std")


@dataclass(frozen=True)
class Plan:
    """A run, decided: the recipe with every value, the images, the model's shape, the pixels' way, the steps."""

    recipe: Recipe
    name: str
    """Of the data."""
    labels: tuple[str, ...]
    train: Checked
    val: Checked | None
    test: Checked | None
    config: ModelConfig
    preprocess: Preprocess
    augment: Augment
    steps: int
    warmup: int
    evaluate_every: int
    start: Description | None = None
    """The model that the run starts from."""
    resolutions: Resolutions | None = None
    """The image size and patch size of each step; None where every step has the model's own."""
    cached: Mapping[Size, torch.Tensor] = field(default_factory=dict)
    """The training images decoded, at every size that steps have; empty where each is decoded when it is needed."""
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """A hash of the classes, the training images' names and targets, and the number of steps."""
        digest = hashlib.sha256(repr((self.labels, self.steps, list(self.train.samples.names))).encode())
        if self.train.samples.targets is not None:
            digest.update(self.train.samples.targets.tobytes())
        return digest.hexdigest()

    @property
    def steps_per_epoch(self) -> float:
        """Steps in one pass over the training images; batches run on over the end of an epoch."""
        return len(self.train.samples) / self.recipe.batch_size


def make_plan(
    recipe: Recipe,
    data: Dataset,
    *,
    world: int = 1,
    neighbours: int = 1,
    progress: Callable[[int, int], None] | None = None,
    memory: Memory | None = None,
    approve: Callable[[ModelConfig], object] | None = None,
) -> Plan:
    """Decide everything that follows from the recipe, the data and the start model.

    Args:
        recipe, data: what to train on what.
        world: processes that train together.
        neighbours: those of them on this machine, which share its memory.
        progress: called with (done, all) while images are looked at.
        memory: of images decoded by earlier runs on the same data, for this run and later ones.
        approve: called with the model's configuration before any image is looked at, which takes long if it is too large.

    Raises:
        UserError: what cannot be trained: no training images, damaged images without ``skip_bad``, sizes that do not fit
            the patches or the start model, a batch that the processes cannot share.
    """
    if data.train is None or len(data.train) == 0:
        raise UserError(f"{data.name} has no training images")
    share, parts = divmod(recipe.batch_size, world)
    if parts or share % recipe.optimizer.accumulate:
        raise UserError(
            f"batch_size {recipe.batch_size} cannot be shared evenly by {world} processes "
            f"in {recipe.optimizer.accumulate} parts each: choose a multiple of {world * recipe.optimizer.accumulate}"
        )
    augment = Augment(**recipe.augment.model_dump())
    start = start_of(recipe) if recipe.init else None
    config, preprocess = _from_start(recipe, data, start) if start else _from_scratch(recipe, data)
    if approve is not None:
        approve(config)
    if preprocess.varies and recipe.compile:
        raise UserError("compile: images at their own aspect ratio have too many shapes to compile for: leave it out")
    pairs = pairs_of(recipe.resolution, config) if recipe.resolution.varies else ()
    look = Look(recipe, preprocess, data.name, neighbours, progress, memory)
    train, cached = look.at_training(data.train, different_sizes(pairs) or (config.image_size,))
    val, test = look.at_evaluation(data.val, "val"), look.at_evaluation(data.test, "test")
    n = len(train.samples)
    steps = recipe.steps or max(1, math.ceil((recipe.epochs or 1) * n / recipe.batch_size))
    per_epoch = max(1, round(n / recipe.batch_size))
    return Plan(
        recipe=_resolved(recipe, config, preprocess),
        name=data.name,
        labels=data.labels,
        train=train,
        val=val,
        test=test,
        config=config,
        preprocess=preprocess,
        augment=augment,
        steps=steps,
        warmup=_warmup(recipe, steps, per_epoch),
        evaluate_every=recipe.evaluate.every or max(per_epoch, math.ceil(steps / 20)),
        start=start,
        resolutions=Resolutions(pairs, recipe.resolution.order, recipe.seed, steps) if pairs else None,
        cached=cached,
        notes=(*_note("train", train), *_note("val", val), *_note("test", test)),
    )


def _note(name: str, checked: Checked | None) -> list[str]:
    if checked is None or not checked.bad:
        return []
    first = "; ".join(image.message for image in checked.bad[:3])
    return [f"{name}: {len(checked.bad)} images cannot be used and are left out: {first}"]


def _from_scratch(recipe: Recipe, data: Dataset) -> tuple[ModelConfig, Preprocess]:
    config = recipe.architecture(classes=len(data.labels))
    return config, _preprocess(recipe, config)


def start_of(recipe: Recipe) -> Description:
    """The start model before its weights are read.

    Of a file of weights that does not describe its model, the recipe's ``model`` says what is in no tensor, such as the
    activation.
    """
    assert recipe.init is not None
    description = read(recipe.init)
    said = {name: value for name, value in recipe.model.items() if name in UNSAID}
    return read(recipe.init, said) if said and not description.found.config else description


def pixels_of(start: Description, recipe: Recipe) -> Preprocess | None:
    """The start model's pixel contract; None where it is unknown, or has no equal here and the recipe gives one."""
    try:
        return start.preprocess
    except UserError:
        if recipe.data.mean is None or recipe.data.std is None:
            raise
        return None


def _from_start(recipe: Recipe, data: Dataset, start: Description) -> tuple[ModelConfig, Preprocess]:
    """The start model's shape with the data's classes, at the recipe's image size or its own."""
    config = start.config
    resnet = isinstance(config, ResNetConfig)
    chosen_here = {"variant"} if resnet else {"variant", "pool", "patch_size"}
    for name, wanted in recipe.model.items():
        if name != "variant" and name not in config.to_dict():
            raise UserError(no_such_choice(name, str(recipe.init), resnet=resnet))
        own = getattr(config, name, None)
        wanted = tuple(wanted) if isinstance(own, tuple) and isinstance(wanted, list) else wanted
        if name == "position_site" and isinstance(config, ViTConfig):
            own, wanted = config.site, config.with_changes(position_site=wanted).site
        if name not in chosen_here and wanted != own:
            raise UserError(
                f"model.{name}={wanted}, but {recipe.init} has {own}: leave it out, or start from another model"
            )
    if "variant" in recipe.model:
        if is_resnet(recipe.variant) != resnet:
            kind = "a ResNet" if resnet else "a Vision Transformer"
            raise UserError(f"{recipe.init} is not a {recipe.variant}: it is {kind}; leave --model out")
        names = ["width", "depth", "heads", "stem"]
        names += [] if "patch_size" in recipe.model else ["patch_size"]  # one that is given is wanted
        names += ["stem_layers", "stem_root"] if config.stem == "hybrid" else []
        names = ["layers", "width_factor", "root_width"] if resnet else names
        sizes = model_variant(recipe.variant, **{name: recipe.model[name] for name in names if name in recipe.model})
        different = [name for name in names if getattr(sizes, name) != getattr(config, name)]
        if different:
            details = ", ".join(f"{n} {getattr(config, n)} instead of {getattr(sizes, n)}" for n in different)
            raise UserError(f"{recipe.init} is not a {recipe.variant}: it has {details}; leave --model out")
    drops = recipe.regularization
    changes: dict[str, Any] = {"classes": len(data.labels), "drop_path": drops.drop_path}
    if isinstance(config, ViTConfig):
        config = config.at_size(recipe.image_size, recipe.model.get("patch_size"))
        changes |= {"dropout": drops.dropout, "attention_dropout": drops.attention_dropout, "representation": None}
        changes |= {"pool": recipe.model.get("pool", config.pool)}
    else:
        changes |= {"image_size": recipe.image_size or config.image_size}
        recipe.refuse_dropout(str(recipe.init))
    config = config.with_changes(**changes)
    recipe.check_patch_drop(config)
    return config, _preprocess(recipe, config, pixels_of(start, recipe))


def _preprocess(recipe: Recipe, config: ModelConfig, start: Preprocess | None = None) -> Preprocess:
    """The start's contract for pixels, or the plain one, at this image size, with what the recipe sets."""
    half = (0.5,) * config.channels
    own = start or Preprocess(config.image_size, config.channels, crop_fraction=1.0, mean=half, std=half)
    settings = {name: getattr(recipe.data, name) for name in _PIXEL_KEYS}
    chosen = {name: value for name, value in settings.items() if value is not None}
    mode = chosen.get("mode", own.mode)
    if mode != own.mode:
        chosen.setdefault("crop_fraction", None)  # the start's belongs to its mode: take the new mode's usual one
    if mode == "native":
        chosen["patch_size"] = patch_size_of(config)
    return replace(own, image_size=config.image_size, **chosen)


def _resolved(recipe: Recipe, config: ModelConfig, preprocess: Preprocess) -> Recipe:
    """The recipe with the values that were chosen, so that it says all of what the run computes."""
    pixels = {f"data.{name}": getattr(preprocess, name) for name in _PIXEL_KEYS}
    return changed(recipe, {"image_size": config.image_size, **pixels})


def _warmup(recipe: Recipe, steps: int, per_epoch: int) -> int:
    """Steps of warm-up: at most a fifth of the run, so that a shortened run still has a schedule."""
    schedule = recipe.schedule
    asked = schedule.warmup_steps
    if asked is None:
        asked = round((schedule.warmup_epochs or 0) * per_epoch)
    return min(asked, steps // 5)
