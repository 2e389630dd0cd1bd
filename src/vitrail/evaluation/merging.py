"""One model with more and more tokens merged: accuracy, agreement and speed, compared image by image with whole images.

Shapes: n images, C classes.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.data.samples import Samples
from vitrail.errors import UserError
from vitrail.evaluation.metrics import Evaluation, evaluate_logits
from vitrail.evaluation.run import Progress, matched_labels, predict_logits
from vitrail.evaluation.sizes import paired_difference
from vitrail.model import ViT
from vitrail.model.cost import flops
from vitrail.model.reduction import Merging, block_tokens, require_reducible


@dataclass(frozen=True)
class MergeScore:
    """A model that merges so many tokens. Fractions, not per cent; natural logarithm."""

    merge: str
    """As a person writes it; 0 for whole images."""
    tokens: int
    """Behind the last block."""
    flops: int
    """One forward pass on one image."""
    n: int
    top1: float
    top1_ci95: tuple[float, float]
    """Wilson's 95 % interval of ``top1``."""
    nll: float
    """Mean negative log-likelihood."""
    agreement: float
    """The share of the images that get the label that they get whole."""
    difference: float | None
    """Of ``top1`` to that of whole images; None of these themselves."""
    difference_ci95: tuple[float, float] | None
    """Its 95 % interval, from the same images."""
    images_per_second: float
    """Of the model alone, without reading and decoding the images."""
    speed: float
    """The same, to that with whole images."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class MergeRun:
    """The evaluation of a model with one amount of merging."""

    merging: Merging
    tokens: int
    flops: int
    evaluation: Evaluation
    predicted: Tensor
    """(n,), the class of each image."""
    correct: Tensor
    """(n,) bool."""
    seconds: float
    """Of the model alone."""


def run_with(
    model: ViT,
    samples: Samples,
    merging: Merging,
    *,
    cached: Tensor | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
) -> MergeRun:
    """Evaluate a model with so many tokens merged, on the device that it is on.

    Args:
        model: one with its pixel contract; its own ``merge`` is as it was afterwards.
        samples: labelled images, all of which can be decoded.
        merging: ``Merging(0)`` for whole images.
        cached, batch_size, workers, progress: as for ``evaluation.run.infer``.

    Raises:
        UserError: a model that cannot merge; as ``evaluation.run.evaluate``.
    """
    if merging.amount:
        require_reducible(model.config, f"merge {merging}")
    labels = matched_labels(model, samples)
    own, model.merge = model.merge, merging
    try:
        with torch.inference_mode():  # the first images set things up, which is not the model's speed
            size = model.preprocess.image_size
            model(torch.zeros(1, model.config.channels, *size, device=next(model.parameters()).device))
        with _clocked(model) as seconds:
            logits, targets = predict_logits(
                model, samples, cached=cached, batch_size=batch_size, workers=workers, progress=progress
            )
    finally:
        model.merge = own
    config = model.config.with_changes(image_size=model.preprocess.image_size)
    predicted = logits.argmax(dim=1)
    return MergeRun(
        merging=merging,
        tokens=block_tokens(config, merging)[-1][1],
        flops=sum(flops(config, merging).values()),
        evaluation=evaluate_logits(logits, targets, labels, samples.names),
        predicted=predicted,
        correct=predicted == targets,
        seconds=sum(seconds),
    )


def compare(runs: Sequence[MergeRun]) -> list[MergeScore]:
    """The scores of runs over the same images, each compared with that of whole images, which is among them.

    Raises:
        UserError: it is not.
    """
    whole = next((run for run in runs if not run.merging.amount), None)
    if whole is None:
        raise UserError("no run has whole images, with which the others are compared: add Merging(0)")
    return [_score(run, whole) for run in runs]


def _score(run: MergeRun, whole: MergeRun) -> MergeScore:
    found = run.evaluation
    difference, interval = (None, None) if run is whole else paired_difference(run.correct, whole.correct)
    return MergeScore(
        merge=str(run.merging),
        tokens=run.tokens,
        flops=run.flops,
        n=found.n,
        top1=found.top1,
        top1_ci95=found.top1_ci95,
        nll=found.nll,
        agreement=(run.predicted == whole.predicted).double().mean().item(),
        difference=difference,
        difference_ci95=interval,
        images_per_second=found.n / run.seconds,
        speed=whole.seconds / run.seconds,
    )


@contextmanager
def _clocked(model: ViT) -> Iterator[list[float]]:
    """The seconds of each call of the model, while it lasts."""
    device = next(model.parameters()).device
    seconds: list[float] = []
    started = 0.0

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def before(*_: Any) -> None:
        nonlocal started
        started = now()

    def after(*_: Any) -> None:
        seconds.append(now() - started)

    hooks = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()
