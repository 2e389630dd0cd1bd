"""The torture suite in its short form; and that its comparisons and its counts notice what they are there to notice."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite is a folder beside tests, and no part of the package."""
    monkeypatch.syspath_prepend(str(ROOT))


def torture(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torture", *arguments], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
    )


@pytest.mark.slow
def test_nothing_is_lost_in_the_short_form_of_every_ordeal(tmp_path: Path) -> None:
    # Other tests run at the same time, so each ordeal has three times its usual limit.
    done = torture("--short", "--seed", "1", "--patience", "8", "--json", str(tmp_path / "counts.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "counts.json").read_text(encoding="utf-8"))
    assert document["complete"]
    for row in document["counts"]:
        assert row["wanted"] > 0
        assert (row["survived"] >= row["wanted"], row["lost"]) == (True, 0), row


def test_a_count_that_time_cut_short_is_a_failure(tmp_path: Path) -> None:
    done = torture(
        "--short", "--only", "order", "--patience", "0.01", "--seed", "5", "--json", str(tmp_path / "c.json")
    )
    assert done.returncode == 1
    assert "seed 5" in done.stdout
    assert "NOT complete" in done.stdout
    (row,) = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["counts"]
    assert row["survived"] < row["wanted"] == 250


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of what looks like the same finished run."""
    generator = torch.Generator().manual_seed(0)
    whole = tmp_path / "whole"
    step = whole / "checkpoints" / "step-00000004"
    for folder in (step, whole / "model"):
        folder.mkdir(parents=True)
        save_file({"w": torch.randn(3, 4, generator=generator)}, folder / "model.safetensors")
    save_file({"w:exp_avg": torch.randn(3, 4, generator=generator)}, step / "optimizer.safetensors")
    (step / "state.json").write_text(json.dumps({"step": 4, "seconds": 1.5, "window": {"loss": 0.25}}))
    rows = [{"step": k, "split": "train", "loss": 1 / k, "images_per_second": k} for k in (1, 2, 3, 4)]
    (whole / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run", whole


def difference(runs: tuple[Path, Path]) -> str | None:
    from torture.runs import Run
    from torture.runs import difference as compare

    return compare(Run(runs[0]), Run(runs[1]))


def lines_changed(path: Path, *, drop: int | None = None, double: int | None = None) -> None:
    lines = path.read_text().splitlines(keepends=True)
    if drop is not None:
        del lines[drop]
    if double is not None:
        lines.insert(double, lines[double])
    path.write_text("".join(lines))


def test_runs_that_differ_in_their_clocks_alone_are_alike(runs: tuple[Path, Path]) -> None:
    metrics = runs[0] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"images_per_second": 3', '"images_per_second": 99'))
    state = runs[0] / "checkpoints" / "step-00000004" / "state.json"
    state.write_text(state.read_text().replace("1.5", "2.5"))
    assert difference(runs) is None


@pytest.mark.parametrize(
    "name", ["model/model", "checkpoints/step-00000004/model", "checkpoints/step-00000004/optimizer"]
)
def test_one_other_bit_is_noticed(runs: tuple[Path, Path], name: str) -> None:
    path = runs[0] / f"{name}.safetensors"
    ((key, tensor),) = load_file(path).items()
    tensor.view(torch.int32)[1, 2] ^= 1
    save_file({key: tensor}, path)
    assert difference(runs) == f"{key} in {path} has other bits"


def test_holes_and_duplicates_in_the_metrics_are_noticed(runs: tuple[Path, Path]) -> None:
    lines_changed(runs[0] / "metrics.jsonl", double=1)
    assert difference(runs) == "metrics.jsonl has (2, 'train') twice"
    lines_changed(runs[0] / "metrics.jsonl", drop=1)
    lines_changed(runs[0] / "metrics.jsonl", drop=2)
    assert difference(runs) == "metrics.jsonl lacks (3, 'train')"


def test_a_run_may_end_with_another_number_of_loading_processes_but_with_nothing_else(runs: tuple[Path, Path]) -> None:
    for run, workers in zip(runs, (2, 0), strict=True):
        state = {"step": 4, "recipe": {"seed": 1, "data": {"workers": workers}}}
        (run / "checkpoints" / "step-00000004" / "state.json").write_text(json.dumps(state))
    assert difference(runs) is None
    state["recipe"]["seed"] = 2
    (runs[0] / "checkpoints" / "step-00000004" / "state.json").write_text(json.dumps(state))
    assert difference(runs) == "step-00000004/state.json has other values of recipe"


def test_one_number_that_is_not_finite_is_noticed(runs: tuple[Path, Path]) -> None:
    from torture.numbers import not_finite

    assert not_finite(runs[0]) is None
    path = runs[0] / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    ((key, tensor),) = load_file(path).items()
    tensor[2, 1] = float("inf")
    save_file({key: tensor}, path)
    assert not_finite(runs[0]) == f"{key} in checkpoints/step-00000004/optimizer.safetensors is not finite"


def test_every_change_of_the_data_changes_it_and_is_undone(tmp_path: Path) -> None:
    from torture import changes

    def now() -> dict[str, tuple[bytes, int]]:
        files = (path for path in (tmp_path / "images").rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    changes.make(tmp_path / "images", seed=0)
    before, rng = now(), random.Random(0)
    for kind, change in {**changes.ALLOWED, **changes.NEVER}.items():
        with change(tmp_path / "images", rng) as words:
            assert now() != before, kind
            if kind.startswith("edited"):
                assert {(k, len(v), t) for k, (v, t) in now().items()} == {
                    (k, len(v), t) for k, (v, t) in before.items()
                }
            assert words
        assert now() == before, kind


def test_what_a_kill_leaves_behind_is_noticed(runs: tuple[Path, Path]) -> None:
    (runs[0] / "checkpoints" / ".step-00000008.writing-abc").mkdir()
    assert difference(runs) == "left behind: .step-00000008.writing-abc"
