"""Class folders of small pictures, and what can happen to them between two starts of a run; each is undone after it."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("disc", "noise", "stripes")
_TRAIN, _VAL = 24, 8  # pictures of a class


def make(folder: Path, seed: int) -> None:
    """train/CLASS/00.bmp and val/CLASS/00.bmp: of a format in which another pixel does not change a file's size."""
    for c, name in enumerate(CLASSES):
        for split, n in (("train", _TRAIN), ("val", _VAL)):
            (folder / split / name).mkdir(parents=True)
            for k in range(n):
                draw(folder / split / name / f"{k:02d}.bmp", [seed, c, n, k])


def draw(path: Path, seed: list[int]) -> None:
    """A picture of 16 x 16 pixels of random colours, with the shade of its class."""
    rng = np.random.default_rng(seed)
    coarse = np.clip(rng.integers(0, 200, (4, 4, 3)) + 25 * seed[1], 0, 255).astype(np.uint8)
    Image.fromarray(coarse).resize((16, 16), Image.Resampling.BICUBIC).save(path)


def pick(folder: Path, split: str, rng: random.Random) -> Path:
    """Any picture of a split."""
    return rng.choice(sorted((folder / split).rglob("*.bmp")))


@contextmanager
def _added(folder: Path, rng: random.Random) -> Iterator[list[str]]:
    path = folder / "train" / rng.choice(CLASSES) / f"new-{rng.randrange(100)}.bmp"
    draw(path, [rng.randrange(2**31), 1])
    yield ["1 image of train added", path.name]
    path.unlink()


@contextmanager
def _removed(folder: Path, rng: random.Random) -> Iterator[list[str]]:
    path = pick(folder, "train", rng)
    with _elsewhere(path, folder.parent / "taken"):
        yield ["1 image of train removed", f"{path.parent.name}/{path.name}"]


@contextmanager
def _renamed(folder: Path, rng: random.Random) -> Iterator[list[str]]:
    path = pick(folder, "train", rng)
    with _elsewhere(path, path.with_name(f"zz-{path.name}")):
        yield ["1 image of train renamed", f"zz-{path.name}, was", path.name]


@contextmanager
def _moved(folder: Path, rng: random.Random) -> Iterator[list[str]]:
    path = pick(folder, "train", rng)
    other = rng.choice([name for name in CLASSES if name != path.parent.name])
    with _elsewhere(path, folder / "train" / other / f"zz-{path.name}"):
        yield ["relabelled", f"{other}, was {path.parent.name}"]


@contextmanager
def _edited(folder: Path, rng: random.Random, split: str = "train") -> Iterator[list[str]]:
    """One pixel, and neither the file's size nor its time."""
    path = pick(folder, split, rng)
    data, times = path.read_bytes(), path.stat()
    changed = bytearray(data)
    changed[-1 - rng.randrange(700)] ^= 1 << rng.randrange(8)
    for content, at in ((bytes(changed), 0), (data, 1)):
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if at == 0:
            yield [f"1 image of {split} edited", f"{path.parent.name}/{path.name}"]


def _edited_in_val(folder: Path, rng: random.Random) -> AbstractContextManager[list[str]]:
    return _edited(folder, rng, "val")


@contextmanager
def _class_added(folder: Path, rng: random.Random) -> Iterator[list[str]]:
    new = folder / "train" / "another"
    new.mkdir()
    for k in range(4):
        draw(new / f"{k}.bmp", [rng.randrange(2**31), 2])
    yield ["classes", "another is new"]
    shutil.rmtree(new)


@contextmanager
def _elsewhere(path: Path, place: Path) -> Iterator[None]:
    path.rename(place)
    yield
    place.rename(path)


ALLOWED: dict[str, Callable[[Path, random.Random], AbstractContextManager[list[str]]]] = {
    "added": _added,
    "edited": _edited,
    "relabelled": _moved,
    "removed": _removed,
    "renamed": _renamed,
    "edited in val": _edited_in_val,
}
"""What ``--allow-data-change`` goes on with. Each gives the words by which it must be told."""
NEVER = {"a class added": _class_added}
