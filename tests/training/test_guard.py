"""Numbers that misbehave: steps that are not finite are left out, spikes are taken back, nothing broken is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train import assert_same_run, last_checkpoint, metrics, quick
from torch import Tensor

import vitrail
from vitrail.errors import Failure
from vitrail.training import step as training_step
from vitrail.training.guard import Diverged
from vitrail.training.state import Health, RunState
from vitrail.training.step import TrainStep


def spoil(patches: pytest.MonkeyPatch, factors: dict[int, float], gradient: bool = False) -> None:
    """Multiply the loss of some steps (0 for the first), or only its gradient, by a factor."""
    original, good = TrainStep.__call__, training_step.classification_loss
    now = {"step": -1}

    def call(step: TrainStep, number: int, batch: Any) -> Any:
        now["step"] = number
        return original(step, number, batch)

    def loss(*args: Any) -> Tensor:
        value, factor = good(*args), factors.get(now["step"], 1.0)
        if gradient:  # the value stays
            return value + (value - value.detach()) * (factor - 1.0)
        return value * factor

    patches.setattr(TrainStep, "__call__", call)
    patches.setattr(training_step, "classification_loss", loss)


def tensors(run: Path) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": tensor
        for part in ("model", "ema", "optimizer")
        for name, tensor in load_file(last_checkpoint(run) / f"{part}.safetensors").items()
    }


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_step_that_is_not_finite_moves_nothing_and_is_named(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, bad: float, gradient: bool
) -> None:
    recipe = quick(steps=5, optimizer={"name": optimizer, "lr": 5e-3}, evaluate={"every": 9}, ema={"decay": 0})
    spoil(monkeypatch, {3: bad, 4: bad}, gradient)
    vitrail.train(recipe, image_folder, out=tmp_path / "spoilt", quiet=True)
    after, before = {}, {}
    with monkeypatch.context() as patches:
        patches.undo()
        vitrail.train(
            quick(**{**recipe.to_dict(), "checkpoint": {"every": 3}}), image_folder, out=tmp_path / "whole", quiet=True
        )
    for part in ("model", "optimizer"):
        after |= load_file(last_checkpoint(tmp_path / "spoilt") / f"{part}.safetensors")
        before |= load_file(tmp_path / "whole" / "checkpoints" / "step-00000003" / f"{part}.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in after)  # the conv stem's statistics are among them
    skipped = [record for record in metrics(tmp_path / "spoilt") if record["split"] == "skipped"]
    assert [record["step"] for record in skipped] == [4, 5]
    assert all(len(record["files"]) == 8 and all("/" in file for file in record["files"]) for record in skipped)
    lines = [record for record in metrics(tmp_path / "spoilt") if record["split"] == "train"]
    assert [line.get("skipped", 0) for line in lines] == [0, 0, 0, 1, 1]
    assert "loss" in lines[2] and "loss" not in lines[3]  # noqa: PT018


def test_a_run_with_skipped_steps_that_is_stopped_goes_on_alike(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stopping import stopping_at
    from vitrail.training.interrupt import Stopped
    from vitrail.training.loop import Loop

    spoil(monkeypatch, {3: float("nan"), 7: float("inf")})
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(5, Loop._next))
        with pytest.raises(Stopped):
            vitrail.train(quick(), image_folder, out=tmp_path / "parts", quiet=True)
    vitrail.train(out=tmp_path / "parts", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_too_many_in_a_row_stop_the_run(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, dict.fromkeys((1, 3, 4, 5, 6, 7, 8, 9), float("nan")))
    with pytest.raises(Diverged, match=r"the loss is nan at step 6, with .*/.* and 4 more, the 3th such step in a row"):
        vitrail.train(quick(guard={"most_skipped": 2}), image_folder, out=tmp_path / "run", quiet=True)


def test_finite_weights_that_give_no_finite_answer_stop_the_run(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainStep.__call__

    def breaks(step: TrainStep, number: int, batch: Any) -> Any:
        result = original(step, number, batch)
        with torch.no_grad():
            step.model.head.weight.fill_(3e38)
        return result

    monkeypatch.setattr(TrainStep, "__call__", breaks)
    with pytest.raises(Diverged, match=r"output is not finite for \d+ of \d+ images .* at step \d+: try a lower"):
        vitrail.train(quick(guard={"most_skipped": 1000}), image_folder, out=tmp_path / "run", quiet=True)


def test_a_checkpoint_never_holds_weights_that_are_not_finite(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainStep.__call__

    def breaks(step: TrainStep, number: int, batch: Any) -> Any:
        result = original(step, number, batch)
        if number == 5:
            with torch.no_grad():
                next(step.model.parameters()).flatten()[0] = float("inf")
        return result

    monkeypatch.setattr(TrainStep, "__call__", breaks)
    recipe = quick(checkpoint={"every": 2}, evaluate={"every": 50})
    with pytest.raises(Failure, match="weights are no longer finite at step 6, and are not saved"):
        vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)
    assert last_checkpoint(tmp_path / "run").name == "step-00000004"
    assert all(t.isfinite().all() for t in tensors(tmp_path / "run").values() if t.is_floating_point())


def test_a_spike_takes_the_weights_back_and_leaves_its_images_out(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RunState.restore_tensors
    taken: list[int] = []

    def restore(state: RunState, checkpoint: Any, group: Any = None) -> None:
        taken.append(checkpoint.step)
        original(state, checkpoint, group)

    monkeypatch.setattr(RunState, "restore_tensors", restore)
    spoil(monkeypatch, {14: 30.0})
    recipe = quick(steps=20, guard={"spike": 5.0}, checkpoint={"every": 4, "keep": 9}, evaluate={"every": 50})
    vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)
    assert taken == [12]  # the loss of step 15 is the spike
    lines = [record for record in metrics(tmp_path / "run") if record["split"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert [line.get("back_to_step") for line in lines] == [None] * 14 + [12] + [None] * 5
    assert max(line["loss"] for line in lines[15:]) < lines[14]["loss"] / 3

    # It is in the checkpoint written then: a run that is killed after it goes on alike.
    import shutil

    shutil.copytree(tmp_path / "run", tmp_path / "parts")
    for name in ("step-00000020", "step-00000016"):
        shutil.rmtree(tmp_path / "parts" / "checkpoints" / name)
    assert last_checkpoint(tmp_path / "parts").name == "step-00000015"
    vitrail.train(out=tmp_path / "parts", resume=True, quiet=True)
    assert_same_run(tmp_path / "run", tmp_path / "parts")


def test_a_run_that_was_stopped_goes_back_to_where_any_other_would(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stopping import stopping_at
    from vitrail.training.interrupt import Stopped
    from vitrail.training.loop import Loop

    spoil(monkeypatch, {18: 30.0})
    recipe = quick(steps=24, guard={"spike": 5.0}, checkpoint={"every": 8, "keep": 1}, evaluate={"every": 50})
    vitrail.train(recipe, image_folder, out=tmp_path / "whole", quiet=True)
    for step in (14, 18):
        with monkeypatch.context() as patches:
            patches.setattr(Loop, "_next", stopping_at(step, Loop._next))
            with pytest.raises(Stopped):
                vitrail.train(recipe, image_folder, out=tmp_path / "parts", resume=True, quiet=True)
    vitrail.train(out=tmp_path / "parts", resume=True, quiet=True)
    assert any(record.get("back_to_step") == 16 for record in metrics(tmp_path / "parts"))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_spikes_without_end_stop_the_run(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, dict.fromkeys(range(12, 40), 50.0))
    recipe = quick(steps=40, guard={"spike": 5.0, "most_rollbacks": 2}, checkpoint={"every": 4}, evaluate={"every": 50})
    with pytest.raises(Diverged, match="the loss has shot up to .* at step 15 once more, after 2 returns"):
        vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)


def test_a_spike_is_judged_by_the_ten_losses_before_it() -> None:
    health = Health()
    for step in range(9):
        health.note(step, 2.0)
        assert not health.is_spike(1e9, 3.0)  # too few to judge by
    health.note(9, 1.0)
    assert health.is_spike(5.8, 3.0)
    assert not health.is_spike(5.6, 3.0)  # the mean is 1.9
    for step in range(10, 20):
        health.note(step, 1.0)
    assert health.is_spike(3.1, 3.0)
    assert health.sound_step == 19
