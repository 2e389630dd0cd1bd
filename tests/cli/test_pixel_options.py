"""What a person says of a model: its pixels and what its files do not tell, by the same options in every command."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vitrail
from vitrail.cli.models import changes
from vitrail.cli.pixels import Pixels, pixels
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ResNetConfig, ViT, ViTConfig
from vitrail.weights import convert

Run = Callable[..., tuple[int, str, str]]

CONFIG = ViTConfig(image_size=(16, 16), patch_size=8, classes=3, width=64, depth=1, heads=1, mlp_width=32)


def make() -> ViT:
    torch.manual_seed(0)
    model = ViT(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.labels = ("high", "low", "middle")
    return model


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model folder that does not say how it wants its pixels."""
    vitrail.save(make(), tmp_path / "bare")
    return tmp_path / "bare"


@pytest.mark.parametrize("command", ["evaluate", "predict", "embed", "probe"])
def test_without_a_contract_every_command_says_which_options_to_give(
    run: Run, bare: Path, image_folder: Path, tmp_path: Path, command: str
) -> None:
    arguments: list[object] = ["--init", bare, image_folder] if command == "probe" else [bare, image_folder]
    if command == "embed":
        arguments += ["--out", tmp_path / "f.npz"]
    code, out, err = run(command, *arguments, "--mode", "squash")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "is not known, its files do not say: give --mean and --std, as in its training, such as --mean 0.5" in err
    code, _, err = run(command, *arguments, "--mean", "0.5")
    assert code == 2
    assert "give --std" in err
    assert run(command, *arguments, "--mean", "0.5", "--std", "0.5")[0] == 0


def test_the_contract_given_is_the_one_used(run: Run, bare: Path, image_folder: Path, tmp_path: Path) -> None:
    given = ["--mean", "0.4,0.5,0.6", "--std", "0.3", "--mode", "pad", "--interpolation", "bilinear"]
    model = make()
    model.preprocess = Preprocess((16, 16), mode="pad", interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.3,) * 3)
    files = sorted(image_folder.rglob("*.png"))
    expected = vitrail.Predictor(model, device="cpu")
    assert run("embed", bare, image_folder, "--out", tmp_path / "f.npz", *given)[0] == 0
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["features"], expected.features(files), rtol=1e-5, atol=1e-6)
    _, out, _ = run("predict", bare, image_folder, "--format", "jsonl", *given)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["probability"] for row in rows] == pytest.approx([p.probability for p in expected(files)], rel=1e-5)
    _, out, _ = run("evaluate", bare, image_folder, "--json", "-", *given)
    assert json.loads(out)["nll"] == pytest.approx(vitrail.evaluate(model, image_folder).nll, rel=1e-5)


def test_images_of_the_models_own_size_stay_as_they_are_under_a_new_contract() -> None:
    contract = pixels("0.5", "0.25", None, None, None).contract(None, CONFIG, "m")
    assert contract == Preprocess((16, 16), crop_fraction=1.0, mean=(0.5,) * 3, std=(0.25,) * 3)
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    assert (contract.resize(image) == image).all()


def test_what_is_not_said_stays_as_the_model_has_it() -> None:
    own = Preprocess((16, 16), crop_fraction=0.9, interpolation="bilinear", mean=(0.1, 0.2, 0.3), std=(0.4,) * 3)
    assert Pixels().contract(own, CONFIG, "m") == own
    assert pixels(None, "0.5", None, None, None).contract(own, CONFIG, "m").mean == own.mean
    squashed = pixels(None, None, "squash", None, None).contract(own, CONFIG, "m")
    assert (squashed.mode, squashed.crop_fraction, squashed.interpolation) == ("squash", 1.0, "bilinear")
    assert pixels(None, None, "squash", 0.8, None).contract(own, CONFIG, "m").crop_fraction == 0.8


def mixed(folder: Path) -> Path:
    """The folder's images, of three shapes in turn."""
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        with Image.open(file) as image:
            image.resize(((20, 40), (40, 20), (30, 30))[i % 3]).save(file)
    return folder


def test_native_mode_counts_in_the_models_own_patches_and_keeps_its_size_as_the_budget() -> None:
    own = Preprocess((16, 16), crop_fraction=0.9, mean=(0.1, 0.2, 0.3), std=(0.4,) * 3)
    native = pixels(None, None, "native", None, None).contract(own, CONFIG, "m")
    assert native == Preprocess((16, 16), mode="native", patch_size=8, mean=own.mean, std=own.std)
    assert Pixels().contract(native, CONFIG, "m") == native
    assert pixels("0.5", "0.5", "native", None, None).contract(None, CONFIG, "m").patch_size == 8
    assert pixels(None, None, "squash", None, None).contract(native, CONFIG, "m").mode == "squash"
    with pytest.raises(UserError, match="cuts nothing off"):
        pixels(None, None, "native", 0.9, None).contract(own, CONFIG, "m")
    with pytest.raises(UserError, match="'native' packs patches of images of different sizes, and a ResNet has none"):
        pixels(None, None, "native", None, None).contract(own, ResNetConfig(image_size=(32, 32)), "m")


def test_every_command_takes_images_at_their_own_aspect_ratio(
    run: Run, bare: Path, image_folder: Path, tmp_path: Path
) -> None:
    given = ["--mean", "0.4", "--std", "0.3", "--mode", "native"]
    data = mixed(image_folder)
    model = make()
    model.preprocess = Preprocess((16, 16), mode="native", patch_size=8, mean=(0.4,) * 3, std=(0.3,) * 3)
    files = sorted(data.rglob("*.png"))
    expected = vitrail.Predictor(model, device="cpu")
    assert len({model.preprocess.load(file.read_bytes()).shape for file in files}) == 3
    assert run("embed", bare, data, "--out", tmp_path / "f.npz", *given)[0] == 0
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["features"], expected.features(files), rtol=1e-5, atol=1e-6)
    _, out, _ = run("predict", bare, data, "--format", "jsonl", *given)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["probability"] for row in rows] == pytest.approx([p.probability for p in expected(files)], rel=1e-5)
    _, out, _ = run("evaluate", bare, data, "--json", "-", *given)
    assert json.loads(out)["nll"] == pytest.approx(vitrail.evaluate(model, data).nll, rel=1e-5)
    _, out, _ = run("evaluate", bare, data, "--json", "-", *given, "--image-size", "32")
    assert json.loads(out)["image_size"] == [32, 32]
    assert run("probe", "--init", bare, data, "--shots", "1", *given)[0] == 0
    code, out, _ = run("doctor", bare, data, *given)
    assert code == 0
    assert "16x16, own aspect ratio in up to 4 patches of 8x8" in " ".join(out.split())
    assert "images keep their own, distorted by 0% (median)" in " ".join(out.split())
    top1 = vitrail.evaluate(model, data).top1
    assert f"{top1:.0%} of 36 images of train are recognised" in " ".join(out.split())


def test_native_mode_is_kept_where_it_can_be_and_said_where_it_cannot(run: Run, bare: Path, tmp_path: Path) -> None:
    given = ["--mean", "0.4", "--std", "0.3", "--mode", "native"]
    own = Preprocess((16, 16), mode="native", patch_size=8, mean=(0.4,) * 3, std=(0.3,) * 3)
    for origin, name in (("vitrail", "ours"), ("google", "m.npz"), ("facebook", "m.safetensors")):
        assert run("convert", bare, "--to", origin, "--out", tmp_path / name, *given)[0] == 0
        assert vitrail.load(tmp_path / name).preprocess == own
    assert "the image keeps its own aspect ratio" in (tmp_path / "ours" / "README.md").read_text()
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["pretrained_cfg"]["crop_mode"] == "squash"
    code, _, err = run("convert", bare, "--to", "timm", "--out", tmp_path / "timm", *given)
    assert code == 0
    assert "not kept as it is, read again: mode is squash instead of native" in " ".join(err.split())
    code, _, err = run("convert", bare, "--to", "transformers", "--out", tmp_path / "hf", *given)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "preprocess.mode 'native' has no equal in transformers' image processors" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": "a"}, "--mean a: write one number"),
        ({"std": "58.4,57.1,57.4"}, "--std 58.4,57.1,57.4: pixels go from 0 to 1 here: divide by 255"),
        ({"mean": "0.5,0.5", "std": "0.5"}, "one value for each of 3 channels"),
        ({"mean": "0.5", "std": "0"}, "values above 0"),
        ({"mean": "0.5", "std": "0.5", "mode": "squish"}, "did you mean squash"),
        ({"mean": "0.5", "std": "0.5", "crop_fraction": 2.0}, "0.01 to 1 is possible"),
        ({"mean": "0.5", "std": "0.5", "interpolation": "nearest"}, "bicubic"),
    ],
)
def test_impossible_contracts_are_refused(options: dict[str, object], message: str) -> None:
    given = dict.fromkeys(("mean", "std", "mode", "crop_fraction", "interpolation")) | options
    with pytest.raises(UserError, match=message):
        pixels(**given).contract(None, CONFIG, "m")


def test_what_the_files_do_not_tell_can_be_set(run: Run, bare: Path, image_folder: Path) -> None:
    given = ["--mean", "0.5", "--std", "0.5", "--json", "-"]
    _, gelu, _ = run("evaluate", bare, image_folder, *given)
    _, relu, _ = run("evaluate", bare, image_folder, *given, "--set", "model.activation=relu")
    model = make()
    model.preprocess = Preprocess((16, 16), crop_fraction=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert json.loads(gelu)["nll"] == pytest.approx(vitrail.evaluate(model, image_folder).nll, rel=1e-5)
    assert abs(json.loads(relu)["nll"] - json.loads(gelu)["nll"]) > 1e-3
    code, _, err = run("evaluate", bare, image_folder, *given, "--set", "model.activatoin=relu")
    assert code == 2
    assert "did you mean activation?" in err


def test_settings_are_read_as_the_types_they_are() -> None:
    assert changes(["model.norm_eps=1e-5", "heads=4", "layer_scale=null", "qkv_bias=false"]) == {
        "norm_eps": 1e-5,
        "heads": 4,
        "layer_scale": None,
        "qkv_bias": False,
    }
    with pytest.raises(UserError, match="write it as KEY=VALUE, such as model.activation=relu"):
        changes(["activation"])


def test_the_format_and_what_was_assumed_are_said_once(
    run: Run, bare: Path, image_folder: Path, tmp_path: Path
) -> None:
    convert(make(), "torchvision", tmp_path / "theirs.safetensors")
    save_file(load_file(tmp_path / "theirs.safetensors"), tmp_path / "theirs.safetensors")  # as another would write it
    given = ["--format", "jsonl", "--mean", "0.5", "--std", "0.5"]
    code, _, err = run("predict", tmp_path / "theirs.safetensors", image_folder, *given)
    lines = err.splitlines()
    assert code == 0
    assert [line for line in lines if "theirs.safetensors: torchvision format" in line] == lines[:1]
    assert len(lines) == len(set(lines)) > 1
    assert any("--set model.heads=" in line for line in lines)
    _, _, err = run("predict", tmp_path / "theirs.safetensors", image_folder, *given, "--set", "model.heads=1")
    assert "--set model.heads=" not in err  # the person has said it
    assert run("predict", bare, image_folder, *given)[2] == ""  # of our own folders there is nothing to say
