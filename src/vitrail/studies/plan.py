"""StudyPlan: every run of a study, decided before the first one starts: its recipe, its steps, its cost."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrail.data.open import Dataset, open_data, with_test
from vitrail.data.split import share_of
from vitrail.errors import UserError
from vitrail.model import ModelConfig, ViTConfig, is_resnet
from vitrail.model.cost import Cost
from vitrail.recipes import files
from vitrail.recipes.choose import epochs_for, give_size
from vitrail.recipes.recipe import Recipe
from vitrail.studies.outcome import Size
from vitrail.studies.sizes import Resized, method_of, resized_arms
from vitrail.studies.study import Arm, Changes, Study, check_keys
from vitrail.training.decide import short_name
from vitrail.training.plan import start_of
from vitrail.training.resolution import mean_flops

_EVALUATIONS = 4  # in a run: enough to keep a model from before it began to overfit
FEWEST_STEPS = 10
"""That a run is shortened to."""
_FEWEST_REPORTED = 10
_TEST_FRACTION = 0.2
# An image's and a patch's side in pixels that suit whatever images can suit.
_FITS_ALL, _PATCH_FITS_ALL = 10_080, 32


@dataclass(frozen=True)
class Planned:
    """An arm at a value along the axis: what is trained at each of its learning rates, with each seed."""

    arm: str
    along: Any
    recipe: Recipe
    rates: tuple[float, ...]
    config: ModelConfig
    size: Size
    changes: Changes
    """What this arm changes, its chosen alternative included."""


@dataclass(frozen=True)
class StudyPlan:
    """A study on data: ``study`` has the arms that can be built, those of start models included."""

    study: Study
    data: Dataset
    source: str
    base: Recipe
    """What all arms share."""
    cells: tuple[Planned, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    resized: tuple[Resized, ...] = ()
    """Of a study of sizes: every arm at every size, for each of its seeds at its chosen rate."""

    @property
    def runs(self) -> int:
        """Training runs, all in all."""
        return sum(runs_of(self.study, planned.rates) for planned in self.cells)

    @property
    def transfers(self) -> int:
        """Trained models brought to a size, all in all: tested there, and fine-tuned."""
        return self.study.seeds * sum(not resized.repeated for resized in self.resized)

    @property
    def training_flops(self) -> float:
        """FLOPs of all runs and fine-tunings together."""
        tuning = sum(resized.tuning_flops for resized in self.resized if not resized.repeated)
        runs = sum(runs_of(self.study, planned.rates) * planned.size.training_flops for planned in self.cells)
        return runs + self.study.seeds * tuning

    @property
    def values(self) -> tuple[Any, ...]:
        """Along the axis; one None without one."""
        return self.study.along.values if self.study.along else (None,)

    @property
    def reference(self) -> Planned:
        """The reference, at the last value along the axis."""
        return [planned for planned in self.cells if planned.arm == self.study.reference][-1]

    def identity(self) -> dict[str, Any]:
        """All that decides the runs, plain, but for the number of seeds: a study may get more of them."""
        cells = [
            {"arm": c.arm, "along": c.along, "rates": list(c.rates), "recipe": c.recipe.to_dict()} for c in self.cells
        ]
        sizes = [resized.identity() for resized in self.resized]
        own = self.study.sizes
        tuning = {"sizes": {"tune_lr": own.tune_lr, "arms": sizes}} if own else {}
        return {"images": _digest(self.data), "cells": cells, **tuning}


def _digest(data: Dataset) -> str:
    """A hash of the classes, and of the names and classes of all images."""
    digest = hashlib.sha256(repr(data.labels).encode())
    for samples in (data.train, data.val, data.test):
        if samples is not None:
            digest.update(repr(list(samples.names)).encode())
            if samples.targets is not None:
                digest.update(samples.targets.tobytes())
    return digest.hexdigest()


def runs_of(study: Study, rates: Sequence[float]) -> int:
    """How many runs an arm takes at one value: some seeds try every rate, the others the chosen one."""
    sweep = min(study.sweep_seeds or study.seeds, study.seeds)
    return len(rates) * sweep + study.seeds - sweep


def make_plan(
    study: Study,
    source: str | Path,
    *,
    recipe: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    init: Sequence[str] = (),
) -> StudyPlan:
    """Decide every run of a study.

    What all arms share: the recipe (digits for the built-in digits, else small, or the one named), changed by what the
    study asks for, then by ``changes``. On top of it each arm has its own.

    Args:
        study: what to compare.
        source: DATA, as for ``open_data``.
        recipe: name or path of another recipe.
        changes: recipe values by their paths, for all arms.
        init: start models, each of which becomes an arm.

    Raises:
        UserError: no such data, wrong keys, fewer than two arms that can be built, no reference.
    """
    base, data, notes = _shared(study, str(source), recipe, dict(changes or {}))
    arms = dict(study.arms)
    if init and study.start is None:
        raise UserError("this study compares models from scratch only: leave --init out")
    for name in init:
        assert study.start is not None
        started = {"init": name, "model": {}, **study.start.changes}
        arms[_free(f"from {short_name(name)}", arms)] = study.start.model_copy(update={"changes": started})

    planner = _Planner(study, base, data)
    planned: dict[str, list[Planned]] = {}
    left_out: dict[str, str] = {}
    first = dict.fromkeys([study.reference, *([study.match.to] if study.match else []), *arms])  # twins of these go
    for name in (name for name in first if arms[name].of is None):
        try:
            own = planner.cells(name, arms[name])
        except _LeftOut as error:
            left_out[name] = str(error)
            continue
        twin = next((other for other, cells in planned.items() if _alike(own, cells)), None)
        if twin is None:
            planned[name] = own
        else:
            left_out[name] = f"the same as {twin}"
    if study.reference in left_out:
        reason = left_out[study.reference]
        raise UserError(f"the arm that the others are compared with cannot be built here: {study.reference}: {reason}")
    left_out |= _not_read(arms, planned)
    reasons = tuple(f"{name}: {left_out[name]}" for name in arms if name in left_out)
    if len(arms) - len(left_out) < 2:
        raise UserError(f"only one arm can be built here, so there is nothing to compare: {'; '.join(reasons)}")
    kept = {name: _with_opponent(arm, left_out) for name, arm in arms.items() if name not in left_out}
    possible = study.model_copy(update={"arms": kept})
    ordered = tuple(cell for name in kept for cell in planned.get(name, ()))
    return StudyPlan(possible, data, str(source), base, ordered, reasons, tuple(notes), resized_arms(possible, ordered))


def _not_read(arms: Mapping[str, Arm], planned: Mapping[str, Sequence[Planned]]) -> dict[str, str]:
    """The arms that read the models of another and cannot, or read them as another arm does, with the reason."""
    left_out: dict[str, str] = {}
    ways: dict[tuple[str, str], str] = {}
    for name, arm in arms.items():
        if arm.of is None:
            continue
        config = planned[arm.of][0].config if arm.of in planned else None
        if config is None:
            left_out[name] = f"{arm.of}, whose models it reads, is left out"
        elif not isinstance(config, ViTConfig):
            left_out[name] = f"{arm.of}, whose models it reads, is a ResNet, which has no positions to interpolate"
        else:
            ways.setdefault((arm.of, config.position_interpolation), arm.of)
            twin = ways.setdefault((arm.of, method_of(arm.changes)), name)
            if twin != name:
                left_out[name] = f"the same as {twin}"
    return left_out


def _with_opponent(arm: Arm, left_out: Mapping[str, str]) -> Arm:
    """The arm, compared with the study's reference where its own opponent is left out."""
    return arm.model_copy(update={"against": None}) if arm.against in left_out else arm


def _alike(one: Sequence[Planned], other: Sequence[Planned]) -> bool:
    """Whether two arms train the same runs."""
    return [(c.recipe, c.rates) for c in one] == [(c.recipe, c.rates) for c in other]


def shortened(plan: StudyPlan, share: float) -> StudyPlan:
    """The same study with this share of every run's steps."""

    def shorter(planned: Planned) -> Planned:
        steps = max(min(FEWEST_STEPS, planned.size.steps), round(planned.size.steps * share))
        return replace(
            planned,
            recipe=files.changed(planned.recipe, _length(steps)),
            size=replace(planned.size, steps=steps),
        )

    cells = tuple(shorter(planned) for planned in plan.cells)
    return replace(plan, cells=cells, resized=resized_arms(plan.study, cells))


def _shared(
    study: Study, source: str, named: str | Path | None, changes: dict[str, Any]
) -> tuple[Recipe, Dataset, list[str]]:
    """The recipe that all arms share, with its image size and its epochs; the data; what was chosen, in words."""
    notes: list[str] = []
    try:
        check_keys(changes)
    except ValueError as error:
        raise UserError(str(error)) from error
    recipe = files.load(named if named is not None else "digits" if source == "digits" else "small")
    own = study.digits if source == "digits" else {}
    for wanted in (study.recipe, own, changes):  # one after the other: a later length takes an earlier one's place
        recipe = files.changed(recipe, wanted)
    recipe = files.changed(recipe, {"data.source": source})
    data = open_data(source, val_fraction=recipe.data.val_fraction)
    if data.test is None:
        share = recipe.data.test_fraction or _TEST_FRACTION
        recipe = files.changed(recipe, {"data.test_fraction": share})
        data = with_test(data, share)
        notes.append(f"the data have no test images: {share:.0%} of the training images are held out and reported")
    train, val, test = (len(part) if part is not None else 0 for part in (data.train, data.val, data.test))
    if not train or not val:
        raise UserError(f"{source}: a study needs images to train on and others to choose the learning rate on")
    if test < _FEWEST_REPORTED:
        raise UserError(f"{source}: {test} test images tell nothing; a study takes at least {_FEWEST_REPORTED}")
    lengths = [key for part in (study.recipe, own, changes) for key in part if key in ("epochs", "steps")]
    if named is None and source != "digits" and not lengths:
        epochs = epochs_for(train, recipe.epochs or 1)
        recipe = files.changed(recipe, {"epochs": epochs})
        notes.append(f"epochs: {epochs}, for {train:,} training images")
    recipe, reasons = give_size(recipe, data)
    return recipe, data, notes + reasons


class _LeftOut(Exception):
    """An arm that cannot be built on these data."""


@dataclass
class _Planner:
    study: Study
    base: Recipe
    data: Dataset

    def __post_init__(self) -> None:
        assert self.data.train is not None
        self.train = self.data.train
        self.wanted: dict[Any, Cost] = {}  # along -> the cost that the others are matched to
        match = self.study.match
        if match is not None:
            for value in self.values:
                self.wanted[value] = Cost(self._config(self._recipe(self.study.arms[match.to].changes, value)))

    @property
    def values(self) -> tuple[Any, ...]:
        return self.study.along.values if self.study.along else (None,)

    def cells(self, name: str, arm: Arm) -> list[Planned]:
        """The arm at every value along the axis."""
        return [self._cell(name, arm, value) for value in self.values]

    def _cell(self, name: str, arm: Arm, value: Any) -> Planned:
        changes = self._alternative(name, arm, value)
        try:
            recipe = self._recipe(changes, value)
            config = self._config(recipe)
        except UserError as error:
            self._refuse_nonsense(name, changes, value)
            raise _LeftOut(str(error)) from error
        tokens = config.tokens if isinstance(config, ViTConfig) else None
        if self.study.most_tokens and tokens and tokens > self.study.most_tokens:
            raise _LeftOut(f"{tokens:,} tokens, and the study goes up to {self.study.most_tokens:,}")
        images, steps = self._length(recipe)
        recipe = files.changed(recipe, {**_length(steps), "image_size": config.image_size})
        cost = Cost(config, batch_size=recipe.batch_size // recipe.optimizer.accumulate)
        size = Size(
            parameters=cost.parameters,
            tokens=tokens,
            flops=cost.flops,
            attention_share=cost.to_dict()["attention_share"],
            training_bytes=cost.memory["training"],
            steps=steps,
            images=images,
            batch_size=recipe.batch_size,
            trained_flops=_trained_flops(recipe, config),
        )
        return Planned(name, value, recipe, arm.lr or self.study.lr, config, size, changes)

    def _refuse_nonsense(self, name: str, changes: Changes, value: Any) -> None:
        """An arm that no images would suit is the study's mistake, and not left out."""
        try:
            recipe = files.changed(self._recipe(changes, value), {"image_size": (_FITS_ALL, _FITS_ALL)})
            if "model.patch_size" not in changes and not recipe.init and not is_resnet(recipe.variant):
                recipe = files.changed(recipe, {"model.patch_size": _PATCH_FITS_ALL})
            self._config(recipe)
        except UserError as error:
            raise UserError(f"arm {name}: {error}") from error

    def _alternative(self, name: str, arm: Arm, value: Any) -> Changes:
        """The arm's changes with the one of its alternatives that fits: the nearest in cost, else the first possible."""
        if not arm.choose:
            return arm.changes
        possible: list[tuple[float, Changes]] = []
        reason = ""
        for choice in arm.choose:
            changes = {**arm.changes, **choice}
            try:
                cost = Cost(self._config(self._recipe(changes, value)))
            except UserError as error:
                self._refuse_nonsense(name, changes, value)
                reason = str(error)
                continue
            possible.append((self._distance(cost, value), changes))
        if not possible:
            raise _LeftOut(reason)
        return min(possible, key=lambda pair: pair[0])[1]

    def _distance(self, cost: Cost, value: Any) -> float:
        """How far a cost is from the one to match, as the logarithm of their ratio; 0 where nothing is to match."""
        match = self.study.match
        if match is None:
            return 0.0
        wanted = self.wanted[value]
        own, other = (c.flops if match.by == "flops" else c.parameters for c in (cost, wanted))
        return abs(math.log(own / other))

    def _recipe(self, changes: Changes, value: Any) -> Recipe:
        along = self.study.along
        return files.changed(self.base, {**changes, **({along.key: value} if along else {})})

    def _config(self, recipe: Recipe) -> ModelConfig:
        """The configuration that a run of this recipe trains."""
        classes = len(self.data.labels)
        if not recipe.init:
            return recipe.architecture(classes=classes)
        start = start_of(recipe).config
        size = recipe.image_size
        if isinstance(start, ViTConfig) and size is not None:
            p = start.patch_size
            size = (max(1, round(size[0] / p)) * p, max(1, round(size[1] / p)) * p)
        return start.with_changes(classes=classes, image_size=size or start.image_size)

    def _length(self, recipe: Recipe) -> tuple[int, int]:
        """Training images and steps of a run.

        On a fraction of the images a run takes more epochs, as the square root of the fraction falls: the rule by which
        the epochs follow the number of images everywhere (``recipes.choose.epochs_for``).
        """
        images, full = (
            len(self.train) if fraction == 1 else len(share_of(self.train, fraction, self.base.seed))
            for fraction in (recipe.data.fraction, self.base.data.fraction)
        )
        if recipe.steps is not None:
            return images, recipe.steps
        assert recipe.epochs is not None
        epochs = recipe.epochs * math.sqrt(full / images)
        return images, max(1, math.ceil(epochs * images / recipe.batch_size))


def _trained_flops(recipe: Recipe, config: ModelConfig) -> float | None:
    """Mean FLOPs of a training image where the recipe has several sizes; None where it has one."""
    return mean_flops(recipe, config) if recipe.resolution.varies else None


def _length(steps: int) -> dict[str, Any]:
    """The keys that make a run this long, with a few evaluations and no more."""
    return {"steps": steps, "evaluate.every": math.ceil(steps / _EVALUATIONS), "checkpoint.keep": 1}


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number = 1
    while (candidate := name if number == 1 else f"{name} ({number})") in taken:
        number += 1
    return candidate
