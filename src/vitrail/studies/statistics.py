"""Accuracy and differences of accuracy with intervals that count both chances: of the seed, and of the images.

A run is right on an image, or it is not, and both the seed and the image have a part in that: crossed random effects,
``mean + seed + image + the rest``. The mean over S seeds and n images then varies by

    variance of a seed / S  +  variance of an image / n  +  variance of the rest / (S n).

The variance of the seeds' means, over S, estimates the first part and the third; the variance of the images' means, over
n, estimates the second part and the third. Their sum counts the third part twice, so that it errs on the wide side
(Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007, finds the same for the bootstrap). With a few seeds
the first of the two is itself known badly. Student's t with the degrees of freedom of a sum of two variances
(Satterthwaite, Biometrics Bulletin 1946) makes the interval as wide as that asks for. It does not where few seeds agree
by luck, so the first is at least what the third part alone, which is known well, would make it.

Where every run is right on every image, both variances are 0, and yet nobody would bet that the next image is right.
So the images' sum of squares is never taken as it is but a little larger, see ``_UNSEEN``.

Shapes: S seeds, n images.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.studies.findings import Estimate

LEVEL = 0.95
_UNSEEN = 2.0
"""Added to the sum of squares over images: what two wrong images among many right ones add, the two that Agresti and
Coull (1998) add to the wrong and to the right ones. If all n are right, the interval then reaches down to 1 - 2.8 / n,
near the 1 - 3 / n of the rule of three; of two arms that never differ, 2.8 / n to both sides. Among hundreds of images
of which some are wrong, it changes next to nothing."""


@dataclass(frozen=True)
class Mean:
    """A mean, its standard error, and the degrees of freedom of that error."""

    value: float
    error: float
    degrees: float

    def half_width(self, level: float = LEVEL) -> float:
        """Half of the width of the interval that holds the true mean with probability ``level``."""
        from scipy.special import stdtrit  # scikit-learn brings it

        return float(stdtrit(self.degrees, (1 + level) / 2)) * self.error

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Lower and upper end, not clipped."""
        half = self.half_width(level)
        return self.value - half, self.value + half

    def p_value(self) -> float:
        """Two-sided: how probable it is to be at least as far from 0 if the true mean is 0.

        An approximation. Where the seeds bring nearly all of the chance and there are three, a p value of 0.01 comes up
        in 2 to 3 of 100 comparisons of equal arms; where the images bring most of it, in far fewer than 1.
        """
        from scipy.special import stdtr

        return 2 * float(stdtr(self.degrees, -abs(self.value) / self.error))


def crossed_mean(values: NDArray[Any]) -> Mean:
    """The mean of (S, n) values, with the error that both seeds and images bring.

    With one seed, S = 1, there is no telling what another seed would give: the error is that of the images alone, and
    too small.

    Raises:
        ValueError: for anything but a table of at least one seed and two images.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise ValueError(f"values must have the shape (seeds, images), at least (1, 2), not {values.shape}")
    S, n = values.shape
    by_seed, by_image = values.mean(1), values.mean(0)
    mean = float(values.mean())
    images = (float(np.square(by_image - mean).sum()) + _UNSEEN) / (n - 1) / n
    seeds = 0.0
    if S > 1:
        rest = float(np.square(values - by_seed[:, None] - by_image + mean).sum()) / (S - 1) / (n - 1)
        seeds = max(float(by_seed.var(ddof=1)), rest / n) / S
    degrees = (seeds + images) ** 2 / (images**2 / (n - 1) + seeds**2 / max(S - 1, 1))
    return Mean(mean, math.sqrt(seeds + images), degrees)


def estimate(correct: NDArray[np.bool_]) -> Estimate:
    """Accuracy over (S, n) answers with its 95 % interval, within 0 and 1.

    Of one seed the interval counts the images alone: see ``crossed_mean``.
    """
    return _estimate(crossed_mean(correct), 0, 1)


def paired_mean(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Mean:
    """Mean of ``a - b``, both (S, n), of the same seeds and the same images in the same order.

    What makes an image hard for both, or a seed lucky for both, cancels out, so that smaller differences are seen.

    Raises:
        ValueError: for different shapes.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise ValueError(f"a pair needs the same seeds and images, not {a.shape} and {b.shape}")
    return crossed_mean(a.astype(float) - b.astype(float))


def paired_difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Estimate:
    """Accuracy of ``a`` minus that of ``b`` with its 95 % interval: see ``paired_mean``."""
    return _estimate(paired_mean(a, b), -1, 1)


def _estimate(mean: Mean, lowest: float, highest: float) -> Estimate:
    low, high = mean.interval()
    return Estimate(mean.value, max(low, lowest), min(high, highest))
