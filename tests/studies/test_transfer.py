"""A trained model brought to another size: tested and fine-tuned as a person would do it by hand; stopped, gone on with."""

import csv
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

import vitrail
from tiny_study import tiny, tiny_of_sizes
from vitrail.data.cache import Memory
from vitrail.errors import UserError
from vitrail.recipes import files
from vitrail.studies import outcome
from vitrail.studies.job import perform
from vitrail.studies.plan import make_plan
from vitrail.studies.run import study
from vitrail.studies.schedule import Schedule
from vitrail.studies.transfer import Transfer, carry_out
from vitrail.studies.workers import Share, Worker, working
from vitrail.weights.load import load_folder

pytestmark = pytest.mark.slow
RECIPE = {**tiny().recipe, "steps": 60}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAIL_DEVICE", "cpu")


def transfers(folder: Path, arm: str, tune: float = 0.1) -> list[Transfer]:
    """Those of an arm's first model, which is trained; sizes rising."""
    sizes = {"scales": [0.5, 1, 1.5], "tune": tune}
    plan = make_plan(tiny_of_sizes(lr=[1e-2], recipe=RECIPE, sizes=sizes, sweep_seeds=None), "digits")
    schedule = Schedule(plan, folder)
    tasks = []
    while (task := schedule.next_job()) is not None:
        if isinstance(task, Transfer):
            tasks.append(task)
        elif task.cell.arm == plan.study.arms[arm].of or task.cell.arm == arm:
            schedule.done(perform(task))
    return sorted((t for t in tasks if (t.cell.arm, t.cell.seed) == (arm, 0)), key=lambda t: t.cell.image_size)


def test_a_model_is_tested_at_a_size_as_resize_and_evaluate_do(tmp_path: Path) -> None:
    small, large = transfers(tmp_path, "read bilinear")
    for transfer in (small, large):
        kept = carry_out(transfer, Memory())
        model = vitrail.resize(load_folder(Path(transfer.run) / "model"), transfer.cell.image_size, method="bilinear")
        found = vitrail.evaluate(model, "digits")
        assert kept.correct[0].mean() == found.top1
        assert kept.nll[0] == pytest.approx(found.nll, rel=1e-5)
        other = vitrail.resize(load_folder(Path(transfer.run) / "model"), transfer.cell.image_size)
        assert kept.nll[0] != pytest.approx(vitrail.evaluate(other, "digits").nll, rel=1e-5)  # not the arm's own way


def test_the_fine_tuning_is_an_ordinary_run_from_the_resized_model(tmp_path: Path) -> None:
    transfer = transfers(tmp_path, "with")[-1]
    kept = carry_out(transfer, Memory())
    vitrail.save(vitrail.resize(load_folder(Path(transfer.run) / "model"), 12), tmp_path / "start")
    tuning = Path(transfer.folder) / "tuning"
    recipe = files.load(tuning / "recipe.yaml")
    assert (recipe.steps, recipe.image_size, recipe.optimizer.lr, recipe.model) == (6, (12, 12), 0.3 * 1e-2, {})
    result = vitrail.train(files.changed(recipe, {"init": str(tmp_path / "start")}), out=tmp_path / "again", quiet=True)
    assert result.logits is not None
    assert np.array_equal(kept.correct[1], (result.logits.argmax(1) == result.targets).numpy())
    assert [path.name for path in Path(transfer.folder).iterdir() if path.is_dir()] == ["tuning"]
    left = {path.name for path in tuning.iterdir()} - {".lock"}
    assert left == {"data.parquet", "metrics.jsonl", "recipe.yaml", "report.html"}


def test_at_the_base_size_the_runs_own_answers_stand(tmp_path: Path) -> None:
    transfer = transfers(tmp_path, "with")[1]
    kept, trained = carry_out(transfer, Memory()), outcome.read(Path(transfer.run))
    assert trained is not None
    assert np.array_equal(kept.correct[0], trained.correct)
    assert kept.nll[0] == trained.nll
    assert kept.nll[1] != trained.nll


def test_a_killed_transfer_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    transfer = transfers(tmp_path, "with", tune=0.9)[0]
    whole = dataclasses.replace(transfer, folder=str(tmp_path / "whole"))
    with working([Share(1)]) as workers:
        workers.start(transfer)
        deadline = time.monotonic() + 60
        while not (Path(transfer.folder) / "tuning" / "recipe.yaml").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        worker: Worker = workers.all[0]
        assert worker.process is not None
        worker.process.kill()
        workers.wait(10.0)
    assert transfer.kept() is None
    one, other = carry_out(transfer, Memory()), carry_out(whole, Memory())
    assert np.array_equal(one.correct, other.correct)
    assert one.nll == other.nll


def test_a_model_whose_training_diverged_is_wrong_at_every_size(tmp_path: Path) -> None:
    transfer = transfers(tmp_path, "with")[0]
    trained = outcome.read(Path(transfer.run))
    assert trained is not None
    outcome.write(dataclasses.replace(trained, diverged=True), Path(transfer.run))
    kept = carry_out(transfer, Memory())
    assert not kept.correct.any()
    assert kept.correct.shape == (2, 359)
    assert kept.nll == (None, None)
    assert not (Path(transfer.folder) / "tuning").exists()


def test_a_fine_tuning_that_diverges_counts_as_wrong(tmp_path: Path) -> None:
    transfer = transfers(tmp_path, "with", tune=0.5)[2]
    recipe = files.changed(files.from_dict(transfer.recipe), {"optimizer.lr": 1e12, "optimizer.clip": 0.0})
    kept = carry_out(dataclasses.replace(transfer, recipe=recipe.to_dict()), Memory())
    assert kept.correct[0].any()
    assert not kept.correct[1].any()
    assert kept.nll[1] is None


def test_a_study_of_sizes_leaves_a_table_of_them_and_goes_on_where_it_was(tmp_path: Path) -> None:
    own = tiny_of_sizes(lr=[1e-2], recipe=RECIPE)
    lines: list[str] = []
    found = study(own, out=tmp_path / "out", jobs=2, say=lines.append)
    assert "4 runs and 16 transfers to a size, 2 side by side" in lines
    assert any(line.startswith("20/20  ") for line in lines)
    assert any("read bilinear at 12x12, seed 0: " in line for line in lines)
    with (tmp_path / "out" / "sizes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.sizes) == 3 * 3 * 2
    assert json.loads((tmp_path / "out" / "results.json").read_text())["sizes"][0]["arm"] == "with"
    assert {point.arm for point in found.points} == {"with", "without"}
    assert found.changes["read bilinear"] == {"model.position_interpolation": "bilinear"}
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("outcome.json")}
    assert len(done) == 20
    assert study(own, out=tmp_path / "out").sizes == found.sizes
    assert {path: path.stat().st_mtime_ns for path in done} == done
    other = tiny_of_sizes(lr=[1e-2], recipe=RECIPE, sizes={"scales": [0.5, 1, 1.5], "tune": 0.5, "tune_lr": 0.5})
    with pytest.raises(UserError, match=r"holds another study \(sizes\.tune_lr is 0\.3 there, and 0\.5 asked for"):
        study(other, out=tmp_path / "out")
