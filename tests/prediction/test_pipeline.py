"""Images are loaded ahead by threads, and nothing of what comes out depends on which of them is the fastest."""

import random
import threading
import time

import pytest

from vitrail.prediction.pipeline import loaded


def slowly(item: int) -> int:
    """Some take longer than those after them."""
    time.sleep(random.Random(item).random() / 200)
    return item * item


@pytest.mark.parametrize("ahead", [0, 2])
def test_batches_are_cut_by_place_and_come_in_order(ahead: int) -> None:
    found = list(loaded(range(23), slowly, 5, ahead))
    assert [len(batch) for batch in found] == [5, 5, 5, 5, 3]
    assert [pair for batch in found for pair in batch] == [(i, i * i) for i in range(23)]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_is_held_than_said(ahead: int) -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    stream = loaded(endless(), slowly, 4, ahead)
    for batch in range(1, 6):
        next(stream)
        assert taken == 4 * (batch + ahead)
    stream.close()
    assert taken == 4 * (5 + ahead)


def test_who_stops_early_does_not_wait_for_the_rest() -> None:
    begun, first = set(), threading.Event()

    def load(item: int) -> int:
        begun.add(item)
        if item >= 2:
            first.wait(5)
        return item

    stream = loaded(range(500), load, 2, 200)
    assert [item for item, _ in next(stream)] == [0, 1]
    threading.Timer(0.05, first.set).start()
    stream.close()
    assert len(begun) < 50
