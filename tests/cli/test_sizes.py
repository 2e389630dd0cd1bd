"""Sizes on the command line: one clear line for a bad one, before any work, and models brought to a good one once."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.cli.sizes import image_size, image_sizes
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig
from vitrail.model.resnet import ResNet
from vitrail.model.resnet_config import resnet_variant
from vitrail.training import memory

Run = Callable[..., tuple[int, str, str]]

COMMANDS = (["predict"], ["embed", "--out", "features.npz"], ["evaluate"], ["probe", "--init"])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    vit = ViT(ViTConfig(image_size=(16, 16), patch_size=8, classes=2, width=32, depth=1, heads=2, mlp_width=32))
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vit.preprocess, vit.labels = Preprocess((16, 16)), ("a", "b")
    vitrail.save(vit, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def arguments(command: list[str], model: Path, images: Path) -> list[object]:
    if command[0] == "probe":
        return ["probe", images, "--init", model, "--shots", "1"]
    return [command[0], model, images, *command[1:]]


@pytest.mark.parametrize(
    ("text", "size"), [("224", (224, 224)), ("384x256", (384, 256)), (" 8 × 16 ", (8, 16)), ("016", (16, 16))]
)
def test_sizes_are_height_and_width(text: str, size: tuple[int, int]) -> None:
    assert image_size(text) == size


@pytest.mark.parametrize("text", ["0", "-5", "1x2x3", "big", "1e9", "", " ", "224x", "224x0", "22.4", "2 24"])
def test_what_is_no_size_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(UserError, match=r"^image size '.*': write 224, or 384x256 for a height of 384"):
        image_size(text)


@pytest.mark.parametrize("text", ["20000", "224x16385", "9" * 5000])
def test_more_pixels_than_an_image_can_have_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^image size .{1,40}: at most 16384 pixels a side") as refused:
        image_size(text)
    assert len(str(refused.value)) < 120


def test_several_sizes_keep_their_order() -> None:
    assert image_sizes("160,224, 384x256") == [(160, 160), (224, 224), (384, 256)]


@pytest.mark.parametrize(
    ("text", "message"), [("224,,256", "one comma"), ("224,", "one comma"), ("8,16x0", "'16x0'"), ("8,16,8x8", "twice")]
)
def test_several_sizes_with_a_bad_one_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_sizes(text)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("", "write 224"),
        ("-5", "write 224"),
        ("18", "the nearest sizes are 16x16 and 24x24"),
        ("20000", "at most 16384"),
    ],
)
def test_a_bad_size_is_one_line_and_exit_code_2(
    run: Run, model: Path, images: Path, command: list[str], size: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("vitrail.weights.load"), "load_found", None)  # no weights are read
    monkeypatch.setattr("vitrail.cli.images.checked", None)  # and no image looked at
    code, out, err = run(*arguments(command, model, images), "--image-size", size)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_a_size_too_large_for_memory_is_refused_with_one_that_fits(
    run: Run, model: Path, images: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 3_000_000)
    with monkeypatch.context() as only:
        only.setattr(import_module("vitrail.weights.load"), "load_found", None)
        code, out, err = run(*arguments(command, model, images), "--image-size", "4096x2048", "--batch-size", "4")
    assert (code, out) == (2, "")
    assert err.startswith("error: image size 4096x2048 needs about ")
    assert err.count("\n") == 1
    largest = err.rstrip().rpartition(" is ")[2]
    height, width = image_size(largest)
    assert height == pytest.approx(2 * width, abs=8)
    assert run(*arguments(command, model, images), "--image-size", largest, "--batch-size", "1")[0] == 0


def test_a_batch_too_large_for_memory_is_refused_with_one_that_fits(
    run: Run, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10_000_000)
    at = ["predict", model, images, "--image-size", "256"]
    code, _, err = run(*at, "--batch-size", "32")
    assert code == 2
    assert "for a batch of 32 images, and 10 MB are free: use --batch-size 4" in err
    assert run(*at, "--batch-size", "4")[0] == 0


@pytest.mark.parametrize("size", ["32", "24x40"])
def test_predictions_and_features_are_those_of_the_resized_model(
    run: Run, model: Path, images: Path, size: str
) -> None:
    resized = vitrail.resize(vitrail.load(model), image_size(size))
    predictor = vitrail.Predictor(resized, device="cpu")
    files = sorted(images.rglob("*.png"))
    code, out, _ = run("predict", model, *files, "--image-size", size, "--format", "jsonl")
    assert code == 0
    expected = [prediction.to_dict() for prediction in predictor(files)]
    assert [json.loads(line) for line in out.splitlines()] == expected
    assert run("embed", model, *files, "--image-size", size, "--out", images.parent / "f.npz")[0] == 0
    with np.load(images.parent / "f.npz") as found:
        np.testing.assert_array_equal(found["features"], predictor.features(files))


def test_the_weights_are_resized_once_and_not_for_every_batch(
    run: Run, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.model import resize

    calls = []
    own = resize._interpolate
    monkeypatch.setattr(resize, "_interpolate", lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs))
    assert run("evaluate", model, images, "--image-size", "32", "--batch-size", "1")[0] == 0
    assert len(calls) == 1


def test_a_resnet_takes_another_size_too(run: Run, images: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = resnet_variant("R50x1", image_size=(32, 32), layers=(1, 1), root_width=8, stem="small", classes=2)
    resnet = ResNet(config)
    resnet.preprocess, resnet.labels = Preprocess((32, 32)), ("a", "b")
    vitrail.save(resnet.eval(), tmp_path / "resnet")
    code, out, _ = run("evaluate", tmp_path / "resnet", images, "--image-size", "24,40x32", "--json", "-")
    assert code == 0
    found = json.loads(out)["sizes"]
    assert [size["image_size"] for size in found] == [[32, 32], [24, 24], [40, 32]]
    assert all(size["tokens"] is None for size in found)
