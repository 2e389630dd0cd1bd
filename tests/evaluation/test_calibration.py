"""Calibration agrees with torchmetrics, and the temperature is the one that a fine search finds."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from vitrail.evaluation import calibration
from vitrail.evaluation.calibration import (
    TEMPERATURE_RANGE,
    calibration_error,
    fit_temperature,
    reliability,
    top_probability,
)
from vitrail.evaluation.metrics import evaluate_logits


def sampled(n=4000, classes=10, temperature=1.0, seed=0):
    """Logits, and targets drawn from softmax(logits / temperature): the best temperature is known."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator)
    targets = (logits / temperature).softmax(1).multinomial(1, generator=generator).squeeze(1)
    return logits, targets


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_equals_torchmetrics(bins):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, targets = sampled(temperature=2.0)
    probabilities = logits.double().softmax(1)
    expected = multiclass_calibration_error(probabilities, targets, num_classes=10, n_bins=bins, norm="l1")
    ours = calibration_error(reliability(*probabilities.max(1)[:1], probabilities.argmax(1) == targets, bins=bins))
    assert ours == pytest.approx(float(expected), abs=1e-6)  # torchmetrics sums in float32


def test_bins_cover_every_confidence_once_and_certainty_is_in_the_last():
    confidence = torch.tensor([0.0, 1 / 15, 0.5, 0.999, 1.0])
    bins = reliability(confidence, torch.tensor([False, True, True, False, True]))
    assert (bins[0].low, bins[-1].high, len(bins)) == (0, 1, 15)
    assert [b.n for b in bins] == [1, 1, *[0] * 5, 1, *[0] * 6, 2]
    assert (bins[-1].accuracy, bins[-1].confidence) == (0.5, pytest.approx(0.9995))
    assert (bins[2].accuracy, bins[2].confidence) == (None, None)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_data_is_found(temperature):
    assert fit_temperature(*sampled(temperature=temperature)) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("scale", [0.02, 1, 30, 2000])
def test_no_other_temperature_has_a_lower_loss(scale):
    logits, targets = sampled(n=600)
    logits = (logits * scale).double()
    best = fit_temperature(logits, targets)
    grid = torch.logspace(-1.3, 1.3, 400, dtype=torch.float64)
    losses = [float(cross_entropy(logits / t, targets)) for t in grid]
    assert float(cross_entropy(logits / best, targets)) <= min(losses) + 1e-9
    assert TEMPERATURE_RANGE[0] * (1 - 1e-6) <= best <= TEMPERATURE_RANGE[1] * (1 + 1e-6)


def test_a_perfect_model_and_an_always_wrong_one_get_a_finite_temperature():
    targets = torch.arange(10)
    right = torch.randn(10, 10, generator=torch.Generator().manual_seed(1)) + 9 * torch.eye(10)
    sharper = fit_temperature(right, targets)
    assert TEMPERATURE_RANGE[0] <= sharper < 0.3
    assert float(cross_entropy(right.double() / sharper, targets)) < 1e-12
    assert fit_temperature(-right, targets) == pytest.approx(TEMPERATURE_RANGE[1], rel=1e-5)
    assert fit_temperature(torch.full((10, 10), 0.7), targets) == 1


@pytest.mark.parametrize("scale", [0.3, 1, 5])
def test_few_passes_over_the_logits_are_enough(scale, monkeypatch):
    passes = []
    once = calibration._slope_and_curvature
    monkeypatch.setattr(calibration, "_slope_and_curvature", lambda *a: passes.append(a) or once(*a))
    logits, targets = sampled(temperature=1.0)
    assert fit_temperature(logits * scale, targets) == pytest.approx(scale, rel=0.06)
    assert len(passes) <= 8


def test_dividing_by_the_temperature_mends_an_overconfident_model():
    logits, targets = sampled(temperature=3.0)
    result = evaluate_logits(logits, targets, [str(c) for c in range(10)])
    assert result.ece > 0.2
    assert result.ece_calibrated < 0.03
    assert result.temperature_from == "same"
    mended = top_probability(logits, result.temperature)
    assert float(mended.mean()) == pytest.approx(result.top1, abs=0.02)


def test_the_temperature_can_come_from_other_images():
    logits, targets = sampled(temperature=1.0)
    other = sampled(temperature=3.0, seed=1)
    result = evaluate_logits(
        logits, targets, [str(c) for c in range(10)], calibration=other, calibration_name="val"
    )  # fmt: skip
    assert result.temperature == fit_temperature(*other)
    assert result.temperature_from == "val"
    assert result.ece_calibrated > result.ece
