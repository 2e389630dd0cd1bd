"""``vitrail resize``: a model folder at another size, what was done to it in words, and refusals before any work."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.data.preprocess import Preprocess
from vitrail.model import ViT, ViTConfig
from vitrail.model.resnet import ResNet
from vitrail.model.resnet_config import resnet_variant
from vitrail.training import memory
from vitrail.weights import replace

Run = Callable[..., tuple[int, str, str]]


def make(**choices: object) -> ViT:
    torch.manual_seed(0)
    sizes = {
        "image_size": (32, 32),
        "patch_size": 8,
        "classes": 3,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "mlp_width": 32,
    }
    vit = ViT(ViTConfig(**{**sizes, **choices})).eval()
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vit.preprocess, vit.labels = Preprocess((32, 32)), ("cat", "dog", "owl")
    return vit


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ViT:
    """Saved as ``model`` in the working folder."""
    monkeypatch.chdir(tmp_path)
    vit = make()
    vitrail.save(vit, "model")
    return vit


@pytest.mark.parametrize("size", [(48, 48), (16, 40)])
def test_the_folder_answers_as_the_model_does_at_that_size(run: Run, model: ViT, size: tuple[int, int]) -> None:
    code, out, err = run("resize", "model", "--image-size", f"{size[0]}x{size[1]}", "--out", "resized")
    assert code == 0
    written = vitrail.load("resized")
    assert written.config.image_size == written.preprocess.image_size == size
    assert written.labels == model.labels
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert torch.equal(written(images), model(images))
    assert f"32x32 -> {size[0]}x{size[1]} pixels" in out
    assert f"a grid of 4x4 -> {size[0] // 8}x{size[1] // 8}, interpolated (bicubic_antialias)" in out
    assert "vitrail evaluate resized DATA" in err


@pytest.mark.parametrize(("method", "words"), [("pseudo_inverse", "by pseudo-inverse"), ("interpolate", "by plain")])
def test_the_patch_size_changes_with_the_grid_or_without(run: Run, model: ViT, method: str, words: str) -> None:
    code, out, _ = run(
        "resize", "model", "--image-size", "64", "--patch-size", "16", "--patch-method", method, "--out", "big"
    )
    assert code == 0
    expected = vitrail.resize(model, 64, 16, patch_method=method)
    written = vitrail.load("big")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(written(images), expected(images))
    assert f"8 -> 16 pixels a side, kernel resized {words}" in out
    assert "a grid of 4x4\n" in out
    code, out, _ = run("resize", "model", "--patch-size", "4", "--out", "fine")
    assert code == 0
    assert vitrail.load("fine").config.grid == (8, 8)
    assert "an image:  17 -> 65 tokens" in out


def test_another_interpolation_is_used_once_and_not_kept(run: Run, model: ViT) -> None:
    assert run("resize", "model", "--image-size", "48", "--method", "area", "--out", "area")[0] == 0
    written = vitrail.load("area")
    expected = vitrail.resize(model, 48, method="area")
    assert torch.equal(written.pos_embed, expected.pos_embed)
    assert not torch.equal(written.pos_embed, vitrail.resize(model, 48).pos_embed)
    assert written.config.position_interpolation == model.config.position_interpolation


def test_the_own_size_changes_nothing_and_asks_for_nothing(run: Run, model: ViT) -> None:
    code, out, err = run("resize", "model", "--image-size", "32", "--out", "same")
    assert (code, err) == (0, "")
    assert "->" not in out
    written = vitrail.load("same").state_dict()
    assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())


def test_pixels_can_be_given_on_the_way(run: Run, model: ViT) -> None:
    assert run("resize", "model", "--image-size", "48", "--mode", "squash", "--mean", "0.5", "--out", "o")[0] == 0
    contract = vitrail.load("o").preprocess
    assert (contract.mode, contract.mean, contract.image_size) == ("squash", (0.5, 0.5, 0.5), (48, 48))


def test_positions_that_are_computed_are_said_to_be(run: Run, model: ViT) -> None:
    vitrail.save(make(position="sincos2d"), "model")
    code, out, _ = run("resize", "model", "--image-size", "48", "--out", "o")
    assert code == 0
    assert "a grid of 4x4 -> 6x6, computed" in out


def test_a_model_folder_may_be_replaced_but_not_the_model_itself(run: Run, model: ViT) -> None:
    for size in ("48", "64"):
        assert run("resize", "model", "--image-size", size, "--out", "again")[0] == 0
    assert vitrail.load("again").config.image_size == (64, 64)
    code, _, err = run("resize", "model", "--image-size", "48", "--out", "./model")
    assert code == 2
    assert "is the model itself" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do: give --image-size, --patch-size or both"),
        (["--method", "bicubic"], "nothing to do: give --image-size, --patch-size or both"),
        (["--image-size", "36"], "the nearest sizes are 32x32 and 40x40"),
        (["--image-size", "1x2x3"], "write 224, or 384x256"),
        (["--image-size", ""], "write 224, or 384x256"),
        (["--patch-size", "5"], "not divisible by patch size 5"),
        (["--patch-size", "0"], "--patch-size 0: give the side of a patch in pixels"),
        (["--image-size", "48", "--method", "bicubik"], "did you mean bicubic"),
        (["--patch-size", "4", "--patch-method", "inverse"], "did you mean pseudo_inverse?"),
        (["--image-size", "48", "--patch-method", "interpolate"], "give --patch-size too"),
        (["--image-size", "48", "--out", "taken"], "exists and is not a model folder"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(
    run: Run, model: ViT, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    monkeypatch.setattr(import_module("vitrail.weights.load"), "load_found", None)  # no weights are read
    code, out, err = run("resize", "model", *([] if "--out" in arguments else ["--out", "new"]), *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "taken"]


def test_what_a_model_does_not_have_is_not_resized(run: Run, model: ViT) -> None:
    vitrail.save(make(position="rotary2d"), "rotary")
    code, _, err = run("resize", "rotary", "--image-size", "48", "--method", "area", "--out", "o")
    assert code == 2
    assert "positions of this model are not interpolated" in err
    config = resnet_variant("R50x1", image_size=(32, 32), layers=(1, 1), root_width=8, stem="small", classes=2)
    vitrail.save(ResNet(config).eval(), "resnet")
    for option in (["--patch-size", "4"], ["--image-size", "48", "--method", "area"]):
        code, _, err = run("resize", "resnet", *option, "--out", "o")
        assert code == 2
        assert "is a ResNet, without patches or positions" in err
    code, out, err = run("resize", "resnet", "--image-size", "48", "--out", "o")
    assert code == 0
    assert "tokens" not in out
    assert "no pixel contract is written" in err


def test_a_size_too_large_for_memory_is_refused(run: Run, model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2_000_000)
    code, _, err = run("resize", "model", "--image-size", "16384", "--out", "o")
    assert code == 2
    assert "for the model alone, and 2 MB are free: the largest size of this shape that fits is " in err
    fits = err.split()[-1]
    assert run("resize", "model", "--image-size", fits, "--out", "o")[0] == 0


def test_a_crash_while_writing_leaves_nothing(run: Run, model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(replace, "_swap", crash)
    assert run("resize", "model", "--image-size", "48", "--out", "o")[0] == 1
    assert [path.name for path in Path().iterdir()] == ["model"]
