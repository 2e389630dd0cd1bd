"""The learning rate is a function of the step."""

import pytest

from vitrail.training.schedule import learning_rate_factor


def curve(name: str, final_fraction: float = 0.0) -> list[float]:
    return [learning_rate_factor(s, total=100, warmup=10, name=name, final_fraction=final_fraction) for s in range(101)]


def test_warm_up_rises_linearly_from_above_zero_to_one() -> None:
    assert curve("cosine")[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])


def test_cosine_and_line_fall_to_the_final_fraction() -> None:
    assert curve("cosine")[10] == 1
    assert curve("cosine")[55] == pytest.approx(0.5)
    assert curve("cosine")[100] == pytest.approx(0)
    assert curve("linear")[55] == pytest.approx(0.5)
    assert curve("linear", 0.2)[100] == pytest.approx(0.2)
    assert all(a > b for a, b in zip(curve("cosine")[10:], curve("cosine")[11:], strict=False))


def test_constant_stays_after_the_warm_up() -> None:
    assert set(curve("constant", 0.1)[10:]) == {1.0}


def test_without_warm_up_it_starts_at_one() -> None:
    assert learning_rate_factor(0, total=10, warmup=0, name="linear") == 1
