"""hf:NAME[:CONFIG][@REVISION], a data set of the Hugging Face hub or a folder in its layout, through `datasets`."""

import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitrail.data.samples import UNKNOWN, Stats
from vitrail.data.sources.files import read_file
from vitrail.data.sources.labels import class_names, label_column
from vitrail.data.sources.listing import Listing, Part
from vitrail.data.split import split_of
from vitrail.errors import UserError


@dataclass(frozen=True, eq=False)
class RowReader:
    """Reads the image column of a `datasets.Dataset` whose images are left encoded."""

    rows: Any
    column: str

    def __call__(self, index: int) -> bytes:
        try:
            value = self.rows[index][self.column] or {}
        except Exception as error:  # the library raises errors of its own and of Arrow
            raise OSError(f"row {index} cannot be read: {error}") from error
        if value.get("bytes") is not None:
            return value["bytes"]
        if value.get("path"):
            return read_file(value["path"])
        raise OSError("the row holds no image")

    def stats(self, indices: np.ndarray) -> Stats:
        """The size of the library's own files together; it writes them anew on each machine, so no time."""
        size = 0
        for file in self.rows.cache_files:
            try:
                size += os.stat(file["filename"]).st_size
            except OSError:
                size = UNKNOWN
                break
        return Stats(np.full(len(indices), size, dtype=np.int64), np.full(len(indices), UNKNOWN, dtype=np.int64))


def open_hub(name: str) -> Listing:
    """Download (once) and list a data set.

    Args:
        name: what follows 'hf:', such as 'ylecun/mnist', 'uoft-cs/cifar100:default' or 'owner/name@main'.

    Raises:
        UserError: the library is not installed, the data set cannot be loaded, or it has no image column.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"hf:{name} needs the library 'datasets': pip install 'vitrail[datasets]'") from error
    path, config, revision = parse_name(name)
    try:
        loaded = datasets.load_dataset(path, config, revision=revision)
    except Exception as error:  # the library raises errors of its own, of the hub, of HTTP and of Arrow
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"hf:{name}: cannot be loaded ({reason})") from error
    features = next(iter(loaded.values())).features
    image = _image_column(name, features)
    declared = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    label = label_column(list(features), declared)
    labels = tuple(features[label].names) if label in declared else None
    parts = {}
    for split, rows in loaded.items():
        known = split_of(str(split))
        if known is not None:
            names = [f"{split}:{i:06d}" for i in range(len(rows))]
            values = None if label is None else rows.select_columns([label])[:][label]
            classes = None if values is None else class_names(f"hf:{name}", values, labels)
            encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
            parts[known] = Part(names, classes, RowReader(encoded, image))
    if not parts:
        raise UserError(f"hf:{name}: none of its splits is train, validation or test: {', '.join(map(str, loaded))}")
    return Listing(parts, labels, missing_labels=f"the columns are {', '.join(features)}")


def parse_name(name: str) -> tuple[str, str | None, str | None]:
    """'owner/name:config@revision' -> its three parts, the last two None where absent."""
    match = re.fullmatch(r"([^:@]+)(?::([^@]+))?(?:@(.+))?", name)
    if match is None:
        raise UserError(f"hf:{name}: expected hf:OWNER/NAME, hf:OWNER/NAME:CONFIG or hf:OWNER/NAME@REVISION")
    return match[1], match[2], match[3]


def _image_column(name: str, features: Any) -> str:
    images = [column for column, feature in features.items() if _is_image(feature)]
    if "image" in images or len(images) == 1:
        return "image" if "image" in images else images[0]
    if not images:
        raise UserError(f"hf:{name}: no image column; the columns are {', '.join(features)}")
    raise UserError(f"hf:{name}: several image columns ({', '.join(images)}), none of them called image")


def _is_image(feature: Any) -> bool:
    """Whether a column is declared as images, or has their form: a struct of bytes and path."""
    return type(feature).__name__ == "Image" or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
