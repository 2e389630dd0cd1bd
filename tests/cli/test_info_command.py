"""``vitrail info``: what a model is and costs, at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vitrail
from vitrail.cli import app
from vitrail.cli.sizes import image_size
from vitrail.errors import UserError
from vitrail.model import ViT, variant


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
    vitrail.save(model, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    text = _info(str(tmp_path / "m"))
    assert "[cat], dog" in text
    code = "import sys; sys.argv = ['vitrail', 'info', sys.argv[1]]\n"
    code += "from vitrail.cli import main\ntry: main()\nfinally: assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
