"""Every source gives the same samples: the right bytes under the right class, at random, in any process."""

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encode, smooth

from vitrail.data.cache import check_images
from vitrail.data.decode import decode
from vitrail.data.open import Dataset, open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.data.sources.hub import parse_name
from vitrail.data.sources.parquet import GroupReader, RowGroup
from vitrail.errors import UserError
from vitrail.prediction import expand_inputs

IMAGES = [encode(smooth(9, 7, seed=seed)) for seed in range(16)]
CLASSES = ["dog" if number % 3 else "cat" for number in range(16)]


def bytes_and_classes(samples: Samples | None) -> list[tuple[bytes, str]]:
    assert samples is not None
    samples = pickle.loads(pickle.dumps(samples))  # as loader workers get them
    backwards = [(samples.encoded(i), samples.labels[samples.targets[i]]) for i in reversed(range(len(samples)))]
    return backwards[::-1]


def write_folder(root: Path) -> Path:
    for number, (image, name) in enumerate(zip(IMAGES, CLASSES, strict=True)):
        (root / name / "deeper").mkdir(parents=True, exist_ok=True)
        (root / name / ("deeper" if number % 2 else ".") / f"{number:02d}.PNG").write_bytes(image)
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "cat" / "._00.png").write_bytes(b"x")
    (root / ".git").mkdir()
    return root


def write_csv(root: Path) -> Path:
    write_folder(root / "images")
    rows = [
        f"images/{name}/{'deeper/' if number % 2 else ''}{number:02d}.PNG;{name}\r\n"
        for number, name in enumerate(CLASSES)
    ]
    path = root / "table.csv"
    path.write_text("\ufefffile_name;label\r\n" + "".join(rows), encoding="utf-8")  # as a spreadsheet saves it
    return path


def write_jsonl(root: Path) -> Path:
    write_folder(root / "images")
    path = root / "table.jsonl"
    files = {f.name: str(f) for f in (root / "images").rglob("*.PNG")}  # absolute paths
    rows = [{"file_name": files[f"{number:02d}.PNG"], "label": name} for number, name in enumerate(CLASSES)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def parquet_table(images: list[bytes], classes: list[str | None], *, declared: bool = True) -> pa.Table:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": image, "path": None} for image in images], struct)
    if not declared:
        return pa.table({"number": range(len(images)), "picture": column, "label": classes})
    names = ["dog", "cat"]
    numbers = pa.array([-1 if name is None else names.index(name) for name in classes])
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table({"image": column, "label": numbers}).replace_schema_metadata(metadata)


def write_parquet(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    pq.write_table(
        parquet_table(IMAGES[:10], CLASSES[:10]), root / "data" / "train-00000-of-00002.parquet", row_group_size=3
    )
    pq.write_table(parquet_table(IMAGES[10:], CLASSES[10:]), root / "data" / "train-00001-of-00002.parquet")
    return root


def write_shards(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    for shard in range(2):
        with tarfile.open(root / f"shard-{shard}.tar", "w") as tar:
            for number in range(8 * shard, 8 * shard + 8):
                label = {
                    0: ("cls", CLASSES[number].encode()),
                    1: ("json", json.dumps({"label": CLASSES[number]}).encode()),
                    2: ("txt", f" {CLASSES[number]}\n".encode()),
                }[number % 3]
                for suffix, content in (label, ("png", IMAGES[number])):
                    member = tarfile.TarInfo(f"part/{number:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return root


@pytest.mark.parametrize("write", [write_folder, write_csv, write_jsonl, write_parquet, write_shards])
def test_images_and_classes_arrive_as_they_were_written(write: Callable[[Path], Path], tmp_path: Path) -> None:
    data = open_data(write(tmp_path / "data"), val_fraction=0)
    assert sorted(bytes_and_classes(data.train)) == sorted(zip(IMAGES, CLASSES, strict=True))
    assert len(set(data.train.names)) == 16
    assert data.labels == (("dog", "cat") if write is write_parquet else ("cat", "dog"))  # declared, or sorted
    assert data.train.targets.dtype == np.int64


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hub_data_set_arrives_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    root = write_parquet(tmp_path / "set")
    data = open_data(f"hf:{root}", val_fraction=0)
    assert data.labels == ("dog", "cat")
    assert bytes_and_classes(data.train) == list(zip(IMAGES, CLASSES, strict=True))
    with pytest.raises(UserError, match=r"^hf:nobody/nothing: cannot be loaded"):
        open_data("hf:nobody/nothing")


def test_hub_names_have_configuration_and_revision() -> None:
    assert parse_name("ylecun/mnist") == ("ylecun/mnist", None, None)
    assert parse_name("uoft-cs/cifar100:small@v1.0") == ("uoft-cs/cifar100", "small", "v1.0")
    assert parse_name("a/b@refs/pr/1") == ("a/b", None, "refs/pr/1")
    with pytest.raises(UserError, match="hf:OWNER/NAME"):
        parse_name(":x")


def splits(data: Dataset) -> dict[str, int]:
    return {name: len(part) for name in ("train", "val", "test") if (part := getattr(data, name)) is not None}


def test_splits_are_taken_as_they_lie(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for split in ("train", "valid", "test"):
        write_folder(folder / split)
    rows = []
    for file in sorted(folder.rglob("*.PNG")):
        split, label = file.relative_to(folder).parts[:2]
        rows.append({"file_name": str(file), "label": label, "split": split})
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    for split in ("train", "validation", "test"):
        pq.write_table(parquet_table(IMAGES, CLASSES), parquet / f"{split}-0.parquet")
    shards = tmp_path / "shards"
    for split in ("train", "val", "test"):
        (shards / split).mkdir(parents=True)
        for file in write_shards(shards / split).iterdir():
            assert file.suffix == ".tar"
    for data in (folder, table, parquet, shards):
        assert splits(open_data(data)) == {"train": 16, "val": 16, "test": 16}, data


def test_digits_have_a_fixed_test_part_and_look_like_digits() -> None:
    data = open_data("digits", val_fraction=0.1)
    assert data.labels == tuple("0123456789")
    assert splits(data)["test"] == 359  # a fifth of every class, each rounded
    assert sum(splits(data).values()) == 1797
    again = open_data("digits", val_fraction=0.3)
    assert list(again.test.names) == list(data.test.names)
    image = decode(data.test.encoded(0), channels=1)
    assert image.shape == (1, 8, 8)
    assert image.max() > 200
    counts = np.bincount(data.test.targets)
    assert counts.min() >= 34
    centre = {}  # zeros are hollow and ones are not
    for digit in (0, 1):
        chosen = np.flatnonzero(data.train.targets == digit)[:40]
        images = [decode(data.train.encoded(int(i)), channels=1).float() for i in chosen]
        centre[digit] = np.mean([image[0, 3:5, 3:5].mean() for image in images])
    assert centre[1] > 3 * centre[0]


def test_parquet_with_undeclared_columns_and_names_as_labels(tmp_path: Path) -> None:
    pq.write_table(parquet_table(IMAGES, CLASSES, declared=False), tmp_path / "any.parquet")
    data = open_data(tmp_path / "any.parquet", val_fraction=0)
    assert data.labels == ("cat", "dog")
    assert bytes_and_classes(data.train) == list(zip(IMAGES, CLASSES, strict=True))


def test_withheld_labels_of_a_test_part_do_not_stop_training(tmp_path: Path) -> None:
    pq.write_table(parquet_table(IMAGES, CLASSES), tmp_path / "train.parquet")
    pq.write_table(parquet_table(IMAGES[:5], [None] * 5), tmp_path / "test.parquet")
    data = open_data(tmp_path, val_fraction=0)
    assert splits(data) == {"train": 16}
    unlabelled = open_data(tmp_path / "test.parquet", val_fraction=0, need_labels=False)
    assert unlabelled.test.targets is None
    assert unlabelled.test.encoded(3) == IMAGES[3]


def test_parquet_reader_keeps_within_its_memory_and_still_reads_right(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(parquet_table(IMAGES, CLASSES), path, row_group_size=2)
    groups = [RowGroup(path, number, 1000) for number in range(8)]
    reader = GroupReader("image", groups, [2] * 8, memory=3000)
    for index in np.random.default_rng(0).integers(0, 16, 60):
        assert reader(int(index)) == IMAGES[index]
        assert len(reader._kept) <= 3


def test_parquet_with_paths_instead_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    rows = []
    for number in range(4):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(IMAGES[number])
        rows.append({"bytes": None, "path": f"pictures/{number}.png"})
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, struct), "label": CLASSES[:4]}), tmp_path / "t.parquet")
    assert [image for image, _ in bytes_and_classes(open_data(tmp_path / "t.parquet", val_fraction=0).train)] == IMAGES[
        :4
    ]


def test_shard_index_is_built_once_and_again_when_the_shard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_shards(tmp_path / "shards")
    open_data(root)
    assert sorted(file.name for file in root.iterdir()) == sorted(
        f"shard-{i}.tar{suffix}" for i in range(2) for suffix in ("", ".index.json")
    )
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *args: pytest.fail("the index was not used"))
        assert len(bytes_and_classes(open_data(root, val_fraction=0).train)) == 16
    with tarfile.open(root / "shard-1.tar", "a") as tar:
        for suffix, content in (("png", IMAGES[0]), ("cls", b"cat")):
            member = tarfile.TarInfo(f"part/new.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert len(bytes_and_classes(open_data(root, val_fraction=0).train)) == 17
    (root / "shard-0.tar.index.json").write_text('{"stamp": 3')
    assert len(bytes_and_classes(open_data(root, val_fraction=0).train)) == 17


def test_shard_index_goes_to_the_users_cache_where_the_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_shards(tmp_path / "shards")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    replace = Path.replace

    def read_only(self: Path, target: Path) -> Path:
        if target.parent == root:
            raise PermissionError
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", read_only)
    open_data(root)
    assert sorted(file.name for file in root.iterdir()) == ["shard-0.tar", "shard-1.tar"]
    assert len(list((tmp_path / "cache" / "vitrail" / "shards").iterdir())) == 2
    monkeypatch.setattr(tarfile, "open", lambda *args: pytest.fail("the index was not used"))
    open_data(root)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    os.symlink(root / "cat", root / "cat" / "again")
    os.symlink(root / "dog", root / "hound")  # a linked class folder is a class folder
    data = open_data(root, val_fraction=0)
    assert data.labels == ("cat", "dog", "hound")
    assert (data.train.targets == 0).sum() == CLASSES.count("cat")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_what_has_the_name_of_an_image_and_is_none_is_listed_and_told(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    whole = len(open_data(root, val_fraction=0).train)
    os.symlink("loop.png", root / "cat" / "loop.png")
    os.symlink("nowhere", root / "cat" / "dangling.png")
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cat" / "folder.png").mkdir()
    train = open_data(root, val_fraction=0).train
    assert len(train) == whole + 3
    checked = check_images(train, Preprocess((8, 8)), skip_bad=True)
    assert sorted(Path(train.names[bad.index]).name for bad in checked.bad) == ["dangling.png", "loop.png", "pipe.png"]


DIGITS = np.random.default_rng(0).integers(0, 256, (12, 5, 4), dtype=np.uint8)
NUMBERS = np.arange(12, dtype=np.uint8) % 11


def idx_bytes(values: np.ndarray, claimed: tuple[int, ...] | None = None) -> bytes:
    """An array as an IDX file; ``claimed`` is a shape that the header lies about."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in claimed or values.shape)
    return header + values.tobytes()


def write_idx(root: Path, split: str = "train", *, packed: bool = True, number: int = 12) -> Path:
    """Images and labels of a split; the path of the images."""
    root.mkdir(exist_ok=True)
    for kind, values in (("images-idx3", DIGITS[:number]), ("labels-idx1", NUMBERS[:number])):
        file = root / f"{split}-{kind}-ubyte{'.gz' if packed else ''}"
        file.write_bytes(gzip.compress(idx_bytes(values)) if packed else idx_bytes(values))
    return root / f"{split}-images-idx3-ubyte{'.gz' if packed else ''}"


def test_idx_images_and_labels_arrive_as_they_were_written(tmp_path: Path) -> None:
    write_idx(tmp_path / "set")
    write_idx(tmp_path / "set", packed=False)  # both, as torchvision leaves them
    images = write_idx(tmp_path / "set", "t10k", packed=False, number=7)
    data = open_data(tmp_path / "set", val_fraction=0)
    assert splits(data) == {"train": 12, "test": 7}
    assert data.labels == tuple(str(number) for number in range(11))  # in the order of numbers
    for number, (image, label) in enumerate(bytes_and_classes(data.train)):
        assert (decode(image, channels=1).numpy()[0] == DIGITS[number]).all()
        assert label == str(NUMBERS[number])
    alone = open_data(images, val_fraction=0)
    assert splits(alone) == {"test": 7}
    assert bytes_and_classes(alone.test) == bytes_and_classes(data.test)


def test_idx_images_without_labels_can_be_seen_but_not_learnt(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "set")
    (tmp_path / "set" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="labels are missing; a file of labels .* is needed"):
        open_data(images)
    assert open_data(images, need_labels=False).train.targets is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file of images: it begins with nothing"),
        (idx_bytes(NUMBERS), "not an IDX file of images: it begins with 00 00 08 01"),
        (idx_bytes(DIGITS, (2**32 - 1,) * 3), "claims 4294967295x4294967295x4294967295 bytes, more than"),
        (idx_bytes(DIGITS, (100_000_000, 5, 4)), "shorter than the 100000000x5x4 bytes"),
        (idx_bytes(DIGITS, (11, 5, 4)), "longer than the 11x5x4 bytes"),
        (idx_bytes(DIGITS[:, :0]), "its images have 0x4 pixels"),
        (idx_bytes(DIGITS[:9]), "has 12 labels for the 9 images"),
    ],
    ids=["empty", "labels", "huge", "short", "long", "flat", "fewer"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_hostile_idx_files_are_refused_in_one_line(content: bytes, message: str, packed: bool, tmp_path: Path) -> None:
    images = write_idx(tmp_path / "set", packed=packed)
    images.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match=message) as caught:
        open_data(tmp_path / "set")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(idx_bytes(DIGITS), mtime=0)[:-30]], ids=["none", "cut"])
def test_damaged_packed_idx_files_are_refused(content: bytes, tmp_path: Path) -> None:
    write_idx(tmp_path / "set").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        open_data(tmp_path / "set")


def test_two_idx_files_for_one_split_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "set", "emnist-letters-train")
    write_idx(tmp_path / "set", "emnist-digits-train")
    with pytest.raises(UserError, match="are both train: name one of the files"):
        open_data(tmp_path / "set")


def test_an_idx_file_is_a_data_set_for_prediction_too(tmp_path: Path) -> None:
    sources = expand_inputs([str(write_idx(tmp_path / "set"))])
    assert [source.label for source in sources] == [str(number) for number in NUMBERS]
    assert (decode(sources[3].read(), channels=1).numpy()[0] == DIGITS[3]).all()
