"""Training from kept images: memory and file are the same run to the bit, and going on from either is too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vitrail
from stopping import stopping_at
from stripes import write_images
from vitrail.errors import UserError
from vitrail.recipes.files import from_dict
from vitrail.recipes.recipe import Recipe


def quick(**data: Any) -> Recipe:
    return from_dict(
        {
            "steps": 6,
            "batch_size": 8,
            "image_size": (16, 16),
            "model": {"patch_size": 8, "width": 16, "depth": 1, "heads": 2, "mlp_width": 32},
            "augment": {"crop": "random_resized", "scale": (0.25, 1.0), "flip": 0.5},
            "data": {"val_fraction": 0.25, **data},
            "evaluate": {"every": 3},
        }
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    return write_images(root, {"a": 12, "b": 12})


def trained(recipe: Recipe, images: Path, out: Path) -> dict[str, torch.Tensor]:
    vitrail.train(recipe, images, out=out, quiet=True)
    return load_file(out / "model/model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_memory_and_file_and_any_number_of_workers_are_the_same_run(images: Path, tmp_path: Path) -> None:
    cache = {"cache_size": 12, "cache_folder": str(tmp_path / "cache")}
    expected = trained(quick(cache="memory", cache_size=12, workers=0), images, tmp_path / "memory")
    assert same(trained(quick(cache="file", workers=0, **cache), images, tmp_path / "made"), expected)
    assert same(trained(quick(cache="file", workers=2, **cache), images, tmp_path / "found"), expected)
    assert len(list((tmp_path / "cache").glob("*.images"))) == 1
    assert not same(trained(quick(), images, tmp_path / "files"), expected)


def test_images_that_are_small_enough_are_trained_on_as_they_are(images: Path, tmp_path: Path) -> None:
    expected = trained(quick(), images, tmp_path / "files")
    assert same(trained(quick(cache="memory", cache_size=4096), images, tmp_path / "memory"), expected)


def test_a_resumed_run_with_kept_images_is_the_same_to_the_bit(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.training.interrupt import Stopped
    from vitrail.training.loop import Loop

    recipe = quick(cache="file", cache_folder=str(tmp_path / "cache"), cache_size=12, workers=0)
    expected = trained(recipe, images, tmp_path / "whole")
    with monkeypatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(4, Loop._next))
        with pytest.raises(Stopped):
            trained(recipe, images, tmp_path / "stopped")
    vitrail.train(out=tmp_path / "stopped", resume=True, quiet=True)
    assert same(load_file(tmp_path / "stopped" / "model/model.safetensors"), expected)


def test_without_a_folder_they_are_kept_in_the_users_cache(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.training.images.user_cache", lambda: tmp_path / "user")
    trained(quick(cache="file", workers=0), images, tmp_path / "run")
    assert len(list((tmp_path / "user" / "images").glob("*.images"))) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"cache_size": 100}, "cache_size is for cache=memory and cache=file"),
        ({"cache": True, "cache_size": 100}, "cache_size is for cache=memory and cache=file"),
        ({"cache": "memory", "cache_folder": "x"}, "cache_folder is for cache=file"),
        ({"cache": "disk"}, "cache"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        quick(**data)
