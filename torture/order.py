"""Random cases of the order: every sample exactly once an epoch, however many processes, images a step and restarts."""

import numpy as np

from torture.trial import Trial
from vitrail.data.augment import Augment
from vitrail.data.batches import TrainBatches
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples

_CONTRACT, _AUGMENT = Preprocess((8, 8)), Augment()


def _nothing(index: int) -> bytes:
    raise AssertionError("the order needs no image")


def order(trial: Trial) -> None:
    """Cases with up to 5,000 samples, 16 processes, 256 images a process and several epochs."""
    row = trial.count("cases, each sample once an epoch", trial.size(1000, 250))
    for number in range(row.wanted):
        trial.left()
        row.add(_case(trial, number))


def _case(trial: Trial, number: int) -> str | None:
    rng = trial.random
    world = rng.choice([1, 2, 3, 4, 8, 16])
    share = rng.randint(1, rng.choice([2, 16, 256]))
    n = rng.randint(1, rng.choice([3, 50, 700, 5000]))
    batch, epochs, seed = world * share, rng.randint(1, 3), rng.randrange(2**32)
    steps = -(-n * epochs // batch)
    said = f"case {number}: {n} samples, {world} processes, {batch} images a step, {epochs} epochs, seed {seed}"
    samples = Samples([""] * n, None, (), _nothing)
    drawn = np.empty((steps * batch, 2), dtype=np.int64)
    stop = rng.randint(0, steps)  # the run is interrupted here, and goes on with other numbers of processes
    worlds = (world, rng.choice([w for w in (1, 2, 3, 4, 8, 16) if batch % w == 0]))
    for step in range(steps):
        now = worlds[step >= stop]
        for rank in range(now):
            batches = TrainBatches(
                samples, _CONTRACT, _AUGMENT, batch, seed, rank=rank, world=now, start_step=stop if step >= stop else 0
            )
            epoch, index = batches.positions(step)
            begin = step * batch + rank * (batch // now)
            drawn[begin : begin + batch // now] = np.stack([epoch, index], axis=1)
    for e in range(epochs):
        part = drawn[e * n : (e + 1) * n]
        if not (part[:, 0] == e).all():
            return f"{said}: another epoch begins within epoch {e}"
        if not np.array_equal(np.sort(part[:, 1]), np.arange(n)):
            return f"{said}: epoch {e} does not have each sample once"
    return None
