"""All randomness is a function: uniform numbers and orders from (seed, epoch, sample), without any state.

A counter-based generator: the key is hashed with splitmix64's mixing function (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014; Stafford's variant 13), and the k-th number is the hash of key + k times
the golden ratio. A whole batch is drawn at once, and no draw depends on the others in it.
"""

import zlib
from collections.abc import Iterator

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words in which every input bit changes every output bit with probability one half."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _mix_one(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def words(seed: int, purpose: str, *keys: np.ndarray | int, count: int) -> np.ndarray:
    """Random 64-bit words (B, count) uint64, a function of the seed, the purpose and the B keys.

    Args:
        seed: the run's seed.
        purpose: names what the numbers are for, so that two uses with equal keys are independent.
        keys: arrays (B,) or integers that are hashed one after another, such as epoch and sample index.
        count: how many words a sample.
    """
    start = (seed * GOLDEN + zlib.crc32(purpose.encode())) & MASK
    state = mix(np.array([start], dtype=np.uint64))
    for key in keys:
        state = mix(
            state
            + (np.atleast_1d(np.asarray(key, dtype=np.int64)).astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
        )
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return mix(state[:, None] + steps)


def uniforms(seed: int, purpose: str, *keys: np.ndarray | int, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 (B, count), with the arguments of `words`."""
    return (words(seed, purpose, *keys, count=count) >> np.uint64(11)) * 2.0**-53


def stream(seed: int, purpose: str, *keys: int) -> Iterator[float]:
    """Uniform numbers without end for one sample: the row of `uniforms`, in plain Python, which is faster for a few."""
    state = _mix_one((seed * GOLDEN + zlib.crc32(purpose.encode())) & MASK)
    for key in keys:
        state = _mix_one((state + (key + 1) * GOLDEN) & MASK)
    while True:
        state = (state + GOLDEN) & MASK
        yield (_mix_one(state) >> 11) * 2.0**-53


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order in which an epoch visits n samples: a permutation (n,) int64, a function of (seed, epoch)."""
    return np.argsort(words(seed, "order", epoch, count=n)[0], kind="stable")


def step_generator(seed: int, step: int, rank: int) -> np.random.Generator:
    """A generator for what is drawn once per step (mixup, cutmix), a function of (seed, step, rank)."""
    return np.random.Generator(np.random.Philox(key=words(seed, "step", step, rank, count=2)[0]))
