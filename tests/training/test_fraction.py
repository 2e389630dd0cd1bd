"""A share of the training data: said, kept with the run, and small enough to need many epochs a batch."""

from pathlib import Path
from typing import Any

import pytest

import vitrail
from stripes import write_images
from vitrail.errors import UserError
from vitrail.recipes.files import from_dict
from vitrail.training.decide import decide
from vitrail.training.device import devices

MODEL = {"patch_size": 8, "width": 16, "depth": 1, "heads": 2, "mlp_width": 16}
RECIPE = {"steps": 3, "batch_size": 16, "image_size": (16, 16), "model": MODEL}


def decided(data: Path | str, **changes: Any) -> tuple[Any, list[str]]:
    with devices() as place:
        _, dataset, reasons = decide(from_dict(RECIPE), data, changes, place)
    return dataset, reasons


def test_val_and_test_stay_whole_and_the_share_is_said(tmp_path: Path) -> None:
    write_images(tmp_path / "d" / "train", {"high": 40, "low": 20})
    write_images(tmp_path / "d" / "test", {"high": 5, "low": 5}, seed=1)
    whole, reasons = decided(tmp_path / "d")
    assert not [reason for reason in reasons if "fraction" in reason]
    some, reasons = decided(tmp_path / "d", **{"data.fraction": 0.2})
    assert [list(part.names) for part in (some.val, some.test)] == [
        list(part.names) for part in (whole.val, whole.test)
    ]
    n = round(0.2 * len(whole.train))
    assert reasons[0] == f"{n} of {len(whole.train)} training images: data.fraction 0.2"
    assert len(some.train) == n
    assert set(some.train.names) < set(whole.train.names)
    other, _ = decided(tmp_path / "d", **{"data.fraction": 0.2, "seed": 1})
    assert set(other.train.names) != set(some.train.names)


def test_one_per_cent_of_the_digits_are_trained_on_and_resumed(tmp_path: Path) -> None:
    recipe = from_dict({**RECIPE, "image_size": (8, 8), "model": {**MODEL, "channels": 1}, "evaluate": {"every": 1}})
    changes = {"data.fraction": 0.01}
    result = vitrail.train(recipe, "digits", changes=changes, out=tmp_path / "run", quiet=True)
    assert (result.split, result.evaluation.n) == ("test", 359)
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    assert text.startswith("# 13 of 1,292 training images: data.fraction 0.01\n")
    assert "13 of 1,292 training images" in result.report.read_text()
    for file in (tmp_path / "run" / "checkpoints" / "step-00000003").iterdir():
        file.unlink()
    vitrail.train(recipe, "digits", changes=changes, out=tmp_path / "run", resume=True, quiet=True)
    with pytest.raises(UserError, match=r"where data.fraction is 0.01, not 0.1"):
        vitrail.train(changes={"data.fraction": 0.1}, out=tmp_path / "run", resume=True, quiet=True)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(UserError, match=r"data\.fraction: Input should be (greater|less) than"):
        vitrail.train(from_dict(RECIPE), "digits", changes={"data.fraction": fraction}, out=tmp_path / "r", quiet=True)
