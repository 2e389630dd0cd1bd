"""Files that vanish, change or cannot be read while a run goes on: one line that names the image, from every source."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pictures import encode, smooth
from test_sources import IMAGES, parquet_table, write_csv, write_folder, write_parquet, write_shards

from vitrail.data.batches import eval_batches
from vitrail.data.decode import ImageError
from vitrail.data.open import open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.data.sources import files, folder
from vitrail.errors import UserError

PREPROCESS = Preprocess((8, 8))


def opened(data: Path | str) -> Samples:
    found = open_data(data, val_fraction=0).train
    assert found is not None
    return found


def error(samples: Samples, workers: int) -> str:
    with pytest.raises(ImageError) as caught:
        list(eval_batches(samples, PREPROCESS, 4, workers=workers))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(tuple(f"{name}: " for name in samples.names))
    return text


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def into_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def into_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


HAPPENINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "vanishes": (Path.unlink, "No such file"),
    "folder": (into_folder, "Is a directory"),
    "pipe": (into_pipe, "not a file"),
    "circle": (into_circle, "symbolic links"),
    "empty": (lambda path: path.write_bytes(b""), ""),
    "cut": (lambda path: os.truncate(path, path.stat().st_size // 2), ""),
    "overwritten": (lambda path: path.write_bytes(os.urandom(path.stat().st_size)), ""),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("happening", HAPPENINGS)
@pytest.mark.parametrize("write", [write_folder, write_csv, write_parquet, write_shards])
def test_file_that_is_lost_is_told_by_its_image(
    write: Callable[[Path], Path], happening: str, workers: int, tmp_path: Path
) -> None:
    act, told = HAPPENINGS[happening]
    samples = opened(write(tmp_path / "data"))
    chosen = [f for f in (tmp_path / "data").rglob("*") if f.suffix in (".PNG", ".png", ".jpg", ".parquet", ".tar")]
    act(sorted(chosen)[-1])
    assert told in error(samples, workers)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("workers", [0, 2])
def test_disk_that_fails_is_told_by_its_image(
    code: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = opened(write_folder(tmp_path / "data"))

    def fails(path: Path) -> bytes:
        if str(path).endswith(samples.names[5]):
            raise OSError(code, os.strerror(code), str(path))
        return files.read_file(path)

    monkeypatch.setattr(folder, "read_file", fails)
    assert error(samples, workers) == f"{samples.names[5]}: cannot be read ({os.strerror(code)})"


def test_parquet_file_replaced_by_another_is_told(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(parquet_table(IMAGES[:6], ["cat", "dog"] * 3), path)
    samples = opened(path)
    pq.write_table(parquet_table(IMAGES[:2], ["cat", "dog"]), path)
    assert "fewer rows" in error(samples, 0)
    pq.write_table(pq.read_table(path).select(["label"]), path)
    assert "damaged" in error(opened_again(samples), 0)


def opened_again(samples: Samples) -> Samples:
    """The same, as another process has it: without what this one keeps in memory."""
    import pickle

    return Samples(samples.names, samples.targets, samples.labels, pickle.loads(pickle.dumps(samples.read)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_row_of_a_hub_data_set_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from vitrail.data.sources.hub import RowReader

    path = tmp_path / "a.png"
    path.write_bytes(encode(smooth(9, 9)))
    rows = datasets.Dataset.from_dict({"image": [str(path)] * 3}).cast_column("image", datasets.Image(decode=False))
    samples = Samples([f"train:{i}" for i in range(4)], None, (), RowReader(rows, "image"))
    assert "row 3 cannot be read" in error(samples, 0)
    path.unlink()
    assert error(samples, 0) == "train:0: cannot be read (No such file or directory)"


def test_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    samples = Samples(["a\0b.png"], None, (), folder.FileReader(tmp_path, ["a\0b.png"]))
    assert "null" in error(samples, 0)
    assert samples.stats().sizes.tolist() == [-1]


@pytest.mark.parametrize("write", [write_folder, write_csv, write_parquet, write_shards])
def test_data_that_cannot_be_opened_are_told_in_one_line(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "data")
    blocked = {".csv": data, "": tmp_path / "data"}[data.suffix]
    if write in (write_parquet, write_shards):
        blocked = sorted(f for f in blocked.rglob("*") if f.suffix in (".parquet", ".tar"))[0]
    if write is write_folder:
        own = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: refuse(path) if Path(path) == blocked else own(path))
    else:
        blocked.unlink()
        blocked.symlink_to(blocked.with_name("nowhere"))
    with pytest.raises(UserError) as caught:
        open_data(data)
    assert "\n" not in str(caught.value)


def refuse(path: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
