"""Data that have changed since a run began are noticed and told; data that have only moved are not."""

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encode, smooth
from test_sources import parquet_table

from vitrail.data.cache import Checked, Memory, check_images
from vitrail.data.changes import changes, describe
from vitrail.data.identity import Identity
from vitrail.data.open import open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import UNKNOWN, Samples
from vitrail.errors import UserError

PREPROCESS = Preprocess((8, 8))
LABELS = ("cat", "dog", "owl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures of three classes, none like another."""
    for number in range(12):
        path = tmp_path / "data" / LABELS[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(smooth(12, 10, seed=number)))
    return tmp_path / "data"


def identity(data: Path | str, at_most: int | None = None) -> Identity:
    found = open_data(data, val_fraction=0).train
    assert found is not None
    return Identity.of({"train": check_images(found, PREPROCESS, at_most=at_most)})


def told(old: Identity, new: Identity) -> str:
    return describe(changes(old, new))


def keeping_times(path: Path, edit: Callable[[Path], object]) -> None:
    status = path.stat()
    edit(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip_a_byte(path: Path) -> None:
    """Of the last chunk's checksum, which no decoder of ours looks at: the picture stays the same."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def relabel(folder: Path) -> None:
    (folder / "cat" / "00.png").rename(folder / "dog" / "00.png")


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda f: None, ""),
        (
            lambda f: (f / "cat" / "99.png").write_bytes(encode(smooth(9, 9, seed=99))),
            "1 image of train added (cat/99.png)",
        ),
        (lambda f: (f / "dog" / "04.png").unlink(), "1 image of train removed (dog/04.png)"),
        (
            lambda f: (f / "dog" / "04.png").rename(f / "dog" / "44.png"),
            "1 image of train renamed (dog/44.png, was dog/04.png)",
        ),
        (
            relabel,
            "1 image of train renamed (dog/00.png, was cat/00.png), 1 relabelled (dog/00.png: dog, was cat)",
        ),
        (lambda f: keeping_times(f / "owl" / "05.png", flip_a_byte), "1 image of train edited (owl/05.png)"),
        (
            lambda f: (f / "owl").rename(f / "eagle"),
            "the classes have changed (eagle is new, owl is gone), "
            "4 images of train renamed (eagle/02.png, was owl/02.png, eagle/05.png, was owl/05.png, "
            "eagle/08.png, was owl/08.png, ...), "
            "4 relabelled (eagle/02.png: eagle, was owl, eagle/05.png: eagle, was owl, eagle/08.png: eagle, was owl, ...)",
        ),
    ],
    ids=["nothing", "added", "removed", "renamed", "moved", "edited", "class"],
)
def test_change_of_a_folder_is_told(folder: Path, act: Callable[[Path], object], expected: str) -> None:
    before = identity(folder)
    act(folder)
    assert told(before, identity(folder)) == expected


def test_table_that_gives_another_label_or_another_order_is_told(folder: Path) -> None:
    table = folder / "table.csv"
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]

    def write(lines: list[str]) -> Identity:
        table.write_text("\n".join(["file_name,label", *lines]) + "\n")
        return identity(table)

    before = write(rows)
    assert told(before, write(["cat/00.png,owl", *rows[1:]])) == (
        "1 image of train relabelled (cat/00.png: owl, was cat)"
    )
    swapped = [*rows[:3], rows[4], rows[3], *rows[5:]]
    assert told(before, write(swapped)) == "2 images of train reordered (cat/09.png, dog/01.png)"
    assert told(before, write([*rows, rows[0]])) == "1 image of train added (cat/00.png)"
    assert told(write([*rows, rows[0]]), write(rows)) == "1 image of train removed (cat/00.png)"


def test_copy_elsewhere_with_other_times_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    before = identity(folder)
    copy = shutil.copytree(folder, tmp_path / "other", copy_function=shutil.copy)
    for path in copy.rglob("*.png"):
        os.utime(path, ns=(10**18, 10**18))
    assert changes(before, identity(copy)) == []


def test_images_not_looked_at_are_compared_by_size_and_time(folder: Path) -> None:
    before = identity(folder, at_most=2)  # the first and the last
    assert (before.splits["train"].digests != 0).tolist() == [True, *[False] * 10, True]
    keeping_times(folder / "dog" / "01.png", lambda path: path.write_bytes(path.read_bytes() + b"\0"))
    os.utime(folder / "dog" / "04.png", ns=(10**18, 10**18))
    os.utime(folder / "cat" / "00.png", ns=(10**18, 10**18))  # looked at: its time says nothing
    assert told(before, identity(folder, at_most=2)) == (
        "1 image of train edited (dog/01.png), 1 with another time of change, and not looked at (dog/04.png)"
    )


def test_what_is_kept_comes_back(folder: Path, tmp_path: Path) -> None:
    found = identity(folder, at_most=5)
    train = found.splits["train"]
    held = Identity(found.labels, {"train": train, "val": identity(folder).splits["train"]})
    held.save(tmp_path / "identity.parquet")
    again = Identity.load(tmp_path / "identity.parquet")
    assert (again.labels, list(again.splits)) == (LABELS, ["train", "val"])
    for split, own in held.splits.items():
        other = again.splits[split]
        assert own.names.equals(other.names)
        for column in ("targets", "sizes", "modified", "digests"):
            np.testing.assert_array_equal(getattr(own, column), getattr(other, column))
            assert getattr(own, column).dtype == getattr(other, column).dtype
    assert changes(held, again) == []
    assert [(c.what, c.split, c.count) for c in changes(found, again)] == [("added", "val", 12)]


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    samples = Samples([os.fsdecode(b"caf\xe9.png"), "b.png"], None, (), lambda index: b"")
    Identity.of({"train": Checked(samples, None, ())}).save(tmp_path / "identity.parquet")
    again = Identity.load(tmp_path / "identity.parquet").splits["train"]
    assert again.names.to_pylist() == ["caf\\udce9.png", "b.png"]
    assert again.targets.tolist() == [UNKNOWN, UNKNOWN]


def test_damaged_identity_is_refused_by_name(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "identity.parquet"
    with pytest.raises(UserError, match=r"identity\.parquet: .* cannot be read"):
        Identity.load(path)
    identity(folder).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"identity\.parquet: .* cannot be read") as caught:
        Identity.load(path)
    assert "\n" not in str(caught.value)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match=r"identity\.parquet"):
        Identity.load(path)


def test_a_flipped_bit_anywhere_in_an_identity_is_never_taken_for_a_change_of_the_data(
    tmp_path: Path, folder: Path
) -> None:
    path = tmp_path / "data.parquet"
    known = identity(folder)
    known.save(path)
    whole, refusals = path.read_bytes(), []
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = Identity.load(path)
        except UserError as error:
            refusals.append(str(error))
        else:  # it is in what nobody reads, such as the statistics of a column
            assert not changes(known, found)
            assert found.labels == known.labels
    assert len(refusals) > len(whole) / 9
    assert all(line.startswith(f"{path}: ") for line in refusals)


def test_digests_follow_images_that_are_left_out_or_remembered(folder: Path) -> None:
    (folder / "dog" / "04.png").write_bytes(b"no image")
    samples = open_data(folder, val_fraction=0).train
    memory = Memory()
    first = check_images(samples, PREPROCESS, skip_bad=True, keep=True, memory=(memory, "x"))
    second = check_images(samples, PREPROCESS, skip_bad=True, keep=True, memory=(memory, "x"))
    assert len(first.digests) == len(first.samples) == 11
    assert first.digests.tolist() == second.digests.tolist()
    expected = [first.samples.digest(i, first.samples.encoded(i)) for i in range(11)]
    assert first.digests.tolist() == expected
    assert len(set(expected)) == 11
    assert min(expected) > 0


def write_parquet(root: Path, images: list[bytes]) -> Path:
    root.mkdir(exist_ok=True)
    pq.write_table(parquet_table(images, ["cat", "dog"] * 4), root / "train.parquet", row_group_size=3)
    return root


def write_shards(root: Path, images: list[bytes]) -> Path:
    root.mkdir(exist_ok=True)
    source = root.with_name("sources")
    source.mkdir(exist_ok=True)
    with tarfile.open(root / "shard.tar", "w") as tar:
        for number, image in enumerate(images):
            for suffix, content in (("png", image), ("cls", [b"cat", b"dog"][number % 2])):
                (source / f"{number}.{suffix}").write_bytes(content)
                tar.add(source / f"{number}.{suffix}", f"{number}.{suffix}")
    return root


def write_idx(root: Path, images: list[bytes]) -> Path:
    root.mkdir(exist_ok=True)
    pixels = np.stack([np.frombuffer(image[-64:], np.uint8).reshape(8, 8) for image in images])
    (root / "train-images-idx3-ubyte").write_bytes(
        bytes([0, 0, 8, 3]) + np.array(pixels.shape, ">i4").tobytes() + pixels.tobytes()
    )
    (root / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 8]) + bytes([0, 1] * 4))
    return root


@pytest.mark.parametrize("write", [write_parquet, write_shards, write_idx])
def test_edited_image_inside_a_larger_file_is_told(write: Callable[..., Path], tmp_path: Path) -> None:
    images = [encode(smooth(12, 10, seed=number)) for number in range(8)]
    root = write(tmp_path / "data", images)
    before = identity(root)
    train = before.splits["train"]
    assert (train.sizes > 0).all()
    assert (train.modified > 0).all()
    assert changes(before, identity(write(root, images))) == []  # written anew, with another time
    changed = bytearray(images[5])
    changed[-1] ^= 1
    found = changes(before, identity(write(root, [*images[:5], bytes(changed), *images[6:]])))
    assert [(change.what, change.count) for change in found] == [("edited", 1)]
    assert found[0].examples == (train.names[5].as_py(),)


def test_digits_have_digests_of_their_pixels() -> None:
    first, again = identity("digits"), identity("digits", at_most=7)
    assert changes(first, again) == []
    assert (first.splits["train"].digests != 0).all()
    assert (first.splits["train"].sizes == UNKNOWN).all()


def test_unlabelled_images_and_new_labels_are_compared(folder: Path) -> None:
    samples = open_data(folder, val_fraction=0).train
    bare = Identity.of({"train": Checked(Samples(samples.names, None, (), samples.read), None, ())})
    assert changes(bare, bare) == []
    found = changes(bare, identity(folder))
    assert [(change.what, change.count) for change in found] == [("classes", 3), ("relabelled", 12)]
    assert found[1].examples[0] == "cat/00.png: cat, was no label"


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_of_changes_is_counted_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    names = [f"{number:03d}.png" for number in rng.permutation(n)]
    contents = [bytes(rng.integers(0, 256, 20, dtype=np.uint8)) for _ in range(n)]
    targets = rng.integers(0, 3, n)

    def known(names: list[str], contents: list[bytes], targets: np.ndarray) -> Identity:
        samples = Samples(names, np.asarray(targets), LABELS, contents.__getitem__)
        digests = np.array([samples.digest(i, content) for i, content in enumerate(contents)], dtype=np.uint64)
        return Identity.of({"train": Checked(samples, None, (), digests)})

    removed, renamed, edited, relabelled = np.split(rng.permutation(n)[:20], [3, 9, 16])
    new_names, new_contents, new_targets = list(names), list(contents), targets.copy()
    for i in renamed:
        new_names[i] = "r" + names[i]
    for i in edited:
        new_contents[i] = contents[i][::-1]
    new_targets[relabelled] = (targets[relabelled] + 1) % 3
    kept = np.setdiff1d(np.arange(n), removed)
    new = known(
        [*(new_names[i] for i in kept), "new.png"],
        [*(new_contents[i] for i in kept), b"new"],
        np.append(new_targets[kept], 0),
    )
    found = {change.what: change.count for change in changes(known(names, contents, targets), new)}
    assert found == {"added": 1, "removed": 3, "renamed": 6, "relabelled": 4, "edited": 7}
