"""Inputs are walked in the order of their paths, one by one, and nothing that is no file keeps the reader waiting."""

import os
import random
import tracemalloc
from pathlib import Path

import pytest

from vitrail.data.decode import SUFFIXES, ImageError
from vitrail.errors import UserError
from vitrail.inputs import MOST_BYTES, Inputs, read_file, stamp


def test_a_folder_is_walked_in_the_order_of_all_its_paths(tmp_path: Path) -> None:
    chance = random.Random(0)
    folders = ["a", "a-", "a.", "a.png", "b", "B", ".h", "ab"]
    for _ in range(300):
        folder = tmp_path.joinpath(*chance.choices(folders, k=chance.randrange(4)))
        folder.mkdir(parents=True, exist_ok=True)
        name = "".join(chance.choices("abB1 .-", k=3)) + chance.choice([".png", ".JPG", ".txt", ".png.d"])
        if not (folder / name).exists():
            (folder / name).write_bytes(chance.randbytes(3))
    expected = sorted(
        file
        for file in tmp_path.rglob("*")
        if file.suffix.lower() in SUFFIXES and not any(p.startswith(".") for p in file.relative_to(tmp_path).parts)
    )
    inputs = Inputs([str(tmp_path)])
    assert [source.name for source in inputs] == [str(path) for path in expected]
    assert [source.name for source in inputs] == [str(path) for path in expected]  # as often as one likes
    assert len(expected) > 50


def test_walking_holds_the_names_of_one_folder_alone(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / str(folder)).mkdir()
        for i in range(200):
            (tmp_path / str(folder) / f"{i}.png").touch()

    def peak(inputs: Inputs) -> int:
        tracemalloc.start()
        count = sum(1 for _ in inputs)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count % 200 == 0
        return most

    peak(Inputs([str(tmp_path / "0")]))  # imports and caches are not what is measured
    one, all_of_them = peak(Inputs([str(tmp_path / "0")])), peak(Inputs([str(tmp_path)]))
    assert all_of_them < 1.5 * one + 50_000  # 4,000 sources, held together, take more than 1 MB


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, kind in ((tmp_path / "pipe.png", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(ImageError, match=f"{path.name}: {kind}, and no file"):
            read_file(path, path.name)


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ImageError, match=r"big: 1,073,741,825 bytes are more than"):
        read_file(tmp_path / "big.jpg", "big")


def test_a_name_that_no_file_can_have_is_one_bad_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        read_file(tmp_path / "a\0b.png", "a")


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "~nobody-has-this-name/1.png"])
def test_a_name_that_cannot_be_looked_up_is_one_bad_image_among_others(tmp_path: Path, name: str) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    bad, good = Inputs([name, str(tmp_path / "1.png")])
    assert (bad.name, good.read()) == (name, b"one")
    with pytest.raises(OSError, match="No such file|too long"):
        bad.read()
    assert stamp(bad) == "-"


def test_a_folder_that_may_not_be_entered_is_no_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, **named: object) -> object:  # root may enter everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", denied)
    assert [source.name for source in Inputs(["closed/1.png"])] == ["closed/1.png"]


def test_an_empty_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    monkeypatch.chdir(tmp_path)
    for names in ([""], ["1.png", ""]):
        with pytest.raises(UserError, match="empty name"):
            Inputs(names)


def test_a_folder_that_cannot_be_read_is_told_as_a_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(random.Random(folder).randbytes(9))
    scan = os.scandir

    def denied(path: Path) -> object:  # root may read everything, so rights alone show nothing
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    first, second = Inputs([str(tmp_path)])
    assert (first.name, second.name) == (str(tmp_path / "a"), str(tmp_path / "b" / "1.png"))
    with pytest.raises(PermissionError):
        first.read()


def test_the_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(b"one")
    os.utime(path, ns=(10**18, 10**18))
    (source,) = Inputs([str(path)])
    before = stamp(source)
    path.write_bytes(b"two")
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert stamp(source) not in (before, "-")
    path.unlink()
    assert stamp(source) == "-"


def test_samples_of_a_table_name_their_files(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    (tmp_path / "t.csv").write_text("file_name,label\n1.png,a\n2.png,b\n")
    first, second = Inputs([str(tmp_path / "t.csv")])
    assert (first.name, first.label, first.path, first.read()) == ("1.png", "a", tmp_path / "1.png", b"one")
    with pytest.raises(FileNotFoundError):
        second.read()


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(UserError, match="no images found"):
        list(Inputs([str(tmp_path)]))
