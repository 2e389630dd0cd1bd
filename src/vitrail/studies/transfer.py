"""Transfer: one trained model of a study brought to one size of the images: tested there, fine-tuned there, tested again."""

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vitrail.data.cache import Memory
from vitrail.data.open import open_data, with_test
from vitrail.data.workers import loader_workers
from vitrail.evaluation.run import predict_logits
from vitrail.model import Model
from vitrail.recipes import files
from vitrail.recipes.recipe import Recipe
from vitrail.studies import outcome
from vitrail.studies.outcome import Outcome, SizeCell, SizeOutcome, size_cell_of
from vitrail.training.device import devices
from vitrail.training.guard import Diverged
from vitrail.training.images import Look
from vitrail.training.interrupt import Stopped, stop_requests
from vitrail.training.run import train
from vitrail.weights.folder import RUN_MODEL, save
from vitrail.weights.load import load_folder
from vitrail.weights.resize import resize

_START, _TUNING = "start", "tuning"
"""Folders within a transfer's: the resized model, and the run that fine-tunes it."""


@dataclass(frozen=True)
class Transfer:
    """One trained model at one size: which, whose, how it is resized and fine-tuned, its folder."""

    cell: SizeCell
    run: str
    """Folder of the run that trained it."""
    method: str | None
    """How its positions reach the size; None for its own way."""
    recipe: dict[str, Any]
    """Of the fine-tuning, whole but for its start."""
    folder: str
    reported: int
    """Images that are reported: a model whose training diverged is wrong on all of them."""

    def kept(self) -> SizeOutcome | None:
        """What it left; None where it is not done."""
        found = outcome.read_size(Path(self.folder))
        return found if found is not None and found.cell == self.cell else None


def transfer_of(values: dict[str, Any]) -> Transfer:
    """The inverse of ``dataclasses.asdict`` after a way through JSON."""
    return Transfer(**{**values, "cell": size_cell_of(values["cell"])})


def carry_out(transfer: Transfer, memory: Memory) -> SizeOutcome:
    """Resize, test, fine-tune and test again, or go on with what is there; an outcome that is there already is read.

    Of the fine-tuning its metrics and report stay. Its model goes with its checkpoints: there is one for every size of every
    run, and the trained model can be brought there again.

    Args:
        memory: where images that are decoded are kept for other runs in this process.
    """
    done = transfer.kept()
    if done is not None:
        return done
    folder = Path(transfer.folder)
    trained = outcome.read(Path(transfer.run))
    if trained is not None and trained.diverged:
        wrong = np.zeros((2, transfer.reported), dtype=bool)
        kept = SizeOutcome(transfer.cell, wrong, (None, None), 0.0)
    else:
        kept = _transferred(transfer, folder, memory, trained)
    outcome.write(kept, folder)
    for name in (_START, f"{_TUNING}/{RUN_MODEL}", f"{_TUNING}/checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return kept


def _transferred(transfer: Transfer, folder: Path, memory: Memory, trained: Outcome | None) -> SizeOutcome:
    recipe, size = files.from_dict(transfer.recipe), transfer.cell.image_size
    with stop_requests() as stop, stop.deferred():
        model = load_folder(Path(transfer.run) / RUN_MODEL)
        at_base = trained if model.config.image_size == size else None  # its run has tested it there
        model = resize(model, size, method=transfer.method)
        correct, nll = (at_base.correct, at_base.nll) if at_base else _answers(*_tested(model, recipe, memory))
        save(model, folder / _START)
    if stop.exit_code is not None:
        raise Stopped(stop.exit_code, "stopped before the fine-tuning")
    tuning = files.changed(recipe, {"init": str(folder / _START), "model": {}})
    started = time.monotonic()
    try:
        result = train(tuning, out=folder / _TUNING, resume=True, quiet=True, memory=memory)
    except Diverged:
        return SizeOutcome(
            transfer.cell, np.stack([correct, np.zeros_like(correct)]), (nll, None), time.monotonic() - started
        )
    assert result.logits is not None
    assert result.targets is not None
    tuned, tuned_nll = _answers(result.logits, result.targets)
    return SizeOutcome(transfer.cell, np.stack([correct, tuned]), (nll, tuned_nll), result.seconds)


def _tested(model: Model, recipe: Recipe, memory: Memory) -> tuple[Tensor, Tensor]:
    """Logits (n, C) and targets (n,) of the images that a run of this recipe reports."""
    own = recipe.data
    data = with_test(open_data(own.source or "digits", val_fraction=own.val_fraction), own.test_fraction)
    assert model.preprocess is not None
    with devices() as place:
        look = Look(recipe, model.preprocess, data.name, place.neighbours, memory=memory)
        checked = look.at_evaluation(data.test, "test")
        assert checked is not None
        return predict_logits(
            model.to(place.device),
            checked.samples,
            batch_size=max(1, 2 * recipe.batch_size // recipe.optimizer.accumulate),
            workers=loader_workers(own.workers, len(checked.samples), place.device.type, place.neighbours),
            cached=checked.cached,
        )


def _answers(logits: Tensor, targets: Tensor) -> tuple[NDArray[np.bool_], float | None]:
    """(n,), whether each image is got right, and the mean negative log-likelihood."""
    nll = float(F.cross_entropy(logits, targets))
    return (logits.argmax(1) == targets).numpy(), nll if math.isfinite(nll) else None
