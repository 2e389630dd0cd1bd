"""A run goes on only as what it was: alone in its folder, with its recipe, from a whole checkpoint; a full disk loses nothing."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors import SafetensorError
from test_train import assert_same_run, last_checkpoint, metrics, quick

import vitrail
from stopping import stopping_at
from stripes import write_images
from vitrail.errors import Failure, UserError, is_full
from vitrail.training import checkpoint
from vitrail.training.alone import alone
from vitrail.training.checkpoint import Checkpoint
from vitrail.training.device import Devices
from vitrail.training.interrupt import Stopped
from vitrail.training.loop import Loop
from vitrail.training.metrics import MetricsLog, read
from vitrail.training.saver import Saver
from vitrail.weights.folder import sha256

HERE = Devices(0, 1, torch.device("cpu"))


@pytest.fixture
def stopped(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped at step 6 of 12."""
    with monkeypatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(6, Loop._next))
        with pytest.raises(Stopped):
            vitrail.train(quick(), image_folder, out=tmp_path / "run", quiet=True)
    return tmp_path / "run"


def edit_recipe(run: Path, **changes: Any) -> None:
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    for path, value in changes.items():
        group, _, key = path.rpartition("__")
        (values[group] if group else values)[key] = value
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))


def change_state(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Other plain values in a checkpoint, which is as whole as before."""
    state = json.loads((path / "state.json").read_text())
    change(state)
    (path / "state.json").write_text(json.dumps(state))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["state.json"] = sha256(path / "state.json")
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"optimizer__lr": 0.1}, "optimizer.lr is 0.1, and the run was trained with 0.005"),
        ({"seed": 7}, "seed is 7, and the run was trained with 0"),
        ({"steps": 20}, "steps is 20"),
        ({"model__depth": 3}, "model.depth is 3|holds|depth"),
    ],
)
def test_a_recipe_edited_in_the_run_is_refused_by_its_key(stopped: Path, changes: dict[str, Any], key: str) -> None:
    edit_recipe(stopped, **changes)
    with pytest.raises(UserError, match=key):
        vitrail.train(out=stopped, resume=True, quiet=True)
    assert last_checkpoint(stopped).name == "step-00000006"


def test_a_harmless_change_of_the_recipe_is_noted_and_kept(
    stopped: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_recipe(stopped, checkpoint__keep=1, guard__most_skipped=9)
    vitrail.train(out=stopped, resume=True, changes={"checkpoint.every": 2})
    told = capsys.readouterr().err
    for line in ("checkpoint.keep is 1 from here on, and was 2", "checkpoint.every is 2", "guard.most_skipped is 9"):
        assert line in told
    assert yaml.safe_load((stopped / "recipe.yaml").read_text())["checkpoint"] == {"every": 2, "keep": 1}
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", stopped)


def test_where_no_checkpoint_is_whole_the_run_says_so_and_keeps_them(stopped: Path) -> None:
    for folder in (stopped / "checkpoints").iterdir():
        (folder / "model.safetensors").write_bytes(b"x")
    before = sorted((stopped / "checkpoints").iterdir())
    with pytest.raises(
        UserError, match=r"none of the 2 checkpoints .* is whole; the newest: .*step-00000006 is damaged"
    ):
        vitrail.train(out=stopped, resume=True, quiet=True)
    assert sorted((stopped / "checkpoints").iterdir()) == before


def test_a_damaged_checkpoint_is_set_aside_and_written_anew(
    stopped: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = last_checkpoint(stopped) / "state.json"
    file.write_bytes(file.read_bytes()[:-1])  # only its last line's end
    vitrail.train(out=stopped, resume=True)
    assert "step-00000006 is damaged (state.json has changed since it was written)" in capsys.readouterr().err
    assert (stopped / "checkpoints" / "damaged-step-00000006").is_dir()
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    assert metrics(tmp_path / "whole") == metrics(stopped)


def test_torchrun_restarts_a_run_where_it_was(
    stopped: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    with pytest.raises(UserError, match="--max-restarts needs --out RUN"):
        vitrail.train(quick(), image_folder, quiet=True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # the same command, without --resume
    vitrail.train(quick(), image_folder, out=stopped, quiet=True)
    monkeypatch.undo()
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", stopped)


def hold(folder: Path, ready: Any, release: Any) -> None:
    with alone(folder, HERE):
        ready.set()
        release.wait(60)


def test_a_second_process_is_refused_and_a_killed_one_stands_in_nobodys_way(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.training.alone._PATIENCE", 0.2)
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(stopped, ready, release))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(UserError, match=f"is being trained by process {holder.pid} on .*: wait for it"):
        vitrail.train(out=stopped, resume=True, quiet=True)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    for name in (".step-00000007.writing-x", ".model.writing-x"):
        (stopped / "checkpoints" / name).mkdir()
    (stopped / ".metrics.jsonl.writing-y").write_text("x")
    vitrail.train(out=stopped, resume=True, quiet=True)
    assert not [path for path in stopped.rglob("*") if "writing" in path.name]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_clear_error_and_leaves_what_was_whole(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert is_full(error)
    good = checkpoint.save_file

    def save_file(tensors: Any, path: Path) -> None:
        if "step-00000008" in str(path) and path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise error
        good(tensors, path)

    with monkeypatch.context() as patches:
        patches.setattr(checkpoint, "save_file", save_file)
        with pytest.raises(
            Failure, match=r"no space left to write .*: make room; the state of step 4 is whole: go on with"
        ):
            vitrail.train(quick(), image_folder, out=tmp_path / "run", quiet=True)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]
    vitrail.train(out=tmp_path / "run", resume=True, quiet=True)
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_checkpoint_is_written_from_a_copy_while_the_weights_move_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, good = threading.Event(), checkpoint.save_file

    def late(tensors: Any, path: Path) -> None:
        may_write.wait(30)
        good(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", late)
    weights = torch.randn(50, 50)
    then = weights.clone()
    saver = Saver(tmp_path, keep=2)
    started = time.monotonic()
    saver.save(Checkpoint(1, {"model": {"w": weights}, "optimizer": {}}, {}))
    assert time.monotonic() - started < 5
    weights += 1  # the next step
    may_write.set()
    saver.wait()
    found, _ = checkpoint.newest_valid(tmp_path)
    assert found is not None
    assert torch.equal(found.tensors["model"]["w"], then)


def test_the_checkpoint_of_the_best_model_is_kept_besides_the_newest(tmp_path: Path) -> None:
    for step in range(1, 9):
        checkpoint.save(tmp_path, Checkpoint(step, {"model": {"w": torch.randn(3)}}, {}), keep=3, spared=[2])
    assert checkpoint.steps(tmp_path) == [2, 6, 7, 8]
    checkpoint.save(tmp_path, Checkpoint(9, {"model": {"w": torch.randn(3)}}, {}), keep=3, spared=[9])
    assert checkpoint.steps(tmp_path) == [7, 8, 9]


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "model.safetensors"])
def test_every_byte_of_a_checkpoint_is_vouched_for(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path / "whole", Checkpoint(1, {"model": {"w": torch.randn(3)}}, {"a": 1}), keep=1)
    data = (path / name).read_bytes()
    for offset in range(len(data)):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path.parent, copy)
        damaged = bytearray(data)
        damaged[offset] ^= 1 << (offset % 8)
        (copy / path.name / name).write_bytes(damaged if offset % 2 else data[:offset])
        found, told = checkpoint.newest_valid(copy)
        assert found is None, (offset, data[offset])
        assert len(told) == 1
        assert path.name in told[0]


@pytest.fixture
def bitmaps(tmp_path: Path) -> Path:
    """36 images whose pixels lie plain in their files."""
    folder = write_images(tmp_path / "stripes", {"high": 12, "low": 12, "middle": 12})
    for path in sorted(folder.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    return folder


def change_data(folder: Path, change: str) -> None:
    one = folder / "high" / "003.bmp"
    if change == "added":
        shutil.copy(one, one.with_name("zz.bmp"))
    elif change == "removed":
        one.unlink()
    elif change == "renamed":
        one.rename(one.with_name("zz.bmp"))
    elif change == "relabelled":
        one.rename(folder / "low" / "zz.bmp")
    else:  # the same size, and the same time
        before, content = one.stat(), bytearray(one.read_bytes())
        content[200] ^= 64
        one.write_bytes(content)
        os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "relabelled", "edited"])
def test_data_that_have_changed_are_named_and_refused_unless_allowed(
    bitmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    recipe = quick(data={"val_fraction": 0.25})
    with monkeypatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(6, Loop._next))
        with pytest.raises(Stopped):
            vitrail.train(recipe, bitmaps, out=tmp_path / "run", quiet=True)
    change_data(bitmaps, change)
    told = r"high/(003|zz)\.bmp|low/zz\.bmp"
    with pytest.raises(UserError, match=rf"stripes has changed since this run began: .*({told}).*--allow-data-change"):
        vitrail.train(out=tmp_path / "run", resume=True, quiet=True)
    assert last_checkpoint(tmp_path / "run").name == "step-00000006"
    vitrail.train(out=tmp_path / "run", resume=True, allow_data_change=True)
    assert "has changed since this run began" in capsys.readouterr().err
    assert last_checkpoint(tmp_path / "run").name == "step-00000012"
    vitrail.train(out=tmp_path / "run", resume=True, quiet=True)  # it is known by now


def test_data_that_were_only_moved_are_the_same(bitmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(6, Loop._next))
        with pytest.raises(Stopped):
            vitrail.train(quick(), bitmaps, out=tmp_path / "run", quiet=True)
    shutil.copytree(bitmaps, tmp_path / "elsewhere" / "stripes", copy_function=shutil.copy)  # with new times
    vitrail.train(data=tmp_path / "elsewhere" / "stripes", out=tmp_path / "run", resume=True, quiet=True)
    vitrail.train(quick(), bitmaps, out=tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_data_of_other_classes_are_never_gone_on_with(stopped: Path, image_folder: Path) -> None:
    (image_folder / "low").rename(image_folder / "lower")
    with pytest.raises(UserError, match="has other classes than this run"):
        vitrail.train(out=stopped, resume=True, allow_data_change=True, quiet=True)


def test_a_run_that_stops_before_it_has_logged_anything_has_a_checkpoint(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = quick(steps=4000, evaluate={"every": 4000})  # a line every 20 steps
    with monkeypatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(1, Loop._next))
        with pytest.raises(Stopped, match="stopped at step 1, state saved"):
            vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)
    assert last_checkpoint(tmp_path / "run").name == "step-00000001"
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_evaluation_that_was_made_up_for_is_not_logged_twice(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step, split in ((4, "train"), (4, "val"), (8, "train"), (8, "val"), (9, "train"), (9, "test")):
        log.write({"step": step, "split": split, "loss": 1.0})
    log.cut_after(8, evaluated=4)  # stopped in the evaluation of step 8, gone on, killed after it
    assert [(record["step"], record["split"]) for record in read(log.path)] == [(4, "train"), (4, "val"), (8, "train")]


def test_a_damaged_log_keeps_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "split": "train"}\n5\n[]\n{"step": 2\n\xff\xfe\n{"step": 3, "split": "val"}\n')
    assert [record["step"] for record in read(path)] == [1, 3]


def test_a_folder_in_which_another_run_has_begun_meanwhile_is_not_trained_over(stopped: Path) -> None:
    before = (stopped / "metrics.jsonl").read_bytes()
    with (
        pytest.raises(UserError, match="already holds a run, which another process has begun"),
        alone(stopped, HERE, new=True),
    ):
        pass
    assert (stopped / "metrics.jsonl").read_bytes() == before


def test_what_is_written_can_be_read_by_those_whom_the_umask_lets(stopped: Path) -> None:
    for path in (stopped / "model" / "model.safetensors", last_checkpoint(stopped) / "optimizer.safetensors"):
        assert path.stat().st_mode & 0o777 == (stopped / "model" / "config.json").stat().st_mode & 0o777


@pytest.mark.parametrize("missing", ["health", "recipe", "window"])
def test_a_checkpoint_of_another_version_is_told(stopped: Path, missing: str) -> None:
    change_state(last_checkpoint(stopped), lambda state: state.pop(missing))
    with pytest.raises(UserError, match="step-00000006 holds another model or was written by another version"):
        vitrail.train(out=stopped, resume=True, quiet=True)


@pytest.mark.parametrize("harm", ["removed", "damaged"])
def test_a_kept_model_that_is_gone_is_written_anew_from_the_checkpoint_of_its_step(
    harm: str, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    vitrail.train(quick(ema={"decay": 0.9}), image_folder, out=run, quiet=True)
    whole = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    if harm == "removed":
        shutil.rmtree(run / "model")
    else:
        (run / "model" / "model.safetensors").write_bytes(b"nothing")
    vitrail.train(out=run, resume=True)
    assert {path.name: path.read_bytes() for path in (run / "model").iterdir()} == whole
    assert "written anew from the checkpoint of step" in " ".join(capsys.readouterr().err.split())


def test_a_kept_model_that_no_checkpoint_holds_is_followed_by_another(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    recipe = quick(evaluate={"every": 5}, checkpoint={"every": 4})
    vitrail.train(recipe, image_folder, out=run, quiet=True)
    before = metrics(run)
    shutil.rmtree(run / "model")
    for folder in (run / "checkpoints").iterdir():
        if folder.name != "step-00000012":
            shutil.rmtree(folder)
    change_state(last_checkpoint(run), lambda state: state["best"].update(step=10))  # as if step 12 had been worse
    vitrail.train(out=run, resume=True)
    assert vitrail.load(run).config.classes == 3
    assert metrics(run) == before
    assert "the next evaluation keeps another" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_kept_model_without_one_of_its_files_is_written_anew(name: str, stopped: Path) -> None:
    whole = {path.name: path.read_bytes() for path in (stopped / "model").iterdir()}
    (stopped / "model" / name).unlink()
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(7, Loop._next))
        with pytest.raises(Stopped):
            vitrail.train(out=stopped, resume=True, quiet=True)
    assert {path.name: path.read_bytes() for path in (stopped / "model").iterdir()} == whole


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again_over_itself(image_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    vitrail.train(quick(), image_folder, out=run, quiet=True)
    shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"checkpoints has none of the checkpoints of this run, which got to step 12"):
        vitrail.train(out=run, resume=True, quiet=True)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patches:
        patches.setattr(Saver, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            vitrail.train(quick(), image_folder, out=tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "model").is_dir()
    vitrail.train(out=tmp_path / "run", resume=True, quiet=True)
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_lines_of_the_log_that_are_gone_are_told_and_what_is_there_is_kept(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:1], lines[1].replace('"step"', '"stop"'), *lines[3:]]))
    damaged = path.read_bytes()
    vitrail.train(out=stopped, resume=True)
    told = " ".join(capsys.readouterr().err.split())
    assert f"metrics.jsonl lacks 2 of the {len(lines)} records up to step 6" in told
    assert (stopped / "metrics.damaged.jsonl").read_bytes() == damaged


def test_without_what_it_knew_of_its_images_a_run_does_not_go_on_unasked(stopped: Path) -> None:
    (stopped / "data.parquet").unlink()
    with pytest.raises(UserError, match=r"data\.parquet.*--allow-data-change"):
        vitrail.train(out=stopped, resume=True, quiet=True)
    vitrail.train(out=stopped, resume=True, quiet=True, allow_data_change=True)


def test_a_run_that_is_past_its_end_as_images_were_removed_is_evaluated_and_finished(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = quick(steps=None, epochs=6, evaluate={"every": 100}, checkpoint={"every": 2})
    with monkeypatch.context() as patches:
        patches.setattr(Loop, "_next", stopping_at(12, Loop._next))
        with pytest.raises(Stopped):
            vitrail.train(recipe, image_folder, out=tmp_path / "run", quiet=True)
    for path in image_folder.rglob("*.png"):
        if int(path.stem) >= 6:
            path.unlink()
    result = vitrail.train(out=tmp_path / "run", resume=True, quiet=True, allow_data_change=True)
    assert result.report.exists()
    assert vitrail.load(result.model).config.classes == 3


def test_a_recipe_that_is_gone_is_taken_from_the_newest_checkpoint(
    image_folder: Path, tmp_path: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / "recipe.yaml").unlink()
    vitrail.train(out=stopped, resume=True)
    assert "recipe.yaml was gone: written anew" in " ".join(capsys.readouterr().err.split())
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", stopped)


def test_a_folder_below_a_file_is_refused_in_a_line(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"file/run cannot be written to"):
        vitrail.train(quick(), image_folder, out=tmp_path / "file" / "run", quiet=True)


def test_the_command_that_began_a_run_with_a_saved_recipe_goes_on_with_it(image_folder: Path, tmp_path: Path) -> None:
    vitrail.train(quick(steps=3), image_folder, out=tmp_path / "first", quiet=True)
    command = {"recipe": tmp_path / "first" / "recipe.yaml", "data": image_folder, "changes": {"epochs": 1}}
    vitrail.train(**command, out=tmp_path / "second", quiet=True)
    vitrail.train(**command, out=tmp_path / "second", resume=True, quiet=True)
    with pytest.raises(UserError, match=r"where epochs is 1.0, not 2.0"):
        vitrail.train(**command | {"changes": {"epochs": 2}}, out=tmp_path / "second", resume=True, quiet=True)


def test_with_no_run_there_and_nothing_named_nothing_is_begun(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"typo holds no run to go on with: .*name the data"):
        vitrail.train(out=tmp_path / "typo", resume=True, quiet=True)
    assert not (tmp_path / "typo").exists()
    vitrail.train(quick(steps=1), image_folder, out=tmp_path / "named", resume=True, quiet=True)


def test_a_run_does_not_get_or_lose_its_start_on_the_way(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"where init is None, not .*model"):
        vitrail.train(out=stopped, resume=True, changes={"init": str(stopped / "model")}, quiet=True)
    edit_recipe(stopped, init=str(stopped / "model"))
    with pytest.raises(UserError, match=r"init is .*model, and the run was trained with None"):
        vitrail.train(out=stopped, resume=True, quiet=True)


@pytest.mark.parametrize("damage", ["empty", "cut", "other keys", "folder", "dangling link"])
def test_a_damaged_recipe_is_refused_with_the_way_out_which_works(damage: str, stopped: Path) -> None:
    path = stopped / "recipe.yaml"
    whole = path.read_text()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "dangling link":
        path.symlink_to(stopped / "nothing")
    else:
        path.write_text({"empty": "", "cut": whole[: len(whole) // 2] + " {", "other keys": "1: 2\n"}[damage])
    with pytest.raises(UserError, match=r"recipe\.yaml.*remove it.*--resume writes it anew"):
        vitrail.train(out=stopped, resume=True, quiet=True)
    if damage == "folder":
        path.rmdir()
    else:
        path.unlink()
    vitrail.train(out=stopped, resume=True, quiet=True)
    assert path.read_text() == whole


@pytest.mark.parametrize(("old", "new"), [('"loss": ', '"loss": 1'), ('"lr": ', '"lr": "x", "or": ')])
def test_a_value_of_the_log_that_was_changed_is_told(
    old: str, new: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "metrics.jsonl"
    path.write_text(path.read_text().replace(old, new, 1))
    damaged = path.read_bytes()
    vitrail.train(out=stopped, resume=True)
    told = " ".join(capsys.readouterr().err.split())
    assert "metrics.jsonl has other records than were written" in told or "metrics.jsonl lacks 1 of" in told
    assert (stopped / "metrics.damaged.jsonl").read_bytes() == damaged


def test_a_line_that_is_twice_in_the_log_is_there_once_when_the_run_goes_on(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines]))
    vitrail.train(out=stopped, resume=True)
    assert path.read_text().startswith("".join(lines))
    assert "metrics.damaged" not in capsys.readouterr().err


def test_what_may_not_be_written_is_named_with_the_way_out(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(log: MetricsLog, record: dict[str, Any]) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(log.path))

    monkeypatch.setattr(MetricsLog, "write", refused)
    with pytest.raises(Failure, match=r"metrics\.jsonl: Permission denied: see to its permissions; .*go on with"):
        vitrail.train(quick(), image_folder, out=tmp_path / "run", quiet=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_pipe_in_the_place_of_a_checkpoints_file_holds_nothing_up(stopped: Path) -> None:
    state = last_checkpoint(stopped) / "state.json"
    state.unlink()
    os.mkfifo(state)
    _, damaged = checkpoint.newest_valid(stopped / "checkpoints")
    assert "state.json is missing, which manifest.json lists" in damaged[0]
