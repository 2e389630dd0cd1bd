"""Outcome: what one run of a study left, read from and written to the run's folder; and what a transfer left.

Shapes: n reported images.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
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
    trained_flops: float | None = None
    """Mean FLOPs of one forward pass on one training image, where those differ in size; None for ``flops``."""

    @property
    def training_flops(self) -> int:
        """Of the whole run: three forward passes an image seen, the backward pass being two."""
        of_image = self.flops if self.trained_flops is None else self.trained_flops
        return round(3 * of_image * self.steps * self.batch_size)


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


@dataclass(frozen=True)
class SizeCell:
    """Which transfer of a study of sizes: an arm, the learning rate and seed of its trained model, the images' size."""

    arm: str
    lr: float
    seed: int
    image_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class SizeOutcome:
    """A trained model at one size of the images, on those that are reported: as it was trained, and fine-tuned there."""

    cell: SizeCell
    correct: NDArray[np.bool_]
    """(2, n), whether each image was got right: as trained, then fine-tuned; all false where the training diverged."""
    nll: tuple[float | None, float | None]
    """Mean negative log-likelihood of either; None where the training diverged."""
    seconds: float
    """Of the fine-tuning, beside the other runs of the study."""


Kept = Outcome | SizeOutcome


def cell_of(values: Mapping[str, Any]) -> Cell:
    """A cell from its values as JSON has them: a list stands for a tuple."""
    along = values["along"]
    return Cell(**{**values, "along": tuple(along) if isinstance(along, list) else along})


def size_cell_of(values: Mapping[str, Any]) -> SizeCell:
    """The same for the cell of a transfer."""
    height, width = values["image_size"]
    return SizeCell(**{**values, "image_size": (height, width)})


def write(outcome: Kept, folder: Path) -> None:
    """Keep an outcome in its run's folder; the JSON file comes last, so that a run with one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with replace.file(folder / _CORRECT) as staging, staging.open("wb") as file:
        np.save(file, outcome.correct)
    values = {field.name: getattr(outcome, field.name) for field in fields(outcome) if field.name != "correct"}
    with replace.file(folder / NAME) as staging:
        staging.write_text(json.dumps({**values, "cell": asdict(outcome.cell)}, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Outcome | None:
    """The outcome of a finished run; None where there is none yet, or what is there cannot be read."""
    with suppress(*_UNREADABLE):
        values, correct = _values(folder)
        return Outcome(correct=correct, **{**values, "cell": cell_of(values["cell"])})
    return None


def read_size(folder: Path) -> SizeOutcome | None:
    """The outcome of a finished transfer, likewise."""
    with suppress(*_UNREADABLE):
        values, correct = _values(folder)
        as_trained, tuned = values.pop("nll")
        return SizeOutcome(size_cell_of(values.pop("cell")), correct, (as_trained, tuned), **values)
    return None


_UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError)


def _values(folder: Path) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    values = json.loads((folder / NAME).read_text(encoding="utf-8"))
    return values, np.load(folder / _CORRECT, allow_pickle=False).astype(bool)
