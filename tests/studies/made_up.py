"""Outcomes whose truth is known: runs that are right on an image with a probability of the arm, the seed and the image."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vitrail.studies.findings import Estimate, Point, Setting
from vitrail.studies.outcome import Cell, Outcome, Size
from vitrail.studies.study import Study


def study(arms: Sequence[str] | Mapping[str, Any] = ("plain", "good", "same"), **values: Any) -> Study:
    """A study of these arms, with what they say if it is a mapping; the first is the reference."""
    given = {
        "title": "t",
        "question": "q",
        "lr": [0.001, 0.002, 0.004],
        "reference": next(iter(arms)),
        "arms": arms if isinstance(arms, Mapping) else {a: {} for a in arms},
    }
    return Study(**{**given, **values})


def size(**values: Any) -> Size:
    given = {
        "parameters": 10_000,
        "tokens": 17,
        "flops": 1_000_000,
        "attention_share": 0.02,
        "training_bytes": 5_000_000,
        "steps": 500,
        "images": 1000,
        "batch_size": 64,
    }
    return Size(**{**given, **values})


def setting(**values: Any) -> Setting:
    given = {
        "data": "digits",
        "classes": 10,
        "train": 1000,
        "val": 200,
        "reported": 600,
        "reported_split": "test",
        "image_size": (8, 8),
        "recipe": {"model": {"stem": "linear"}, "init": None},
        "jobs": 1,
        "machine": "m",
        "seconds": 60.0,
        "command": "vitrail study t",
    }
    return Setting(**{**given, **values})


class World:
    """Runs on the same images: some of which are hard for every arm, and some seeds luckier than others."""

    def __init__(
        self, n: int = 600, seed: int = 0, by_image: float = 0.8, by_seed: float = 0.02, rest: float = 0.4
    ) -> None:
        self.generator = np.random.default_rng(seed)
        self.hard = self.generator.normal(0, by_image, n)
        self.by_seed, self.rest = by_seed, rest
        self.total = np.sqrt(by_image**2 + by_seed**2 + rest**2)

    def correct(self, accuracy: float) -> np.ndarray:
        """(n,) answers of one run whose expected accuracy, over images too, is this."""
        from scipy.special import ndtri

        draw = self.generator.normal
        return ndtri(accuracy) * self.total + self.hard + draw(0, self.by_seed) + draw(0, self.rest, self.hard.size) > 0

    def outcome(self, arm: str, accuracy: float, along: Any = None, lr: float = 0.001, seed: int = 0) -> Outcome:
        return outcome(self.correct(accuracy), arm=arm, along=along, lr=lr, seed=seed, val_top1=accuracy)

    def outcomes(
        self,
        accuracy: Callable[[str, Any, float], float],
        arms: Sequence[str],
        rates: Sequence[float] = (0.001,),
        values: Sequence[Any] = (None,),
        seeds: int = 3,
    ) -> list[Outcome]:
        """Every run of a study whose arms, values and rates have these accuracies."""
        return [
            self.outcome(arm, accuracy(arm, value, lr), value, lr, seed)
            for arm in arms
            for value in values
            for lr in rates
            for seed in range(seeds)
        ]


def outcome(correct: np.ndarray, **values: Any) -> Outcome:
    """A run with these answers; ``arm``, ``along``, ``lr`` and ``seed`` name its cell."""
    cell = {"arm": "plain", "along": None, "lr": 0.001, "seed": 0}
    named = {key: values.pop(key) for key in list(values) if key in cell}
    given = {"val_top1": float(correct.mean()), "val_loss": 0.5, "nll": 0.4, "steps": 500, "seconds": 2.0}
    return Outcome(Cell(**{**cell, **named}), correct=correct, **{**given, **values})


def diverged(n: int, **values: Any) -> Outcome:
    """A run that diverged, as the outcome module describes it."""
    given = {"val_top1": 0.0, "val_loss": None, "nll": None, "diverged": True}
    return outcome(np.zeros(n, bool), **{**given, **values})


def sizes(outcomes: Sequence[Outcome], of: Mapping[Any, Size] | None = None) -> dict[tuple[str, Any], Size]:
    """The cost of every arm and value in the outcomes: from ``of`` by (arm, value) or arm, else the usual one."""
    of = of or {}
    cells = {(o.cell.arm, o.cell.along) for o in outcomes}
    return {cell: of.get(cell, of.get(cell[0], size())) for cell in cells}


def point(
    arm: str,
    top1: float,
    gap: float | None = None,
    *,
    half: float = 0.01,
    apart: bool = False,
    along: Any = None,
    lr: float = 0.002,
    chosen: bool = True,
    at_rate: float | None = None,
    **of_size: Any,
) -> Point:
    """A point with this accuracy and this difference, each give or take ``half``; at its rate the same unless said."""

    def about(mean):
        return None if mean is None else Estimate(mean, mean - half, mean + half)

    seeds, diverged = of_size.pop("seeds", 3), of_size.pop("diverged", 0)
    return Point(
        arm=arm,
        along=along,
        lr=lr,
        chosen=chosen,
        seeds=seeds,
        diverged=diverged,
        val_top1=top1,
        top1=about(top1),
        difference=about(gap),
        told_apart=apart,
        nll=0.3,
        seconds=2.0,
        size=size(**of_size),
        difference_at_rate=about(gap if at_rate is None else at_rate),
    )
