"""However often the work is interrupted, each input is answered once, in order, in the batches of an uninterrupted run."""

import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from vitrail.batch.job import Job, job_at
from vitrail.batch.part import Answer
from vitrail.batch.work import part_size, work
from vitrail.data.decode import ImageError
from vitrail.inputs import Inputs, Source

BATCH, SIZE = 4, 12
Answers = Callable[[Iterator[Source]], Iterator[Answer]]


class Killed(Exception):
    """The end of a process, as far as a test in one process can play it."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """45 files of random bytes in three folders."""
    chance = random.Random(0)
    for i in range(45):
        folder = tmp_path / "images" / str(i % 3)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02d}.png").write_bytes(chance.randbytes(8))
    return tmp_path / "images"


def answers(batches: list[list[str]], *, ahead: int = 0, dies_after: int | None = None) -> Answers:
    """Answers that tell their batch, read some batches ahead, and end the work after so many images."""

    def run(sources: Iterator[Source]) -> Iterator[Answer]:
        waiting: list[list[Source]] = []
        given = 0
        while True:
            while len(waiting) <= ahead and (batch := list(islice(sources, BATCH))):
                waiting.append(batch)
            if not waiting:
                return
            batch = waiting.pop(0)
            batches.append([source.name for source in batch])
            for source in batch:
                if given == dies_after:
                    raise Killed
                given += 1
                try:
                    content, error = source.read().hex(), None
                except ImageError as refused:
                    content, error = None, str(refused)
                yield Answer({"file": source.name, "content": content, "error": error})

    return run


def do(job: Job, images: Path, how: Answers, said: list[str] | None = None) -> list[dict[str, object]]:
    """Work to the end; the rows."""
    say = (said if said is not None else []).append
    inputs = Inputs([str(images)])
    parts = work(job, inputs, how, size=SIZE, count=45, flight=None, say=say, moved=lambda done: None)
    return [answer.row for answer in job.answers(parts)]


@pytest.mark.parametrize("ahead", [0, 2])
def test_interrupted_anywhere_the_answers_and_batches_are_the_same(tmp_path: Path, images: Path, ahead: int) -> None:
    whole: list[list[str]] = []
    with job_at(tmp_path / "a.csv", dict, long=True) as job:
        expected = do(job, images, answers(whole, ahead=ahead))
    assert len({str(row["file"]) for row in expected}) == 45
    for dies_after in range(0, 45, 2):
        batches: list[list[str]] = []
        out = tmp_path / f"{dies_after}.csv"
        with pytest.raises(Killed), job_at(out, dict, long=True) as job:
            do(job, images, answers(batches, ahead=ahead, dies_after=dies_after))
        with job_at(out, dict, long=True) as job:
            assert do(job, images, answers(batches, ahead=ahead)) == expected
        assert all(batch in whole for batch in batches)
        assert len(batches) <= len(whole) + SIZE // BATCH + ahead + 1  # no finished part was done again


def test_going_on_is_said_with_what_is_done(tmp_path: Path, images: Path) -> None:
    said: list[str] = []
    with pytest.raises(Killed), job_at(tmp_path / "a.csv", dict, long=True) as job:
        do(job, images, answers([], dies_after=30), said)
    assert said == []
    with job_at(tmp_path / "a.csv", dict, long=True) as job:
        do(job, images, answers([]), said)
    assert said == ["going on: 24 of 45 images are done"]
    with job_at(tmp_path / "a.csv", dict, long=True) as job:  # killed as it was about to write them all together
        do(job, images, answers([]), said)
    assert said[1:] == ["going on: 45 of 45 images are done"]


def test_inputs_that_changed_meanwhile_are_answered_as_they_are_now(tmp_path: Path, images: Path) -> None:
    with pytest.raises(Killed), job_at(tmp_path / "a.csv", dict, long=True) as job:
        do(job, images, answers([], dies_after=44))
    (images / "0" / "03.png").write_bytes(b"other")
    (images / "2" / "44.png").unlink()
    (images / "2" / "new.png").write_bytes(b"new")
    said: list[str] = []
    batches: list[list[str]] = []
    with job_at(tmp_path / "a.csv", dict, long=True) as job:
        found = do(job, images, answers(batches), said)
    with job_at(tmp_path / "b.csv", dict, long=True) as job:
        assert do(job, images, answers([])) == found
    assert sum(len(batch) for batch in batches) == SIZE + 45 % SIZE  # the part of the one, and that of the others
    assert any("have changed" in text for text in said)


def test_a_damaged_part_is_done_again(tmp_path: Path, images: Path) -> None:
    with job_at(tmp_path / "a.csv", dict, long=True) as job:
        expected = do(job, images, answers([]))
        damaged = job.folder / "000001.part"
        damaged.write_bytes(damaged.read_bytes()[:-3])
        batches: list[list[str]] = []
        assert do(job, images, answers(batches)) == expected
        assert len(batches) == SIZE // BATCH


def test_what_is_set_aside_keeps_its_place_and_tells_its_reason(tmp_path: Path, images: Path) -> None:
    with job_at(tmp_path / "a.csv", dict, long=True) as job:
        expected = do(job, images, answers([]))
    with job_at(tmp_path / "b.csv", dict, long=True) as job:
        name = str(expected[20]["file"])
        job.set_aside(next(s for s in Inputs([str(images)]) if s.name == name), "crashes the decoder")
        found = do(job, images, answers([]))
    assert found[20] == {"file": name, "content": None, "error": f"{name}: crashes the decoder"}
    assert [row for i, row in enumerate(found) if i != 20] == [row for i, row in enumerate(expected) if i != 20]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / "many" / str(folder)).mkdir(parents=True)
        for i in range(100):
            os.link(__file__, tmp_path / "many" / str(folder) / f"{i}.png")

    def peak(inputs: Path) -> int:
        def run(sources: Iterator[Source]) -> Iterator[Answer]:
            for source in sources:
                yield Answer({"file": source.name, "top": [[source.name, 0.5]] * 5, "error": None})

        tracemalloc.start()
        with job_at(tmp_path / f"{inputs.name}.csv", dict, long=True) as job:
            size = {"size": 100, "count": 1, "flight": None, "say": print, "moved": lambda done: None}
            parts = work(job, Inputs([str(inputs)]), run, **size)
            count = sum(1 for _ in job.answers(parts))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == (100 if inputs.name == "0" else 2000)
        return most

    peak(tmp_path / "many" / "0")  # imports are not what is measured
    few, many = peak(tmp_path / "many" / "0"), peak(tmp_path / "many")
    assert many < 2 * few + 100_000  # all answers together would take more than twenty times ``few``


def test_a_part_is_whole_batches_of_about_a_thousand_images() -> None:
    for batch_size in (1, 7, 32, 333, 1000, 4096):
        size = part_size(batch_size)
        assert size % batch_size == 0
        assert size == batch_size or abs(size - 1000) <= batch_size / 2
