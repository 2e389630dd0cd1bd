"""DATA as a person names it: what is unusable is one clear line with the way out."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, smooth

from vitrail.data.open import open_data, typical_size
from vitrail.errors import UserError

PIXELS = encode(smooth(6, 8))


def folder(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PIXELS)
    return root


def table(path: Path, text: str) -> Path:
    folder(path.parent, "a.png", "b.png")
    path.write_text(text)
    return path


def test_validation_is_split_off_train_alone(photo_folder: Path, tmp_path: Path) -> None:
    whole = open_data(photo_folder, val_fraction=0.25)
    assert len(whole.train) + len(whole.val) == 40
    assert whole.test is None
    assert not set(whole.train.names) & set(whole.val.names)
    apart = folder(tmp_path, *(f"{split}/{c}/{i}.png" for split in ("train", "test") for c in "xy" for i in range(20)))
    data = open_data(apart)
    assert len(data.test) == 40
    assert len(data.train) + len(data.val) == 40
    assert all(name.startswith("train/") for name in data.val.names)


def test_classes_are_ordered_as_people_count(tmp_path: Path) -> None:
    data = open_data(folder(tmp_path, *(f"{name}/1.png" for name in ("10", "9", "1"))), val_fraction=0)
    assert data.labels == ("1", "9", "10")


def test_model_decides_the_order_of_classes(photo_folder: Path) -> None:
    data = open_data(photo_folder, labels=("d", "x", "c", "b", "a"), val_fraction=0)
    assert data.labels == ("d", "x", "c", "b", "a")
    for name, target in zip(data.train.names, data.train.targets, strict=True):
        assert data.labels[target] == name[0]


def test_class_that_the_model_lacks_is_named(photo_folder: Path) -> None:
    with pytest.raises(UserError, match="class 'd' is not among the model's"):
        open_data(photo_folder, labels=("a", "b", "c"))


def test_test_part_alone_can_be_evaluated(tmp_path: Path) -> None:
    data = open_data(folder(tmp_path, "test/x/1.png"), labels=("x", "y"))
    assert data.train is None
    assert len(data.test) == 1


def test_folder_of_images_has_no_labels_but_can_be_predicted_on(tmp_path: Path) -> None:
    folder(tmp_path, "1.png", "2.png")
    with pytest.raises(UserError, match=r"labels are missing.*class folders.*CSV"):
        open_data(tmp_path)
    data = open_data(tmp_path, need_labels=False, val_fraction=0)
    assert data.train.targets is None
    assert sorted(data.train.names) == ["1.png", "2.png"]


def test_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    data = open_data(folder(tmp_path, "test/1.png", "other/1.png"), val_fraction=0)
    assert data.labels == ("other", "test")


def test_path_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "flowers").mkdir()
    with pytest.raises(UserError, match=r"flowes: no such folder or file; did you mean flowers\?"):
        open_data(tmp_path / "flowes")
    with pytest.raises(UserError, match=r"did you mean digits\?"):
        open_data("digit")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images found"),
        (["one/1.png", "one/2.png"], r"only one class \(one\)"),
        (["train/x/1.png", "train/y/1.png", "val/z/1.png"], "val has class 'z' that train lacks"),
        (
            ["train/x/1.png", "train/y/1.png", *(f"test/{c}/1.png" for c in "abcd")],
            r"test has 4 classes \('a', 'b', 'c'",
        ),
        (["train/x/1.png", "train/y/1.png", "val/x/1.png", "valid/y/1.png"], "second folder for the split 'val'"),
    ],
)
def test_unusable_folder_is_one_clear_line(files: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_data(folder(tmp_path, *files))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "file,label\na.png,x\n", "column file_name is missing; the columns are file, label"),
        (
            "t.csv",
            "file_name,class\na.png,x\n",
            "labels are missing; column label is needed; the columns are file_name, cl",
        ),
        (
            "t.csv",
            "file_name,label\np.png,x\nq.png,y\nr.png,y\n",
            r"none of its 3 image files is there, the first is p\.png",
        ),
        ("t.csv", "file_name,label\na.png,x\nb.png,\n", "row 2 has no label"),
        ("t.csv", "file_name,label,split\na.png,x,tran\n", r"split 'tran'; did you mean train"),
        ("t.csv", "", "it has no rows"),
        ("t.tsv", "file_name\tlabel\na.png\tx\nb.png\tx\n", "only one class"),
        ("t.jsonl", '{"file_name": "a.png", "label": 1}\n{"file_name"', "line 2 is not JSON"),
        ("t.jsonl", '["a.png", 1]\n', "line 1 is not a JSON object"),
        ("t.parquet", "PAR1", "not a Parquet file"),
        ("t.tar", "x" * 2000, "not an uncompressed tar file"),
        ("t.xlsx", "x", r"not a data set; a folder, \.csv"),
    ],
)
def test_unusable_file_is_one_clear_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = table(tmp_path / name, text)
    with pytest.raises(UserError, match=message) as caught:
        open_data(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_shards_with_some_labels_missing_are_refused(tmp_path: Path) -> None:
    for name, content in (("1.png", PIXELS), ("1.cls", b"x"), ("2.png", PIXELS)):
        (tmp_path / name).write_bytes(content)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("1.png", "1.cls", "2.png"):
            tar.add(tmp_path / name, arcname=name)
    with pytest.raises(UserError, match=r"1 of 2 have no label, such as s\.tar:2"):
        open_data(tmp_path / "s.tar")


def test_metadata_table_in_a_folder_is_used(tmp_path: Path) -> None:
    folder(tmp_path, "images/1.png", "images/2.png")
    rows = [{"file_name": f"images/{i}.png", "label": f"kind {i}"} for i in (1, 2)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert open_data(tmp_path, val_fraction=0).labels == ("kind 1", "kind 2")


def test_typical_size_is_the_median_and_passes_over_damaged_images(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(10, 20), (30, 40), (50, 60), (500, 600)]):
        folder(tmp_path, f"{'ab'[number % 2]}/{number}.png")
        (tmp_path / "ab"[number % 2] / f"{number}.png").write_bytes(encode(smooth(height, width)))
    samples = open_data(tmp_path, val_fraction=0).train
    assert typical_size(samples) == (40, 50)
    (tmp_path / "b" / "3.png").write_bytes(b"damaged")
    assert typical_size(samples) == (30, 40)
    for name in samples.names:
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match="not an image"):
        typical_size(samples)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float(np.nan)])
def test_impossible_share_is_refused(fraction: float, photo_folder: Path) -> None:
    with pytest.raises(UserError, match="val_fraction"):
        open_data(photo_folder, val_fraction=fraction)
