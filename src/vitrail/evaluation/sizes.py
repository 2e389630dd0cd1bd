"""One model at several image sizes: accuracy and cost at each, and the difference to one of them, image by image.

Shapes: n images.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from vitrail.data.samples import Samples
from vitrail.evaluation.metrics import Evaluation
from vitrail.evaluation.run import Progress, evaluate
from vitrail.model import Model
from vitrail.model.cost import Cost
from vitrail.weights.resize import resize

Size = tuple[int, int]

_Z95 = NormalDist().inv_cdf(0.975)  # two-sided 95 %


@dataclass(frozen=True)
class SizeScore:
    """A model at one image size. Fractions, not per cent; natural logarithm."""

    image_size: Size
    """Height and width in pixels."""
    tokens: int | None
    """Of an image; None for a ResNet, which has none."""
    flops: int
    """One forward pass on one image."""
    n: int
    top1: float
    top1_ci95: tuple[float, float]
    """Wilson's 95 % interval of ``top1``."""
    nll: float
    """Mean negative log-likelihood."""
    difference: float | None
    """Of ``top1`` to the size that all are compared with; None at that size."""
    difference_ci95: tuple[float, float] | None
    """Its 95 % interval, from the same images at both sizes."""
    images_per_second: float
    """Of the whole evaluation: reading, decoding and resizing the images too."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class Run:
    """The evaluation of a model at one size."""

    cost: Cost
    evaluation: Evaluation
    correct: Tensor
    """(n,) bool: whether each image was told right."""
    seconds: float


def run_at(
    model: Model,
    samples: Samples,
    size: Size,
    *,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
) -> Run:
    """Bring the model to a size, once, and evaluate it there, on the device that it is on.

    Args:
        model: one with its pixel contract. At the size of that contract it is evaluated as it is.
        samples: labelled images, all of which can be decoded.
        size: height and width in pixels.
        batch_size, workers, progress: as for ``evaluate``.

    Raises:
        UserError: as ``resize`` and ``evaluate``.
    """
    device = next(model.parameters()).device
    there = model if size == model.preprocess.image_size else resize(model, size).to(device)
    with torch.inference_mode():  # the first images of a size set things up, which is not its speed
        there(torch.zeros(1, model.config.channels, *size, device=device))
    start = time.perf_counter()
    found = evaluate(
        there,
        samples,
        batch_size=batch_size,
        workers=workers,
        top_mistakes=len(samples),  # all: which images are wrong is what is compared
        progress=progress,
    )
    correct = torch.ones(found.n, dtype=torch.bool)
    correct[[mistake.index for mistake in found.mistakes]] = False
    config = there.config.with_changes(image_size=size)
    return Run(Cost(config), found, correct, time.perf_counter() - start)


def compare(runs: Sequence[Run], own: Size) -> list[SizeScore]:
    """The scores of runs over the same images, each compared with the run at the size ``own``."""
    reference = next(run for run in runs if run.cost.config.image_size == own)
    return [_score(run, None if run is reference else reference) for run in runs]


def _score(run: Run, reference: Run | None) -> SizeScore:
    config, found = run.cost.config, run.evaluation
    difference = None if reference is None else paired_difference(run.correct, reference.correct)
    return SizeScore(
        image_size=config.image_size,
        tokens=getattr(config, "tokens", None),
        flops=run.cost.flops,
        n=found.n,
        top1=found.top1,
        top1_ci95=found.top1_ci95,
        nll=found.nll,
        difference=difference[0] if difference else None,
        difference_ci95=difference[1] if difference else None,
        images_per_second=found.n / run.seconds,
    )


def paired_difference(correct: Tensor, reference: Tensor) -> tuple[float, tuple[float, float]]:
    """How much more often images are told right than before, and its 95 % interval: (n,) bool, (n,) bool.

    Only the images that are right on one side alone tell of a difference, b gained and c lost, so that it is known far
    better than from two intervals of the accuracies. The interval is that of Agresti and Min (Statistics in Medicine
    2005, "Simple improved confidence intervals for comparing matched proportions"): the normal one, with half an image
    added to each of the four cases, so that no difference among few images is not taken for none at all.
    """
    n = len(correct)
    gained, lost = int((correct & ~reference).sum()), int((~correct & reference).sum())
    centre = (gained - lost) / (n + 2)
    half = _Z95 * ((gained + lost + 1 - (gained - lost) ** 2 / (n + 2)) ** 0.5) / (n + 2)
    return (gained - lost) / n, (max(-1.0, centre - half), min(1.0, centre + half))
