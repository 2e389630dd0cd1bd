"""Accuracies at two sizes compared image by image: the interval holds what it says, and counts what few images hide."""

import pytest
import torch

from vitrail.evaluation.sizes import paired_difference


def test_only_images_that_change_sides_count() -> None:
    before = torch.tensor([True, True, False, False, True, False])
    after = torch.tensor([True, False, True, True, True, False])
    difference, (low, high) = paired_difference(after, before)
    assert difference == pytest.approx(1 / 6)
    # b 2, c 1, n 6 after half an image in each of four cells: centre 1/8, variance (4 - 1/8) / 64
    half = 1.959964 * (4 - 1 / 8) ** 0.5 / 8
    assert (low, high) == pytest.approx((1 / 8 - half, 1 / 8 + half), abs=1e-6)


def test_no_difference_among_few_images_is_not_taken_for_none_at_all() -> None:
    right = torch.rand(20, generator=torch.Generator().manual_seed(0)) < 0.7
    difference, (low, high) = paired_difference(right, right)
    assert difference == 0
    assert low == -high
    assert 0.05 < high < 0.15


def test_the_interval_stays_within_what_is_possible() -> None:
    n = 3
    difference, (low, high) = paired_difference(torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool))
    assert difference == 1
    assert -1 <= low < 1
    assert high == 1


def test_nineteen_of_twenty_intervals_hold_the_true_difference() -> None:
    """1,000 data sets of 80 images: right before and after with odds of their own; 95 % with a deviation of 0.7 %."""
    generator = torch.Generator().manual_seed(0)
    hits, trials = 0, 1000
    for _ in range(trials):
        draw = torch.rand(80, generator=generator)  # of the four cases: 0.6 both, 0.15 gained, 0.05 lost, 0.2 neither
        before, after = (draw < 0.6) | ((draw >= 0.75) & (draw < 0.8)), draw < 0.75
        low, high = paired_difference(after, before)[1]
        hits += low <= 0.1 <= high
    assert 0.93 < hits / trials < 0.975
