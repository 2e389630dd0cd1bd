"""Findings: a study with its numbers, ready to be shown as a table, a figure, sentences and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitrail.studies.outcome import Size
from vitrail.studies.study import Study


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and images with its 95 % interval: an accuracy, or a difference of two, as a fraction."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One arm at one value along the axis and one learning rate, over its seeds."""

    arm: str
    along: Any
    lr: float
    chosen: bool
    """Whether this learning rate is the arm's best there on the validation images."""
    seeds: int
    """Runs that the numbers are means of."""
    diverged: int
    """Those of them that diverged; their accuracy counts as 0."""
    val_top1: float
    top1: Estimate
    difference: Estimate | None
    """Against its opponent (``Study.opponent``) at the same value, and at the opponent's own chosen rate if ``chosen`` else
    at this rate; None for the reference itself, and where the opponent has no run to pair with."""
    told_apart: bool
    """Whether the difference is not 0 even with all the study's comparisons in mind (Bonferroni)."""
    nll: float | None
    """Mean over the runs that did not diverge; None if all did."""
    seconds: float
    """Mean training time of a run, beside the other runs of the study."""
    size: Size
    difference_at_rate: Estimate | None = None
    """Against the opponent at this very learning rate; for a chosen point this is what a single rate would have shown. None
    for the reference itself, and where the opponent has no run at this rate to pair with."""


@dataclass(frozen=True)
class SizePoint:
    """One arm, trained at the base size at its chosen rate, at one size of the images, over its seeds."""

    arm: str
    image_size: tuple[int, int]
    scale: float
    """The factor of the base size that was asked for; ``image_size`` is it in whole patches."""
    tuned: bool
    """After a brief fine-tuning at this size; else as it was trained at the base size."""
    top1: Estimate
    difference: Estimate | None
    """Against its opponent (``Study.opponent``) at the same size and stage; None for the reference itself."""
    told_apart: bool
    """Whether that is not 0 with all such differences of the study in mind, over arms, sizes and stages (Bonferroni)."""
    change: Estimate | None
    """Against the same arm as trained, at the base size; None for that point itself."""
    change_told_apart: bool
    """Whether its own 95 % interval leaves out 0; unlike differences, changes are not corrected for their number."""
    nll: float | None
    """Mean over the seeds that did not diverge; None if all did."""
    seeds: int
    flops: int
    """Of one forward pass on one image of this size."""
    tokens: int | None
    training_flops: float
    """What it took to get there: the training at the base size, and the fine-tuning if ``tuned``."""
    seconds: float
    """Mean training time, that of the fine-tuning included if ``tuned``."""


@dataclass(frozen=True)
class Setting:
    """On what, how and where the study was run."""

    data: str
    classes: int
    train: int
    """Images that the reference was trained on, at the last value along the axis."""
    val: int
    reported: int
    reported_split: str
    """``test``, or in words which images were reported where the data have no test part."""
    image_size: tuple[int, int]
    recipe: Mapping[str, Any]
    """What all arms share, nested."""
    jobs: int
    """Runs side by side."""
    machine: str
    seconds: float
    """Training time of all runs, added up; ``jobs`` of them ran side by side."""
    command: str
    left_out: Sequence[str] = ()
    """Arms that could not be built on these data, with the reason."""
    notes: Sequence[str] = ()
    """Sentences for the person: what was chosen and why."""


@dataclass(frozen=True)
class Findings:
    """A study, run: ``points`` holds every (arm, along, lr); those that are ``chosen`` are the answer."""

    name: str
    study: Study
    setting: Setting
    points: tuple[Point, ...]
    conclusions: tuple[str, ...] = field(default=())
    """What the numbers say, in order of weight."""
    cautions: tuple[str, ...] = field(default=())
    """What they do not say."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Arm -> what it changed in the recipe, its chosen alternative included."""
    sizes: tuple[SizePoint, ...] = field(default=())
    """Of a study of sizes: every (arm, size, stage), in the study's order, sizes rising, as trained before tuned."""
    advice: tuple[str, ...] = field(default=())
    """Of a study of sizes: what to do, drawn from the numbers alone."""

    @property
    def answer(self) -> tuple[Point, ...]:
        """The points at each arm's own chosen learning rate."""
        return tuple(point for point in self.points if point.chosen)


def standard(study: Study) -> str:
    """The arm whose cost the others are measured by: the one they are matched to, the reference where none is."""
    return study.match.to if study.match else study.reference


def standard_sizes(study: Study, points: Sequence[Point]) -> dict[str, Size]:
    """``repr`` of a value along the axis (which may be a list) -> what the standard arm costs there."""
    return {repr(point.along): point.size for point in points if point.arm == standard(study)}
