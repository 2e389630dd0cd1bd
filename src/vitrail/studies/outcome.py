"""Outcome: what one run of a study left, read from and written to the run's folder.

Shapes: n reported images.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.weights import replace

NAME = "outcome.json"
_CORRECT = "correct.npy"


@dataclass(frozen=True)
class Cell:
    """Which run of a study: an arm, a value along the axis (None without one), a learning rate and a seed."""

    arm: str
    along: Any  # a number, a word, or a tuple of these
    lr: float
    seed: int


@dataclass(frozen=True)
class Size:
    """What an arm costs at a value along the axis, counted from its configuration and its recipe."""

    parameters: int
    tokens: int | None
    """None for a network without tokens."""
    flops: int
    """Of one forward pass on one image; a multiply and an add are two."""
    attention_share: float
    """Part of the FLOPs that compares tokens with each other."""
    training_bytes: int
    """Memory of a training step."""
    steps: int
    images: int
    """Training images."""
    batch_size: int

    @property
    def training_flops(self) -> int:
        """Of the whole run: three forward passes an image seen, the backward pass being two."""
        return 3 * self.flops * self.steps * self.batch_size


@dataclass(frozen=True, eq=False)
class Outcome:
    """One run: how it did on the validation images and on those that are reported, and what it took."""

    cell: Cell
    val_top1: float
    """Accuracy on the images that choose the learning rate; 0 for a run that diverged."""
    val_loss: float | None
    """Cross-entropy there; None for a run that diverged."""
    correct: NDArray[np.bool_]
    """(n,), whether each reported image was got right; all false for a run that diverged."""
    nll: float | None
    """Mean negative log-likelihood on the reported images; None for a run that diverged."""
    steps: int
    seconds: float
    """Of training, evaluations included, beside the other runs of the study."""
    diverged: bool = False

    @property
    def top1(self) -> float:
        """Accuracy on the reported images."""
        return float(self.correct.mean())


def cell_of(values: Mapping[str, Any]) -> Cell:
    """A cell from its values as JSON has them: a list stands for a tuple."""
    along = values["along"]
    return Cell(**{**values, "along": tuple(along) if isinstance(along, list) else along})


def write(outcome: Outcome, folder: Path) -> None:
    """Keep an outcome in its run's folder; the JSON file comes last, so that a run with one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with replace.file(folder / _CORRECT) as staging, staging.open("wb") as file:
        np.save(file, outcome.correct)
    values = {field.name: getattr(outcome, field.name) for field in fields(outcome) if field.name != "correct"}
    with replace.file(folder / NAME) as staging:
        staging.write_text(json.dumps({**values, "cell": asdict(outcome.cell)}, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Outcome | None:
    """The outcome of a finished run; None where there is none yet, or what is there cannot be read."""
    try:
        values = json.loads((folder / NAME).read_text(encoding="utf-8"))
        correct = np.load(folder / _CORRECT, allow_pickle=False).astype(bool)
        return Outcome(correct=correct, **{**values, "cell": cell_of(values["cell"])})
    except (OSError, EOFError, ValueError, TypeError, KeyError):
        return None
