"""What several test modules share: one thread a process, and a small folder of images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)


def write_images(folder: Path, classes: dict[str, int], size: tuple[int, int] = (20, 24), seed: int = 0) -> Path:
    """Class folders of PNG images: a bright stripe at a place that depends on the class, on noise."""
    rng = np.random.default_rng(seed)
    for place, (name, count) in enumerate(sorted(classes.items())):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
            row = 2 + place * size[0] // len(classes)
            pixels[row : row + 3] += 130
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """36 images of three classes, which a small model learns to tell apart in a few steps."""
    return write_images(tmp_path / "stripes", {"high": 12, "low": 12, "middle": 12})
