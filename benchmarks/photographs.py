"""Photographs for benchmarks: those of a folder, or parts of scikit-learn's two sample photographs, all of one size as JPEG."""

import json
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from vitrail.data.decode import SUFFIXES

QUALITY = 90
SHAPES = ((4, 3), (3, 2), (1, 1), (3, 4))  # of what is cut out of the sample photographs, width to height
SMALLEST = 200  # pixels of the shorter side that is cut out


@dataclass(frozen=True)
class Photographs:
    """JPEG files in a folder of their own."""

    folder: str
    names: tuple[str, ...]
    """In order."""
    labels: tuple[str, ...]
    """The folder that each one was found in; empty where they were made."""
    source: str
    """For people."""

    @property
    def paths(self) -> list[str]:
        return [str(Path(self.folder) / name) for name in self.names]


def photographs(work: Path, source: Path | None, count: int, side: int, *, part: int = 0, seed: int = 0) -> Photographs:
    """So many photographs whose longer side has ``side`` pixels, JPEG at quality 90; those already made are taken.

    Args:
        work: where they are kept.
        source: a folder, read with those below it; None for parts of the sample photographs.
        count: how many; of a folder that has fewer, all.
        part: another number gives others: of a folder, those behind ``part`` times ``count`` in a shuffled order.
        seed: of the order, and of the parts.
    """
    name = f"{'made' if source is None else source.resolve().name}-{count}-{side}-{part}-{seed}"
    folder = work / "photographs" / name
    record = folder.with_suffix(".json")
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))
        found = Photographs(found["folder"], tuple(found["names"]), tuple(found["labels"]), found["source"])
        if found.folder == str(folder) and (source is None or found.source.endswith(str(source))):
            return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = (
        _made(folder, count, side, f"{seed} {part}")
        if source is None
        else _found(folder, source, count, side, part, seed)
    )
    record.write_text(json.dumps(asdict(made)), encoding="utf-8")
    return made


def _made(folder: Path, count: int, side: int, seed: str) -> Photographs:
    from sklearn.datasets import load_sample_images

    draw = random.Random(seed)
    samples = [Image.fromarray(image) for image in load_sample_images().images]
    names = []
    for number in range(count):
        image = samples[number % len(samples)]
        width, height = draw.choice(SHAPES)
        scale = draw.uniform(SMALLEST / min(width, height), min(image.width / width, image.height / height))
        width, height = round(width * scale), round(height * scale)
        left, top = draw.randrange(image.width - width + 1), draw.randrange(image.height - height + 1)
        cut = image.crop((left, top, left + width, top + height))
        if draw.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        names.append(_save(cut, folder, number, side))
    return Photographs(str(folder), tuple(names), (), "parts of scikit-learn's two sample photographs")


def _found(folder: Path, source: Path, count: int, side: int, part: int, seed: int) -> Photographs:
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    random.Random(seed).shuffle(files)
    chosen = files[part * count : (part + 1) * count]
    if not chosen:
        raise SystemExit(f"{source}: {len(files)} photographs, and those from {part * count} on are needed")
    names = [_save(Image.open(path).convert("RGB"), folder, number, side) for number, path in enumerate(chosen)]
    return Photographs(
        str(folder), tuple(names), tuple(path.parent.name for path in chosen), f"photographs of {source}"
    )


def _save(image: Image.Image, folder: Path, number: int, side: int) -> str:
    """Resize to the longer side, and write."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    name = f"{number:05d}.jpg"
    image.resize(size, Image.Resampling.BICUBIC).save(folder / name, "JPEG", quality=QUALITY)
    return name
