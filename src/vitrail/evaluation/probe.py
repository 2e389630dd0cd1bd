"""What frozen features are worth: few-shot accuracy in closed form, and k nearest neighbours. Nothing is trained.

Shapes: n images, D width of the features, C classes.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean, pstdev
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from vitrail.data.samples import Samples
from vitrail.errors import UserError
from vitrail.evaluation.run import Progress, infer
from vitrail.model import Model

# Google's constants: big_vision, evaluators/fewshot_lsr.py and configs/common_fewshot.py
L2 = 2.0**10
BIAS = 100.0
STD_FLOOR = 1e-5
SEEDS = (0, 1, 2)
SHOTS = (1, 5, 10, 25)
NEIGHBOURS = 20


@dataclass(frozen=True)
class FewShot:
    """Accuracy of the closed-form classifier with a few training images a class."""

    shots: int
    accuracies: tuple[float, ...]
    """One a draw."""
    short_classes: int
    """Classes that have fewer than ``shots`` training images, and take part with what they have."""

    @property
    def accuracy(self) -> float:
        """Mean over the draws."""
        return mean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Standard deviation over the draws."""
        return pstdev(self.accuracies)


@dataclass(frozen=True)
class Probe:
    """What one model's features gave on one data set. Fractions, not per cent."""

    name: str
    width: int
    train_images: int
    test_images: int
    few_shot: tuple[FewShot, ...]
    knn: float
    k: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        values = asdict(self)
        values["few_shot"] = [{**asdict(few), "accuracy": few.accuracy} for few in self.few_shot]
        return values


def probe(
    model: Model,
    train: Samples,
    test: Samples,
    *,
    name: str = "model",
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    limit: int = 10_000,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
) -> Probe:
    """Few-shot and k-NN accuracy on ``test`` of the model's pooled features of ``train``; in place of a fine-tuning.

    Every few-shot image is drawn from all of ``train``; nearest neighbours are looked up among at most ``limit`` of its
    images, and at most ``limit`` of ``test`` are judged, both drawn with a fixed seed. ``batch_size``, ``workers`` and
    ``progress`` are those of ``infer``. Raises UserError where labels are missing or classes differ.
    """
    start = time.perf_counter()
    shots = sorted(set(shots))
    _check(train, test, shots)
    train_y, test_y, C = np.asarray(train.targets), np.asarray(test.targets), len(train.labels)
    draws = {s: [draw_shots(train_y, C, s, seed) for seed in seeds] for s in shots}
    near, judged = _some(len(train), limit), _some(len(test), limit)
    needed = np.unique(np.concatenate([near, *(draw for of_shots in draws.values() for draw in of_shots)]))

    features = partial(infer, model, features=True, batch_size=batch_size, workers=workers, progress=progress)
    train_x, test_x = features(train.subset(needed)), features(test.subset(judged))
    test_y = test_y[judged]

    def known(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return train_x[np.searchsorted(needed, indices)], torch.as_tensor(train_y[indices])

    k = min(NEIGHBOURS, len(near))
    return Probe(
        name=name,
        width=train_x.shape[1],
        train_images=len(train),
        test_images=len(judged),
        few_shot=tuple(
            FewShot(
                shots=s,
                accuracies=tuple(_accuracy(fit_ridge(*known(draw), C).predict(test_x), test_y) for draw in draws[s]),
                short_classes=int((np.bincount(train_y, minlength=C) < s).sum()),
            )
            for s in shots
        ),
        knn=_accuracy(nearest_neighbours(*known(near), test_x, k), test_y),
        k=k,
        seconds=time.perf_counter() - start,
    )


def draw_shots(targets: np.ndarray, classes: int, shots: int, seed: int) -> np.ndarray:
    """Indices of up to ``shots`` images of every class, drawn as Google's code draws them from the same order.

    A seed's larger draws contain its smaller ones.
    """
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.permutation(np.flatnonzero(targets == c))[:shots] for c in range(classes)])


@dataclass(frozen=True)
class Ridge:
    """A linear classifier on whitened features, float64."""

    weights: Tensor
    """(D + 1, C); the last row belongs to the constant feature."""
    centre: Tensor
    """(1, D)"""
    scale: Tensor
    """(1, D)"""

    def predict(self, features: Tensor) -> Tensor:
        """Features (n, D) -> predicted classes (n,)."""
        return (_with_bias((features.double() - self.centre) / self.scale) @ self.weights).argmax(dim=1)


def fit_ridge(features: Tensor, targets: Tensor, classes: int, l2: float = L2) -> Ridge:
    """Least squares with an L2 penalty, solved exactly: features (n, D), targets (n,) -> a classifier.

    As in big_vision's ``fewshot_lsr``: features whitened by their own mean and deviation, one constant feature of 100
    as an almost unpenalised bias, targets -1 and 1. With fewer images than features the dual is solved,
    which is smaller and has the same solution: (X'X + cI)^-1 X'Y = X'(XX' + cI)^-1 Y.
    """
    x = features.double()
    centre, scale = x.mean(dim=0, keepdim=True), x.std(dim=0, correction=0, keepdim=True) + STD_FLOOR
    x = _with_bias((x - centre) / scale)
    y = 2.0 * one_hot(targets.long(), classes).double() - 1.0
    if len(x) >= x.shape[1]:
        weights = torch.linalg.solve(x.T @ x + l2 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    else:
        weights = x.T @ torch.linalg.solve(x @ x.T + l2 * torch.eye(len(x), dtype=x.dtype), y)
    return Ridge(weights, centre, scale)


def nearest_neighbours(features: Tensor, targets: Tensor, queries: Tensor, k: int) -> Tensor:
    """The class that most of a query's ``k`` nearest features vote for, the nearer the more; cosine distance.

    features (n, D), targets (n,), queries (m, D) -> (m,).
    """
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(n_neighbors=k, metric="cosine", weights="distance")
    classifier.fit(features.numpy(), targets.numpy())
    return torch.as_tensor(classifier.predict(queries.numpy()))


def _check(train: Samples, test: Samples, shots: Sequence[int]) -> None:
    if train.targets is None or test.targets is None:
        raise UserError("these images have no labels: a probe needs the right answer for every image")
    if train.labels != test.labels:
        raise UserError("the training and the test images of a probe must have the same classes, in the same order")
    if not shots or min(shots) < 1:
        raise UserError(f"shots are numbers of images a class, 1 or more, not {', '.join(map(str, shots)) or 'none'}")


def _with_bias(x: Tensor) -> Tensor:
    return pad(x, (0, 1), value=BIAS)


def _some(n: int, limit: int) -> np.ndarray:
    """All indices, or ``limit`` of them drawn with a fixed seed, in order."""
    return np.arange(n) if n <= limit else np.sort(np.random.default_rng(0).choice(n, limit, replace=False))


def _accuracy(predicted: Tensor, targets: np.ndarray) -> float:
    return float((predicted.numpy() == targets).mean())
