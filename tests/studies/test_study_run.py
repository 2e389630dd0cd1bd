"""A study from the command to its page; stopped, killed, gone on with; refused where it would mix with another."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from tiny_study import TINY, tiny
from vitrail.errors import Failure, UserError
from vitrail.studies import outcome
from vitrail.studies.budget import Pace, measured
from vitrail.studies.plan import make_plan
from vitrail.studies.run import study
from vitrail.studies.schedule import Schedule
from vitrail.studies.workers import Share, Worker, working
from vitrail.training.metrics import read

pytestmark = pytest.mark.slow


def written(folder: Path, name: str) -> list[Path]:
    """The files of a name below a folder that others are writing in, which pathlib's own walk does not bear."""
    return [Path(root) / name for root, _, files in os.walk(folder) if name in files]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAIL_DEVICE", "cpu")


def results(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_study_leaves_table_figure_and_page(tmp_path: Path, run: Callable[..., Any]) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(TINY))
    code, out, err = run("study", tmp_path / "own.yaml", "--out", tmp_path / "out", "--jobs", 2)
    assert code == 0
    assert "6 runs, 2 side by side" in err
    assert "6/6" in err
    assert str(tmp_path / "out" / "index.html") in out
    for name in ("results.csv", "results.json", "figure.svg", "figure.png", "index.html"):
        assert (tmp_path / "out" / name).stat().st_size > 500, name
    rows = results(tmp_path / "out")
    assert {(row["arm"], float(row["lr"])) for row in rows} == {
        (a, r) for a in ("with", "without") for r in (1e-3, 1e-2)
    }
    assert json.loads((tmp_path / "out" / "results.json").read_text())


def test_every_run_is_an_ordinary_training_run(tmp_path: Path, run: Callable[..., Any]) -> None:
    study(tiny(lr=[1e-2], seeds=2), out=tmp_path / "out")
    folder = tmp_path / "out" / "runs" / "02-without" / "lr-0.01" / "seed-1"
    own = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert (own["seed"], own["optimizer"]["lr"], own["model"]["position"]) == (1, 0.01, "none")
    code, _, _ = run("train", "digits", "--recipe", folder / "recipe.yaml", "--out", tmp_path / "again")
    assert code == 0
    one, other = (
        [{k: v for k, v in record.items() if k != "images_per_second"} for record in read(at / "metrics.jsonl")]
        for at in (folder, tmp_path / "again")
    )
    assert one == other  # one thread here and there
    kept = outcome.read(folder)
    assert kept is not None
    assert kept.top1 == next(record["top1"] for record in one if record["split"] == "test")
    assert kept.val_top1 in [record["top1"] for record in one if record["split"] == "val"]


def test_a_killed_study_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({**TINY, "recipe": {**TINY["recipe"], "steps": 25}}))
    command = [sys.executable, "-m", "vitrail", "study", str(file), "--jobs", "2", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)

    process = subprocess.Popen([*command, str(tmp_path / "out")], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not written(tmp_path / "out", "outcome.json") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("outcome.json")}
    assert 0 < len(done) < 6
    time.sleep(2)  # its workers have seen the end of their input
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("outcome.json")} == done

    subprocess.run([*command, str(tmp_path / "out")], env=environment, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in done} == done  # finished runs are kept
    whole, again = results(tmp_path / "whole"), results(tmp_path / "out")
    for row in (*whole, *again):
        del row["seconds"]
    assert whole == again


def test_a_study_that_is_asked_to_stop_saves_its_runs(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({**TINY, "recipe": {**TINY["recipe"], "steps": 3000}}))
    command = [sys.executable, "-m", "vitrail", "study", str(file), "--jobs", "2", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not written(tmp_path / "out", "metrics.jsonl") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "of 6 runs done" in err
    assert list((tmp_path / "out").rglob("checkpoints/step-*"))


def test_a_finished_study_writes_its_page_again_in_a_moment(tmp_path: Path) -> None:
    own = tiny(lr=[1e-2])
    first = study(own, out=tmp_path / "out")
    (tmp_path / "out" / "index.html").unlink()
    again = study(own, out=tmp_path / "out")
    assert first.points == again.points
    assert (tmp_path / "out" / "index.html").is_file()


def test_another_study_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    study(tiny(lr=[1e-2]), out=tmp_path / "out")
    with pytest.raises(UserError, match=r"holds another study \(.*rates"):
        study(tiny(lr=[2e-2]), out=tmp_path / "out")
    with pytest.raises(UserError, match=r"with: recipe\.model\.width is 16 there, and 24 asked for"):
        study(tiny(lr=[1e-2]), out=tmp_path / "out", changes={"model.width": 24})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no study"):
        study(tiny(), out=tmp_path / "full")


def test_a_budget_shortens_every_run_and_is_kept_when_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.studies.run.measured", lambda plan, shares: Pace(of_step=0.1, of_run=1.0))
    lines: list[str] = []
    own = tiny(recipe={**TINY["recipe"], "steps": 1000}, lr=[1e-2])
    found = study(own, out=tmp_path / "out", budget=5, jobs=2, say=lines.append)
    # 4 runs, 2 side by side: 2 seconds beside the steps, and 200 for all steps
    assert {point.size.steps for point in found.points} <= {14, 15}
    assert any(line.startswith("about 5 s, with 1% of the steps") for line in lines)
    again = study(own, out=tmp_path / "out", budget=500, jobs=2)
    assert again.points == found.points
    assert "1% of its steps" in found.setting.notes[-1]
    with pytest.raises(UserError, match="--budget: 4 runs of at least 10 steps need about 4 s"):
        study(own, out=tmp_path / "small", budget=1, jobs=2)


def test_the_pace_is_that_of_a_few_steps(tmp_path: Path) -> None:
    pace = measured(make_plan(tiny(lr=[1e-2]), "digits"), [Share(1)])
    assert 1e-4 < pace.of_step < 1.0
    assert 0 < pace.of_run < 60


def test_a_rate_at_which_training_diverges_counts_against_it_and_not_against_the_study(tmp_path: Path) -> None:
    own = tiny(lr=[1e-2, 1e9], sweep_seeds=None, recipe={**TINY["recipe"], "steps": 30, "optimizer.clip": 0.0})
    found = study(own, out=tmp_path / "out")
    for point in found.points:
        assert (point.diverged == 0) == (point.lr == 1e-2)
        assert point.chosen == (point.lr == 1e-2)


def test_a_run_that_fails_is_told_and_the_others_are_kept(tmp_path: Path, image_folder: Path) -> None:
    recipe = {"steps": 3, "model": TINY["recipe"]["model"], "batch_size": 8, "data.test_fraction": 0.4}
    own = tiny(recipe=recipe, lr=[1e-2])
    plan = make_plan(own, image_folder)
    jobs = list(iter(Schedule(plan, tmp_path / "runs").next_job, None))
    for path in image_folder.rglob("*.png"):
        path.write_bytes(b"no image")
    with working([Share(1)]) as workers:
        workers.start(jobs[0])
        while not (ended := workers.wait(1.0)):
            pass
    assert isinstance(ended[0][1], UserError)
    assert jobs[0].folder in str(ended[0][1])
    assert ".png" in str(ended[0][1])


def test_a_worker_that_dies_is_told_with_its_run(tmp_path: Path) -> None:
    own = tiny(recipe={**TINY["recipe"], "steps": 100_000})
    job = Schedule(make_plan(own, "digits"), tmp_path / "runs").next_job()
    assert job is not None
    with working([Share(1)]) as workers:
        workers.start(job)
        deadline = time.monotonic() + 60
        while not Path(job.folder).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        worker: Worker = workers.all[0]
        assert worker.process is not None
        worker.process.kill()
        ended = workers.wait(10.0)
    assert isinstance(ended[0][1], Failure)
    assert "take fewer --jobs" in str(ended[0][1])


def test_data_without_test_images_report_those_held_out(tmp_path: Path, image_folder: Path) -> None:
    recipe = {"steps": 3, "batch_size": 8, "model": TINY["recipe"]["model"], "data.test_fraction": 0.4}
    found = study(tiny(recipe=recipe, lr=[1e-2]), image_folder, out=tmp_path / "out")
    assert found.setting.train + found.setting.val + found.setting.reported == 36
    kept = outcome.read(next((tmp_path / "out").rglob("outcome.json")).parent)
    assert kept is not None
    assert len(kept.correct) == found.setting.reported


def test_more_seeds_keep_the_runs_that_are_there(tmp_path: Path) -> None:
    first = study(tiny(lr=[1e-2]), out=tmp_path / "out")
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("outcome.json")}
    more = study(tiny(lr=[1e-2]), out=tmp_path / "out", seeds=3)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert {point.seeds for point in first.points} == {2}
    assert {point.seeds for point in more.points} == {3}


def test_data_that_changed_are_not_mixed(tmp_path: Path, image_folder: Path) -> None:
    recipe = {"steps": 3, "batch_size": 8, "model": TINY["recipe"]["model"], "data.test_fraction": 0.4}
    own = tiny(recipe=recipe, lr=[1e-2])
    study(own, image_folder, out=tmp_path / "out")
    next(image_folder.rglob("*.png")).unlink()
    with pytest.raises(UserError, match="holds another study"):
        study(own, image_folder, out=tmp_path / "out")


def test_two_processes_do_not_work_on_one_study(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / "study.lock"),
        pytest.raises(UserError, match="another process works on the study"),
    ):
        study(tiny(), out=tmp_path / "out")


def test_workers_are_closed_while_they_work(tmp_path: Path) -> None:
    own = tiny(recipe={**TINY["recipe"], "steps": 100_000})
    schedule = Schedule(make_plan(own, "digits"), tmp_path / "runs")
    started = time.monotonic()
    with working([Share(1), Share(1)]) as workers:
        for _ in range(2):
            job = schedule.next_job()
            assert job is not None
            workers.start(job)
        while not written(tmp_path / "runs", "metrics.jsonl") and time.monotonic() < started + 60:
            time.sleep(0.05)
    assert all(worker.process is not None and worker.process.poll() is not None for worker in workers.all)


def test_one_run_that_fails_leaves_the_others_to_their_end(tmp_path: Path) -> None:
    own = tiny(lr=[1e-2])
    plan = study(own, out=tmp_path / "out").study
    first, second = (path.parent for path in sorted((tmp_path / "out").rglob("outcome.json"))[:2])
    shutil.rmtree(first)
    shutil.rmtree(second)
    first.mkdir()
    (first / "mine.txt").write_text("in the way")
    with pytest.raises(Failure, match="3 of 4 runs are done, and kept"):
        study(own, out=tmp_path / "out")
    (first / "mine.txt").unlink()
    assert study(own, out=tmp_path / "out").study == plan


def test_a_gpu_that_is_named_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAIL_DEVICE", "cuda:1")
    assert Share(1, 2).environment()["VITRAIL_DEVICE"] == "cuda:1"
    assert Share(2, 2, "cuda:0").environment()["VITRAIL_DEVICE"] == "cuda:0"
    assert Share(2, 3).environment()["OMP_NUM_THREADS"] == "2"
    assert Share(2, 3).environment()["VITRAIL_NEIGHBOURS"] == "3"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("positions",), "did you mean position"),
        (("position", "--lr", "fast"), "--lr 'fast'"),
        (("position", "--lr", "0"), "--lr '0'"),
        (("position", "--budget", "soon"), "--budget 'soon'"),
        (("position", "--seeds", "1"), "--seeds"),
        (("position", "--jobs", "0"), "--jobs 0"),
        (("position", "--data", "nowhere"), "nowhere"),
        (("position", "--image-size", "0"), "image size '0'"),
        (("position", "--init", "x"), "leave --init out"),
        (("position", "--set", "model.widht=3"), "model.widht"),
    ],
)
def test_bad_options_get_one_line(
    run: Callable[..., Any], arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    code, out, err = run("study", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_without_a_name_the_studies_are_listed(run: Callable[..., Any]) -> None:
    code, out, _ = run("study")
    assert code == 0
    for name in ("bias", "pooling", "position", "resolution", "tokens"):
        assert name in out
