"""``vitrail convert``: written for another library, read again, compared; and refused in one line where it cannot be."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vitrail
from vitrail.cli import convert as command
from vitrail.data.preprocess import Preprocess
from vitrail.errors import Failure
from vitrail.model import ResNetConfig, ViT, ViTConfig
from vitrail.model.resnet import ResNet
from vitrail.weights import convert
from vitrail.weights.formats import origins

Run = Callable[..., tuple[int, str, str]]

SIZES = {"image_size": (32, 32), "patch_size": 16, "classes": 3, "width": 64, "depth": 2, "mlp_width": 128}
# What each origin has an equal of.
CHOICES = {
    "vit-pytorch": {"patch_norm": True, "qkv_bias": False, "norm_eps": 1e-5, "heads": 2, "head_width": 64},
    "google": {"activation": "gelu_tanh"},
}


def make(**choices: object) -> ViT:
    torch.manual_seed(0)
    model = ViT(ViTConfig(**{**SIZES, "heads": 1, **choices})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.preprocess = Preprocess((32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    model.labels = ("cat", "dog", "owl")
    return model


def target(origin: str, folder: Path) -> Path:
    if origin in ("timm", "transformers", "vitrail"):
        return folder / "theirs"
    return folder / ("theirs.npz" if origin == "google" else "theirs.safetensors")


@pytest.mark.parametrize("origin", [*origins(), "vitrail"])
def test_every_origin_is_written_and_read_again(run: Run, tmp_path: Path, origin: str) -> None:
    model = make(**CHOICES.get(origin, {}))
    vitrail.save(model, tmp_path / "ours")
    out = target(origin, tmp_path)
    code, said, err = run("convert", tmp_path / "ours", "--to", origin, "--out", out)
    assert code == 0, err
    lines = said.splitlines()
    assert [line.split(":")[0] for line in lines] == ["read", "written", "opens", "checked"]
    assert lines[0] == f"read:    {tmp_path / 'ours'}: vitrail format"
    assert lines[1].startswith(f"written: {out}, {origin}")
    assert str(out) in lines[2]
    assert float(lines[3].split()[-1]) < 1e-5
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert (vitrail.load(out)(images) - model(images)).abs().max() < 1e-5


def test_the_line_that_opens_it_over_there_is_true(run: Run, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = make()
    vitrail.save(model, tmp_path / "ours")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        _, said, _ = run("convert", tmp_path / "ours", "--to", "timm", "--out", tmp_path / "theirs")
        call = said.splitlines()[2].removeprefix("opens:   ")
        assert (eval(call, {"timm": timm}).eval()(images) - model(images)).abs().max() < 2e-5
        from torchvision.models import VisionTransformer

        out = tmp_path / "t.safetensors"
        _, said, _ = run("convert", tmp_path / "ours", "--to", "torchvision", "--out", out)
        call = said.splitlines()[2].removeprefix("opens:   torchvision.models.").split(".load_state_dict")[0]
        theirs = eval(call, {"VisionTransformer": VisionTransformer}).eval()
        theirs.load_state_dict(load_file(out))
        assert (theirs(images) - model(images)).abs().max() < 2e-5


def test_a_head_that_reads_more_over_there_gives_the_same_logits(run: Run, tmp_path: Path) -> None:
    """transformers' classifier for LayerScale reads the class token and the mean of the patches: half of it is zero."""
    vitrail.save(make(layer_scale=0.1), tmp_path / "ours")
    code, out, err = run("convert", tmp_path / "ours", "--to", "transformers", "--out", tmp_path / "theirs")
    assert code == 0, err
    assert "Dinov2ForImageClassification" in out
    assert vitrail.load(tmp_path / "theirs").config.pool == "token_avg"


def test_what_another_library_is_not_told_is_said(run: Run, tmp_path: Path) -> None:
    plain = make()
    vitrail.save(plain, tmp_path / "plain")
    out = tmp_path / "theirs.safetensors"
    _, _, err = run("convert", tmp_path / "plain", "--to", "torchvision", "--out", out)
    assert err.strip() == (
        "vitrail alone reads from the file: position_interpolation bicubic_antialias, the pixel contract, the class names; "
        "tell whoever opens it elsewhere"
    )
    again = vitrail.load(out)
    assert (again.labels, again.preprocess) == (plain.labels, plain.preprocess)
    plain.preprocess = None
    vitrail.save(plain, tmp_path / "plain")
    _, _, err = run("convert", tmp_path / "plain", "--to", "vitrail", "--out", tmp_path / "again")
    assert err.strip() == "no pixel contract is written, as none is known: --mean and --std give one"


def test_what_a_format_keeps_otherwise_is_said(tmp_path: Path) -> None:
    source, again = make(), make()
    again.preprocess = dataclasses.replace(source.preprocess, mean=(0.0,) * 3)
    again.labels = ()
    pixels, names = command._not_kept(source, command.ReadAgain(again, 0.0))
    assert "mean is (0.0, 0.0, 0.0) instead of (0.4, 0.5, 0.6)" in pixels
    assert "class names are not kept" in names
    again.preprocess = dataclasses.replace(source.preprocess, crop_rounding="down")
    assert "one pixel beside ours" in command._not_kept(source, command.ReadAgain(again, 0.0))[0]
    again.preprocess = None
    assert "not kept (32x32, centre crop" in command._not_kept(source, command.ReadAgain(again, 0.0))[0]


def test_options_say_what_the_source_does_not(run: Run, tmp_path: Path) -> None:
    model = make()
    model.preprocess = None
    vitrail.save(model, tmp_path / "ours")
    given = ["--mean", "0.5", "--std", "0.25", "--set", "model.activation=relu"]
    code, _, err = run("convert", tmp_path / "ours", "--to", "vitrail", "--out", tmp_path / "theirs", *given)
    assert (code, err) == (0, "")
    found = vitrail.load(tmp_path / "theirs")
    assert found.config.activation == "relu"
    assert (found.preprocess.mean, found.preprocess.std) == ((0.5,) * 3, (0.25,) * 3)


def test_a_file_of_other_heads_says_so_and_opens_here(run: Run, tmp_path: Path) -> None:
    """vit-pytorch's file does not tell that there are four heads of 32 and not two of 64."""
    vitrail.save(make(**CHOICES["vit-pytorch"] | {"heads": 4, "head_width": 32}), tmp_path / "ours")
    out = tmp_path / "theirs.safetensors"
    code, said, err = run("convert", tmp_path / "ours", "--to", "vit-pytorch", "--out", out)
    assert code == 0
    assert "heads=4" in said
    assert "dim_head=32" in said
    assert "vitrail alone reads from the file: heads 4, head_width 32, the pixel contract" in err
    assert vitrail.load(out).config.heads == 4


def test_what_is_otherwise_over_there_is_said_with_its_effect(run: Run, tmp_path: Path) -> None:
    vitrail.save(make(), tmp_path / "ours")  # the exact gelu, which Google's code approximates
    code, _, err = run("convert", tmp_path / "ours", "--to", "google", "--out", tmp_path / "theirs.npz")
    assert code == 0
    assert "over there it is another activation: answers differ from ours by " in err


@pytest.mark.parametrize("origin", ["vitrail", "timm", "google"])
def test_answers_that_differ_are_a_failure_and_nothing_is_removed(tmp_path: Path, origin: str) -> None:
    model, out = make(activation="gelu_tanh" if origin == "google" else "gelu"), target(origin, tmp_path)
    if origin == "vitrail":
        vitrail.save(model, out)
    else:
        convert(model, origin, out)
    with torch.no_grad():
        model.norm.bias[0] += 0.01
    with pytest.raises(Failure, match="answers otherwise than its source: .* do not use it"):
        command.check(model, out)
    assert out.exists()


def test_a_residual_network_is_converted_too(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResNet(ResNetConfig(image_size=(32, 32), classes=3, layers=(1, 1), stem="large")).eval()
    vitrail.save(network, tmp_path / "ours")
    code, said, _ = run("convert", tmp_path / "ours", "--to", "vitrail", "--out", tmp_path / "again")
    assert code == 0
    assert "the largest difference is 0" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "tim"], "did you mean timm?"),
        (["--to", "vitrial"], "did you mean vitrail?"),
        (["--to", "google", "--out", "{tmp}/x"], "must end in .npz"),
        (["--to", "timm", "--out", "{tmp}/full"], "exists and is not a model folder"),
        (["--to", "vitrail", "--out", "{tmp}/full"], "exists and is not a model folder"),
        (["--to", "torchvision", "--set", "model.activation=relu"], "torchvision has no equal of this model"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    vitrail.save(make(), tmp_path / "ours")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    out = [] if "--out" in arguments else ["--out", tmp_path / "new"]
    code, said, err = run("convert", tmp_path / "ours", *(a.format(tmp=tmp_path) for a in arguments), *out)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert said == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "ours"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_model_that_is_there_already_is_replaced(run: Run, tmp_path: Path) -> None:
    vitrail.save(make(), tmp_path / "ours")
    for origin in ("timm", "transformers"):
        assert run("convert", tmp_path / "ours", "--to", origin, "--out", tmp_path / "theirs")[0] == 0
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
