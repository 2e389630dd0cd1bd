"""What several test modules share: one thread a process, and a small folder of images."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stripes import write_images
from vitrail.cli import main

# Tests run side by side; threads of several processes that wait for each other are far slower than one each.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has what runs in the background ignore


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """36 images of three classes, which a small model learns to tell apart in a few steps."""
    return write_images(tmp_path / "stripes", {"high": 12, "low": 12, "middle": 12})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command as from a shell: a function from arguments to exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("VITRAIL_DEVICE", "cpu")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vitrail", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def whole_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block computes every token, as costs are counted, even where the class token alone is pooled."""
    from vitrail.model import ViT

    monkeypatch.setattr(ViT, "_read", lambda model, images: None)
