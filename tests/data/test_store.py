"""Making and finding kept images: nothing stale is used, nothing half written is found, and no room is told clearly."""

import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import encode, smooth

from vitrail.data import kept_file, store
from vitrail.data.cache import Checked
from vitrail.data.kept import Form
from vitrail.data.open import open_data
from vitrail.data.samples import Samples
from vitrail.data.store import keep_in_file, keep_in_memory
from vitrail.errors import UserError

FORM = Form(3, "bicubic", 16)


def photos(root: Path, n: int = 12) -> Path:
    """JPEGs of 20x30 in two class folders."""
    for number in range(n):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.jpg").write_bytes(encode(smooth(20, 30, seed=number), "JPEG"))
    return root


def opened(root: Path) -> Samples:
    found = open_data(root, val_fraction=0).train
    assert found is not None
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every time that images were decoded to be kept."""
    calls: list[int] = []
    own = store._make

    def make(samples: Samples, *args: object) -> object:
        calls.append(len(samples))
        return own(samples, *args)

    monkeypatch.setattr(store, "_make", make)
    return calls


def check(found: Checked) -> None:
    """Every image is the one that its file has now."""
    kept = found.samples.kept
    assert kept is not None
    for index in range(len(found.samples)):
        image, size = FORM.load(found.samples.encoded(index))
        assert np.array_equal(kept.image(index), image)
        assert kept.size(index) == size
        assert found.digests is not None
        assert found.digests[index] == found.samples.digest(index, found.samples.encoded(index))


def test_a_file_is_made_once_and_found_by_later_runs(tmp_path: Path, cache: Path, made: list[int]) -> None:
    samples = opened(photos(tmp_path / "data"))
    check(keep_in_file(samples, FORM, cache, "data", workers=3))
    check(keep_in_file(samples, FORM, cache, "data"))
    assert made == [12]
    check(keep_in_memory(samples, FORM, room=1 << 20, workers=3))
    assert sum(path.suffix == ".images" for path in cache.iterdir()) == 1


def test_a_copy_of_the_data_with_other_times_finds_it_too(tmp_path: Path, cache: Path, made: list[int]) -> None:
    keep_in_file(opened(photos(tmp_path / "one" / "data")), FORM, cache, "data")
    shutil.copytree(tmp_path / "one" / "data", tmp_path / "two" / "data", copy_function=shutil.copyfile)
    check(keep_in_file(opened(tmp_path / "two" / "data"), FORM, cache, "data"))
    assert made == [12]


def edit(path: Path) -> None:
    """One byte of the pixels' code, keeping size and time of change."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: edit(root / "a" / "04.jpg"),
        lambda root: (root / "a" / "04.jpg").write_bytes(encode(smooth(22, 30, seed=4), "JPEG")),
        lambda root: (root / "a" / "04.jpg").replace(root / "a" / "05.jpg"),
        lambda root: (root / "a" / "04.jpg").unlink(),
        lambda root: (root / "b" / "99.jpg").write_bytes(encode(smooth(9, 9), "JPEG")),
    ],
    ids=["edited", "replaced", "renamed", "removed", "added"],
)
def test_changed_data_never_use_a_stale_file(
    tmp_path: Path, cache: Path, made: list[int], change: Callable[[Path], object]
) -> None:
    root = photos(tmp_path / "data")
    keep_in_file(opened(root), FORM, cache, "data")
    change(root)
    check(keep_in_file(opened(root), FORM, cache, "data"))
    assert len(made) == 2


def test_what_is_not_read_again_is_told_by_size_and_time(tmp_path: Path, cache: Path, made: list[int]) -> None:
    root = photos(tmp_path / "data")
    keep_in_file(opened(root), FORM, cache, "data", at_most=1)
    keep_in_file(opened(root), FORM, cache, "data", at_most=1)
    assert made == [12]
    os.utime(root / "b" / "07.jpg", ns=(1, 1))
    keep_in_file(opened(root), FORM, cache, "data", at_most=1)
    assert made == [12, 12]


@pytest.mark.parametrize("form", [Form(1, "bicubic", 16), Form(3, "bilinear", 16), Form(3, "bicubic", 12)])
def test_other_forms_are_other_files(tmp_path: Path, cache: Path, made: list[int], form: Form) -> None:
    samples = opened(photos(tmp_path / "data"))
    keep_in_file(samples, FORM, cache, "data")
    other = keep_in_file(samples, form, cache, "data").samples.kept
    assert other is not None
    assert np.array_equal(other.image(1), form.load(samples.encoded(1))[0])
    assert made == [12, 12]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data + b"more",
        lambda data: bytes(50) + data[50:],
        lambda data: data[:100] + data[101:],
        lambda data: data[:-60] + bytes([data[-60] ^ 1]) + data[-59:],
    ],
    ids=["half", "end", "empty", "longer", "pixels", "shifted", "table"],
)
def test_a_damaged_file_is_made_again(
    tmp_path: Path, cache: Path, made: list[int], damage: Callable[[bytes], bytes]
) -> None:
    samples = opened(photos(tmp_path / "data"))
    keep_in_file(samples, FORM, cache, "data")
    (path,) = cache.glob("*.images")
    path.write_bytes(damage(path.read_bytes()))
    check(keep_in_file(samples, FORM, cache, "data"))
    assert made == [12, 12]


def test_damaged_images_are_named_or_left_out_also_when_the_file_is_found(
    tmp_path: Path, cache: Path, made: list[int]
) -> None:
    root = photos(tmp_path / "data")
    (root / "a" / "04.jpg").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"^1 of 12 images .*a/04\.jpg: .*--skip-bad"):
        keep_in_file(opened(root), FORM, cache, "data")
    for _ in range(2):
        found = keep_in_file(opened(root), FORM, cache, "data", skip_bad=True)
        assert [bad.index for bad in found.bad] == [opened(root).names.index("a/04.jpg")]
        assert "a/04.jpg" in found.bad[0].message
        assert len(found.samples) == 11
        check(found)
    assert len(made) == 2
    with pytest.raises(UserError, match=r"a/04\.jpg"):
        keep_in_file(opened(root), FORM, cache, "data")
    (root / "a" / "04.jpg").write_bytes(encode(smooth(20, 30), "JPEG"))
    check(keep_in_file(opened(root), FORM, cache, "data"))


def test_too_little_memory_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = opened(photos(tmp_path / "data"))
    with pytest.raises(UserError, match=r"data\.cache=memory: 12 images .*cache_size \(16\).*data\.cache=file"):
        keep_in_memory(samples, FORM, room=5000)
    looked: list[int] = []
    monkeypatch.setattr(store, "_GUESS_AFTER", 3)
    with pytest.raises(UserError, match=r"data\.cache=memory"):
        keep_in_memory(samples, FORM, room=6000, progress=lambda done, n: looked.append(done))
    assert max(looked) == 2  # four would have fitted


def test_too_little_room_on_the_disk_is_told_and_nothing_is_left(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = opened(photos(tmp_path / "data"))
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    with pytest.raises(UserError, match=r"data\.cache_folder .*cache: 12 images .*were free there"):
        keep_in_file(samples, FORM, cache, "data")
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_disk_that_fills_up_on_the_way_is_told_and_nothing_is_left(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(kept_file.Appended):
        def add(self, image: np.ndarray) -> tuple[int, int]:
            if self._at > 5000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().add(image)

    monkeypatch.setattr(store, "Appended", Full)
    with pytest.raises(UserError, match=r"data\.cache_folder .*cache is full: .*data\.cache_size \(16\)") as caught:
        keep_in_file(opened(photos(tmp_path / "data")), FORM, cache, "data")
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path, cache: Path) -> None:
    samples = opened(photos(tmp_path / "data"))
    cache.mkdir()
    left = cache / f".{Path(kept_file.file_name(samples, FORM, 'data')).stem}.1.writing"
    left.write_bytes(b"half")
    keep_in_file(samples, FORM, cache, "data")
    assert not left.exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(UserError, match=r"data\.cache_folder .*cache: images cannot be kept there \("):
        keep_in_file(opened(photos(tmp_path / "data")), FORM, tmp_path / "cache", "data")


def test_names_that_are_no_text_are_no_obstacle(tmp_path: Path, cache: Path, made: list[int]) -> None:
    samples = opened(photos(tmp_path / "data"))
    damaged = io.BytesIO(b"no image").getvalue()
    odd = Samples(
        ["a/\udcff.jpg", *samples.names[1:]],
        samples.targets,
        samples.labels,
        lambda index: damaged if index == 0 else samples.read(index),
    )
    for _ in range(2):
        found = keep_in_file(odd, FORM, cache, "data", skip_bad=True)
        assert found.bad[0].message.startswith("a/\udcff.jpg: ")
    assert made == [12]
