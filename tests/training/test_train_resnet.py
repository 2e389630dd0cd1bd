"""A ResNet is trained from scratch, resumed, used and started from, like a Vision Transformer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vitrail
from vitrail.errors import UserError
from vitrail.model import ResNetConfig
from vitrail.recipes.files import from_dict
from vitrail.recipes.recipe import Recipe

Run = Callable[..., tuple[int, str, str]]

QUICK = {
    "steps": 6,
    "batch_size": 8,
    "image_size": (16, 16),
    "model": {"variant": "R50x1", "layers": [1, 1], "root_width": 8, "stem": "small"},
    "optimizer": {"lr": 5e-3},
    "augment": {"flip": 0.5, "rotate": 10},
    "mixup": {"mixup": 0.2},
    "regularization": {"drop_path": 0.2, "label_smoothing": 0.1},
    "ema": {"decay": 0.9},
    "data": {"val_fraction": 0.25},
    "evaluate": {"every": 2},
}


def quick(**changes: Any) -> Recipe:
    return from_dict({**QUICK, **changes})


def metrics(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]


def test_a_resnet_learns_digits_from_scratch(tmp_path: Path) -> None:
    changes = {"model.variant": "R50x1", "model.layers": [1, 1, 1], "model.root_width": 8, "steps": 120, "ema.decay": 0}
    result = vitrail.train("digits", changes=changes, out=tmp_path / "run", quiet=True)
    assert result.evaluation is not None
    assert result.evaluation.top1 > 0.8
    model = vitrail.load(result.folder)
    small = {"layers": (1, 1, 1), "root_width": 8, "stem": "small"}
    assert model.config == ResNetConfig(image_size=(8, 8), channels=1, classes=10, **small)
    page = result.report.read_text()
    assert "a ResNet of" in page
    assert "Vision Transformer of" not in page


def test_a_stopped_and_resumed_resnet_is_the_same_to_the_bit(image_folder: Path, tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        vitrail.train(quick(checkpoint={"keep": 3}), image_folder, out=tmp_path / name, quiet=True)
    checkpoints = tmp_path / "parts" / "checkpoints"
    for step in (4, 6):  # as if the process had died before the checkpoint of step 4
        shutil.rmtree(checkpoints / f"step-{step:08d}")
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000002"]
    vitrail.train(out=tmp_path / "parts", resume=True, quiet=True)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (
            load_file(tmp_path / run / "checkpoints" / "step-00000006" / f"{name}.safetensors")
            for run in ("parts", "whole")
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_every_command_takes_a_trained_resnet(image_folder: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "run"
    small = ("--set", "model.layers=[1,1]", "--set", "model.root_width=8", "--image-size", "16", "--steps", "3")
    code, _, err = run("train", image_folder, "--model", "R50x1", *small, "--out", folder)
    assert code == 0, err
    assert "stem small: a 3x3 convolution and no pooling, as the images are below 64 pixels" in err
    code, out, err = run("evaluate", folder, image_folder, "--split", "val")
    assert code == 0, err
    code, out, err = run("predict", folder, image_folder, "--format", "jsonl")
    assert code == 0, err
    assert {json.loads(line)["label"] for line in out.splitlines()} <= {"high", "low", "middle"}
    code, out, err = run("embed", folder, image_folder, "--out", tmp_path / "features.npz")
    assert code == 0, err
    code, out, err = run("probe", image_folder, "--init", folder, "--shots", "2")
    assert code == 0, err
    code, out, err = run("info", folder)
    assert "BiT ResNet-v2 of [1, 1] units, width factor 1, root width 8, stem for small images" in " ".join(out.split())
    tuned = tmp_path / "tuned"
    code, out, err = run("train", image_folder, "--init", folder, "--epochs", "1", "--out", tuned)
    assert code == 0, err
    assert "parameters of the backbone" in err
    assert vitrail.load(tuned).config.root_width == 8
    assert "- resnet\n" in (tuned / "model" / "README.md").read_text()
    code, _, err = run("train", image_folder, "--init", folder, "--model", "R50x1", "--out", tmp_path / "other")
    assert code == 2
    assert "is not a R50x1: it has layers (1, 1) instead of (3, 4, 6, 3), root_width 8 instead of 64" in err
    code, _, err = run("train", image_folder, "--init", folder, "--model", "S/16", "--out", tmp_path / "other")
    assert code == 2
    assert "is not a S/16: it is a ResNet; leave --model out" in err
    code, _, err = run("train", image_folder, "--init", folder, "--set", "model.pool=map", "--out", tmp_path / "other")
    assert code == 2
    assert "is a ResNet, which has no such choice" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regularization.dropout": 0.1}, "regularization.dropout: R50x1 is a ResNet, which has no place for it"),
        ({"regularization.attention_dropout": 0.1}, "regularization.attention_dropout: R50x1 is a ResNet"),
        ({"model.position": "none"}, "model.position: R50x1 is a ResNet, which has no such choice"),
        ({"model.variant": "R51x1"}, "unknown variant 'R51x1': did you mean R50x1"),
        ({"model.root_width": 7}, "model.root_width is 7: it must be an even number"),
        ({"model.stem": "large", "image_size": (4, 4)}, "set model.stem to small"),
    ],
    ids=str,
)
def test_a_resnet_that_cannot_be_trained_is_one_line_and_nothing_is_written(
    image_folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        vitrail.train(quick(), image_folder, changes=changes, out=tmp_path / "run", quiet=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_every_optimiser_trains_a_resnet(image_folder: Path, tmp_path: Path, name: str) -> None:
    recipe = quick(steps=2, optimizer={"name": name, "layer_decay": 0.8}, precision="bf16")
    result = vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)
    assert all(torch.isfinite(p).all() for p in vitrail.load(result.folder).parameters())


def test_a_hybrid_of_small_images_is_trained_and_comes_back(image_folder: Path, tmp_path: Path) -> None:
    of_small = {"stem": "hybrid", "stem_layers": [1], "stem_root": "small", "stem_width": 8, "patch_size": 4}
    model = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16, **of_small}
    result = vitrail.train(quick(steps=2, model=model), image_folder, out=tmp_path / "run", quiet=True)
    config = vitrail.load(result.folder).config
    assert (config.backbone.root, config.backbone.root_width, config.grid) == ("small", 8, (4, 4))
    vitrail.train(out=tmp_path / "run", resume=True, quiet=True)
