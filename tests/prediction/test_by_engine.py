"""Answers of an engine: in order, whatever the sizes of the images, and with labels of its own or their numbers."""

import numpy as np
import pytest

from exported_models import small_model
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ModelConfig
from vitrail.prediction import Predictor


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
