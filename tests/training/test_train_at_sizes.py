"""Runs at several sizes and of images at their own aspect ratio: reproducible and resumable like any other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vitrail
from stopping import stopping_at
from stripes import write_images
from vitrail.errors import UserError
from vitrail.model import ViT
from vitrail.recipes.files import from_dict, load
from vitrail.recipes.recipe import Recipe
from vitrail.training.interrupt import Stopped
from vitrail.training.loop import Loop

QUICK = {
    "steps": 8,
    "batch_size": 8,
    "image_size": (16, 16),
    "model": {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "mlp_width": 32, "pool": "avg"},
    "optimizer": {"lr": 5e-3},
    "augment": {"flip": 0.5, "rotate": 10},
    "mixup": {"mixup": 0.2, "cutmix": 1.0, "probability": 0.5},
    "regularization": {"dropout": 0.1, "drop_path": 0.1},
    "ema": {"decay": 0.9},
    "data": {"val_fraction": 0.25},
    "evaluate": {"every": 4},
}
CONV = {**QUICK["model"], "stem": "conv"}
CASES: dict[str, dict[str, Any]] = {
    "sizes": {"resolution": {"sizes": [8, 16, [24, 32]], "order": "random"}},
    "rising crops": {
        "resolution": {"scales": [0.5, 1, 2], "order": "rising"},
        "augment": {"crop": "random_resized", "policy": "trivial"},
        "optimizer": {"lr": 5e-3, "accumulate": 2},
    },
    "patch sizes": {"resolution": {"sizes": "8-24", "patch_sizes": [4, 8]}},
    "conv stem": {"resolution": {"sizes": [8, 16, 24]}, "model": CONV},
    "native": {"data": {"val_fraction": 0.25, "mode": "native"}, "optimizer": {"lr": 5e-3, "accumulate": 2}},
    "native crops at sizes": {
        "data": {"val_fraction": 0.25, "mode": "native"},
        "resolution": {"sizes": [16, 32], "patch_sizes": [4, 8]},
        "augment": {"crop": "random_resized", "policy": "three"},
    },
    "native conv stem": {"data": {"val_fraction": 0.25, "mode": "native"}, "model": CONV},
}


def quick(**changes: Any) -> Recipe:
    return from_dict({**QUICK, **changes})


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes in images of three shapes."""
    folder = tmp_path_factory.mktemp("data")
    for number, size in enumerate([(20, 24), (16, 40), (40, 18)]):
        part = write_images(folder / str(number), {"high": 4, "low": 4, "middle": 4}, size=size, seed=number)
        for file in part.rglob("*.png"):
            target = folder / "all" / file.parent.name / f"{number}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
    return folder / "all"


def metrics(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    assert metrics(one) == metrics(other)
    last = "step-00000008"
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(run / "checkpoints" / last / f"{name}.safetensors") for run in (one, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_stopped_and_resumed_run_is_the_same_to_the_bit(
    shapes: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    vitrail.train(quick(**changes), shapes, out=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(3, Loop._next))
        with pytest.raises(Stopped):
            vitrail.train(quick(**changes), shapes, out=tmp_path / "parts", quiet=True)
    vitrail.train(out=tmp_path / "parts", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("name", ["sizes", "native"])
def test_neither_loaders_nor_kept_images_change_a_run(shapes: Path, tmp_path: Path, name: str) -> None:
    data = CASES[name].get("data", QUICK["data"])
    for folder, more in {"a": {}, "b": {"workers": 2, "cache": False}}.items():
        vitrail.train(quick(**{**CASES[name], "data": {**data, **more}}), shapes, out=tmp_path / folder, quiet=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_the_steps_have_the_sizes_that_were_asked_for(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[int, ...], int]] = []
    forward = ViT.forward

    def watch(model: ViT, images: Any, *others: Any, patch_size: int | None = None, **more: Any) -> Any:
        if model.training:
            groups = [images] if isinstance(images, torch.Tensor) else images
            seen.extend((tuple(group.shape), patch_size or model.config.patch_size) for group in groups)
        return forward(model, images, *others, patch_size=patch_size, **more)

    monkeypatch.setattr(ViT, "forward", watch)
    resolution = {"sizes": [8, 16, 32], "order": "rising"}
    vitrail.train(quick(steps=6, resolution=resolution), image_folder, out=tmp_path / "run", quiet=True)
    # at the model's own size 8 images of 5 tokens: 40, into which 2 images of 17 fit
    assert seen == [((8, 3, s, s), 8) for s in (8, 8, 16, 16)] + [((2, 3, 32, 32), 8)] * 8
    assert [record["step"] for record in metrics(tmp_path / "run") if record["split"] == "train"] == list(range(1, 7))
    model = vitrail.load(tmp_path / "run")
    assert model.config.image_size == model.preprocess.image_size == (16, 16)


def test_a_resnet_trains_at_several_sizes_and_has_no_images_of_their_own_shape(shapes: Path, tmp_path: Path) -> None:
    resnet = {"model": {"variant": "R50x1", "layers": [1, 1], "root_width": 8, "stem": "small"}, "regularization": {}}
    recipe = quick(**resnet, steps=3, resolution={"sizes": [9, 24]})
    vitrail.train(recipe, shapes, out=tmp_path / "run", quiet=True)
    native = {"val_fraction": 0.25, "mode": "native"}
    with pytest.raises(UserError, match=r"mode 'native' .* a ResNet has none") as caught:
        vitrail.train(quick(**resnet, data=native), shapes, out=tmp_path / "other", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_model_of_images_at_their_own_aspect_ratio_is_evaluated_so_and_fine_tuned_either_way(
    shapes: Path, tmp_path: Path
) -> None:
    native = {"data": {"val_fraction": 0.25, "mode": "native"}}
    result = vitrail.train(quick(**native, steps=40), shapes, out=tmp_path / "first", quiet=True)
    model = vitrail.load(tmp_path / "first")
    assert (model.preprocess.mode, model.preprocess.patch_size) == ("native", 8)
    again = vitrail.evaluate(model, vitrail.open_data(shapes, val_fraction=0.25), split="val")
    assert again.top1 == result.evaluation.top1
    assert again.top1 > 0.6
    changes = {"init": str(tmp_path / "first"), "steps": 2, "batch_size": 8, "image_size": (24, 16)}
    for name, more in {
        "same": {},
        "square": {"data.mode": "crop"},
        "finer": {"model.patch_size": 4},
    }.items():
        vitrail.train("finetune", shapes, changes={**changes, **more}, out=tmp_path / name, quiet=True)
    contracts = {name: vitrail.load(tmp_path / name).preprocess for name in ("same", "square", "finer")}
    assert [(c.mode, c.patch_size) for c in contracts.values()] == [("native", 8), ("crop", None), ("native", 4)]
    assert vitrail.load(tmp_path / "finer").config.grid == (6, 4)


@pytest.mark.parametrize("key", ["data.cache", "compile"])
def test_images_of_their_own_shape_are_neither_kept_nor_compiled_for(shapes: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: images at their own aspect ratio "):
        changes = {"data.mode": "native", key: True}
        vitrail.train(quick(), shapes, changes=changes, out=tmp_path / "run", quiet=True)


def test_without_an_image_size_the_model_has_the_middle_of_the_sizes(shapes: Path, tmp_path: Path) -> None:
    recipe = quick(image_size=None, steps=1, resolution={"sizes": "8-40"})
    vitrail.train(recipe, shapes, out=tmp_path / "first", quiet=True)
    assert vitrail.load(tmp_path / "first").config.image_size == (24, 24)
    changes = {"init": str(tmp_path / "first"), "steps": 1, "batch_size": 8, "resolution.sizes": [16, 32, [32, 48]]}
    vitrail.train("finetune", shapes, changes=changes, out=tmp_path / "second", quiet=True)
    assert vitrail.load(tmp_path / "second").config.image_size == (32, 32)


def test_a_saved_recipe_says_the_sizes_as_they_were_written(shapes: Path, tmp_path: Path) -> None:
    recipe = quick(steps=1, resolution={"sizes": [8, [16, 24]], "patch_sizes": [4, 8]})
    vitrail.train(recipe, shapes, out=tmp_path / "run", quiet=True)
    assert load(tmp_path / "run" / "recipe.yaml").resolution == recipe.resolution
    with pytest.raises(UserError, match="where resolution.sizes is "):
        vitrail.train(changes={"resolution.sizes": "8-16"}, out=tmp_path / "run", resume=True, quiet=True)
