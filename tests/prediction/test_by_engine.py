"""Answers of an engine: in order, whatever the sizes of the images, and with labels of its own or their numbers."""

import importlib.metadata
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exported_models import small_model
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ModelConfig
from vitrail.prediction import Predictor
from vitrail.prediction.by_engine import _version


class Recorded:
    """An engine whose answers are pixels, and which keeps the shapes that it was given."""

    name = "recorded"

    def __init__(self, preprocess: Preprocess, classes: int = 0, labels: tuple[str, ...] = ()) -> None:
        self.config: ModelConfig = small_model(()).config.with_changes(classes=classes)
        self.preprocess, self.labels = preprocess, labels
        self.shapes: list[tuple[int, ...]] = []

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.shapes.append(images.shape)
        rows = images.reshape(len(images), -1).astype(np.float32)
        return {"features": rows[:, :2], "logits": rows[:, : self.config.classes] / 32}


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_images_of_one_size_are_run_together_and_answered_in_order() -> None:
    preprocess = Preprocess((16, 24), mode="native", patch_size=8)
    images = pictures((30, 60), (90, 20), (32, 64), (80, 19), (90, 20))
    engine = Recorded(preprocess)
    found = Predictor(engine).features(images)
    wanted = [preprocess.size_of(image.shape[:2]) for image in images]
    assert 1 < len(set(wanted)) < len(wanted)
    assert engine.shapes == [(wanted.count(size), 3, *size) for size in dict.fromkeys(wanted)]
    alone = [Predictor(Recorded(preprocess)).features([image])[0] for image in images]
    np.testing.assert_array_equal(found, np.stack(alone))


def test_probabilities_are_those_of_softmax_and_ranked() -> None:
    preprocess = Preprocess((16, 24))
    images = pictures((30, 60), (90, 20), (32, 64))
    predictor = Predictor(Recorded(preprocess, 4, ("cat", "dog", "emu", "fox")))
    for image, found in zip(images, predictor(images, top=9), strict=True):
        pixels = predictor.pixels(image)
        assert isinstance(pixels, np.ndarray)
        shares = np.exp(pixels.reshape(-1)[:4] / 32.0)
        assert dict(found.top) == pytest.approx(
            dict(zip(predictor.labels, shares / shares.sum(), strict=True)), rel=1e-6
        )
        probabilities = [probability for _, probability in found.top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert (found.label, found.probability) == found.top[0]
    assert Predictor(Recorded(preprocess, 4)).labels == ("0", "1", "2", "3")
    with pytest.raises(UserError, match="no head"):
        Predictor(Recorded(preprocess))(images)


def test_a_bad_image_among_others_stops_nothing() -> None:
    predictor = Predictor(Recorded(Preprocess((16, 24))), batch_size=2)
    image = pictures((30, 60))[0]
    found = list(predictor.stream_features([b"nothing", image, b"", b"x", image]))
    assert [features.error is None for features in found] == [False, True, False, False, True]
    np.testing.assert_array_equal(found[1].values, found[4].values)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_pictures_without_pixels_and_names_of_no_file_stop_nothing(tmp_path: Path) -> None:
    good = pictures((30, 60))[0]
    closed = Image.fromarray(good)
    closed.close()
    buffer = io.BytesIO()
    Image.fromarray(good).save(buffer, "PNG")
    torn = Image.open(io.BytesIO(buffer.getvalue()[:200]))  # which Pillow reads only when it is used
    os.mkfifo(tmp_path / "pipe.png")
    bad = {
        "cannot be read": ["a\0b.png", closed, torn, "x" * 5000],
        "no pixels": [np.zeros((0, 5, 3), np.uint8), np.zeros((4, 0), np.uint8), Image.new("RGB", (0, 4))],
        "a pipe, and no file": [tmp_path / "pipe.png", str(tmp_path / "pipe.png")],
    }
    images = [image for some in bad.values() for image in (good, *some)]
    found = list(Predictor(Recorded(Preprocess((16, 24))), batch_size=3).stream_features(images))
    expected = [wanted for reason, some in bad.items() for wanted in ("", *[reason] * len(some))]
    for one, wanted in zip(found, expected, strict=True):
        assert (one.error is None) == (not wanted)
        assert wanted in (one.error or "")


def test_numbers_that_mean_nothing_are_refused() -> None:
    engine = Recorded(Preprocess((16, 24)), 4)
    for number in (0, -1):
        with pytest.raises(UserError, match=f"batch_size {number}: give 1 to 1,048,576"):
            Predictor(engine, batch_size=number)
        with pytest.raises(UserError, match=f"top {number}: give 1 or more"):
            Predictor(engine)(pictures((30, 60)), top=number)


def test_a_package_under_another_name_tells_its_own_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert _version("numpy") == np.__version__
    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert _version("numpy") == np.__version__


def test_a_predictor_of_an_engine_of_ones_own_is_pickled_as_it_is() -> None:
    image = pictures((30, 60))[0]
    predictor = Predictor(Recorded(Preprocess((16, 24)), 4), batch_size=3)
    copy = pickle.loads(pickle.dumps(predictor))
    assert copy.batch_size == 3
    assert copy([image]) == predictor([image])


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("openvino", "--engine openvino: model is not exported; write one with vitrail export MODEL --to openvino"),
        ("onnxruntime", "--engine onnxruntime: model is not exported; write one with vitrail export MODEL --to onnx"),
        ("opnvino", "--engine opnvino: did you mean openvino?"),
    ],
)
def test_an_engine_for_a_model_in_torch_is_refused_with_the_way_out(
    engine: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    with pytest.raises(UserError) as refused:
        Predictor("model", engine=engine)
    assert str(refused.value) == message


def test_what_is_not_there_is_said_first_whatever_is_to_run_it(tmp_path: Path) -> None:
    (tmp_path / "deployed").mkdir()
    for choice in ({"threads": 2}, {"engine": "openvino"}, {"engine": "onnxruntime", "threads": 1}, {}):
        with pytest.raises(UserError, match="no model at .*deploid.*did you mean .*deployed"):
            Predictor(tmp_path / "deploid", **choice)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="hf:owner/name is not exported"):  # no path
        Predictor("hf:owner/name", engine="openvino")


@pytest.mark.parametrize(
    "image", ["a.png", b"bytes", Path("a.png"), Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), np.uint8)]
)
def test_a_single_image_is_not_taken_for_many(image: object) -> None:
    with pytest.raises(UserError, match=r"no list of them: give \[image\]"):
        Predictor(small_model(), device="cpu")(image)


def test_an_empty_name_is_no_model() -> None:
    with pytest.raises(UserError, match="a model with an empty name"):
        Predictor("")
