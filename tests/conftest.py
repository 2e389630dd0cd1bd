"""What several test modules share: one thread a process, and a small folder of images."""

import os
from pathlib import Path

import pytest
import torch

from stripes import write_images

# Tests run side by side; threads of several processes that wait for each other are far slower than one each.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """36 images of three classes, which a small model learns to tell apart in a few steps."""
    return write_images(tmp_path / "stripes", {"high": 12, "low": 12, "middle": 12})
