"""``vitrail info``: what a model is and costs, at once."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import vitrail
from vitrail.cli import app
from vitrail.cli.console import console
from vitrail.cli.sizes import image_size
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ViT, variant
from vitrail.weights import convert


def _info(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["info", *arguments], env={"COLUMNS": "120"})
    if result.exception is not None:
        raise result.exception
    return result.output


def test_json_has_the_documented_keys() -> None:
    found = json.loads(_info("B/16", "--json"))
    assert found["parameters"] == 86_567_656
    assert (found["tokens"], found["grid"]) == (197, [14, 14])
    assert found["flops"] == pytest.approx(35.1e9, rel=1e-2)
    assert 0.03 < found["attention_share"] < 0.05
    assert found["memory"]["weights"] == 4 * found["parameters"]


def test_the_tables_name_every_part() -> None:
    text = _info("Ti/16", "--image-size", "384x256", "--batch-size", "8")
    for part in (
        "ViT-Ti/16",
        "384x256 pixels",
        "24x16 patches",
        "385 (384 patches + 1 class token)",
        "attention scores",
    ):
        assert part in text
    assert "training, 8 images" in text


def test_pixels_as_tokens_are_shown_to_be_too_many() -> None:
    text = " ".join(_info("B/16", "--patch-size", "1").split())
    for part in ("50,176 tokens long instead of 196", "91.6% of it", "121 GB", "2,885 times", "not pixels"):
        assert part in text


def test_few_pixels_are_not_called_too_many() -> None:
    text = _info("Ti/16", "--image-size", "16", "--patch-size", "1")
    assert "256 tokens long instead of 1" in text
    assert "too many" not in text


def test_a_model_folder_is_described_without_torch_and_without_its_weights(tmp_path: Path) -> None:
    model = ViT(variant("Ti/16", image_size=(32, 32), classes=2, depth=1))
    model.labels = ("[cat]", "dog")
    model.preprocess = Preprocess((32, 32), crop_fraction=1, interpolation="bilinear", mean=(0.25,) * 3, std=(0.5,) * 3)
    vitrail.save(model, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    text = _info(str(tmp_path / "m"))
    assert "[cat], dog" in text
    assert "32x32, centre crop, bilinear, mean 0.25, std 0.5" in text
    _assert_imports_nothing_heavy(tmp_path / "m")


def _assert_imports_nothing_heavy(model: Path) -> None:
    code = "import sys; sys.argv = ['vitrail', 'info', sys.argv[1]]\n"
    code += "from vitrail.cli import main\ntry: main()\nfinally: assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code, str(model)], check=True, capture_output=True)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A small model in transformers' layout, with a pooler that a classifier does not need."""
    torch.manual_seed(0)
    model = ViT(variant("Ti/16", image_size=(32, 32), classes=2, depth=1))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.preprocess, model.labels = Preprocess((32, 32), mean=(0.1, 0.2, 0.3)), ("cat", "dog")
    convert(model, "transformers", tmp_path / "theirs")
    return tmp_path / "theirs"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_format_and_what_was_assumed_are_shown(theirs: Path) -> None:
    text = " ".join(_info(str(theirs)).split())
    assert f"{theirs}: transformers vit format" in text
    assert "32x32, centre crop of 0.8889 of the sides, bicubic, mean 0.1, 0.2, 0.3, std 0.229" in text
    _assert_imports_nothing_heavy(theirs)
    values = json.loads(_info(str(theirs), "--json"))
    assert values["format"] == "transformers vit"
    assert values["notes"][0] == f"{theirs}: transformers vit format"
    assert json.loads(_info("B/16", "--json"))["format"] is None


def test_the_loading_report_says_where_every_tensor_goes(theirs: Path) -> None:
    values = json.loads(_info(str(theirs), "--weights", "--json"))
    assert values["weights"]["fits"]
    placed = {entry["ours"]: entry for entry in values["weights"]["placed"]}
    qkv = placed["blocks.0.attn.qkv.weight"]
    assert [name.split(".")[-2] for name in qkv["theirs"]] == ["query", "key", "value"]
    assert (qkv["shapes"], qkv["shape"]) == ([[192, 192]] * 3, [576, 192])
    assert placed.keys() == ViT(variant("Ti/16", image_size=(32, 32), classes=2, depth=1)).state_dict().keys()
    assert values["preprocess"]["mean"] == [0.1, 0.2, 0.3]
    assert values["labels"] == ["cat", "dog"]
    text = " ".join(_info(str(theirs), "--weights").split())
    assert "pixels: 32x32, centre crop of 0.8889 of the sides, bicubic, mean 0.1, 0.2, 0.3, std 0.229" in text
    for part in ("blocks.0.attn.qkv.weight", "192x192 + 192x192 + 192x192", "classifier.weight", "head.weight"):
        assert part in text


def test_weights_that_do_not_fit_are_listed_with_the_nearest_names(theirs: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.weigth"] = tensors.pop("classifier.weight")
        tensors["classifier.bias"] = torch.ones(5)
        tensors["vit.pooler.dense.bias"] = torch.ones(192)

    rewrite(theirs, spoil)
    result = CliRunner().invoke(app, ["info", str(theirs), "--weights", "--json"])
    weights = json.loads(result.output)["weights"]
    assert not weights["fits"]
    assert [(m["ours"], m["nearest"]) for m in weights["missing"]] == [("head.weight", "classifier.weigth")]
    assert [entry["theirs"] for entry in weights["left_over"]] == ["classifier.weigth"]
    assert weights["reshaped"] == [{"ours": "head.bias", "found": [5], "wanted": [2]}]
    assert [entry["theirs"] for entry in weights["not_needed"]] == ["vit.pooler.dense.bias"]
    assert "1 missing (classifier.weight, nearest is classifier.weigth)" in str(result.exception)
    console.cache_clear()  # it keeps its width
    text = " ".join(CliRunner().invoke(app, ["info", str(theirs), "--weights"], env={"COLUMNS": "300"}).output.split())
    for part in (
        "head.weight: missing; nearest is classifier.weigth",
        "left over: the model has no place for it",
        "head.bias: 5 instead of 2",
        "not needed: ",
    ):
        assert part in text


def test_the_loading_report_that_does_not_fit_has_exit_code_2(theirs: Path) -> None:
    rewrite(theirs, lambda tensors: tensors.pop("classifier.bias"))
    command = [sys.executable, "-m", "vitrail", "info", str(theirs), "--weights"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "classifier.weight" in done.stdout
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_residual_network_is_described_by_what_it_has() -> None:
    text = _info("R50x1")
    for part in ("R50x1", "7x7 positions of the last feature map, 32 pixels apart", "25,549,352", "stage 4"):
        assert part in text
    assert "attention" not in text
    assert json.loads(_info("R50x1", "--json"))["tokens"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["B/16", "--weights"], "B/16 is a variant, which has no weights"),
        (["B/16", "--set", "model.dept=3"], "did you mean depth?"),
        (["T/16"], "did you mean Ti/16"),
        (["B16"], "did you mean B/16"),
        (["no-such-run"], "no model at no-such-run"),
        (["B/16", "--image-size", "225"], "the nearest sizes are 224x224 and 240x240"),
        (["B/16", "--image-size", "big"], "write 224, or 384x256"),
    ],
)
def test_what_cannot_be_described_is_said(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _info(*arguments)


def test_image_sizes_are_height_then_width() -> None:
    assert image_size("224") == (224, 224)
    assert image_size("384x256") == (384, 256)
    for text in ("0", "12x", "-3", "3x0", "a"):
        with pytest.raises(UserError):
            image_size(text)
