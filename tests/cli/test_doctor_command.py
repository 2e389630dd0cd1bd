"""``vitrail doctor``: what a person and a machine get, and exit codes that scripts can trust."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.data.preprocess import Preprocess
from vitrail.model import ViT, ViTConfig

Run = Callable[..., tuple[int, str, str]]


def save(folder: Path, preprocess: Preprocess | None) -> Path:
    torch.manual_seed(0)
    model = ViT(ViTConfig(image_size=(16, 16), patch_size=8, classes=3, width=32, depth=1, heads=2, mlp_width=32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.preprocess, model.labels = preprocess, ("high", "low", "middle")
    vitrail.save(model, folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "model", Preprocess((16, 16)))


def test_a_sound_model_has_exit_code_0_and_no_notes(run: Run, model: Path) -> None:
    code, out, err = run("doctor", model)
    assert (code, err) == (0, "")
    for word in ("weights", "finite", "16x16, centre crop of 0.875 of the sides, bicubic, mean 0.485, 0.456, 0.406"):
        assert word in out


def test_json_has_the_findings_and_their_number(run: Run, model: Path, image_folder: Path) -> None:
    code, out, _ = run("doctor", model, image_folder, "--look-at", "10", "--json")
    values = json.loads(out)
    problems = [finding for finding in values["findings"] if finding["level"] == "problem"]
    assert values.keys() == {"model", "data", "problems", "findings"}
    assert all(finding.keys() == {"level", "about", "what", "advice"} for finding in values["findings"])
    assert (values["problems"], code) == (len(problems), int(bool(problems)))
    assert [f["what"] for f in values["findings"] if f["about"] == "images"] == ["10 looked at, all can be read"]
    assert "trial" in {finding["about"] for finding in values["findings"]}
    _, out, _ = run("doctor", model, image_folder, "--try-on", "0", "--json")
    assert "trial" not in {finding["about"] for finding in json.loads(out)["findings"]}


def test_a_problem_has_exit_code_1_and_options_can_mend_it(run: Run, tmp_path: Path) -> None:
    bare = save(tmp_path / "bare", None)
    code, out, _ = run("doctor", bare)
    assert code == 1
    assert "give --mean and --std" in out
    code, out, _ = run("doctor", bare, "--mean", "0.5", "--std", "0.25,0.25,0.5")
    assert code == 0
    assert "mean 0.5, std 0.25, 0.25, 0.5" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}x"], "no model at"),
        (["{model}", "nowhere/at/all"], "no such folder or file"),
        (["{model}", "--mean", "x"], "--mean x: write one number"),
        (["{model}", "--mode", "crp"], "did you mean crop?"),
        (["{model}", "--set", "model.dept=3"], "did you mean depth?"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run: Run, model: Path, arguments: list[str], message: str) -> None:
    code, out, err = run("doctor", *(argument.format(model=model) for argument in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_an_export_is_sound_until_a_file_of_it_is_damaged(run: Run, model: Path, image_folder: Path) -> None:
    code, _, err = run("export", model, "--to", "pt2", "--out", model.parent / "deployed")
    assert code == 0, err
    code, out, _ = run("doctor", model.parent / "deployed", image_folder, "--look-at", "10", "--json")
    found = {finding["about"]: finding for finding in json.loads(out)["findings"]}
    assert found["weights"]["level"] == "ok"
    assert "model.pt2 are what was written" in found["weights"]["what"]
    assert {"pixels", "classes", "images"} <= found.keys()  # and it goes on
    assert code == 0, out
    file = model.parent / "deployed" / "model.pt2"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    code, out, _ = run("doctor", model.parent / "deployed")
    assert code == 1
    assert "damaged or was changed" in " ".join(out.split())
