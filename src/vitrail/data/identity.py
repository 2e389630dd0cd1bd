"""What a run knows of its images, so that it is noticed when they have changed since.

It is kept as one Parquet file, a row a sample; of 20 MB for 1.3 million of them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.data.cache import Checked
from vitrail.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
_NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class SplitIdentity:
    """The samples of one split, in their order."""

    names: "pa.Array"
    """Text (n,). Of files they are relative to the data's own folder, so they say nothing of where that lies."""
    targets: np.ndarray
    """int64 (n,), indices into the labels; -1 where there are none."""
    sizes: np.ndarray
    """int64 (n,): see ``samples.Stats``."""
    modified: np.ndarray
    """int64 (n,): see ``samples.Stats``."""
    digests: np.ndarray
    """uint64 (n,): see ``Samples.digest``; 0 where the image was not looked at."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Identity:
    """The samples of all splits, and their classes."""

    labels: tuple[str, ...]
    splits: Mapping[str, SplitIdentity]

    @classmethod
    def of(cls, splits: Mapping[str, Checked]) -> "Identity":
        """What is known of images that have been looked at. It asks for the size and time of every file, and reads none."""
        labels: tuple[str, ...] = ()
        found = {}
        for split, checked in splits.items():
            samples, n = checked.samples, len(checked.samples)
            labels = labels or samples.labels
            stats = samples.stats()
            found[split] = SplitIdentity(
                _strings(samples.names),
                np.full(n, _NO_LABEL) if samples.targets is None else samples.targets,
                stats.sizes,
                stats.modified,
                np.zeros(n, dtype=np.uint64) if checked.digests is None else checked.digests,
            )
        return cls(labels, found)

    def save(self, path: Path) -> None:
        """Write a Parquet file. It is not written atomically: that is for the caller, who knows what belongs together."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(
            [
                ("split", pa.dictionary(pa.int32(), pa.string())),
                ("name", pa.large_string()),
                ("target", pa.int64()),
                ("size", pa.int64()),
                ("modified", pa.int64()),
                ("digest", pa.uint64()),
            ],
            {"vitrail": json.dumps(self._about() | {"sha256": self._sha256()})},
        )
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for split, own in self.splits.items():
                columns = [own.names, own.targets, own.sizes, own.modified, own.digests]
                splits = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(own), dtype=np.int32)), pa.array([split]))
                writer.write_table(pa.table([splits, *map(pa.array, columns)], schema=schema))

    def _about(self) -> dict[str, Any]:
        return {"version": VERSION, "labels": list(self.labels), "splits": list(self.splits)}

    def _sha256(self) -> str:
        """Of all that is known: a file may be damaged, and read all the same."""
        digest = hashlib.sha256(json.dumps(self._about()).encode())
        for own in self.splits.values():
            digest.update("\0".join(own.names.to_pylist()).encode())
            for column in (own.targets, own.sizes, own.modified, own.digests):
                digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    @classmethod
    def load(cls, path: Path) -> "Identity":
        """What ``save`` has written. Raises UserError: the file is not there, is damaged, or is of another version."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[b"vitrail"])
            if about["version"] != VERSION:
                raise UserError(f"{path}: version {about['version']} of what a run knows of its images, not {VERSION}")
            of_row = table.column("split").cast(pa.string())
            splits = {split: _read(table, of_row, split) for split in about["splits"]}
            found = cls(tuple(about["labels"]), splits)
            if about.get("sha256", digest := found._sha256()) != digest:  # earlier versions wrote none
                raise ValueError("the file is damaged")
            return found
        except UserError:
            raise
        except Exception as error:  # pyarrow has an error of its own for each way in which a file can be damaged
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: what a run knows of its images cannot be read ({reason})") from error


def _strings(names: Sequence[str]) -> "pa.Array":
    import pyarrow as pa

    try:
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError:  # file systems allow names that are no text
        return pa.array([name.encode("utf-8", "backslashreplace").decode() for name in names], pa.large_string())


def _read(table: Any, of_row: Any, split: str) -> SplitIdentity:
    import pyarrow as pa
    import pyarrow.compute as pc

    own = table.filter(pc.equal(of_row, split)).combine_chunks()
    names = own.column("name").cast(pa.large_string()).combine_chunks()
    types = {"target": pa.int64(), "size": pa.int64(), "modified": pa.int64(), "digest": pa.uint64()}
    return SplitIdentity(names, *(own.column(column).cast(kind).to_numpy() for column, kind in types.items()))
