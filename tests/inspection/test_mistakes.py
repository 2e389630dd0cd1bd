"""The pictures that a model gets wrong while it is sure."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data.open import open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.errors import UserError
from vitrail.inspection.mistakes import mistakes
from vitrail.model import Model, ResNet, ResNetConfig, ViT, ViTConfig

LABELS = ("high", "low", "middle")


def model_of(labels: tuple[str, ...] = LABELS, kind: str = "vit", channels: int = 3) -> Model:
    torch.manual_seed(0)
    size, classes = (16, 16), len(labels)
    model: Model
    if kind == "resnet":
        model = ResNet(ResNetConfig(layers=(1,), image_size=size, classes=classes))
        torch.nn.init.normal_(model.head.fc.weight)
    else:
        config = ViTConfig(
            image_size=size, patch_size=8, width=16, depth=1, heads=2, mlp_width=24, classes=classes, channels=channels
        )
        model = ViT(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.labels = labels
    middle = (0.5,) * channels
    model.preprocess = Preprocess(size, channels=channels, crop_fraction=1.0, mean=middle, std=middle)
    return model.eval()


def logits_one_by_one(model: Model, samples: Samples) -> torch.Tensor:
    images = [model.preprocess.load(samples.encoded(i)) for i in range(len(samples))]
    with torch.no_grad():
        return torch.cat([model(model.preprocess.normalize(image[None])) for image in images])


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_the_surest_mistakes_come_first_with_their_pictures(image_folder: Path, kind: str) -> None:
    model = model_of(kind=kind)
    samples = open_data(image_folder, val_fraction=0.0, labels=LABELS).train
    probabilities = logits_one_by_one(model, samples).softmax(1)
    sure, predicted = probabilities.max(1)
    wrong = [i for i in range(36) if predicted[i] != samples.targets[i]]
    expected = sorted(wrong, key=lambda i: -sure[i])[:5]

    found = mistakes(model, image_folder, count=5, batch_size=7)
    assert (found.n, found.wrong, len(found.pictures)) == (36, len(wrong), 5)
    assert [one.mistake.probability for one in found.pictures] == pytest.approx(sure[expected].tolist(), abs=1e-5)
    for one in found.pictures:
        i = one.mistake.index
        assert i in wrong
        assert (one.target, one.predicted) == (samples.targets[i], predicted[i])
        assert (one.mistake.target, one.mistake.predicted) == (LABELS[one.target], LABELS[one.predicted])
        assert one.encoded == (image_folder / one.mistake.name).read_bytes()


@pytest.mark.slow  # reads all of the digits
def test_digits_are_taken_by_name_and_split() -> None:
    model = model_of(tuple("0123456789"), channels=1)
    found = mistakes(model, "digits", split="test", count=3)
    samples = open_data("digits", val_fraction=0.0).test
    assert found.n == len(samples)
    for one in found.pictures:
        assert one.mistake.name == samples.names[one.mistake.index]
        assert one.target == int(samples.targets[one.mistake.index]) != one.predicted
        picture = Image.open(io.BytesIO(one.encoded))
        assert picture.size == (8, 8)


def test_of_classes_with_one_name_the_predicted_one_is_found(image_folder: Path) -> None:
    labels = ("low", "low", "middle", "high", "high")  # as ImageNet has two cranes and two maillots
    model = model_of(labels)
    samples = open_data(image_folder, val_fraction=0.0, labels=labels).train
    predicted = logits_one_by_one(model, samples).argmax(1)
    found = mistakes(model, samples, count=36).pictures
    assert found
    assert {one.predicted for one in found} >= {0, 1}, "both classes of a name must be predicted"
    assert [one.predicted for one in found] == predicted[[one.mistake.index for one in found]].tolist()


def test_a_model_without_mistakes_has_none(image_folder: Path) -> None:
    model = model_of()
    samples = open_data(image_folder, val_fraction=0.0, labels=LABELS).train
    predicted = logits_one_by_one(model, samples).argmax(1).numpy()
    right = samples.subset(np.flatnonzero(predicted == samples.targets))
    assert len(right)
    found = mistakes(model, right)
    assert (found.pictures, found.n, found.wrong) == ((), len(right), 0)


def test_what_cannot_be_judged_is_refused(image_folder: Path) -> None:
    with pytest.raises(UserError, match="count 0"):
        mistakes(model_of(), image_folder, count=0)
    with pytest.raises(UserError, match="no test part"):
        mistakes(model_of(), image_folder, split="test")
    unlabelled = Samples(["a.png"], None, (), lambda _: b"")
    with pytest.raises(UserError, match="no labels|classes"):
        mistakes(model_of(), unlabelled)
