"""Randomness as a function: of the seed, the epoch and the sample, and of nothing else."""

from itertools import islice

import numpy as np
import pytest

from vitrail.data.randomness import order, step_generator, stream, uniforms, words


def test_draws_of_a_sample_do_not_depend_on_its_batch() -> None:
    together = uniforms(3, "augment", np.array([0, 0, 7]), np.array([5, 11, 5]), count=6)
    alone = uniforms(3, "augment", np.array([0]), np.array([11]), count=6)
    assert np.array_equal(together[1:2], alone)
    assert len(np.unique(together)) == together.size


def test_plain_python_stream_equals_the_vectorised_draws() -> None:
    assert list(islice(stream(9, "crop", 2, 1234), 20)) == uniforms(9, "crop", 2, 1234, count=20)[0].tolist()


def test_values_are_the_same_on_every_machine_and_version() -> None:
    # stored once: a change here changes every run that anybody resumes
    assert words(0, "augment", 0, 0, count=2).tolist() == [[5595315959435657313, 3977979999743423757]]
    assert order(0, 0, 10).tolist() == [5, 6, 0, 1, 9, 8, 3, 4, 2, 7]


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniforms(1, "augment", np.repeat(np.arange(50), 400), np.tile(np.arange(400), 50), count=4)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    expected = draws.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-squared, 19 degrees of freedom: p < 1e-4
    correlation = np.corrcoef(draws, rowvar=False) - np.eye(4)
    assert np.abs(correlation).max() < 0.03  # 4 standard errors of 20,000 pairs


@pytest.mark.parametrize("n", [1, 2, 97])
def test_order_visits_every_sample_once_and_differs_by_epoch_and_seed(n: int) -> None:
    assert sorted(order(5, 0, n)) == list(range(n))
    if n > 10:
        assert not np.array_equal(order(5, 0, n), order(5, 1, n))
        assert not np.array_equal(order(5, 0, n), order(6, 0, n))


def test_step_generators_differ_by_step_and_rank() -> None:
    draws = {(step, rank): step_generator(0, step, rank).random(3).tolist() for step in (0, 1) for rank in (0, 1)}
    assert draws[0, 1] == step_generator(0, 0, 1).random(3).tolist()
    assert len({tuple(values) for values in draws.values()}) == 4
