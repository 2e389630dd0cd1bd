"""Features written for other programs, as .npz or Parquet, block by block: they are never in memory together."""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from vitrail.batch.part import Answer

_BLOCK = 8192  # images
_STAMP = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file knows: equal features are equal files


@dataclass(frozen=True)
class Features:
    """The features of the images that could be read, as often as they are walked over."""

    answers: "Callable[[], Iterator[Answer]]"
    """All answers in order, those of images that could not be read among them."""
    count: int
    width: int
    """D, the number of features of an image."""
    labelled: bool
    """Whether some have labels."""
    longest: dict[str, int]
    """Characters of the longest file name and of the longest label: ``file``, ``label``."""

    @classmethod
    def of(cls, answers: "Callable[[], Iterator[Answer]]") -> "Features":
        """Walk over the answers once, for all that must be known before the first is written."""
        count = width = 0
        labelled, longest = False, {"file": 1, "label": 1}
        for answer in answers():
            if answer.values is None:
                continue
            count, width = count + 1, len(answer.values)
            labelled = labelled or answer.row["label"] is not None
            longest = {key: max(length, len(answer.row[key] or "")) for key, length in longest.items()}
        return cls(answers, count, width, labelled, longest)

    def blocks(self) -> "Iterator[list[Answer]]":
        """The images that could be read, some thousand at a time."""
        good = (answer for answer in self.answers() if answer.values is not None)
        while block := list(islice(good, _BLOCK)):
            yield block


def write_npz(out: Path, features: Features) -> None:
    """Arrays ``names`` (n,), ``features`` (n, D) and, where the data have them, ``labels`` (n,)."""
    from vitrail.weights import replace

    with replace.file(out) as staging, zipfile.ZipFile(staging, "w", zipfile.ZIP_STORED) as archive:
        n = features.count
        texts = {key: f"<U{length}" for key, length in features.longest.items()}
        _array(archive, "names", (n,), texts["file"], (_texts(b, "file", texts) for b in features.blocks()))
        _array(archive, "features", (n, features.width), "<f4", (_values(b).tobytes() for b in features.blocks()))
        if features.labelled:
            _array(archive, "labels", (n,), texts["label"], (_texts(b, "label", texts) for b in features.blocks()))


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: str, data: Iterable[bytes]) -> None:
    """One array of an .npz file, as ``np.savez`` writes it."""
    from numpy.lib import format

    with archive.open(zipfile.ZipInfo(f"{name}.npy", _STAMP), "w", force_zip64=True) as file:
        format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
        for block in data:
            file.write(block)


def _texts(block: "list[Answer]", key: str, kinds: dict[str, str]) -> bytes:
    import numpy as np

    return np.array([answer.row[key] or "" for answer in block], dtype=kinds[key]).tobytes()


def _values(block: "list[Answer]") -> "np.ndarray":
    import numpy as np

    return np.stack([answer.values for answer in block if answer.values is not None]).astype("<f4", copy=False)


def write_features_parquet(out: Path, features: Features) -> None:
    """Columns ``name``, ``features`` (a list of fixed length) and, where the data have them, ``label``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vitrail.cli.outputs import printable
    from vitrail.weights import replace

    fields: list[tuple[str, Any]] = [("name", pa.string()), ("features", pa.list_(pa.float32(), features.width))]
    schema = pa.schema([*fields, ("label", pa.string())] if features.labelled else fields)
    with replace.file(out) as staging, pq.ParquetWriter(staging, schema) as writer:
        for block in features.blocks():
            columns = [
                pa.array([printable(answer.row["file"] or "") for answer in block], pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(_values(block).ravel(), pa.float32()), features.width),
            ]
            if features.labelled:
                columns.append(pa.array([_label(answer) for answer in block], pa.string()))
            writer.write_table(pa.table(columns, schema=schema))


def _label(answer: "Answer") -> str | None:
    from vitrail.cli.outputs import printable

    label: str | None = answer.row["label"]
    return None if label is None else printable(label)


FEATURE_WRITERS: dict[str, Callable[[Path, Features], None]] = {".npz": write_npz, ".parquet": write_features_parquet}
