"""The same picture twice: in train and in what judges it, or under two labels; told by the bytes of the files."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from vitrail.data.decode import ImageError
from vitrail.data.open import Dataset
from vitrail.data.samples import Samples
from vitrail.data.workers import cores
from vitrail.doctor.finding import Finding, ok, problem, warning

MOST_BYTES = 1 << 30  # read for this; of larger data nothing is said
_HONEST = 0.01  # share of the judged images that may have been learnt without accuracy being another

Place = tuple[str, int]


def copy_findings(data: Dataset, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Read every image, and say which are there twice."""
    parts = {name: part for name in ("train", "val", "test") if (part := getattr(data, name)) is not None}
    seen: dict[bytes, Place] = {}
    across: dict[str, list[tuple[str, str]]] = {}
    contradicting: list[tuple[str, str]] = []
    total, done = sum(map(len, parts.values())), 0
    with ThreadPoolExecutor(cores()) as pool:
        for name, samples in parts.items():
            for index, digest in enumerate(pool.map(_digest, [samples] * len(samples), range(len(samples)))):
                done += 1
                if progress is not None:
                    progress(done, total)
                if digest is None:
                    continue
                first = seen.setdefault(digest, (name, index))
                if first == (name, index):
                    continue
                pair = parts[first[0]].names[first[1]], samples.names[index]
                if first[0] == "train" != name:
                    across.setdefault(name, []).append(pair)
                if _label(parts[first[0]], first[1]) != _label(samples, index):
                    contradicting.append(pair)
    found = [_learnt(name, pairs, len(parts[name])) for name, pairs in across.items()]
    if contradicting:
        found.append(
            warning(
                "copies",
                f"{len(contradicting):,} images are there under two labels: {_pair(contradicting[0])}",
                "keep one of each",
            )
        )
    return found or [ok("copies", f"no image of {total:,} is both in train and in val or test, or under two labels")]


def _learnt(name: str, pairs: list[tuple[str, str]], n: int) -> Finding:
    make = problem if len(pairs) > _HONEST * n else warning
    return make(
        "copies",
        f"{len(pairs):,} of {n:,} images of {name} are in train too: {_pair(pairs[0])}",
        f"take them out of train, or accuracy on {name} is too good",
    )


def _digest(samples: Samples, index: int) -> bytes | None:
    try:
        return hashlib.blake2b(samples.encoded(index), digest_size=16).digest()
    except ImageError:
        return None


def _label(samples: Samples, index: int) -> str | None:
    return None if samples.targets is None else samples.labels[samples.targets[index]]


def _pair(pair: tuple[str, str]) -> str:
    return f"{pair[0]} and {pair[1]}"
