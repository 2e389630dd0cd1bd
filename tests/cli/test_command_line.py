"""The command line: exit codes, one-line errors, and nothing heavy before a command runs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "torchvision", "numpy", "pydantic", "sklearn", "matplotlib", "PIL", "pandas", "pyarrow", "yaml")


def vitrail(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vitrail", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['vitrail', '--help']\n"
        "from vitrail.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "train" in done.stdout
    assert done.stderr.strip() == "[]"


def test_every_command_has_help(run: Run) -> None:
    from vitrail.cli import COMMANDS

    for name in COMMANDS:
        code, out, _ = run(name, "--help")
        assert code == 0, name
        assert "Usage" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/folder"], "no/such/folder: no such folder or file"),
        (["--recipe", "smal"], "did you mean small"),
        (["--model", "X/16"], "unknown variant 'X/16'"),
        (["--set", "optimizer.lrr=1"], "unknown key 'optimizer.lrr'"),
        (["--set", "lr"], "write it as key=value"),
        (["--image-size", "big"], "384x256"),
        (["--resume"], "--resume needs --out"),
        (["--epochs", "1", "--steps", "2"], "not both"),
        (["--batch-size", "100000000"], "use --batch-size"),
        (["--init", "no/such/model"], "no/such/model"),
        (["--model", "S/16", "--image-size", "100"], "the nearest sizes are 96x96 and 112x112"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("train", *arguments)
    assert code == 2
    error = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", ["empty", "one class", "only in val"])
def test_unusable_folders_are_refused(
    make: str, image_folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    if make == "empty":
        folder.mkdir()
        message = "no images"
    elif make == "one class":
        folder.mkdir()
        (image_folder / "low").rename(folder / "low")
        message = "only one class (low)"
    else:
        (folder / "val").mkdir(parents=True)
        (image_folder / "low").rename(folder / "val" / "unheard")
        image_folder.rename(folder / "train")
        message = "val has class 'unheard' that train lacks"
    code, _, err = run("train", folder)
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    done = vitrail("--debug", "train", "no/such/folder", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_run_ends_with_the_reports_path_and_can_be_used(image_folder: Path, tmp_path: Path) -> None:
    done = vitrail("train", str(image_folder), "--steps", "3", "--batch-size", "8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {Path('runs') / 'stripes' / 'report.html'}"
    assert "recipe small" in done.stderr
    assert "convolutional stem" in done.stderr
    run = "runs/stripes"
    evaluated = vitrail("evaluate", run, str(image_folder), "--json", "-", cwd=tmp_path)
    keys = {"n", "top1", "top1_ci95", "top5", "nll", "ece", "temperature", "per_class"}
    assert keys <= json.loads(evaluated.stdout).keys()
    predicted = vitrail("predict", run, str(image_folder), "--format", "jsonl", cwd=tmp_path)
    rows = [json.loads(line) for line in predicted.stdout.splitlines()]
    assert len(rows) == 36
    assert rows[0].keys() == {"file", "label", "probability", "top"}


def test_recipes_and_keys_are_shown(run: Run) -> None:
    assert "finetune: " in run("recipe")[1]
    assert "optimizer:" in run("recipe", "small")[1]
    assert "optimizer.lr: learning rate" in run("recipe", "--keys")[1]
