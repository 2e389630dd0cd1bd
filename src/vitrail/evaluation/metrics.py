"""Logits and targets -> Evaluation: every number that says how good a classifier is. Pure functions.

Shapes: n images, C classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import UserError
from vitrail.evaluation.calibration import (
    ReliabilityBin,
    calibration_error,
    fit_temperature,
    reliability,
    slices,
    top_probability,
)

# 97.5 % quantile of the normal distribution: two-sided 95 %
_Z95 = 1.959963984540054
# A full confusion matrix is written to JSON up to this many classes; above, only the pairs that occur.
MATRIX_CLASSES = 1000


class NotFinite(UserError):
    """A model answers with NaN or infinities."""


@dataclass(frozen=True)
class ClassScore:
    """One class: its images, and the scores of telling it apart. None where a score is 0 / 0."""

    label: str
    n: int
    recall: float | None
    """Fraction of this class's images that were predicted as it: the class's own accuracy."""
    precision: float | None
    """Fraction of the predictions of this class that were right."""
    f1: float | None


@dataclass(frozen=True)
class Confusion:
    """How many images of class ``target`` were predicted as ``predicted`` (indices into the labels)."""

    target: int
    predicted: int
    n: int


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction, with how sure the model was of it."""

    index: int
    """Position among the evaluated samples."""
    name: str
    target: str
    predicted: str
    probability: float
    """Of the predicted class."""
    target_probability: float


@dataclass(frozen=True)
class Evaluation:
    """How a classifier does on labelled images. Fractions, not per cent; natural logarithm."""

    n: int
    labels: tuple[str, ...]
    top1: float
    top1_ci95: tuple[float, float]
    """Wilson's 95 % interval of ``top1``, for the size of this sample alone."""
    top5: float | None
    """None with five classes or fewer, where it would always be 1."""
    nll: float
    """Mean negative log-likelihood: the cross-entropy loss without label smoothing."""
    ece: float
    """Expected calibration error, 15 bins, of the model as it is."""
    temperature: float
    """What to divide the logits by for the best likelihood."""
    temperature_from: str
    """Which images the temperature was fitted on: ``same`` as evaluated (slightly optimistic), or another split."""
    ece_calibrated: float
    """Expected calibration error after division by ``temperature``."""
    per_class: tuple[ClassScore, ...]
    pairs: tuple[Confusion, ...]
    """Every (target, predicted) that occurs, the right ones included, in order of target and predicted."""
    reliability: tuple[ReliabilityBin, ...]
    reliability_calibrated: tuple[ReliabilityBin, ...]
    mistakes: tuple[Mistake, ...]
    """The most confident ones, most confident first."""

    def confusion(self) -> list[list[int]]:
        """The confusion matrix (C, C): row = target, column = predicted."""
        matrix = [[0] * len(self.labels) for _ in self.labels]
        for pair in self.pairs:
            matrix[pair.target][pair.predicted] = pair.n
        return matrix

    def most_confused(self, limit: int = 20) -> tuple[Confusion, ...]:
        """The wrong pairs with the most images first."""
        wrong = (pair for pair in self.pairs if pair.target != pair.predicted)
        return tuple(sorted(wrong, key=lambda pair: (-pair.n, pair.target, pair.predicted))[:limit])

    def worst_first(self) -> list[ClassScore]:
        """The classes that have images, by rising recall, then F1, then name."""
        present = [score for score in self.per_class if score.n]
        return sorted(present, key=lambda score: (score.recall or 0.0, score.f1 or 0.0, score.label))

    def to_dict(self) -> dict[str, Any]:
        """What ``vitrail evaluate --json`` writes: ready for JSON, stable by name.

        ``confusion`` (rows target, columns predicted, in the order of ``labels``) is null above 1000 classes; ``pairs``
        has the same counts as [target, predicted, n] at any size.
        """
        values = asdict(self)
        values["top1_ci95"] = list(self.top1_ci95)
        values["labels"] = list(self.labels)
        values["pairs"] = [[p.target, p.predicted, p.n] for p in self.pairs]
        values["confusion"] = self.confusion() if len(self.labels) <= MATRIX_CLASSES else None
        for name in ("per_class", "reliability", "reliability_calibrated", "mistakes"):
            values[name] = list(values[name])
        return values


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a fraction ``right / n``; (0, 1) without any images.

    Wilson (1927): unlike the normal approximation it stays within [0, 1] and holds near 0 and 1.
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n * n)) ** 0.5
    # at 0 and n the exact bound is 0 or 1; rounding must not push it past the fraction itself
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


@dataclass(frozen=True)
class Scores:
    """Per image, each (n,): what every summary is computed from."""

    nll: Tensor
    predicted: Tensor
    probability: Tensor
    """Of the predicted class."""
    target_probability: Tensor
    rank: Tensor
    """How many classes are ranked before the target; 0 means right."""


def score_images(logits: Tensor, targets: Tensor) -> Scores:
    """Loss, prediction, probabilities and rank of every image; logits (n, C), targets (n,) int64.

    Of equal logits the class with the lower index goes first, in the prediction and in the rank alike.
    """
    parts: list[tuple[Tensor, ...]] = []
    before = torch.arange(logits.shape[1])
    for a, b in slices(logits):
        z, y = logits[a:b].double(), targets[a:b, None]
        log_p = z.log_softmax(dim=1)
        own = z.gather(1, y)
        rank = ((z > own) | ((z == own) & (before < y))).sum(dim=1)
        predicted = z.argmax(dim=1)
        log_target = log_p.gather(1, y).squeeze(1)
        parts.append(
            (-log_target, predicted, log_p.gather(1, predicted[:, None]).squeeze(1).exp(), log_target.exp(), rank)
        )
    return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def loss_and_top1(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean negative log-likelihood and top-1 accuracy: the cheap part of ``evaluate_logits``, for every epoch."""
    scores = score_images(*_checked(logits, targets))
    return float(scores.nll.mean()), float((scores.rank == 0).double().mean())


def evaluate_logits(
    logits: Tensor,
    targets: Tensor,
    labels: Sequence[str],
    names: Sequence[str] | None = None,
    *,
    calibration: tuple[Tensor, Tensor] | None = None,
    calibration_name: str = "separate",
    top_mistakes: int = 24,
) -> Evaluation:
    """Everything there is to say about logits (n, C) for targets (n,) of C ``labels``; probabilities are their softmax.

    ``names`` (n) name the images in the mistakes. ``calibration`` is (logits, targets) of other images to fit the
    temperature on, called ``calibration_name`` in the result; without it the temperature is fitted on the very images
    that are evaluated, and ``ece_calibrated`` is slightly optimistic. Raises UserError without images, for logits that
    are not finite, or for targets that are no class.
    """
    logits, targets = _checked(logits, targets, names)
    if logits.shape[1] != len(labels):
        raise UserError(f"the model has {logits.shape[1]} outputs, but there are {len(labels)} class names")
    scores = score_images(logits, targets)
    correct = scores.rank == 0
    temperature = fit_temperature(*(_checked(*calibration) if calibration else (logits, targets)))
    bins = reliability(scores.probability, correct)
    calibrated = reliability(top_probability(logits, temperature), correct)
    n, right = len(targets), int(correct.sum())
    return Evaluation(
        n=n,
        labels=tuple(labels),
        top1=right / n,
        top1_ci95=wilson_interval(right, n),
        top5=int((scores.rank < 5).sum()) / n if len(labels) > 5 else None,
        nll=float(scores.nll.mean()),
        ece=calibration_error(bins),
        temperature=temperature,
        temperature_from=calibration_name if calibration else "same",
        ece_calibrated=calibration_error(calibrated),
        per_class=_per_class(targets, scores.predicted, labels),
        pairs=_pairs(targets, scores.predicted, len(labels)),
        reliability=bins,
        reliability_calibrated=calibrated,
        mistakes=_mistakes(scores, targets, labels, names, top_mistakes),
    )


def _checked(logits: Tensor, targets: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    logits, targets = torch.as_tensor(logits).cpu(), torch.as_tensor(targets).cpu().long()
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or (names is not None and len(names) != len(targets)):
        count = "" if names is None else f" and {len(names)} names"
        raise ValueError(f"logits {tuple(logits.shape)}, targets {tuple(targets.shape)}{count} do not fit together")
    if len(targets) == 0:
        raise UserError("there are no images to evaluate")
    outside = (targets < 0) | (targets >= logits.shape[1])
    if outside.any():
        value = int(targets[outside][0])
        raise UserError(f"target {value} is no class of a model with {logits.shape[1]} outputs")
    bad = torch.cat([~logits[a:b].isfinite().all(dim=1) for a, b in slices(logits)])
    if bad.any():
        first = int(bad.nonzero()[0])
        where = f"image {first}" if names is None else names[first]
        raise NotFinite(
            f"the model's output is not finite for {int(bad.sum())} of {len(bad)} images (first: {where}): "
            "its weights are damaged, or its training diverged"
        )
    return logits, targets


def _per_class(targets: Tensor, predicted: Tensor, labels: Sequence[str]) -> tuple[ClassScore, ...]:
    C = len(labels)
    actual = torch.bincount(targets, minlength=C).tolist()
    claimed = torch.bincount(predicted, minlength=C).tolist()
    right = torch.bincount(targets[targets == predicted], minlength=C).tolist()
    return tuple(
        ClassScore(
            label=labels[c],
            n=actual[c],
            recall=right[c] / actual[c] if actual[c] else None,
            precision=right[c] / claimed[c] if claimed[c] else None,
            f1=2 * right[c] / (actual[c] + claimed[c]) if actual[c] + claimed[c] else None,
        )
        for c in range(C)
    )


def _pairs(targets: Tensor, predicted: Tensor, C: int) -> tuple[Confusion, ...]:
    codes, counts = torch.unique(targets * C + predicted, return_counts=True)
    return tuple(Confusion(code // C, code % C, n) for code, n in zip(codes.tolist(), counts.tolist(), strict=True))


def _mistakes(
    scores: Scores, targets: Tensor, labels: Sequence[str], names: Sequence[str] | None, limit: int
) -> tuple[Mistake, ...]:
    wrong = (scores.rank != 0).nonzero().squeeze(1)
    surest = wrong[scores.probability[wrong].argsort(descending=True, stable=True)][:limit]
    return tuple(
        Mistake(
            index=i,
            name=names[i] if names is not None else str(i),
            target=labels[int(targets[i])],
            predicted=labels[int(scores.predicted[i])],
            probability=float(scores.probability[i]),
            target_probability=float(scores.target_probability[i]),
        )
        for i in surest.tolist()
    )
