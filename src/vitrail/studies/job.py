"""Job: one run of a study, an ordinary training run, and what the study keeps of it; Task: a job, or a transfer."""

import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

import vitrail.training.metrics as metrics_log
from vitrail.data.cache import Memory
from vitrail.recipes import files
from vitrail.studies import outcome
from vitrail.studies.outcome import Cell, Kept, Outcome, cell_of
from vitrail.studies.transfer import Transfer, carry_out, transfer_of
from vitrail.training.finish import Result
from vitrail.training.guard import Diverged
from vitrail.training.run import train

_DECODED = Memory()
"""The images of the study, as its runs in this process have decoded them."""


@dataclass(frozen=True)
class Job:
    """One run: where it stands in the study, its whole recipe, its folder."""

    cell: Cell
    recipe: dict[str, Any]
    folder: str
    reported: int
    """Images that are reported: the answer for a run that diverges is wrong for all of them."""

    def kept(self) -> Outcome | None:
        """What it left; None where it is not done."""
        found = outcome.read(Path(self.folder))
        return found if found is not None and found.cell == self.cell else None


Task = Job | Transfer
"""What a study has done by one of its processes."""


def job_of(values: dict[str, Any]) -> Job:
    """The inverse of ``dataclasses.asdict`` after a way through JSON."""
    return Job(**{**values, "cell": cell_of(values["cell"])})


def as_plain(task: Task) -> dict[str, Any]:
    """A task, ready for JSON."""
    return {"transfer" if isinstance(task, Transfer) else "job": asdict(task)}


def task_of(values: dict[str, Any]) -> Task:
    """The inverse of ``as_plain`` after a way through JSON."""
    return transfer_of(values["transfer"]) if "transfer" in values else job_of(values["job"])


def perform(task: Task) -> Kept:
    """Do what is left of a task; see ``perform_job`` and ``transfer.carry_out``."""
    return carry_out(task, _DECODED) if isinstance(task, Transfer) else perform_job(task)


def perform_job(job: Job) -> Outcome:
    """Train, or go on with what is there, and keep the outcome; one that is there already is read.

    The run's checkpoints go when it is done: the model, the metrics and the report stay.
    """
    folder = Path(job.folder)
    done = job.kept()
    if done is not None:
        return done
    started = time.monotonic()
    try:
        result = train(files.from_dict(job.recipe), out=folder, resume=True, quiet=True, memory=_DECODED)
    except Diverged:
        kept = _diverged(job, time.monotonic() - started)
    else:
        kept = _outcome(job.cell, result)
    outcome.write(kept, folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return kept


def _diverged(job: Job, seconds: float) -> Outcome:
    wrong = np.zeros(job.reported, dtype=bool)
    steps = max((record["step"] for record in metrics_log.read(Path(job.folder) / metrics_log.NAME)), default=0)
    return Outcome(job.cell, 0.0, None, wrong, None, steps, seconds, diverged=True)


def _outcome(cell: Cell, result: Result) -> Outcome:
    assert result.logits is not None
    assert result.targets is not None
    val = next(
        record
        for record in metrics_log.read(result.folder / metrics_log.NAME)
        if record["split"] == "val" and record["step"] == result.kept_step
    )
    nll = float(F.cross_entropy(result.logits, result.targets))
    return Outcome(
        cell=cell,
        val_top1=val["top1"],
        val_loss=val["loss"] if math.isfinite(val["loss"]) else None,
        correct=(result.logits.argmax(1) == result.targets).numpy(),
        nll=nll if math.isfinite(nll) else None,
        steps=result.steps,
        seconds=result.seconds,
    )
