"""Intervals hold the truth as often as they say, seeds and images both counted; differences are paired."""

import math

import numpy as np
import pytest
from made_up import World
from scipy.special import stdtr

from vitrail.studies.statistics import Mean, crossed_mean, estimate, paired_difference, paired_mean


def test_the_error_of_a_small_table_is_the_one_computed_by_hand():
    # Seeds' means 3/4, 1/2 and 1: variance 1/16. Images' means 1, 1, 2/3, 1/3: squares around 3/4 sum to 11/36. What is
    # left after both: 11/12 over 6 degrees of freedom.
    correct = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
    mean = crossed_mean(correct)
    rest = np.square(correct - correct.mean(1)[:, None] - correct.mean(0) + 0.75).sum() / 6
    assert rest / 4 < 1 / 16  # so that the seeds' own variance counts
    seeds, images = 1 / 16 / 3, (11 / 36 + 2) / 3 / 4
    assert mean.value == pytest.approx(0.75)
    assert mean.error == pytest.approx(math.sqrt(seeds + images))
    assert mean.degrees == pytest.approx((seeds + images) ** 2 / (seeds**2 / 2 + images**2 / 3))


def test_seeds_that_agree_by_luck_do_not_narrow_the_interval():
    correct = np.random.default_rng(0).random((3, 200)) < 0.8
    correct[:, :] = np.stack([np.roll(correct[0], shift) for shift in (0, 7, 50)])  # three equal means
    assert correct.mean(1).var() == pytest.approx(0)
    by_image = correct.mean(0)
    rest = np.square(correct - correct.mean(1)[:, None] - by_image + correct.mean()).sum() / 2 / 199
    images = (np.square(by_image - correct.mean()).sum() + 2) / 199 / 200
    assert crossed_mean(correct).error == pytest.approx(math.sqrt(rest / 600 + images))


def test_of_two_seeds_far_apart_the_interval_is_that_of_a_t_with_one_degree():
    correct = np.random.default_rng(0).random((2, 20_000)) < np.array([[0.6], [0.8]])
    means = correct.mean(1)
    low, high = crossed_mean(correct).interval()
    half = (
        12.706 * abs(means[0] - means[1]) / 2
    )  # t of one degree of freedom; the error of two is half their difference
    assert high - low == pytest.approx(2 * half, rel=0.02)
    assert estimate(correct) == type(estimate(correct))(means.mean(), 0.0, 1.0)  # clipped to what can be


def test_all_right_is_not_certainly_right():
    interval = estimate(np.ones((3, 500), bool))
    assert (interval.mean, interval.high) == (1, 1)
    assert interval.low == pytest.approx(1 - 2.8 / 500, abs=0.0005)  # about the rule of three
    level = paired_difference(np.ones((3, 500), bool), np.ones((3, 500), bool))
    assert (level.mean, level.low) == (0, -level.high)
    assert level.high == pytest.approx(2.8 / 500, abs=0.0005)


def test_one_seed_counts_the_images_alone():
    correct = np.random.default_rng(0).random((1, 1000)) < 0.9
    p = correct.mean()
    interval = estimate(correct)
    assert interval.high - p == pytest.approx(1.962 * math.sqrt(p * (1 - p) / 999), rel=0.02)


def test_an_accuracy_interval_covers_the_truth_about_as_often_as_it_says():
    """Simulated runs whose seeds, images and rest all vary; 95 % is meant, the wide side is allowed."""
    for accuracy, by_seed, seed in ((0.9, 0.05, 1), (0.97, 0.1, 2), (0.7, 0.1, 3)):
        held = 0
        for repeat in range(1000):
            world = World(n=360, seed=1000 * seed + repeat, by_seed=by_seed)
            interval = estimate(np.stack([world.correct(accuracy) for _ in range(3)]))
            held += interval.low <= accuracy <= interval.high
        assert 0.93 <= held / 1000 <= 0.995, (accuracy, by_seed)


def test_a_paired_interval_covers_the_true_difference_about_as_often_as_it_says():
    """Two arms on the same images, with seeds that matter as much as images, and more than they do."""
    for by_seed in (0.06, 0.1):
        held = 0
        for repeat in range(1000):
            world = World(n=500, seed=repeat, by_image=0.6, by_seed=by_seed, rest=0.4)
            a, b = (np.stack([world.correct(accuracy) for _ in range(3)]) for accuracy in (0.85, 0.80))
            interval = paired_difference(a, b)
            held += interval.low <= 0.05 <= interval.high
        assert 0.93 <= held / 1000 <= 0.995, by_seed


def test_equal_arms_seldom_pass_the_sharper_level_of_many_comparisons():
    alarms = 0
    for repeat in range(1000):
        world = World(n=500, seed=repeat, by_image=0.6, by_seed=0.06, rest=0.4)
        a, b = (np.stack([world.correct(0.85) for _ in range(3)]) for _ in "ab")
        alarms += paired_mean(a, b).p_value() < 0.05 / 5
    assert alarms / 1000 <= 0.02  # 1 % is meant; 2 % of 1,000 is over three deviations more


def test_pairing_sees_a_difference_that_two_intervals_do_not():
    world = World(n=1000, seed=3, by_seed=0, rest=0.1)  # the arms fail on the same images
    a, b = (np.stack([world.correct(accuracy) for _ in range(3)]) for accuracy in (0.92, 0.90))
    assert estimate(a).low < estimate(b).high
    assert paired_difference(a, b).low > 0
    assert paired_mean(a, b).value == pytest.approx(a.mean() - b.mean())
    opposite, own = paired_difference(b, a), paired_difference(a, b)
    assert (opposite.low, opposite.high) == pytest.approx((-own.high, -own.low))


def test_the_p_value_is_where_the_interval_touches_zero():
    mean = Mean(0.03, 0.01, 4.5)
    assert mean.p_value() == pytest.approx(2 * stdtr(4.5, -3))
    low, high = mean.interval(1 - mean.p_value())
    assert (low, high) == pytest.approx((0, 0.06), abs=1e-9)
    assert Mean(-0.03, 0.01, 4.5).p_value() == mean.p_value()


def test_arms_on_other_images_are_not_paired():
    with pytest.raises(ValueError, match="same seeds and images"):
        paired_mean(np.ones((3, 10), bool), np.ones((2, 10), bool))
    with pytest.raises(ValueError, match=r"not \(10,\)"):
        estimate(np.ones(10, bool))
