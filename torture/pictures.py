"""Small pictures in class folders, drawn from a seed, and a model that is quickly trained on digits."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from torture.processes import forked
from torture.runs import Run
from torture.trial import Trial

CLASSES = ("disc", "stripes", "noise")


def picture(seed: int, number: int, kind: str) -> bytes:
    """A picture of 16 x 16 to 24 x 24 pixels of random colours, encoded; ``kind``: JPEG or PNG."""
    rng = np.random.default_rng([seed, number])
    h, w = rng.integers(16, 25, 2)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((int(w), int(h)), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def many(folder: Path, n: int, seed: int) -> None:
    """``n`` pictures, JPEG and PNG in turn, in subfolders of 500; some are the same but for their names."""
    kinds = [("JPEG", "jpg"), ("PNG", "png")]
    drawn = [picture(seed, k, kinds[k % 2][0]) for k in range(min(n, 400))]
    for k in range(n):
        path = folder / f"{k // 500:03d}" / f"{k:06d}.{kinds[k % 2][1]}"
        if k % 500 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(drawn[k % len(drawn)])


def tiny_model(trial: Trial) -> Path:
    """A model of a thousand or so parameters, after a few steps, made once for all ordeals."""
    run = Run(trial.shared / "tiny", steps=10, changes={"model.width": 16, "model.depth": 1, "model.mlp_width": 32})
    if not (run.folder / "model").exists():
        process = forked(run.argv(), trial.shared / "tiny.log")
        if process.wait(trial.left(120)) != 0:
            raise RuntimeError(f"the tiny model was not made: {process.last_lines()}")
    return run.folder / "model"
