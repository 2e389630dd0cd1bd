"""Check: how far an exported model's answers are from those of the model that it was made of.

Shapes: n images, C classes, D width of the features.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitrail.evaluation.calibration import top_probability
from vitrail.evaluation.metrics import evaluate_logits, wilson_interval
from vitrail.evaluation.sizes import paired_difference
from vitrail.runtimes.engine import Engine
from vitrail.runtimes.graph import Deployed, outputs_of
from vitrail.runtimes.pictures import Pictures

TOLERANCE = 1e-3  # of float32 answers near 1: other orders of sums in a deep network stay far below
_ROUNDING = 1e-9  # of a per cent, when shares are counted
_BATCH = 16
_TIMED = (1, 8)  # images at a time
_RUNS, _SECONDS = 5, 2.0  # of timing, at most

Answers = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Quality:
    """What labels tell of a model. Fractions, not per cent."""

    top1: float
    nll: float
    ece: float
    """Expected calibration error."""


@dataclass(frozen=True)
class Changed:
    """What of a model's answers is left in those of another."""

    similarity: float
    """Mean cosine of the features."""
    agreement: float | None
    """Share of the images with the same first label; None without a head."""
    before: Quality | None
    """Of the model, where the images have labels."""
    after: Quality | None
    """Of the other."""
    changed_ci95: tuple[float, float] | None = None
    """95 % interval of the share of other first labels, Wilson's."""
    lost_ci95: tuple[float, float] | None = None
    """95 % interval of the accuracy that is lost, from the same images with both models."""

    @property
    def lost(self) -> float | None:
        """The accuracy that is lost; None where the images have no labels."""
        return None if self.before is None or self.after is None else self.before.top1 - self.after.top1

    @classmethod
    def between(cls, ours: Answers, theirs: Answers, pictures: Pictures, labels: tuple[str, ...]) -> "Changed":
        """Compare the answers of two models to the same pictures."""
        agreement = before = after = changed_ci95 = lost_ci95 = None
        if "logits" in ours:
            one, other = ours["logits"], theirs["logits"]
            first, second = one.argmax(1), other.argmax(1)
            agreement = float((first == second).mean())
            changed_ci95 = wilson_interval(int((first != second).sum()), len(first))
            if pictures.targets is not None:
                names = labels or tuple(map(str, range(one.shape[1])))
                before, after = _quality(one, pictures, names), _quality(other, pictures, names)
                right = [torch.from_numpy(found == pictures.targets) for found in (first, second)]
                low, high = paired_difference(*right)[1]  # of the first to the second: what the second has lost
                lost_ci95 = low, high
        return cls(_cosine(ours["features"], theirs["features"]), agreement, before, after, changed_ci95, lost_ci95)


@dataclass(frozen=True)
class Check:
    """An exported model beside its model, on the same images."""

    engine: str
    images: int
    source: str
    """Where the images come from."""
    largest: float
    """Largest difference of a logit, or of a feature where there is no head."""
    mean: float
    """Mean difference, likewise."""
    scale: float
    """The largest of the model's own logits, or features."""
    confidence: tuple[float, float] | None
    """Mean probability of the first label, of the model and of the exported one; None without a head."""
    changed: Changed
    speed: Mapping[str, tuple[float, float]]
    """Images at a time -> images a second of the model in torch and of the exported one, with the same threads."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def exact(self) -> str | None:
        """Why a float32 export is not good enough; None if it is."""
        limit = TOLERANCE * max(1.0, self.scale)
        if self.largest <= limit:
            return None
        return f"answers of {self.engine} differ from the model's by up to {self.largest:.2g}; at most {limit:.2g} is rounding"

    def within(self, loss: float) -> str | None:
        """Why an int8 export loses too much; None if it does not.

        Args:
            loss: points of top-1 accuracy that it may cost on labelled images; on any images, twice as many points of
                first labels may change, or of the features' cosine where there is no head.
        """
        return next((excess.text for excess in self._excesses(loss)), None)

    def settles(self, loss: float) -> bool:
        """Whether these images tell beyond chance that too much is lost, with the ``loss`` of `within`.

        They do not where what is lost is above what may be, and its 95 % interval is not.
        """
        return any(excess.certain for excess in self._excesses(loss))

    def _excesses(self, loss: float) -> list["_Excess"]:
        found, features_alone = self.changed, self.changed.agreement is None
        changed = 100 * (1 - (found.similarity if found.agreement is None else found.agreement))
        excesses = []
        if not changed <= 2 * loss + _ROUNDING:
            what = "the features' cosine is lost" if features_alone else "first labels change"
            text = f"{changed:.2f} % of {what}, and {2 * loss:g} % may"
            excesses.append(self._excess(text, found.changed_ci95, 2 * loss))
        lost = 100 * (found.lost or 0.0)
        if not lost <= loss + _ROUNDING:
            text = f"{lost:.2f} points of accuracy are lost, and {loss:g} may be"
            excesses.append(self._excess(text, found.lost_ci95, loss))
        return excesses

    def _excess(self, text: str, interval: tuple[float, float] | None, limit: float) -> "_Excess":
        if interval is None:
            return _Excess(text, True)
        low, high = (100 * end for end in interval)
        return _Excess(f"{text} ({self.images:,} images: 95 % interval {low:.2f} to {high:.2f})", low > limit)


@dataclass(frozen=True)
class _Excess:
    """Something of which more is lost than may be."""

    text: str
    certain: bool
    """Whether its whole 95 % interval is above what may be lost."""


def answers(run: Callable[[NDArray[np.uint8]], Answers], pictures: Pictures) -> dict[str, NDArray[np.float32]]:
    """Every output for every picture."""
    parts = [run(pictures.pixels[i : i + _BATCH]) for i in range(0, len(pictures.pixels), _BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def of_torch(deployed: Deployed) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """The model in torch, as an engine runs."""
    names = outputs_of(deployed.model)

    def run(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            outputs = deployed(torch.tensor(images))
        return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}

    return run


def compare(
    engine: Engine,
    ours: Answers,
    pictures: Pictures,
    labels: tuple[str, ...],
    reference: Deployed,
    *,
    timed: bool = True,
) -> Check:
    """Run the exported model on the pictures and compare it with ``ours``, the model's answers to them."""
    theirs = answers(engine.run, pictures)
    key = "logits" if "logits" in ours else "features"
    difference = np.abs(theirs[key].astype(np.float64) - ours[key])
    with_head = key == "logits"
    changed = Changed.between(ours, theirs, pictures, labels)
    return Check(
        engine=engine.name,
        images=len(pictures.pixels),
        source=pictures.source,
        # a NaN is a difference too, and beyond any limit
        largest=float(np.nan_to_num(difference.max(), nan=np.inf)),
        mean=float(np.nan_to_num(difference.mean(), nan=np.inf)),
        scale=float(np.abs(ours[key]).max()),
        confidence=(_confidence(ours[key]), _confidence(theirs[key])) if with_head else None,
        changed=changed,
        speed=_speed(engine, reference, pictures) if timed else {},
    )


def _confidence(logits: NDArray[np.float32]) -> float:
    return float(top_probability(torch.from_numpy(logits)).mean())


def _cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    norms = np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    return float(((a * b).sum(1) / norms).mean())


def _quality(logits: NDArray[np.float32], pictures: Pictures, labels: tuple[str, ...]) -> Quality:
    assert pictures.targets is not None
    places = [str(i) for i in range(len(logits))]
    found = evaluate_logits(
        torch.from_numpy(logits), torch.from_numpy(pictures.targets), labels, places, top_mistakes=0
    )
    return Quality(found.top1, found.nll, found.ece)


def _speed(engine: Engine, reference: Deployed, pictures: Pictures) -> dict[str, tuple[float, float]]:
    found = {}
    for count in _TIMED:
        images = np.resize(pictures.pixels, (count, *pictures.pixels.shape[1:]))
        theirs, ours = (_seconds(run, images) for run in (engine.run, of_torch(reference)))
        found[str(count)] = round(count / ours, 2), round(count / theirs, 2)
    return found


def _seconds(run: Callable[[NDArray[np.uint8]], Answers], images: NDArray[np.uint8]) -> float:
    """The median time of a run, after one that sets things up."""
    run(images)
    taken: list[float] = []
    while len(taken) < _RUNS and sum(taken) < _SECONDS:
        start = time.perf_counter()
        run(images)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
