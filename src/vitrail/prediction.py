"""Predictor: files, bytes, pictures or arrays -> labels, probabilities and features; one bad image never stops the rest."""

import contextlib
import glob
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vitrail.data.decode import SUFFIXES, ImageError
from vitrail.data.groups import by_size
from vitrail.data.preprocess import Preprocess
from vitrail.data.sources.idx import is_idx
from vitrail.device import named_device
from vitrail.errors import UserError
from vitrail.model import Model, ViTConfig
from vitrail.weights.contract import require_fit
from vitrail.weights.load import load

_BATCHES_AHEAD = 2  # decoded while a GPU works; on a CPU, decoding and the model would fight for the same cores
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_DATA_SUFFIXES = {".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet", ".tar"}


@dataclass(frozen=True)
class Source:
    """An encoded image that is read when its turn comes."""

    name: str
    read: Callable[[], bytes]
    label: str | None = None
    """Its true label, where a data set gives one."""


ImageLike = str | Path | bytes | Image.Image | np.ndarray | Source


@dataclass(frozen=True)
class Prediction:
    """What the model says about one image, or why it could not be read."""

    file: str | None
    """The path or name; None for an image given as bytes, picture or array."""
    label: str | None
    """The most probable label; None where there is an error."""
    probability: float | None
    top: tuple[tuple[str, float], ...] = ()
    """(label, probability), most probable first."""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The object of ``predict --format jsonl``: file, label, probability, top; or file and error."""
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        return {
            "file": self.file,
            "label": self.label,
            "probability": self.probability,
            "top": [list(entry) for entry in self.top],
        }


@dataclass(frozen=True)
class Features:
    """The pooled features of one image (D,), or why it could not be read."""

    file: str | None
    values: np.ndarray | None
    label: str | None = None
    """Its true label, where a data set gives one."""
    error: str | None = None


class Predictor:
    """A model with its pixel contract, from pictures to answers.

    Images are decoded by threads, ahead of a model on a GPU, and go through ``model.preprocess`` exactly as in
    evaluation. Where that leaves them their own aspect ratios (mode native), those of a batch are packed into one sequence,
    without padding.
    """

    def __init__(self, model: Model | str | Path, *, device: str = "auto", batch_size: int = 32) -> None:
        """
        Args:
            model: one with ``preprocess`` (and ``labels``), which is moved to the device and set to evaluation mode,
                or the name of one (see ``vitrail.load``).
            device: auto (``VITRAIL_DEVICE``, else a GPU if there is one), or any of torch's names, such as cuda:1.
            batch_size: images that the model takes at a time.

        Raises:
            UserError: the model cannot be loaded, does not know its pixels or cannot take them, or the device is not
                there.
        """
        self.model = (load(model) if isinstance(model, str | Path) else model).eval()
        if self.model.preprocess is None:
            raise UserError(
                "the model has no preprocess, so its pixels are unknown: set model.preprocess = vitrail.Preprocess(...)"
            )
        self.preprocess: Preprocess = self.model.preprocess
        require_fit(self.preprocess, self.model.config)
        self.device = named_device(device)
        self.model.to(self.device)
        self.batch_size = batch_size
        self.labels = self.model.labels or tuple(str(index) for index in range(self.model.config.classes))

    def __call__(self, images: Iterable[ImageLike], *, top: int = 5) -> list[Prediction]:
        """Predict each image: a path, encoded bytes, a Pillow image or a uint8 array (H, W) or (H, W, C).

        An image that cannot be read has its ``error`` set; the others are not affected.

        Raises:
            UserError: the model has no head; an object that is no image.
        """
        return list(self.stream(images, top=top))

    def stream(self, images: Iterable[ImageLike], *, top: int = 5) -> Iterator[Prediction]:
        """The same one by one, in order; ``images`` is read as batches are needed."""
        if not self.model.config.classes:
            raise UserError("the model has no head, so it has features and no labels: use features, or vitrail embed")
        top = min(top, self.model.config.classes)
        for image, row in self._rows(images, self.model):
            if isinstance(row, str):
                yield Prediction(_name(image), None, None, error=row)
                continue
            values, indices = row.softmax(dim=0).topk(top)
            ranked = tuple((self.labels[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True))
            yield Prediction(_name(image), *ranked[0], top=ranked)

    def features(self, images: Iterable[ImageLike]) -> np.ndarray:
        """Pooled features, (n, D) float32.

        Raises:
            ImageError: an image that cannot be read; ``stream_features`` goes on instead.
        """
        rows = []
        for found in self.stream_features(images):
            if found.values is None:
                raise ImageError(found.error or "")
            rows.append(found.values)
        return np.stack(rows) if rows else np.zeros((0, self._feature_width()), dtype=np.float32)

    def stream_features(self, images: Iterable[ImageLike]) -> Iterator[Features]:
        """The features of each image in order, or its error."""
        for image, row in self._rows(images, self.model.features):
            label = image.label if isinstance(image, Source) else None
            if isinstance(row, str):
                yield Features(_name(image), None, label, row)
            else:
                yield Features(_name(image), row.numpy(), label)

    def _feature_width(self) -> int:
        config = self.model.config
        return config.feature_width if isinstance(config, ViTConfig) else config.width

    def _rows(
        self, images: Iterable[ImageLike], forward: Callable[..., Tensor]
    ) -> Iterator[tuple[ImageLike, Tensor | str]]:
        """Each image with its row of ``forward``'s result on the CPU, or with the message of its error."""
        for batch in self._loaded(images):
            pixels = [loaded for _, loaded in batch if isinstance(loaded, Tensor)]
            rows = iter(self._answers(pixels, forward) if pixels else ())
            for image, loaded in batch:
                yield image, next(rows) if isinstance(loaded, Tensor) else loaded

    def _answers(self, pixels: Sequence[Tensor], forward: Callable[..., Tensor]) -> list[Tensor]:
        """The row of ``forward``'s result for each image, uint8 (C, h, w), on the CPU."""
        groups, order = by_size(pixels)
        with torch.inference_mode():
            inputs = [self.preprocess.normalize(group.to(self.device)) for group in groups]
            rows = forward(inputs[0] if len(inputs) == 1 else inputs).float().cpu()
        return [row for _, row in sorted(zip(order, rows, strict=True), key=lambda placed: placed[0])]

    def _loaded(self, images: Iterable[ImageLike]) -> Iterator[list[tuple[ImageLike, Tensor | str]]]:
        """Batches of images with their pixels, uint8 (C, H, W), or the message of their error."""
        remaining = iter(images)
        ahead = 0 if self.device.type == "cpu" else _BATCHES_AHEAD
        waiting: deque[list[tuple[ImageLike, Any]]] = deque()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while True:
                while len(waiting) <= ahead and (chunk := list(islice(remaining, self.batch_size))):
                    waiting.append([(image, pool.submit(self.pixels, image)) for image in chunk])
                if not waiting:
                    return
                yield [(image, future.result()) for image, future in waiting.popleft()]

    def pixels(self, image: ImageLike) -> Tensor | str:
        """The image as the model gets it before mean and deviation, uint8 (C, H, W); or why it cannot be read."""
        name = _name(image) or "image"
        try:
            return self.preprocess.load(_encoded(image), name)
        except ImageError as error:
            return str(error)
        except OSError as error:
            return f"{name}: cannot be read ({error.strerror or error})"


def _encoded(image: ImageLike) -> bytes:
    """The bytes of an image file; pictures and arrays become one, so that every image takes the same way."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Source):
        return image.read()
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray):
        image = _picture(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"an image is a path, bytes, a Pillow image or a uint8 array, not {type(image).__name__}")
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in _PNG_MODES:
        upright = upright.convert("RGB")
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _picture(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise UserError(f"an array must be uint8 (H, W) or (H, W, C), not {array.dtype} {array.shape}")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _name(image: ImageLike) -> str | None:
    if isinstance(image, Source):
        return image.name
    return str(image) if isinstance(image, str | Path) else None


def expand_inputs(inputs: Iterable[str], *, labelled: bool = False) -> list[Source]:
    """What a person names -> images: files, folders (with all below), patterns (``*.jpg``) and data sets.

    Args:
        inputs: paths, patterns, or data sets as ``open_data`` takes them (``digits``, CSV, Parquet, shards, ``hf:NAME``).
        labelled: read a folder as a data set where it is one, for the true labels.

    Returns:
        Sources in order; a path where there is nothing, beside others, is one whose ``read`` says so.

    Raises:
        UserError: a folder, pattern or data set without an image, or not one of the paths is there.
    """
    inputs = list(inputs)
    missing = [name for name in inputs if _is_missing(name)]
    if missing and len(missing) == len(inputs):
        others = f" (nor is any of the {len(missing) - 1} others there)" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: no such file or folder{others}")
    return [source for name in inputs for source in _expand(name, labelled)]


def _is_missing(name: str) -> bool:
    """Whether a name is that of a path, and nothing is there."""
    names_data = name == "digits" or name.startswith("hf:") or glob.has_magic(name)
    return not names_data and not Path(name).expanduser().exists()


def _expand(name: str, labelled: bool) -> list[Source]:
    path = Path(name).expanduser()
    if path.is_dir():
        return _expand_folder(path, labelled)
    if path.is_file():
        names_data = path.suffix.lower() in _DATA_SUFFIXES or is_idx(path)
        return _of_data_set(path) if names_data else [Source(name, path.read_bytes)]
    if name == "digits" or name.startswith("hf:"):
        return _of_data_set(name)
    if glob.has_magic(name):
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise UserError(f"{name}: no file fits this pattern")
        return [source for match in found for source in _expand(match, labelled)]
    return [Source(name, path.read_bytes)]


def _expand_folder(path: Path, labelled: bool) -> list[Source]:
    if labelled:
        with contextlib.suppress(UserError):  # not a data set: any folder of images will do
            return _of_data_set(path)
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    return [Source(str(file), file.read_bytes) for file in files] or _of_data_set(path)


def _of_data_set(data: str | Path) -> list[Source]:
    """Every sample of every split."""
    from vitrail.data.open import open_data

    dataset = open_data(data, val_fraction=0, need_labels=False)
    sources = []
    for samples in (dataset.train, dataset.val, dataset.test):
        for i, sample in enumerate(samples.names if samples is not None else ()):
            assert samples is not None
            label = None if samples.targets is None else samples.labels[samples.targets[i]]
            sources.append(Source(sample, partial(samples.encoded, i), label))
    return sources
