"""DATA as a person names it -> samples to train, validate and test on; the one place where it is resolved."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from vitrail.data.decode import SUFFIXES, ImageError, open_image
from vitrail.data.samples import Samples
from vitrail.data.sources.idx import holds_idx, is_idx, open_idx
from vitrail.data.sources.listing import Listing, Part
from vitrail.data.split import held_out
from vitrail.errors import UserError, did_you_mean

FIRST_NAMES = 3


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples by split, with one order of classes for all."""

    name: str
    """As the person wrote it."""
    labels: tuple[str, ...]
    train: Samples | None
    val: Samples | None
    test: Samples | None


def open_data(
    data: str | Path,
    *,
    val_fraction: float = 0.1,
    labels: tuple[str, ...] | None = None,
    need_labels: bool = True,
) -> Dataset:
    """Find, list and split a data set.

    Args:
        data: 'digits'; a folder of class folders; a CSV, TSV or JSON-lines file; a Parquet file or a folder of them;
            tar shards, one, a folder or a pattern; IDX files as MNIST's, a folder or one of images; or 'hf:NAME'.
        val_fraction: the share of train that becomes val where the data have none; 0 leaves val None.
        labels: the class names of a model, so that targets follow its order.
        need_labels: whether samples without labels are an error; otherwise their targets are None.

    Raises:
        UserError: there is no such data set, it holds no image, one class only, or no labels; a class in val or test
            is unknown in train, or to the model.
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"data.val_fraction {val_fraction}: 0 to less than 1 is possible")
    name = str(data)
    listing = _list(data)
    parts = {split: part for split, part in listing.parts.items() if len(part.names)}
    if not parts:
        raise UserError(f"{name}: no images found")
    unlabelled = {split for split, part in parts.items() if part.classes is None}
    if need_labels and unlabelled == {"test"} and len(parts) > 1:
        del parts["test"]  # its labels are withheld
    elif unlabelled and need_labels:
        raise UserError(f"{name}: labels are missing; {listing.missing_labels}")
    elif unlabelled:
        return _dataset(name, labels or (), {split: Samples(p.names, None, (), p.read) for split, p in parts.items()})
    if labels is None:
        labels = _labels_of(name, listing, parts, check=need_labels)
    samples = {split: _index(name, part, labels) for split, part in parts.items()}
    if "val" not in samples and "train" in samples and val_fraction > 0:
        samples |= _split_off(samples["train"], val_fraction)
    return _dataset(name, labels, samples)


def with_test(data: Dataset, fraction: float) -> Dataset:
    """The data with a share of the training images as test images, class by class and by hash, where they have none."""
    train = data.train
    if data.test is not None or train is None or train.targets is None or fraction <= 0:
        return data
    out = held_out(train.names, train.targets, train.labels, fraction, "test")
    return replace(data, train=train.subset(np.flatnonzero(~out)), test=train.subset(np.flatnonzero(out)))


def typical_size(samples: Samples, most: int = 64) -> tuple[int, int]:
    """The median height and width, in pixels, of up to ``most`` evenly spaced samples, from their headers alone.

    Raises:
        ImageError: none of these can be read.
    """
    sizes = []
    failure: ImageError | None = None
    for index in np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).astype(int)):
        try:
            sizes.append(open_image(samples.encoded(int(index)), samples.names[index]).size)
        except ImageError as error:
            failure = failure or error
    if not sizes:
        raise failure or UserError("there are no images")
    height, width = np.median(np.array(sizes), axis=0)
    return round(float(height)), round(float(width))


def _list(data: str | Path) -> Listing:
    """Choose the source by the name, and by what is there. Each is imported when it is needed."""
    name = str(data)
    if name == "digits":
        from vitrail.data.sources.digits import open_digits

        return open_digits()
    if name.startswith("hf:"):
        from vitrail.data.sources.hub import open_hub

        return open_hub(name.removeprefix("hf:"))
    path = Path(data).expanduser()
    if path.is_dir():
        return _list_folder(path)
    if path.is_file():
        return _list_file(path)
    if matches := sorted(Path(match) for match in glob.glob(str(path)) if match.endswith(".tar")):
        from vitrail.data.sources.shards import open_shards

        return open_shards(matches, matches[0].parent)
    raise UserError(f"{name}: no such folder or file{_nearest(path)}")


def _list_folder(path: Path) -> Listing:
    for table in ("metadata.csv", "metadata.jsonl"):  # Hugging Face's folder of images with a table
        if (path / table).is_file():
            return _list_file(path / table)
    if holds_idx(path):
        return open_idx(path)
    kind = _kind(path)
    if kind == ".parquet":
        from vitrail.data.sources.parquet import open_parquet

        return open_parquet(path)
    if kind == ".tar":
        from vitrail.data.sources.shards import open_shards

        return open_shards(path.rglob("*.tar"), path)
    from vitrail.data.sources.folder import open_folder

    return open_folder(path)


def _kind(path: Path) -> str:
    """What a folder is a folder of: the first of '.parquet', '.tar' or an image's suffix that is met on the way down."""
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        suffixes = {os.path.splitext(file)[1].lower() for file in files if not file.startswith(".")}
        for kind in (".parquet", ".tar"):
            if kind in suffixes:
                return kind
        if suffixes & SUFFIXES and folder != str(path):  # an image beside the folders is a preview
            return ".jpg"
    return ""


def _list_file(path: Path) -> Listing:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".jsonl", ".ndjson"):
        from vitrail.data.sources.table import open_table

        return open_table(path)
    if suffix == ".parquet":
        from vitrail.data.sources.parquet import open_parquet

        return open_parquet(path)
    if suffix == ".tar":
        from vitrail.data.sources.shards import open_shards

        return open_shards([path], path.parent)
    if is_idx(path):
        return open_idx(path)
    raise UserError(
        f"{path}: not a data set; a folder, .csv, .tsv, .jsonl, .parquet, .tar or IDX is, or hf:NAME or digits"
    )


def _nearest(path: Path) -> str:
    """A hint at what the person may have meant."""
    if not path.parent.is_dir():
        return ""
    there = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    near = get_close_matches(path.name, ["digits", *there], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _labels_of(name: str, listing: Listing, parts: dict[str, Part], *, check: bool) -> tuple[str, ...]:
    """The classes and their order: the source's own, else those of train in the order a person would count them."""
    classes = {split: set(part.classes or ()) for split, part in parts.items()}
    reference = "train" if "train" in classes else next(iter(classes))
    if check:
        for split, own in classes.items():
            if unknown := sorted(own - classes[reference], key=_natural):
                raise UserError(f"{name}: {split} has {_some(unknown, 'class', 'classes')} that {reference} lacks")
        if len(classes[reference]) == 1:
            raise UserError(f"{name}: only one class ({min(classes[reference])}); a classifier needs at least two")
    return listing.labels or tuple(sorted(set().union(*classes.values()), key=_natural))


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sorting key in which 2 comes before 10."""
    pieces = re.split(r"(\d+)", text)
    return tuple((0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece)


def _index(name: str, part: Part, labels: Sequence[str]) -> Samples:
    """Class names become indices."""
    place = {label: i for i, label in enumerate(labels)}
    classes = part.classes or ()
    unknown = sorted(set(classes) - place.keys())
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        hint = did_you_mean(unknown[0], labels) if len(labels) <= 20 else f"{len(labels)} classes are known"
        raise UserError(f"{name}: {_some(unknown, 'class', 'classes')} {verb} not among the model's; {hint}")
    targets = np.fromiter((place[label] for label in classes), dtype=np.int64, count=len(classes))
    return Samples(part.names, targets, tuple(labels), part.read)


def _split_off(train: Samples, fraction: float) -> dict[str, Samples]:
    assert train.targets is not None
    out = held_out(train.names, train.targets, train.labels, fraction)
    if not out.any():
        return {"train": train}
    return {"train": train.subset(np.flatnonzero(~out)), "val": train.subset(np.flatnonzero(out))}


def _dataset(name: str, labels: tuple[str, ...], samples: dict[str, Samples]) -> Dataset:
    samples = {split: replace(part, labels=labels) for split, part in samples.items()}
    return Dataset(name, labels, samples.get("train"), samples.get("val"), samples.get("test"))


def _some(names: Iterable[str], one: str, many: str) -> str:
    """'class 'a'' or '5 classes ('a', 'b', 'c', ...)'."""
    names = list(names)
    if len(names) == 1:
        return f"{one} {names[0]!r}"
    first = ", ".join(repr(name) for name in names[:FIRST_NAMES]) + (", ..." if len(names) > FIRST_NAMES else "")
    return f"{len(names)} {many} ({first})"
