"""Resolutions: the size of each step is a function of the seed and the step, and every size has its share."""

from collections import Counter

import pytest

from vitrail.data.resolutions import Resolutions, patches

PAIRS = (((32, 32), 8), ((16, 16), 8), ((64, 32), 8), ((32, 32), 4))


def test_the_same_seed_and_step_give_the_same_size_wherever_a_run_stands() -> None:
    drawn = [Resolutions(PAIRS, "random", 3, 100).at(step) for step in range(100)]
    again = Resolutions(PAIRS, "random", 3, 100)
    assert [again.at(step) for step in reversed(range(100))] == drawn[::-1]
    assert [Resolutions(PAIRS, "random", 3, 7).at(step) for step in range(100)] == drawn
    other = [Resolutions(PAIRS, "random", 4, 100).at(step) for step in range(100)]
    assert other != drawn


def test_every_size_is_drawn_as_often_as_another() -> None:
    counts = Counter(Resolutions(PAIRS, "random", 0, 4000).at(step) for step in range(4000))
    assert set(counts) == set(PAIRS)
    # binomial: 1000 expected, deviation 27; four of them
    assert all(abs(count - 1000) < 110 for count in counts.values())


@pytest.mark.parametrize("total", [4, 10, 11, 400])
def test_rising_sizes_go_from_the_fewest_tokens_to_the_most_in_equal_shares(total: int) -> None:
    rising = Resolutions(PAIRS, "rising", 0, total)
    seen = [rising.at(step) for step in range(total)]
    tokens = [patches(pair) for pair in seen]
    assert tokens == sorted(tokens)
    counts = Counter(seen)
    assert set(counts) == set(PAIRS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert rising.at(total) == rising.at(total + 5) == seen[-1]  # a loader prepares a few steps beyond the end


def test_a_run_of_fewer_steps_than_sizes_still_rises() -> None:
    rising = Resolutions(PAIRS, "rising", 0, 2)
    assert patches(rising.at(0)) < patches(rising.at(1))


def test_sizes_are_named_once() -> None:
    assert Resolutions(PAIRS, "random", 0, 1).sizes == ((32, 32), (16, 16), (64, 32))
    with pytest.raises(ValueError, match="at least one pair"):
        Resolutions((), "random", 0, 1)
