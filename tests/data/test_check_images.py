"""Looking at all images before training: damage is named with a way out, or left out, before the first step."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pictures import encode, smooth

from vitrail.data import cache
from vitrail.data.cache import cache_bytes, check_images
from vitrail.data.open import open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.errors import UserError

PREPROCESS = Preprocess((12, 12))


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Twelve images of two classes, two of them damaged: one in its header, one in its pixels."""
    for number in range(12):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number:02d}.jpg").write_bytes(encode(smooth(20, 30, seed=number), "JPEG"))
    (tmp_path / "a" / "04.jpg").write_bytes(b"not an image")
    whole = (tmp_path / "b" / "07.jpg").read_bytes()
    (tmp_path / "b" / "07.jpg").write_bytes(whole[: -len(whole) // 10])
    found = open_data(tmp_path, val_fraction=0).train
    assert found is not None
    return found


@pytest.mark.parametrize("workers", [0, 3])
def test_damaged_images_are_counted_and_named_with_the_way_out(samples: Samples, workers: int) -> None:
    with pytest.raises(UserError, match=r"^2 of 12 images .*a/04\.jpg: .*b/07\.jpg: .*--skip-bad") as caught:
        check_images(samples, PREPROCESS, workers=workers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 3])
def test_damaged_images_are_left_out_on_request(samples: Samples, workers: int) -> None:
    checked = check_images(samples, PREPROCESS, workers=workers, skip_bad=True, keep=True)
    assert [image.index for image in checked.bad] == [samples.names.index("a/04.jpg"), samples.names.index("b/07.jpg")]
    assert len(checked.samples) == 10
    assert checked.cached is not None
    assert checked.cached.shape == (10, 3, 12, 12)
    assert cache_bytes(10, PREPROCESS) == checked.cached.numel()
    for index in range(10):
        assert torch.equal(checked.cached[index], PREPROCESS.load(checked.samples.encoded(index)))
        folder = checked.samples.names[index].split("/")[0]
        assert checked.samples.labels[checked.samples.targets[index]] == folder


def test_of_many_images_only_so_many_are_looked_at_evenly_spaced(samples: Samples) -> None:
    looked: list[int] = []

    def read(index: int) -> bytes:
        looked.append(index)
        return samples.read(index)

    watched = replace(samples, read=read)
    calls: list[tuple[int, int]] = []
    checked = check_images(
        watched, PREPROCESS, at_most=4, skip_bad=True, progress=lambda done, n: calls.append((done, n))
    )
    assert looked == [0, 3, 7, 11]
    assert calls == [(i, 4) for i in range(1, 5)]
    assert len(checked.samples) == 12 - len(checked.bad)
    looked.clear()
    check_images(watched, PREPROCESS, at_most=4, skip_bad=True, keep=True)
    assert looked == list(range(12))


def test_the_threads_are_handed_a_bounded_number_of_images_at_a_time(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []
    submit = ThreadPoolExecutor.submit

    def count(pool: ThreadPoolExecutor, *arguments: object) -> object:
        waiting.append(pool._work_queue.qsize())
        return submit(pool, *arguments)

    monkeypatch.setattr(cache, "_AT_ONCE", 3)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", count)
    checked = check_images(samples, PREPROCESS, workers=2, skip_bad=True)
    assert len(waiting) == 12
    assert max(waiting) < 3
    assert len(checked.bad) == 2


def test_progress_reaches_the_end(samples: Samples) -> None:
    calls: list[tuple[int, int]] = []
    check_images(samples, PREPROCESS, skip_bad=True, progress=lambda done, n: calls.append((done, n)))
    assert calls == [(i, 12) for i in range(1, 13)]


def test_class_without_a_single_good_image_is_an_error(samples: Samples) -> None:
    names = [name for name in samples.names if name.startswith("b/") or name == "a/04.jpg"]
    few = samples.subset([samples.names.index(name) for name in names])
    with pytest.raises(UserError, match="no image of class 'a' is left"):
        check_images(few, PREPROCESS, skip_bad=True)
    with pytest.raises(UserError, match="no image is left"):
        check_images(samples.subset([samples.names.index("a/04.jpg")]), PREPROCESS, skip_bad=True)
