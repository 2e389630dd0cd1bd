"""``vitrail export``: what it says of what it wrote, and refusals in one line before any work."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.model import ViT, ViTConfig
from vitrail.runtimes import engine, export, quantize

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ViT:
    """Saved as ``model`` in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    vit = ViT(ViTConfig(image_size=(16, 24), patch_size=8, classes=3, width=32, depth=1, heads=2, mlp_width=32)).eval()
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vit.preprocess, vit.labels = vitrail.Preprocess((16, 24)), ("cat", "dog", "owl")
    vitrail.save(vit, "model")
    return vit


def test_it_says_what_was_written_and_how_near_it_is(run: Run, model: ViT) -> None:
    code, out, err = run(
        "export", "model", "--to", "openvino", "--out", "deployed", "--batch", "2", "--image-size", "32x16"
    )
    assert code == 0, err
    assert "written: deployed, openvino in float32" in out
    assert "checked: openvino on 32 scanned digits" in out
    assert "100.00 % of the first labels are the same" in out
    assert "times torch) at 8" in out
    opened = engine.open_engine("deployed")
    assert (opened.exported.batch, opened.preprocess.image_size) == (2, (32, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "onxn"], "--to onxn: did you mean onnx"),
        (["--to", "openvino", "--int8"], "--calibrate DATA"),
        (["--to", "openvino", "--calibrate", "digits"], "has nothing to do without --int8"),
        (["--to", "pt2", "--int8", "--calibrate", "digits"], "take --to openvino or --to onnx"),
        (["--to", "openvino", "--batch", "many"], "--batch many: give dynamic, or 1 or more images"),
        (["--to", "openvino", "--batch", "0"], "--batch 0"),
        (["--to", "openvino", "--max-loss", "-1"], "--max-loss -1"),
        (["--to", "openvino", "--mode", "native"], "add --mode pad, squash or crop"),
        (["--to", "openvino", "--image-size", "30"], "30"),
        (["--to", "openvino", "--check", "nowhere"], "nowhere: no such file or folder"),
        (["--to", "openvino", "--merge", "x"], "--merge"),
    ],
)
def test_what_cannot_be_is_one_line(options: list[str], message: str, run: Run, model: ViT) -> None:
    code, _, err = run("export", "model", *options, "--out", "deployed")
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not Path("deployed").exists()


def test_a_folder_of_something_else_is_left_alone(run: Run, model: ViT) -> None:
    code, _, err = run("export", "model", "--to", "pt2", "--out", "model")
    assert code == 2
    assert "is not an exported model: choose another place" in err
    assert Path("model/model.safetensors").is_file()


def test_without_the_package_it_says_what_to_install(run: Run, model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (export, quantize):
        monkeypatch.setattr(module, "installed", lambda package: package == "torch")
    for options, extra in ((["--to", "onnx"], "onnx"), (["--to", "openvino"], "openvino")):
        code, _, err = run("export", "model", *options, "--out", "deployed")
        assert code == 2
        assert f"pip install 'vitrail[{extra}]'" in err


def test_a_model_without_a_pixel_contract_asks_for_it(run: Run, model: ViT) -> None:
    model.preprocess = None
    vitrail.save(model, "bare")
    code, _, err = run("export", "bare", "--to", "pt2", "--out", "deployed")
    assert code == 2
    assert "--mean" in err
    code, _, err = run("export", "bare", "--to", "pt2", "--mean", "0.5", "--std", "0.5", "--out", "deployed")
    assert code == 0, err


def test_an_export_is_described_but_is_no_model_to_build_on(run: Run, model: ViT) -> None:
    code, _, err = run("export", "model", "--to", "openvino", "--batch", "2", "--out", "deployed")
    assert code == 0, err
    code, out, err = run("info", "deployed", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["labels"] == ["cat", "dog", "owl"]
    assert "exported to openvino in float32, 2 images at a time" in said["notes"][0]

    commands = (
        ("info", "deployed", "--weights"),
        ("convert", "deployed", "--to", "timm", "--out", "other"),
        ("resize", "deployed", "--image-size", "32", "--out", "other"),
        ("export", "deployed", "--to", "pt2", "--out", "other"),
        ("train", "digits", "--init", "deployed", "--out", "other"),
        ("info", "deployed/model.bin"),
    )
    for command in commands:
        code, _, err = run(*command)
        last = err.strip().splitlines()[-1]
        assert code == 2, command
        assert "is a model exported to openvino (float32)" in last, command
        assert "give that" in last
    with pytest.raises(vitrail.UserError, match="deployed is a model exported to openvino"):
        vitrail.load("deployed")


def test_it_says_where_it_checks_on_images_that_the_run_was_trained_on(
    run: Run, model: ViT, image_folder: Path
) -> None:
    model.labels = ("high", "low", "middle")
    vitrail.save(model, "run/model")
    Path("run/recipe.yaml").write_text(f"epochs: 1\ndata: {{source: '{image_folder}'}}\n", encoding="utf-8")
    for name, said in (("run", True), ("model", False)):
        code, out, err = run("export", name, "--to", "pt2", "--check", image_folder, "--out", "deployed")
        assert code == 0, err
        assert ("which the model was trained on" in out) == said
