"""A checkpoint of n processes goes on with m: the same samples in the same order, weights and optimiser to the bit."""

import shutil
from pathlib import Path

from safetensors.torch import load_file

from torture.observed import samples
from torture.processes import Running, fresh
from torture.runs import Run
from torture.trial import Trial

_STEPS, _SAVED = 12, 6
_PAIRS = [(n, m) for n in (1, 2, 4) for m in (1, 2, 4)]
_SHORT = {"ddp": [(1, 2)], "fsdp": [(2, 1)]}
_FULL = {"ddp": _PAIRS, "fsdp": [pair for pair in _PAIRS if pair != (1, 1)]}


def worlds(trial: Trial) -> None:
    """Every pair of worlds, the model whole in each process or cut up between them; in short, up and down."""
    for parallel, pairs in (_SHORT if trial.short else _FULL).items():
        row = trial.count(f"pairs of saving and resuming worlds, {parallel}", len(pairs))
        whole = {n: _whole(trial, n, parallel) for n in sorted({n for n, _ in pairs})}
        for n, m in pairs:
            problem = _goes_on(trial, whole[n], n, m)
            row.add(None if problem is None else f"from {n} to {m} processes: {problem}")


def torchrun(run: Run, world: int, log: Path, *more: str, witness: Path | None = None) -> Running:
    """The run's command in so many processes; ``more``: options of torchrun."""
    command = ["vitrail"] if witness is None else ["torture.observed", str(witness), str(_SAVED)]
    argv = ["--standalone", f"--nproc-per-node={world}", *more, "-m", *command, *run.argv()]
    return fresh(argv, log, module="torch.distributed.run")


def _seen(run: Run) -> Path:
    return run.folder.with_name(f"seen-{run.folder.name}")


def _whole(trial: Trial, n: int, parallel: str) -> Run:
    changes = {"checkpoint.every": _SAVED, "checkpoint.keep": 3, "evaluate.every": _STEPS, "parallel": parallel}
    run = Run(trial.folder / f"{parallel}-{n}", steps=_STEPS, changes=changes)
    process = torchrun(run, n, run.folder.with_suffix(".log"), witness=_seen(run))
    if process.wait(trial.left(240)) != 0:
        raise RuntimeError(f"training with {n} processes failed: {process.last_lines()}")
    return run


def _goes_on(trial: Trial, whole: Run, n: int, m: int) -> str | None:
    """The run as it was after half of its steps, saved by n processes, in m."""
    run = Run(trial.folder / f"{whole.folder.name}-to-{m}", steps=_STEPS, changes=whole.changes)
    shutil.copytree(whole.folder, run.folder)
    shutil.rmtree(run.checkpoints / f"step-{_STEPS:08d}")
    shutil.rmtree(run.folder / "model")
    process = torchrun(run, m, run.folder.with_suffix(".log"), witness=_seen(run))
    if process.wait(trial.left(240)) != 0:
        return process.last_lines()
    for rank in range(m):
        held = load_file(_seen(whole) / f"held-{rank % n}.safetensors")
        found = load_file(_seen(run) / f"found-{rank}.safetensors")
        if found.keys() != held.keys():
            return f"process {rank} has other tensors"
        for name, tensor in held.items():
            if found[name].numpy().tobytes() != tensor.numpy().tobytes():
                return f"{name} has other bits in process {rank}"
    for step in range(_SAVED, _STEPS):
        expected = samples(_seen(whole), step)
        if samples(_seen(run), step) != expected or not expected:
            return f"step {step} takes other samples, or in another order"
    return None
