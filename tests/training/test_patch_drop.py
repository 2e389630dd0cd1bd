"""Runs that drop patches or skip dropped branches: the same every time, whole in evaluation, refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vitrail
from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig
from vitrail.model.block import Mlp
from vitrail.model.cost import flops
from vitrail.recipes.files import from_dict
from vitrail.recipes.recipe import Recipe
from vitrail.training.resolution import mean_flops

QUICK = {
    "steps": 8,
    "batch_size": 8,
    "image_size": (16, 16),
    "model": {"patch_size": 4, "width": 16, "depth": 2, "heads": 2, "mlp_width": 32},
    "optimizer": {"lr": 5e-3},
    "data": {"val_fraction": 0.25},
    "evaluate": {"every": 4},
}


def quick(regularization: dict[str, Any], **changes: Any) -> Recipe:
    return from_dict({**QUICK, **changes, "regularization": regularization})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "step-00000008" / "model.safetensors")


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Of every call of the model: whether it was in training, and the tokens behind the last block."""
    seen: list[tuple[bool, int]] = []
    usual = ViT.pool

    def pool(self: ViT, z: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        seen.append((self.training, z.shape[1]))
        return usual(self, z, sizes)

    monkeypatch.setattr(ViT, "pool", pool)
    return seen


@pytest.mark.usefixtures("whole_last_block")
def test_steps_see_a_part_and_evaluations_the_whole(
    image_folder: Path, tmp_path: Path, lengths: list[tuple[bool, int]]
) -> None:
    vitrail.train(quick({"patch_drop": 0.5, "patch_drop_until": 0.75}), image_folder, out=tmp_path / "run")
    assert [tokens for training, tokens in lengths if training] == [1 + 8] * 6 + [1 + 16] * 2
    assert {tokens for training, tokens in lengths if not training} == {1 + 16}


def test_a_run_is_the_same_every_time_and_another_with_another_seed(image_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        vitrail.train(quick({"patch_drop": 0.5}, seed=seed), image_folder, out=tmp_path / name)
    one, two, other = (weights(tmp_path / name) for name in ("one", "two", "other"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.usefixtures("whole_last_block")
def test_a_batch_cut_up_drops_its_own_in_each_part(
    image_folder: Path, tmp_path: Path, lengths: list[tuple[bool, int]]
) -> None:
    recipe = quick({"patch_drop": 0.25}, optimizer={"lr": 5e-3, "accumulate": 2})
    vitrail.train(recipe, image_folder, out=tmp_path / "run")
    assert [tokens for training, tokens in lengths if training] == [1 + 12] * 16
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row.get("loss", 1.0) > 0 for row in rows)


def test_images_at_their_own_aspect_ratio_drop_patches_too(
    image_folder: Path, tmp_path: Path, lengths: list[tuple[bool, int]]
) -> None:
    recipe = quick({"patch_drop": 0.5}, data={"val_fraction": 0.25, "mode": "native"}, steps=2)
    vitrail.train(recipe, image_folder, out=tmp_path / "run")
    assert max(tokens for training, tokens in lengths if training) <= 1 + 8


def test_the_forecast_counts_the_work_that_is_done() -> None:
    config = ViTConfig(image_size=(32, 32), patch_size=4, width=32, depth=2, heads=2, mlp_width=64)
    whole, half = (sum(flops(config, dropped=dropped).values()) for dropped in (0.0, 0.5))
    assert mean_flops(quick({}), config) == whole
    assert mean_flops(quick({"patch_drop": 0.5}), config) == half
    assert mean_flops(quick({"patch_drop": 0.5, "patch_drop_until": 0.75}), config) == 0.75 * half + 0.25 * whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {**QUICK["model"], "position": "relative"}}, "patch_drop: relative positions belong to pairs"),
        ({"model": {"variant": "R50x1"}}, r"patch_drop: R50x1 is a ResNet"),
    ],
)
def test_models_that_cannot_drop_patches_are_refused_before_any_work(
    image_folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        vitrail.train(quick({"patch_drop": 0.5}, **changes), image_folder, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_model_that_cannot_drop_patches_is_refused(image_folder: Path, tmp_path: Path) -> None:
    model = {**QUICK["model"], "position": "relative_bias"}
    vitrail.train(quick({}, model=model, steps=1), image_folder, out=tmp_path / "start")
    recipe = quick({"patch_drop": 0.5}, model={}, init=str(tmp_path / "start"), steps=1)
    with pytest.raises(UserError, match="patch_drop: relative_bias positions"):
        vitrail.train(recipe, image_folder, out=tmp_path / "run")


def test_skipped_branches_are_computed_in_evaluation_alone(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int]] = []
    usual = Mlp.forward

    def forward(self: Mlp, x: torch.Tensor) -> torch.Tensor:
        seen.append((self.training, len(x)))
        return usual(self, x)

    monkeypatch.setattr(Mlp, "forward", forward)
    recipe = quick({"drop_path": 0.5, "drop_path_mode": "skip"})
    for name in ("one", "two"):
        vitrail.train(recipe, image_folder, out=tmp_path / name)
    assert [images for training, images in seen if training] == [8, 4] * 16
    assert 4 not in {images for training, images in seen if not training}
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_resnet_has_no_branches_to_skip(image_folder: Path, tmp_path: Path) -> None:
    recipe = quick({"drop_path_mode": "skip"}, model={"variant": "R50x1"})
    with pytest.raises(UserError, match="drop_path_mode: R50x1 is a ResNet"):
        vitrail.train(recipe, image_folder, out=tmp_path / "run")
