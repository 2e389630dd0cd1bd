"""A folder of images whose classes a small model learns to tell apart in a few steps."""

from pathlib import Path

import numpy as np
from PIL import Image


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
