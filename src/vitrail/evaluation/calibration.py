"""Is the model as sure as it should be? Expected calibration error, reliability bins, and the mending temperature.

Shapes: n images, C classes. All sums run in float64, in slices of rows, so that a million images fit into memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15
# Where nothing is ever wrong the best temperature is 0, and where confidence is pure noise it is infinite.
TEMPERATURE_RANGE = (0.05, 20.0)
# Relative; the NLL is flat at its minimum, so that even this is more than it can tell.
TOLERANCE = 1e-7
_SLICE_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose confidence lies in [low, high): how sure the model was, and how often it was right."""

    low: float
    high: float
    n: int
    confidence: float | None
    """Mean probability of the predicted class; None in an empty bin."""
    accuracy: float | None
    """Fraction of right predictions; None in an empty bin."""


def slices(logits: Tensor) -> Iterator[tuple[int, int]]:
    """Bounds (start, end) of row slices that hold about four million logits each."""
    rows = max(1, _SLICE_ELEMENTS // max(1, logits.shape[1]))
    for start in range(0, len(logits), rows):
        yield start, min(start + rows, len(logits))


def top_probability(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The softmax probability of each image's most likely class, (n, C) -> (n,) float64."""
    parts = [
        (logits[a:b].double() / temperature).log_softmax(dim=1).amax(dim=1).exp() for a, b in slices(logits)
    ]  # fmt: skip
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def reliability(confidence: Tensor, correct: Tensor, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Equal-width bins of confidence; ``confidence`` (n,) in [0, 1], ``correct`` (n,) bool. 1.0 is in the last bin."""
    confidence = confidence.double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = (torch.bucketize(confidence, edges, right=True) - 1).clamp_(0, bins - 1)
    count = torch.bincount(index, minlength=bins).tolist()
    sure = torch.bincount(index, weights=confidence, minlength=bins).tolist()
    right = torch.bincount(index, weights=correct.double(), minlength=bins).tolist()
    bounds = edges.tolist()
    return tuple(
        ReliabilityBin(
            low=bounds[i],
            high=bounds[i + 1],
            n=count[i],
            confidence=sure[i] / count[i] if count[i] else None,
            accuracy=right[i] / count[i] if count[i] else None,
        )
        for i in range(bins)
    )


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Expected calibration error: the mean over images of |accuracy - confidence| of their bin.

    Guo et al. (2017), "On Calibration of Modern Neural Networks", equation 3.
    """
    n = sum(b.n for b in bins)
    gaps = (b.n * abs(b.accuracy - b.confidence) for b in bins if b.accuracy is not None and b.confidence is not None)
    return sum(gaps) / n if n else 0.0


def fit_temperature(logits: Tensor, targets: Tensor, iterations: int = 60) -> float:
    """The temperature T that minimises the negative log-likelihood of softmax(logits / T).

    Guo et al. (2017), section 4.2. As a function of b = 1/T the NLL is convex: its slope is the mean of E_p[z] - z_y
    and its curvature the mean variance of z under p = softmax(b z). So Newton's steps, kept inside a shrinking bracket,
    find the one minimum. The result stays within TEMPERATURE_RANGE; it is 1 where the temperature changes nothing.
    """
    low, high = 1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]
    beta = 1.0
    for _ in range(iterations):
        slope, curvature = _slope_and_curvature(logits, targets, beta)
        # without curvature every probability has rounded to 0 or 1, and Newton's step says nothing
        newton = beta - slope / curvature if curvature > 0 else None
        if slope == 0 or (newton is not None and abs(newton - beta) <= TOLERANCE * beta):
            break
        low, high = (low, beta) if slope > 0 else (beta, high)
        if high - low <= TOLERANCE * beta:
            break
        # outside the bracket Newton overshot: halve the bracket on the scale of ratios instead
        beta = newton if newton is not None and low < newton < high else (low * high) ** 0.5
    return 1 / beta


def _slope_and_curvature(logits: Tensor, targets: Tensor, beta: float) -> tuple[float, float]:
    slope = curvature = 0.0
    for a, b in slices(logits):
        z = logits[a:b].double()
        z = z - z.amax(dim=1, keepdim=True)
        p = (beta * z).softmax(dim=1)
        mean = (p * z).sum(dim=1)
        slope += float((mean - z.gather(1, targets[a:b, None]).squeeze(1)).sum())
        curvature += float((p * (z - mean[:, None]).square()).sum())
    n = max(1, len(logits))
    return slope / n, curvature / n
