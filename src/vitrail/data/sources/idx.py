"""IDX files, the format of MNIST and its family: all images of a split in one file, their labels in another."""

import gzip
import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vitrail.data.sources.digits import ArrayReader
from vitrail.data.sources.listing import Listing, Part
from vitrail.data.split import split_of
from vitrail.errors import UserError

MOST_BYTES = 2 << 30  # of a file, unpacked; the largest of the family (EMNIST by class) has 0.5 GB
_CHUNK = 16 << 20
# The first four bytes: two zeros, the type of a value (8: unsigned byte), the number of axes.
_IMAGES, _LABELS = bytes([0, 0, 8, 3]), bytes([0, 0, 8, 1])
# train-images-idx3-ubyte.gz; also with a dot before idx3, and with a name before the split (emnist-letters-train-...)
_NAME = re.compile(r"(?:(?P<set>.*)[-_.])?images[-.]idx3[-.]ubyte(?:\.gz)?", re.IGNORECASE)


def is_idx(path: Path) -> bool:
    """Whether a file is named as IDX files of images are."""
    return _NAME.fullmatch(path.name) is not None


def holds_idx(folder: Path) -> bool:
    """Whether a folder holds IDX files of images."""
    return any(is_idx(entry) for entry in folder.iterdir())


def open_idx(path: Path) -> Listing:
    """A folder of IDX files, or one file of images with its labels beside it; packed (``.gz``) or not.

    The split is told by the name: ``train-...``, or ``t10k-...`` and ``test-...``; one that tells none is train.
    Classes are named by their numbers. Without a file of labels the images have none.

    Raises:
        UserError: two files for one split, a header that is not that of the format, or a file of another length than
            its header says.
    """
    chosen: dict[str, Path] = {}
    for file in _files(path):
        split = _split(file)
        if split in chosen:
            raise UserError(f"{path}: {file.name} and {chosen[split].name} are both {split}: name one of the files")
        chosen[split] = file
    return Listing(
        {split: _part(file) for split, file in chosen.items()},
        missing_labels="a file of labels (such as train-labels-idx1-ubyte.gz) is needed beside the images",
    )


def _files(path: Path) -> Iterable[Path]:
    """The files of images, each once: a file that lies there unpacked too is read unpacked."""
    if path.is_file():
        return [path]
    files = {file.name.lower(): file for file in sorted(path.iterdir()) if is_idx(file)}
    return [file for name, file in files.items() if name.removesuffix(".gz") == name or name[:-3] not in files]


def _split(file: Path) -> str:
    match = _NAME.fullmatch(file.name)
    last = re.split(r"[-_.]", match["set"] or "")[-1].lower() if match else ""
    return "test" if last == "t10k" else split_of(last) or "train"


def _part(file: Path) -> Part:
    images = _read(file, _IMAGES)
    if not images.shape[1] * images.shape[2]:
        raise UserError(f"{file}: its images have {images.shape[1]}x{images.shape[2]} pixels")
    labels = _labels_beside(file)
    classes: list[str] | None = None
    if labels is not None:
        values = _read(labels, _LABELS)
        if len(values) != len(images):
            raise UserError(f"{labels} has {len(values):,} labels for the {len(images):,} images of {file.name}")
        classes = [str(value) for value in values.tolist()]
    match = _NAME.fullmatch(file.name)
    name = match["set"] if match and match["set"] else "images"
    return Part([f"{name}/{i:05d}" for i in range(len(images))], classes, ArrayReader(images, file))


def _labels_beside(images: Path) -> Path | None:
    wanted = re.sub("idx3", "idx1", re.sub("images", "labels", images.name.lower())).removesuffix(".gz")
    near = {file.name.lower(): file for file in images.parent.iterdir()}
    return near.get(wanted) or near.get(f"{wanted}.gz")


def _read(file: Path, magic: bytes) -> np.ndarray:
    """The array (n,) or (n, H, W) uint8 of a file."""
    axes = magic[3]
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as data:
            header = data.read(4 + 4 * axes)
            if header[:4] != magic or len(header) != 4 + 4 * axes:
                what = "images" if axes == 3 else "labels"
                raise UserError(f"{file}: not an IDX file of {what}: it begins with {header[:4].hex(' ') or 'nothing'}")
            shape = [int.from_bytes(header[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
            size, text = math.prod(shape), "x".join(map(str, shape))
            if size > MOST_BYTES:
                raise UserError(f"{file}: its header claims {text} bytes, more than the {MOST_BYTES:,} that are read")
            values = _bytes(data, size)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())})") from error
    if len(values) != size:
        length = "shorter" if len(values) < size else "longer"
        raise UserError(f"{file}: {length} than the {text} bytes that its header claims: it is damaged")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _bytes(data: BinaryIO | gzip.GzipFile, size: int) -> bytearray:
    """What is there, up to ``size`` bytes and one: memory is taken for what has come, not for what is claimed."""
    found = bytearray()
    while len(found) <= size and (part := data.read(min(_CHUNK, size + 1 - len(found)))):
        found += part
    return found
