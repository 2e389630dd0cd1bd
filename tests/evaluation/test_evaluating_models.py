"""Running a model over a data set: order, last batch, workers, classes by name, and what cannot be evaluated."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from small_examples import make_folder, make_model

from vitrail.data.cache import check_images
from vitrail.data.open import open_data
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.evaluation.run import choose_split, evaluate, infer, predict_logits


def one_by_one(model, samples):
    """The logits of every image, computed alone."""
    images = [model.preprocess.load(samples.encoded(i), samples.names[i]) for i in range(len(samples))]
    with torch.no_grad():
        return torch.cat([model(model.preprocess.normalize(image[None])) for image in images])


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "images")


@pytest.fixture
def samples(folder):
    return open_data(folder, val_fraction=0).train


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_every_image_is_evaluated_once_and_in_order(samples, batch_size):
    model = make_model()
    done = []
    logits, targets = predict_logits(
        model, samples, batch_size=batch_size, progress=lambda *at: done.append(at)
    )  # fmt: skip
    assert torch.allclose(logits, one_by_one(model, samples), atol=1e-5)  # batches sum in another order
    assert targets.tolist() == samples.targets.tolist()
    assert done[-1] == (12, 12)
    assert len(done) == -(-12 // batch_size)


def test_workers_and_the_cache_do_not_change_the_result(samples):
    model = make_model()
    expected = infer(model, samples, batch_size=5)
    assert torch.equal(infer(model, samples, batch_size=5, workers=2), expected)
    cached = check_images(samples, model.preprocess, keep=True).cached
    assert torch.equal(infer(model, samples, batch_size=5, cached=cached), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_at_their_own_aspect_ratio_are_evaluated_as_one_by_one(tmp_path, workers):
    model = make_model()
    native = Preprocess((16, 16), mode="native", patch_size=4)
    make_folder(tmp_path / "wide")
    for i, file in enumerate(sorted((tmp_path / "wide").rglob("*.png"))):
        with Image.open(file) as image:
            image.resize(((10, 20), (20, 10), (20, 20))[i % 3]).save(file)
    samples = open_data(tmp_path / "wide", val_fraction=0).train
    images = [native.load(samples.encoded(i)) for i in range(12)]
    assert len({image.shape for image in images}) == 3
    with torch.no_grad():
        expected = torch.cat([model(native.normalize(image[None])) for image in images])
    done = []
    found = infer(model, samples, native, batch_size=5, workers=workers, progress=lambda *at: done.append(at))
    assert torch.allclose(found, expected, atol=1e-5)  # sums in another order
    assert done == [(5, 12), (10, 12), (12, 12)]
    assert evaluate(model, samples, preprocess=native).n == 12
    with pytest.raises(UserError, match="patch_size 8 is not the model's 4"):
        infer(model, samples, replace(native, patch_size=8))


def test_features_are_those_of_the_model(samples):
    model = make_model()
    images = torch.stack([model.preprocess.load(samples.encoded(i), "") for i in range(12)])
    with torch.no_grad():
        expected = model.features(model.preprocess.normalize(images))
    assert torch.equal(infer(model, samples, features=True), expected)


def test_a_model_in_training_is_evaluated_without_dropout_and_stays_in_training(samples):
    model = make_model().train()
    logits, _ = predict_logits(model, samples)
    assert model.training
    assert torch.allclose(logits, one_by_one(model.eval(), samples), atol=1e-5)


def test_bfloat16_changes_little_and_the_result_is_float32(samples):
    model = make_model()
    exact, rough = infer(model, samples), infer(model, samples, autocast=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.allclose(rough, exact, atol=0.1 * float(exact.std()))


def test_classes_are_matched_by_name(tmp_path):
    folder = make_folder(tmp_path / "some", classes=("cat", "bee"))
    model = make_model(labels=("cat", "ant", "bee", "dog"))
    result = evaluate(model, folder)
    samples = open_data(folder, val_fraction=0, labels=model.labels).train
    predicted = [model.labels[i] for i in one_by_one(model, samples).argmax(dim=1)]
    right = [name.split("/")[0] == guess for name, guess in zip(samples.names, predicted, strict=True)]
    assert result.top1 == sum(right) / 8
    assert [(score.label, score.n) for score in result.per_class] == [("cat", 4), ("ant", 0), ("bee", 4), ("dog", 0)]


def test_classes_that_the_model_does_not_know_are_refused(folder):
    with pytest.raises(UserError, match="class 'cat'"):
        evaluate(make_model(labels=("ant", "bee", "dog")), folder)
    other_order = open_data(folder, val_fraction=0).train
    with pytest.raises(UserError, match="not the model's, or in another order"):
        evaluate(make_model(labels=("bee", "ant", "cat")), other_order)


def test_a_model_without_class_names_needs_as_many_classes(folder):
    model = make_model()
    named = evaluate(model, folder)
    model.labels = ()
    assert evaluate(model, folder) == named
    model = make_model(labels=("a", "b"))
    model.labels = ()
    with pytest.raises(UserError, match="2 classes without names, the data 3"):
        evaluate(model, folder)


def test_what_cannot_be_evaluated_is_refused(samples, folder):
    model = make_model()
    unlabelled = type(samples)(samples.names, None, samples.labels, samples.read)
    with pytest.raises(UserError, match="no labels"):
        predict_logits(model, unlabelled)
    with pytest.raises(UserError, match="no head"):
        predict_logits(make_model(labels=()), samples)
    model.preprocess = None
    with pytest.raises(UserError, match="give a Preprocess"):
        infer(model, samples)


def test_an_image_that_cannot_be_read_is_named(folder):
    (folder / "bee" / "2.png").write_bytes(b"\x89PNG not quite")
    with pytest.raises(UserError, match=r"bee/2\.png"):
        evaluate(make_model(), folder)


def test_the_temperature_can_be_fitted_on_another_split(folder):
    model = make_model()
    dataset = open_data(folder, val_fraction=0.5)
    result = evaluate(model, dataset.val, calibration=dataset.train, calibration_name="train")
    assert result.n == len(dataset.val)
    assert result.temperature_from == "train"
    assert result.temperature == evaluate(model, dataset.train).temperature
    assert result.temperature != evaluate(model, dataset.val).temperature


def test_the_split_is_test_then_val_then_train_or_the_one_named(tmp_path):
    make_folder(tmp_path / "d" / "train")
    make_folder(tmp_path / "d" / "test", images=2)
    dataset = open_data(tmp_path / "d", val_fraction=0)
    assert choose_split(dataset) == ("test", dataset.test)
    assert choose_split(dataset, "train") == ("train", dataset.train)
    with pytest.raises(UserError, match="has no val part: it has test, train"):
        choose_split(dataset, "val")
    with pytest.raises(UserError, match="did you mean train"):
        choose_split(dataset, "trian")
    assert evaluate(make_model(), tmp_path / "d").n == 6
