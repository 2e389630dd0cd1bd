"""The doctor: what is wrong between a model and data is found, named, and nothing else is."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vitrail
from stripes import write_images
from vitrail.data.open import Dataset, open_data
from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.data.samples import Samples
from vitrail.doctor import Finding
from vitrail.doctor.classes import class_findings, outputs_of
from vitrail.doctor.contract import contract_findings, contract_text
from vitrail.doctor.copies import copy_findings
from vitrail.doctor.examine import examine
from vitrail.doctor.pictures import look, spread
from vitrail.doctor.sizes import size_findings
from vitrail.doctor.values import value_findings
from vitrail.errors import UserError
from vitrail.model import ResNetConfig, ViT, ViTConfig
from vitrail.weights import convert, read
from vitrail.weights.files.untrusted import read_json
from vitrail.weights.fit import fit
from vitrail.weights.folder import write_json

CONFIG = ViTConfig(image_size=(20, 24), patch_size=4, classes=3, width=32, depth=1, heads=2, mlp_width=32)
HALF = Preprocess((20, 24), crop_fraction=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
LABELS = ("high", "low", "middle")


def fitted(folder: Path, preprocess: Preprocess = HALF) -> ViT:
    """A model that knows the images of a folder by heart: random features, and the head that fits them best."""
    torch.manual_seed(0)
    model = ViT(CONFIG).eval()
    samples = open_data(folder, val_fraction=0).train
    assert samples is not None
    assert samples.targets is not None
    images = torch.stack([preprocess.load(samples.encoded(i)) for i in range(len(samples))])
    with torch.no_grad():
        features = model.features(preprocess.normalize(images)).double()
        inputs = torch.cat([features, torch.ones(len(features), 1)], 1).double()
        wanted = 8 * torch.nn.functional.one_hot(torch.from_numpy(samples.targets)).double() - 4
        weights = torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution.T.float()
        model.head.weight.copy_(weights[:, :-1])
        model.head.bias.copy_(weights[:, -1])
    model.preprocess, model.labels = preprocess, LABELS
    return model


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Few enough that random features can tell them apart."""
    return write_images(tmp_path / "images", {"high": 10, "low": 10, "middle": 10})


@pytest.fixture
def model(tmp_path: Path, images: Path) -> Path:
    vitrail.save(fitted(images), tmp_path / "model")
    return tmp_path / "model"


def levels(findings: list[Finding]) -> dict[str, str]:
    """Subject -> the worst that is said of it."""
    order = ("ok", "warning", "problem")
    return {f.about: max((g.level for g in findings if g.about == f.about), key=order.index) for f in findings}


def said(findings: list[Finding], about: str) -> str:
    return " | ".join(f"{f.what}; {f.advice}" for f in findings if f.about == about)


def test_nothing_is_found_where_nothing_is_wrong(model: Path, images: Path) -> None:
    found = examine(model, images)
    assert set(levels(found).values()) == {"ok"}, found
    assert {"format", "weights", "pixels", "classes", "images", "pixel values", "trial"} <= levels(found).keys()
    assert "100% of 30 images of train are recognised" in said(found, "trial")
    assert levels(examine(model)) == {"format": "ok", "weights": "ok", "pixels": "ok"}


def test_a_wrong_normalisation_is_found_and_the_right_one_named(model: Path, images: Path) -> None:
    wrong = dataclasses.replace(HALF, mean=(0.9,) * 3, std=(0.1,) * 3)
    found = examine(model, images, preprocess=wrong)
    assert levels(found)["trial"] == "problem"
    assert "give --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5" in said(found, "trial")
    assert levels(found)["pixel values"] == "warning"


def test_without_a_contract_the_doctor_says_which_works(model: Path, images: Path, tmp_path: Path) -> None:
    bare = fitted(images)
    bare.preprocess = None
    vitrail.save(bare, tmp_path / "bare")
    found = examine(tmp_path / "bare", images)
    assert levels(found)["pixels"] == "problem"
    assert "give --mean and --std" in said(found, "pixels")
    assert "100% with 0.5 and 0.5" in said(found, "trial")
    assert "try --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5" in said(found, "trial")


def test_classes_in_another_order_than_the_outputs_are_found(images: Path, tmp_path: Path) -> None:
    turned = fitted(images)
    turned.labels = ()  # the outputs are taken for the data's classes in their order, which is wrong
    with torch.no_grad():
        for parameter in turned.head.parameters():
            parameter.copy_(parameter.roll(1, 0))
    vitrail.save(turned, tmp_path / "turned")
    found = examine(tmp_path / "turned", images)
    assert levels(found)["trial"] == "problem"
    assert "100% with the classes in another order" in said(found, "trial")
    assert levels(found)["classes"] == "warning"


def test_answers_that_are_no_better_than_chance_are_a_problem(images: Path, tmp_path: Path) -> None:
    constant = fitted(images)
    with torch.no_grad():
        constant.head.weight.mul_(1e-6)
        constant.head.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    vitrail.save(constant, tmp_path / "constant")
    found = examine(tmp_path / "constant", images)
    assert levels(found)["trial"] == "problem"
    assert "no better than chance (33.3%)" in said(found, "trial")


def test_an_untrained_head_is_said(images: Path, tmp_path: Path) -> None:
    fresh = ViT(CONFIG)
    fresh.preprocess = HALF
    vitrail.save(fresh, tmp_path / "fresh")
    assert "all zeros" in said(examine(tmp_path / "fresh"), "weights")


def without(tensors: dict[str, torch.Tensor]) -> None:
    tensors["blocks.0.norm_1.weight"] = tensors.pop("blocks.0.norm1.weight")


def reshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"][:, :16].contiguous()


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["norm.weight"][3] = torch.nan


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without, "blocks.0.norm1.weight, nearest is blocks.0.norm_1.weight"),
        (reshaped, "head.weight 3x16 instead of 3x32"),
        (not_finite, "values of norm.weight are NaN"),
    ],
)
def test_weights_that_cannot_work_are_a_problem(
    model: Path, images: Path, spoil: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    tensors = load_file(model / "model.safetensors")
    spoil(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    values = read_json(model / "config.json")
    values["vitrail"]["sha256"] = {}  # as one who writes the file itself leaves it
    write_json(values, model / "config.json")
    found = examine(model, images)
    assert levels(found)["weights"] == "problem"
    assert message in said(found, "weights")
    assert "trial" not in levels(found)


def test_a_flipped_byte_is_a_problem(model: Path) -> None:
    file = model / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    assert "SHA-256" in said(examine(model), "weights")


def test_shapes_are_compared_through_every_layout(tmp_path: Path, images: Path) -> None:
    """Query, key and value that lie apart: their shapes together are those of one tensor of ours."""
    convert(fitted(images, dataclasses.replace(HALF, mode="squash")), "transformers", tmp_path / "theirs")
    description = read(tmp_path / "theirs")
    assert fit(description).report.problem is None
    wider = read(tmp_path / "theirs", {"head_width": 8})
    assert "blocks.0.attn.qkv.weight" in fit(wider).report.reshaped


# ---- pixels


def picture(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def samples(*pictures: bytes) -> Samples:
    names = [f"{number}.png" for number in range(len(pictures))]
    return Samples(names, None, (), pictures.__getitem__)


def noise(low: int, high: int, *shape: int, n: int = 6, dtype: type = np.uint8) -> Samples:
    rng = np.random.default_rng(0)
    return samples(*(picture(rng.integers(low, high, shape, dtype=dtype)) for _ in range(n)))


def values_of(part: Samples, contract: Preprocess | None = HALF, channels: int = 3) -> list[Finding]:
    used = contract or Preprocess((20, 24), channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    return value_findings(look(spread([part], 100), used), contract)


GREY = Preprocess((28, 28), channels=1, crop_fraction=1.0, mean=(0.1307,), std=(0.3081,))


@pytest.mark.parametrize(
    ("part", "contract", "level", "words"),
    [
        (noise(0, 256, 20, 24, 3), HALF, "ok", "normalised for the model, mean 0.00"),
        (noise(0, 256, 20, 24, 3), dataclasses.replace(HALF, mean=IMAGENET_MEAN, std=IMAGENET_STD), "ok", ""),
        (noise(0, 2, 20, 24, 3), HALF, "problem", "values from 0 to 1"),
        (noise(0, 70, 20, 24, 3), HALF, "problem", "all images are dark"),
        (noise(0, 4096, 20, 24, dtype=np.uint16), HALF, "problem", "6 of 6 have 16 bits"),
        (noise(0, 65536, 20, 24, dtype=np.uint16), HALF, "ok", ""),
        (noise(180, 256, 28, 28), GREY, "problem", "they look inverted"),
        (noise(0, 120, 28, 28), GREY, "ok", ""),
        (noise(200, 256, 20, 24, 3), HALF, "warning", "try --mean 0.89"),
    ],
)
def test_values_that_a_model_was_not_made_for_are_found(
    part: Samples, contract: Preprocess, level: str, words: str
) -> None:
    found = values_of(part, contract)
    assert levels(found)["pixel values"] == level, found
    assert words in said(found, "pixel values")


def test_statistics_are_those_of_the_pixels() -> None:
    part = noise(0, 256, 20, 24, 3)
    pictures = look(spread([part], 100), HALF)
    pixels = np.stack([np.array(Image.open(io.BytesIO(part.read(i)))) for i in range(len(part))]) / 255
    np.testing.assert_allclose(pictures.mean, pixels.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(pictures.std, pixels.std((0, 1, 2)), atol=1e-6)


def test_damaged_and_empty_images_are_counted() -> None:
    good = noise(0, 256, 20, 24, 3)
    part = samples(b"no picture", *(good.read(i) for i in range(6)), picture(np.full((20, 24, 3), 99, np.uint8)))
    found = values_of(part)
    assert levels(found)["images"] == "problem"
    assert "1 of 8 looked at cannot be used, the first: 0.png" in said(found, "images")
    assert "--skip-bad" in said(found, "images")
    assert "1 of 7 show nothing" in said(found, "images")


@pytest.mark.parametrize(
    ("shape", "contract", "level", "words"),
    [
        ((20, 24), HALF, "warning", "all images are grey"),
        ((20, 24, 3), GREY, "warning", "6 of 6 images have colour"),
        ((20, 24), GREY, "ok", ""),
        ((20, 24, 3), HALF, "ok", ""),
    ],
)
def test_grey_and_colour_are_told_apart(shape: tuple[int, ...], contract: Preprocess, level: str, words: str) -> None:
    found = values_of(noise(0, 256, *shape), contract)
    assert levels(found)["colour"] == level
    assert words in said(found, "colour")


# ---- sizes


@pytest.mark.parametrize(
    ("size", "contract", "about", "level", "words"),
    [
        ((224, 224), Preprocess((224, 224)), "image size", "ok", "a patch covers 16 of their pixels"),
        ((60, 60), Preprocess((224, 224)), "image size", "warning", "enlarged 4.3 times"),
        ((60, 60), Preprocess((224, 224)), "image size", "warning", "--image-size 64x64"),
        ((28, 28), Preprocess((224, 224)), "image size", "warning", "smaller patches"),
        ((300, 400), Preprocess((224, 224)), "image shape", "ok", "keeps 57%"),
        ((100, 300), Preprocess((224, 224)), "image shape", "warning", "keeps 26%"),
        ((100, 300), Preprocess((224, 224)), "image shape", "warning", "--image-size 128x384"),
        ((100, 300), Preprocess((224, 224), mode="squash"), "image shape", "warning", "distorted 3.0 times"),
        ((100, 300), Preprocess((128, 384)), "image shape", "ok", "keeps 77%"),
    ],
)
def test_sizes_and_shapes_that_a_model_was_not_made_for_are_found(
    size: tuple[int, int], contract: Preprocess, about: str, level: str, words: str
) -> None:
    config = ViTConfig(image_size=contract.image_size)
    found = size_findings(look(spread([noise(0, 256, *size, 3)], 100), contract), contract, config)
    assert levels(found)[about] == level
    assert words in said(found, about)


def test_a_residual_network_has_sizes_too() -> None:
    contract = Preprocess((64, 64))
    found = size_findings(
        look(spread([noise(0, 256, 30, 30, 3)], 9), contract), contract, ResNetConfig(image_size=(64, 64))
    )
    assert "works on 4 positions" in said(found, "image size")


# ---- classes


@pytest.mark.parametrize(
    ("classes", "labels", "names", "level", "words"),
    [
        (3, "abc", "abc", "ok", "in the same order"),
        (3, "cab", "abc", "ok", "in another order: they are matched by name"),
        (5, "abcde", "ac", "ok", "are among the model's 5"),
        (0, "", "abc", "ok", "no head"),
        (3, "", "abc", "warning", "taken for the data's classes in their order"),
        (3, "", "012", "ok", "numbered"),
        (4, "", "abc", "warning", "starts a new head of 3 classes at zero"),
        (3, "abc", "abd", "problem", "not 'd'"),
        (3, "abc", "xyz", "warning", "none of the model's 3"),
        (3, "abc", "012", "warning", "the data's classes are numbers"),
        (3, "abc", "ABC", "problem", "'A' may be 'a'"),
        (
            2,
            ["golden_retriever", "cat"],
            ["Golden Retriever", "dog"],
            "problem",
            "'Golden Retriever' may be 'golden_ret",
        ),
        (12, "", [str(n) for n in range(1, 13)], "warning", "sorted as text"),
        (3, "abc", "", "warning", "no labels"),
        (4, "abca", "abc", "problem", "same name: 'a'"),
    ],
)
def test_classes_are_compared_by_number_name_and_order(
    classes: int, labels: str, names: str, level: str, words: str
) -> None:
    found = class_findings(classes, tuple(labels), tuple(names))
    assert levels(found) == {"classes": level}
    assert words in said(found, "classes")


def test_the_models_outputs_are_found_by_name() -> None:
    part = Samples(list("123"), np.array([0, 1, 2]), ("a", "b", "c"), bytes)
    assert outputs_of(part, ("c", "x", "a"), 3).tolist() == [2, -1, 0]
    assert outputs_of(part, (), 3).tolist() == [0, 1, 2]
    assert outputs_of(part, (), 4) is None
    assert outputs_of(part, ("x", "y"), 2) is None
    assert outputs_of(dataclasses.replace(part, targets=None), ("a",), 1) is None


def test_uneven_and_rare_classes_are_said(tmp_path: Path, model: Path) -> None:
    uneven = write_images(tmp_path / "uneven", {"high": 60, "low": 5, "middle": 20})
    assert "high has 60 training images and low 5" in said(examine(model, uneven, try_on=0), "balance")
    rare = write_images(tmp_path / "rare", {"high": 20, "low": 2, "middle": 20})
    assert "fewer than 5 training images: low (2)" in said(examine(model, rare, try_on=0), "balance")


def test_what_training_would_refuse_is_a_problem_and_not_the_end(tmp_path: Path, model: Path) -> None:
    write_images(tmp_path / "split" / "train", {"high": 5, "low": 5})
    write_images(tmp_path / "split" / "test", {"high": 2, "middle": 2}, seed=1)
    found = examine(model, tmp_path / "split")
    assert "test has class 'middle' that train lacks" in said(found, "data")
    assert levels(found)["data"] == "problem"
    assert "trial" in levels(found)
    with pytest.raises(UserError, match="no such folder"):
        examine(model, tmp_path / "nowhere")


# ---- copies


def test_images_that_training_has_seen_are_found() -> None:
    part = noise(0, 256, 9, 9, 3, n=8)
    labels = ("a", "b")
    train = Samples(part.names[:5], np.array([0, 0, 0, 1, 1]), labels, lambda i: part.read((0, 1, 2, 2, 3)[i]))
    test = Samples(["x", "y"], np.array([0, 0]), labels, lambda i: part.read((1, 7)[i]))
    found = copy_findings(Dataset("d", labels, train, None, test))
    assert levels(found) == {"copies": "problem"}
    assert "1 of 2 images of test are in train too: 1.png and x" in said(found, "copies")
    assert "1 images are there under two labels: 2.png and 3.png" in said(found, "copies")
    apart = dataclasses.replace(test, read=lambda i: part.read(5 + i))
    assert levels(copy_findings(Dataset("d", labels, train.subset([0, 1, 4]), None, apart))) == {"copies": "ok"}


# ---- contracts


def test_a_contract_is_said_in_words_and_its_faults_are_found() -> None:
    assert contract_text(HALF) == "20x24, centre crop, bicubic, mean 0.5, std 0.5"
    assert "centre crop of 0.875 of the sides" in contract_text(Preprocess((20, 24)))
    assert "grey" in contract_text(GREY)
    assert levels(contract_findings(HALF, CONFIG)) == {"pixels": "ok"}
    assert "the model itself was made for 20x24" in said(contract_findings(Preprocess((40, 40)), CONFIG), "pixels")
    bytes_meant = dataclasses.replace(HALF, mean=(123.0,) * 3, std=(58.0,) * 3)
    assert "divided by 255" in said(contract_findings(bytes_meant, CONFIG), "pixels")
    assert "nearest sizes are 20x24 and 24x24" in said(contract_findings(Preprocess((22, 24)), CONFIG), "pixels")
    assert "1 channels" in said(contract_findings(GREY, CONFIG), "pixels")


def test_samples_are_spread_over_all_parts() -> None:
    parts = [noise(0, 9, 2, 2, n=3), noise(0, 9, 2, 2, n=5)]
    everything = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert [(parts.index(part), index) for part, index in spread(parts, 100)] == everything
    assert [(parts.index(part), index) for part, index in spread(parts, 2)] == [(0, 0), (1, 4)]
    assert spread([], 5) == []
