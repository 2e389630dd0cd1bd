"""A run, from images to its report: reproducible, resumable, and careful with bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vitrail
from stopping import stopping_at
from stripes import write_images
from vitrail.errors import UserError
from vitrail.recipes import files
from vitrail.recipes.files import from_dict
from vitrail.recipes.recipe import Recipe

QUICK = {
    "steps": 12,
    "batch_size": 8,
    "image_size": (16, 16),
    "model": {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "mlp_width": 32, "stem": "conv", "pool": "avg"},
    "optimizer": {"lr": 5e-3},
    "schedule": {"warmup_steps": 2},
    "augment": {"flip": 0.5, "rotate": 10, "color_jitter": 0.2},
    "mixup": {"mixup": 0.2, "cutmix": 1.0, "probability": 0.5},
    "regularization": {"dropout": 0.1, "drop_path": 0.1, "label_smoothing": 0.1},
    "ema": {"decay": 0.9},
    "data": {"val_fraction": 0.25},
    "evaluate": {"every": 4},
}


def quick(**changes: Any) -> Recipe:
    return from_dict({**QUICK, **changes})


def weights(run: Path, name: str = "model/model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run / name)


def last_checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def metrics(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    assert metrics(one) == metrics(other)
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(last_checkpoint(run) / f"{name}.safetensors") for run in (one, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(torch.equal(t, weights(other)[key]) for key, t in weights(one).items())


def test_one_command_leaves_a_run_folder_that_others_can_use(image_folder: Path, tmp_path: Path) -> None:
    result = vitrail.train(quick(steps=60), image_folder, out=tmp_path / "run", quiet=True)
    assert sorted(p.name for p in result.folder.iterdir() if p.name != ".lock") == [
        "checkpoints", "data.parquet", "metrics.jsonl", "model", "recipe.yaml", "report.html",
    ]  # fmt: skip
    assert sorted(p.name for p in result.model.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    model = vitrail.load(result.folder)
    assert model.labels == ("high", "low", "middle")
    assert result.split == "val"
    again = vitrail.evaluate(model, vitrail.open_data(image_folder, val_fraction=0.25), split="val")
    assert again.top1 == result.evaluation.top1
    assert again.top1 > 0.6
    assert "<html" in result.report.read_text()


def test_the_log_holds_loss_accuracy_and_learning_rate(image_folder: Path, tmp_path: Path) -> None:
    vitrail.train(quick(), image_folder, out=tmp_path / "run", quiet=True)
    records = metrics(tmp_path / "run")
    train = [r for r in records if r["split"] == "train"]
    assert [r["step"] for r in train] == list(range(1, 13))
    assert train[0]["lr"] == pytest.approx(2.5e-3)
    assert train[0]["loss"] == pytest.approx(
        1.0986, abs=1e-3
    )  # the head starts at zero: an even guess of three classes
    assert [r["step"] for r in records if r["split"] == "val"] == [4, 8, 12]


@pytest.mark.parametrize("augment", [QUICK["augment"], {"crop": "random_resized", "policy": "trivial"}])
def test_any_number_of_workers_gives_the_same_run_to_the_bit(
    image_folder: Path, tmp_path: Path, augment: dict[str, Any]
) -> None:
    for workers in (0, 2):
        recipe = quick(augment=augment, data={"val_fraction": 0.25, "workers": workers, "cache": False})
        vitrail.train(recipe, image_folder, out=tmp_path / str(workers), quiet=True)
    assert_same_run(tmp_path / "0", tmp_path / "2")


def test_keeping_images_in_memory_changes_nothing(image_folder: Path, tmp_path: Path) -> None:
    for cache in (True, False):
        recipe = quick(data={"val_fraction": 0.25, "cache": cache})
        vitrail.train(recipe, image_folder, out=tmp_path / str(cache), quiet=True)
    assert_same_run(tmp_path / "True", tmp_path / "False")


@pytest.mark.parametrize("stop_at", [3, 4, 7])
def test_a_stopped_and_resumed_run_is_the_same_to_the_bit(
    image_folder: Path, tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.training.interrupt import Stopped
    from vitrail.training.loop import Loop

    # Steps 2, 4, ... are logged, so that a stop in between must carry the sums over.
    monkeypatch.setattr(Loop, "__post_init__", _log_every_second(Loop.__post_init__))
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)

    with monkeypatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(stop_at, Loop._next))
        with pytest.raises(Stopped, match=f"stopped at step {stop_at}, state saved"):
            vitrail.train(quick(), image_folder, out=tmp_path / "parts", quiet=True)
    vitrail.train(out=tmp_path / "parts", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def _log_every_second(original: Any) -> Any:
    def post_init(loop: Any) -> None:
        original(loop)
        loop.log_every = 2

    return post_init


def test_a_run_killed_without_warning_goes_on_from_its_last_checkpoint(image_folder: Path, tmp_path: Path) -> None:
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    vitrail.train(quick(), image_folder, out=tmp_path / "killed", quiet=True)
    # As if the process had died after step 9: the checkpoint of step 8 is there, the log is ahead of it.
    for late in ("step-00000012",):
        for file in (tmp_path / "killed" / "checkpoints" / late).iterdir():
            file.unlink()
    log = tmp_path / "killed" / "metrics.jsonl"
    lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= 9]
    log.write_text("\n".join(lines) + '\n{"step": 10, "ep')
    vitrail.train(out=tmp_path / "killed", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state_and_says_how_to_go_on(
    image_folder: Path, tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "vitrail", "train", str(image_folder), "--out", str(run), "--steps", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"--resume --out {run}" in said
    assert last_checkpoint(run).name > "step-00000000"


def test_fine_tuning_starts_from_a_run_at_another_size(image_folder: Path, tmp_path: Path) -> None:
    vitrail.train(quick(steps=30), image_folder, out=tmp_path / "first", quiet=True)
    more = write_images(tmp_path / "other", {"a": 10, "b": 10, "c": 10, "d": 10}, seed=1)
    changes = {"image_size": (24, 16), "steps": 4, "batch_size": 8}
    init = {"init": str(tmp_path / "first")}
    vitrail.train("finetune", more, changes={**changes, **init}, out=tmp_path / "second", quiet=True)
    model = vitrail.load(tmp_path / "second")
    assert model.config.grid == (3, 2)
    assert model.labels == ("a", "b", "c", "d")
    assert model.preprocess.image_size == (24, 16)


def test_the_test_part_is_evaluated_once_at_the_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_images(data / "train", {"high": 12, "low": 12})
    write_images(data / "test", {"high": 5, "low": 6}, seed=1)
    result = vitrail.train(quick(steps=4), data, out=tmp_path / "run", quiet=True)
    assert (result.split, result.evaluation.n) == ("test", 11)
    assert [r["split"] for r in metrics(tmp_path / "run")].count("test") == 1


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(image_folder: Path, tmp_path: Path) -> None:
    plain = {"regularization": {}, "model": {**QUICK["model"], "stem": "linear"}}
    for parts in (1, 4):
        recipe = quick(**plain, optimizer={"lr": 5e-3, "accumulate": parts})
        vitrail.train(recipe, image_folder, out=tmp_path / str(parts), quiet=True)
    one, four = (metrics(tmp_path / name) for name in ("1", "4"))
    assert [r["loss"] for r in four] == pytest.approx([r["loss"] for r in one], rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_every_optimiser_trains(image_folder: Path, tmp_path: Path, name: str) -> None:
    recipe = quick(steps=3, optimizer={"name": name}, loss="sigmoid")
    vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)


def test_damaged_images_stop_the_run_before_it_begins_or_are_left_out(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "low" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(UserError, match=r"1 of \d+ images cannot be used: low/broken.png.*--skip-bad"):
        vitrail.train(quick(), image_folder, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    recipe = quick(steps=2, data={"val_fraction": 0.25, "skip_bad": True})
    vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (20, 16)}, "20x16 is not divisible by patch size 8: the nearest sizes are 16x16 and 24x16"),
        ({"model.variant": "Z/16"}, "unknown variant 'Z/16'"),
        ({"optimizer.lerning_rate": 1}, "unknown key"),
        ({"batch_size": 2**40}, "are free: use --batch-size"),
        ({"init": "no/such/model"}, "no/such/model"),
        ({"augment.scale": (0.9, 0.1)}, "augment.scale"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    image_folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        vitrail.train(quick(), image_folder, changes=changes, out=tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(image_folder: Path, tmp_path: Path) -> None:
    vitrail.train(quick(steps=2), image_folder, out=tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="already holds a run.*--resume"):
        vitrail.train(quick(steps=2), image_folder, out=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="where optimizer.lr is 0.005, not 1.0"):
        vitrail.train(changes={"optimizer.lr": 1.0}, out=tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_the_command_that_began_a_run_also_resumes_it(image_folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("steps: 2\nbatch_size: 8\nmodel: {patch_size: 8, width: 16, depth: 1, heads: 2, mlp_width: 16}\n")
    for _ in range(2):
        vitrail.train(own, image_folder, changes={"seed": 3}, out=tmp_path / "run", resume=True, quiet=True)
    own.write_text(own.read_text().replace("batch_size: 8", "batch_size: 4"))
    with pytest.raises(UserError, match="where batch_size is 8, not 4"):
        vitrail.train(own, image_folder, out=tmp_path / "run", resume=True, quiet=True)


def test_a_checkpoint_of_another_shape_is_refused_by_name(image_folder: Path, tmp_path: Path) -> None:
    vitrail.train(quick(steps=2), image_folder, out=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="is not a S/16"):
        changes = {"init": str(tmp_path / "run"), "model.variant": "S/16", "epochs": 1}
        vitrail.train("finetune", image_folder, changes=changes, out=tmp_path / "other", quiet=True)


def in_two_processes(*arguments: str) -> None:
    """``vitrail train`` under torchrun, on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "vitrail", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *arguments], check=True, env=environment, capture_output=True, timeout=300)


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(image_folder: Path, tmp_path: Path) -> None:
    plain = {
        "regularization": {},
        "mixup": {},
        "model": {**QUICK["model"], "stem": "linear"},
        "steps": 6,
    }
    vitrail.train(quick(**plain), image_folder, out=tmp_path / "one", quiet=True)
    in_two_processes("--recipe", str(tmp_path / "one" / "recipe.yaml"), "--out", str(tmp_path / "two"))
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [(r["step"], r["split"]) for r in one] == [(r["step"], r["split"]) for r in two]
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-3)
    assert [r["top1"] for r in two] == pytest.approx([r["top1"] for r in one], abs=0.13)


@pytest.mark.slow
def test_a_model_cut_up_between_processes_trains_like_a_whole_one_and_goes_on_in_one(
    image_folder: Path, tmp_path: Path
) -> None:
    vitrail.train(quick(steps=1), image_folder, out=tmp_path / "any", quiet=True)
    recipe = quick(checkpoint={"every": 4, "keep": 9})
    files.save(files.changed(recipe, {"data.source": str(image_folder)}), tmp_path / "recipe.yaml")
    for parallel in ("ddp", "fsdp"):
        settings = ("--set", f"parallel={parallel}", "--out", str(tmp_path / parallel))
        in_two_processes("--recipe", str(tmp_path / "recipe.yaml"), *settings)
    ddp, fsdp = metrics(tmp_path / "ddp"), metrics(tmp_path / "fsdp")
    assert [(r["step"], r["split"]) for r in ddp] == [(r["step"], r["split"]) for r in fsdp]
    assert [r["loss"] for r in fsdp] == pytest.approx([r["loss"] for r in ddp], rel=1e-4)
    pieces = sorted(path.name for path in last_checkpoint(tmp_path / "fsdp").iterdir())
    assert {"model-00001-of-00002.safetensors", "optimizer-00002-of-00002.safetensors"} <= set(pieces)
    whole = weights(tmp_path / "ddp")
    for name, tensor in weights(tmp_path / "fsdp").items():
        torch.testing.assert_close(tensor, whole[name], atol=1e-3, rtol=1e-3)

    # Killed after step 8, it goes on in one process, and in two with the model whole.
    for how in ("one", "two"):
        shutil.copytree(tmp_path / "fsdp", tmp_path / how)
        shutil.rmtree(last_checkpoint(tmp_path / how))
    vitrail.train(out=tmp_path / "one", resume=True, quiet=True)
    in_two_processes("--resume", "--set", "parallel=ddp", "--out", str(tmp_path / "two"))
    for how in ("one", "two"):
        assert [(r["step"], r["split"]) for r in metrics(tmp_path / how)] == [(r["step"], r["split"]) for r in fsdp]
    assert [r["loss"] for r in metrics(tmp_path / "two")] == pytest.approx([r["loss"] for r in fsdp], rel=1e-4)


def test_images_added_since_the_run_began_are_noticed(image_folder: Path, tmp_path: Path) -> None:
    vitrail.train(quick(steps=4), image_folder, out=tmp_path / "run", quiet=True)
    write_images(tmp_path / "more", {"low": 8}, seed=9)
    for file in (tmp_path / "more" / "low").iterdir():
        file.rename(image_folder / "low" / f"new-{file.name}")
    with pytest.raises(UserError, match="has changed since this run began"):
        vitrail.train(out=tmp_path / "run", resume=True, quiet=True)


def test_what_changes_no_result_may_differ_when_a_run_goes_on(image_folder: Path, tmp_path: Path) -> None:
    vitrail.train(quick(steps=4), image_folder, out=tmp_path / "run", quiet=True)
    changes = {"data.workers": 1, "checkpoint.keep": 1}
    vitrail.train(None, f"{image_folder}/", changes=changes, out=tmp_path / "run", resume=True, quiet=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_good_state(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.errors import Failure
    from vitrail.training import step as training_step

    good = training_step.classification_loss
    calls = iter(range(1000))
    broken = lambda *args: good(*args) * (float("nan") if next(calls) >= 6 else 1)  # noqa: E731
    monkeypatch.setattr(training_step, "classification_loss", broken)
    recipe = quick(checkpoint={"every": 2}, guard={"nonfinite": "stop"})
    with pytest.raises(Failure, match=r"the loss is nan at step 7, with (high|low|middle)/"):
        vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)
    assert last_checkpoint(tmp_path / "run").name == "step-00000006"
    assert all(t.isfinite().all() for t in weights(last_checkpoint(tmp_path / "run"), "model.safetensors").values())


def test_an_image_that_breaks_in_mid_run_costs_no_progress(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.data.batches import TrainBatches
    from vitrail.data.decode import ImageError

    original = TrainBatches.__getitem__

    def breaks(batches: TrainBatches, number: int) -> Any:
        if number == 3:
            raise ImageError("low/003.png: cannot be read")
        return original(batches, number)

    monkeypatch.setattr(TrainBatches, "__getitem__", breaks)
    with pytest.raises(ImageError):
        vitrail.train(quick(), image_folder, out=tmp_path / "run", quiet=True)
    assert last_checkpoint(tmp_path / "run").name == "step-00000003"


def test_an_image_of_val_that_breaks_in_mid_run_costs_no_progress(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.data.batches import EvalBatches
    from vitrail.data.decode import ImageError

    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)

    def breaks(batches: EvalBatches, number: int) -> Any:
        raise ImageError("low/003.png: cannot be read")

    with monkeypatch.context() as patches:
        patches.setattr(EvalBatches, "__getitem__", breaks)
        with pytest.raises(ImageError, match="low/003.png"):
            vitrail.train(quick(), image_folder, out=tmp_path / "run", quiet=True)
    assert last_checkpoint(tmp_path / "run").name == "step-00000004"
    vitrail.train(out=tmp_path / "run", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_data_can_be_named_by_its_key(image_folder: Path, tmp_path: Path) -> None:
    changes = {"data.source": str(image_folder)}
    vitrail.train(quick(steps=1), changes=changes, out=tmp_path / "run", quiet=True)
    assert vitrail.load(tmp_path / "run").labels == ("high", "low", "middle")


def test_a_shortened_run_still_comes_down_from_its_warm_up(image_folder: Path, tmp_path: Path) -> None:
    recipe = quick(steps=10, schedule={"warmup_steps": 500})
    vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)
    rates = [r["lr"] for r in metrics(tmp_path / "run") if r["split"] == "train"]
    assert rates[1] == max(rates)
    assert rates[-1] < 0.1 * max(rates)


@pytest.mark.slow
def test_two_processes_with_a_conv_stem_resume_to_the_bit(image_folder: Path, tmp_path: Path) -> None:
    files.save(quick(data={"val_fraction": 0.25, "source": str(image_folder)}), tmp_path / "recipe.yaml")
    for run in ("whole", "parts"):
        in_two_processes("--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / run))
    shutil.rmtree(last_checkpoint(tmp_path / "parts"))  # as if the processes had died after the checkpoint of step 8
    in_two_processes("--resume", "--out", str(tmp_path / "parts"))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
