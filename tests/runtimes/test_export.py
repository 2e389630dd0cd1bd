"""What an export writes, what it compares, and that a wrong one is never left behind."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import tiny
from PIL import Image

from vitrail.errors import Failure, UserError
from vitrail.model import ViT
from vitrail.model.reduction import Merging
from vitrail.runtimes import export as exporting
from vitrail.runtimes import pictures, room
from vitrail.runtimes.check import Changed, Check
from vitrail.runtimes.engine import open_engine
from vitrail.runtimes.export import Plan, export
from vitrail.runtimes.exported import read_exported
from vitrail.runtimes.pictures import Pictures, Source, _Item
from vitrail.weights.folder import save, sha256


def test_the_folder_says_what_it_is(tmp_path: Path) -> None:
    model = tiny.model()
    done = export(model, tmp_path / "out", Plan("openvino"))
    read = read_exported(tmp_path / "out")
    assert read == done.exported
    assert (read.config, read.preprocess, read.labels) == (model.config, model.preprocess, tiny.LABELS)
    assert read.digests == {name: sha256(tmp_path / "out" / name) for name in ("model.xml", "model.bin")}
    assert set(read.details["versions"]) == {"vitrail", "torch", "openvino"}
    (check,) = read.details["checks"]
    assert check["images"] == 64
    assert check["largest"] < 1e-4
    assert check["changed"]["agreement"] == 1
    assert set(check["speed"]) == {"1", "8"}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "`cat`, `dog`, `owl`" in card
    assert "as none were named" in card
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["out"]


@pytest.mark.parametrize("form", ["pt2", pytest.param("openvino", marks=pytest.mark.slow)])
def test_an_export_that_answers_otherwise_is_not_left_behind(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(program, folder, wanted):  # type: ignore[no-untyped-def]
        from vitrail.runtimes.graph import Deployed
        from vitrail.runtimes.graph import program as graph

        model = tiny.model()
        model.norm.bias.data += 0.05
        return exporting_write(graph(Deployed(model, model.preprocess), wanted.image_shape, None), folder, wanted)

    exporting_write = exporting.WRITERS[form]
    monkeypatch.setattr(exporting, "WRITERS", {form: other})
    with pytest.raises(Failure, match="does not answer as its model: answers of .* differ"):
        export(tiny.model(), tmp_path / "out", Plan(form))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_only_an_exported_folder_is_replaced(tmp_path: Path) -> None:
    model = tiny.model()
    save(model, tmp_path / "weights")
    with pytest.raises(UserError, match="is not an exported model: choose another place"):
        export(model, tmp_path / "weights", Plan("pt2"))
    assert (tmp_path / "weights" / "model.safetensors").is_file()
    export(model, tmp_path / "out", Plan("pt2"))
    export(model, tmp_path / "out", Plan("openvino"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.bin",
        "model.xml",
    ]


def test_the_model_itself_stays_as_it_is(tmp_path: Path) -> None:
    model = tiny.model(position="rotary2d")
    images = tiny.images(2, model)
    before = tiny.answers(model, images)["logits"]
    export(model, tmp_path / "out", Plan("pt2"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert np.array_equal(tiny.answers(model, images)["logits"], before)


def test_an_unknown_newer_format_is_refused(tmp_path: Path) -> None:
    export(tiny.model(), tmp_path / "out", Plan("pt2"))
    path = tmp_path / "out" / "config.json"
    values = json.loads(path.read_text())
    values["export"]["format"] = 2
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="format 2; this vitrail reads up to 1: upgrade it"):
        read_exported(tmp_path / "out")


def check(similarity: float = 1.0, agreement: float | None = 1.0, **quality: float) -> Check:
    from vitrail.runtimes.check import Quality

    before, after = (
        (Quality(value, 0.1, 0.1) for value in (quality["before"], quality["after"])) if quality else (None, None)
    )
    changed = Changed(similarity, agreement, before, after)
    return Check("openvino", 300, "photos", 0.1, 0.01, 5.0, (0.9, 0.9), changed, {})


def test_the_loss_that_is_allowed_counts_labels_and_accuracy() -> None:
    assert check(agreement=0.99).within(0.5) is None
    assert "1.33 % of first labels change, and 1 % may" in str(check(agreement=1 - 4 / 300).within(0.5))
    assert check(agreement=None, similarity=0.995).within(0.5) is None
    assert "cosine" in str(check(agreement=None, similarity=0.98).within(0.5))
    assert check(before=0.9, after=0.895).within(0.5) is None or np.isclose(0.9 - 0.895, 0.005)
    assert "0.60 points of accuracy are lost" in str(check(before=0.9, after=0.894).within(0.5))
    assert check(before=0.9, after=0.95).within(0.5) is None
    assert check(agreement=float("nan")).within(0.5) is not None


@pytest.fixture
def merging() -> ViT:
    model = tiny.model(depth=2)
    assert isinstance(model, ViT)
    model.merge = Merging(3)
    return model


@pytest.mark.slow
def test_a_model_that_merges_tokens_is_exported_so(merging: ViT, tmp_path: Path) -> None:
    images = tiny.images(4, merging)
    expected = merging(merging.preprocess.normalize(images)).detach().numpy()
    whole = merging(merging.preprocess.normalize(images), merge=Merging(0)).detach().numpy()
    done = export(merging, tmp_path / "out", Plan("pt2", max_loss=50))
    found = open_engine(tmp_path / "out", threads=1).run(images.numpy())["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - whole).max() > 1e-2
    assert done.exported.details["merge"] == "3"
    assert done.exported.details["merging"]
    other = export(merging, tmp_path / "out", Plan("pt2", merge=Merging(2), max_loss=50))  # what is said goes first
    assert other.exported.details["merge"] == "2"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """20 images of random colours, no two alike, by class."""
    rng = np.random.default_rng(0)
    for i in range(20):
        folder = tmp_path / "photos" / tiny.LABELS[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*tiny.SIZE, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return tmp_path / "photos"


def compared(monkeypatch: pytest.MonkeyPatch, *shares: tuple[float, tuple[float, float]]) -> list[int]:
    """Have the checks find so many changed labels, with their interval, one after the other; -> of how many pictures each."""
    asked: list[int] = []

    def found(engine, ours, pictures, *rest, **options):  # type: ignore[no-untyped-def]
        share, interval = shares[len(asked)]
        asked.append(len(pictures.pixels))
        changed = Changed(1.0, 1 - share, None, None, changed_ci95=interval)
        return Check("torch", asked[-1], pictures.source, 0.1, 0.1, 1.0, None, changed, {})

    def write(program, folder, wanted):  # type: ignore[no-untyped-def]
        (folder / "model.pt2").write_bytes(b"a program")
        return {"versions": {}, "opset": None}

    monkeypatch.setattr(exporting, "compare", found)
    monkeypatch.setattr(exporting, "CHECKED", (4, 8, 16))
    for name, value in (
        ("WRITERS", {"pt2": write}),
        ("program", Mock()),
        ("open_engine", Mock()),
    ):  # which take seconds
        monkeypatch.setattr(exporting, name, value)
    return asked


def test_a_loss_that_chance_explains_is_measured_on_more_images(
    merging: ViT, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    plan = Plan("pt2", check=str(photos), max_loss=2)
    asked = compared(monkeypatch, (0.06, (0.01, 0.2)), (0.05, (0.02, 0.1)), (0.03, (0.02, 0.05)))
    done = export(merging, tmp_path / "out", plan, said.append)
    assert asked == [4, 8, 16]
    assert done.checks[0].images == 16
    assert any("6.00 % of first labels change" in line and "8 are looked at" in line for line in said)

    asked = compared(monkeypatch, (0.06, (0.01, 0.2)), (0.05, (0.041, 0.1)))  # beyond chance: 4 % may
    with pytest.raises(
        Failure, match=r"5.00 % of first labels change, and 4 % may \(8 images: 95 % interval 4.10 to 10.00"
    ):
        export(merging, tmp_path / "other", plan)
    assert asked == [4, 8]

    asked = compared(monkeypatch, *[(0.06, (0.01, 0.2))] * 3)  # no more images: the loss itself decides
    with pytest.raises(Failure, match="6.00 % of first labels change"):
        export(merging, tmp_path / "other", plan)
    assert asked == [4, 8, 16]
    asked = compared(monkeypatch, (0.04, (0.01, 0.2)))  # good enough: no more are looked at
    export(merging, tmp_path / "other", plan)
    assert asked == [4]


def test_the_intervals_are_those_of_the_same_images_with_both_models() -> None:
    rng = np.random.default_rng(0)
    ours = {"logits": rng.normal(size=(300, 3)).astype(np.float32), "features": np.ones((300, 2), np.float32)}
    targets = ours["logits"].argmax(1)  # the model is always right
    theirs = {**ours, "logits": ours["logits"].copy()}
    theirs["logits"][:2] = np.roll(theirs["logits"][:2], 1, axis=1)
    found = Changed.between(ours, theirs, Pictures(np.zeros((300, 3, 1, 1), np.uint8), targets, "photos"), tiny.LABELS)
    assert found.lost == pytest.approx(2 / 300)
    assert found.lost_ci95 is not None
    assert found.changed_ci95 is not None
    assert found.lost_ci95[0] < 0.005 < 2 / 300 < found.lost_ci95[1] < 0.03
    assert found.changed_ci95[0] < 2 / 300 < found.changed_ci95[1] < 0.03
    whole = Check("openvino", 300, "photos", 0.1, 0.01, 5.0, None, found, {})
    assert "0.67 points of accuracy are lost" in str(whole.within(0.5))
    assert not whole.settles(0.5)  # chance explains it
    assert whole.settles(0.0) == (found.changed_ci95[0] > 0)


def calibrated(monkeypatch: pytest.MonkeyPatch) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Have nothing quantised; -> the pictures for calibration, and those of the checks."""
    calibrating, checking = [], []

    def keep(quantiser, graph, judge, log):  # type: ignore[no-untyped-def]
        shutil.copytree(quantiser.source, quantiser.target, dirs_exist_ok=True)
        calibrating.extend(quantiser.pixels)
        return [], {}

    def compare(engine, ours, pictures, *rest, **options):  # type: ignore[no-untyped-def]
        checking.extend(pictures.pixels)
        return real(engine, ours, pictures, *rest, **options)

    real = exporting.compare
    monkeypatch.setattr(exporting, "compare", compare)
    monkeypatch.setattr(exporting.quantize, "quantise", keep)
    return calibrating, checking


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True])
def test_no_image_both_calibrates_and_checks(
    named: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    calibrating, checking = calibrated(monkeypatch)
    check = f"{photos.parent}/./photos/" if named else None  # the same images by another name
    export(
        tiny.model(), tmp_path / "out", Plan("openvino", int8=True, calibrate=str(photos), check=check, max_loss=100)
    )
    ours, theirs = ({image.tobytes() for image in images} for images in (calibrating, checking))
    assert (len(ours), len(theirs), len(ours & theirs)) == (10, 10, 0)
    assert "those that it was calibrated with" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_of_too_few_images_it_says_that_they_calibrate_and_check(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    calibrating, checking = calibrated(monkeypatch)
    said: list[str] = []
    few = f"{photos}/cat/*.png"  # 7
    seen = Plan("openvino", int8=True, calibrate=few, max_loss=100)
    export(tiny.model(), tmp_path / "out", seen, said.append)
    assert len(calibrating) == len(checking) == 7
    assert any("7 images, too few to be divided" in line for line in said)
    assert "those that it was calibrated with" in (tmp_path / "out" / "README.md").read_text()


def test_halves_share_no_image_and_hold_every_class_of_those_that_take_turns() -> None:
    items = [_Item(str(i), bytes, "cat" if i % 2 else "dog") for i in range(41)]
    one, other = Source("photos", "train", items, ("cat", "dog")).halves()
    names = [{item.name for item in half.items} for half in (one, other)]
    assert (len(one), len(other)) == (20, 21)
    assert not names[0] & names[1]
    assert all({item.label for item in half.items} == {"cat", "dog"} for half in (one, other))


@pytest.mark.slow
def test_it_says_where_the_images_are_those_that_the_model_was_trained_on(photos: Path, tmp_path: Path) -> None:
    said: list[str] = []
    plan = Plan("pt2", check=str(photos), trained_on=(str(photos),))
    export(tiny.model(), tmp_path / "out", plan, said.append)
    assert any(line.endswith("(train), which the model was trained on") for line in said)
    assert "(train), which the model was trained on" in (tmp_path / "out" / "README.md").read_text()
    export(tiny.model(), tmp_path / "out", Plan("pt2", check=str(photos)))
    assert "trained on" not in (tmp_path / "out" / "README.md").read_text()


def test_what_is_checked_on_is_left_out_of_what_calibrates_however_it_is_named(photos: Path) -> None:
    whole, one = (pictures.open_source(data, ("train",)) for data in (photos, photos / "cat"))
    left = whole.without(one)
    assert 0 < len(left) == len(whole) - len(one)
    assert not set(left._keys()) & set(one._keys())
    assert len(whole.without(whole)) == 0


def test_where_there_is_no_room_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = tiny.model(), list[str]()
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: SimpleNamespace(free=3_000_000))
    room.require_disk(tmp_path / "out", 1000, int8=False)
    with pytest.raises(Failure, match=r"no space left to write .*out: about 42 MB are needed in .* 3 MB are free"):
        room.require_disk(tmp_path / "new" / "out", 10_000_000, int8=False)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
    with pytest.raises(Failure, match="no space left"):
        export(model, tmp_path / "out", Plan("pt2"), told.append)
    assert not told
    with pytest.raises(UserError, match=r"--batch 99999999: its images take .* GB"):
        room.require_memory(99_999_999, (3, 224, 224))


def test_a_disk_that_fills_up_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tiny.model(), tmp_path / "out", Plan("pt2"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vitrail.runtimes.export.export_card", full)
    monkeypatch.setattr("vitrail.runtimes.export.write_json", full)
    with pytest.raises(Failure, match=r"no space left to write .*out: make room"):
        export(tiny.model(), tmp_path / "out", Plan("pt2"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_runtimes_report_to_nobody() -> None:
    code = "import vitrail.runtimes.by_openvino, sys; print(sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "None"
