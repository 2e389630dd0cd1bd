"""The number of loader workers fits the machine and the work, unless a person says it."""

import pytest

from vitrail.data import workers
from vitrail.data.workers import loader_workers


@pytest.mark.parametrize(
    ("images", "device", "world", "expected"),
    [
        (255, "cuda", 1, 0),
        (10_000, "cuda", 1, 16),
        (10_000, "cuda", 8, 3),
        (10_000, "cuda", 64, 1),
        (10_000, "cpu", 1, 12),
        (10_000, "cpu", 24, 0),
    ],
)
def test_cores_are_shared_with_other_processes_and_with_a_model_on_them(
    monkeypatch: pytest.MonkeyPatch, images: int, device: str, world: int, expected: int
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 24)
    assert loader_workers(None, images, device, world) == expected


def test_what_a_person_says_is_done() -> None:
    assert loader_workers(0, 10**6, "cuda") == 0
    assert loader_workers(5, 1, "cpu", 8) == 5


def test_there_is_a_core() -> None:
    assert workers.cores() >= 1
