"""Predictor: files, bytes, pictures or arrays -> labels, probabilities and features; one bad image never stops the rest."""

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vitrail.data.decode import ImageError
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.inputs import Source
from vitrail.prediction.answers import Answers
from vitrail.prediction.images import ImageLike, encoded, name_of, one_image
from vitrail.prediction.pipeline import loaded

if TYPE_CHECKING:
    import torch

    from vitrail.model import Model
    from vitrail.runtimes.engine import Engine

Answer = TypeVar("Answer")
_LARGEST_BATCH = 1 << 20


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

    Images are decoded by threads, ahead of the model where it leaves them the time, and go through its pixel contract
    exactly as in evaluation. Where that leaves them their own aspect ratios (mode native), those of a batch are packed
    into one sequence, without padding.
    """

    def __init__(
        self,
        model: "Model | Engine | str | Path",
        *,
        device: str = "auto",
        batch_size: int = 32,
        engine: str = "auto",
        threads: int | None = None,
    ) -> None:
        """
        Args:
            model: one with ``preprocess`` (and ``labels``), which is moved to the device and set to evaluation mode; or
                an engine that has been opened; or the name of a model (see ``vitrail.load``), or a folder that
                ``vitrail export`` has written, for which torch is not imported unless it holds torch's own form.
            device: auto (``VITRAIL_DEVICE``, else a GPU if there is one), or any of torch's names, such as cuda:1.
                Exported models run on the CPU.
            batch_size: images that the model takes at a time.
            engine: what runs an exported model: auto, the best that is installed for it; else a name, such as openvino.
            threads: that an exported model may use; None for ``OMP_NUM_THREADS`` where that is set, else one a core.

        Raises:
            UserError: the model cannot be loaded, does not know its pixels or cannot take them, or the device or the
                engine is not there; a batch of no images.
        """
        if not 1 <= batch_size <= _LARGEST_BATCH:
            raise UserError(f"batch_size {batch_size}: give 1 to {_LARGEST_BATCH:,}")
        with uncollected():
            self._answers = _answers(model, device, engine, threads)
        self.preprocess: Preprocess = self._answers.preprocess
        self.labels = self._answers.labels
        self.batch_size = batch_size

    @property
    def model(self) -> "Model":
        """The model in torch.

        Raises:
            UserError: it is an exported one.
        """
        return self._in_torch().model

    @property
    def device(self) -> "torch.device":
        """The device of the model in torch. Raises as ``model``."""
        return self._in_torch().device

    def __call__(self, images: Iterable[ImageLike], *, top: int = 5) -> list[Prediction]:
        """Predict each image: a path, encoded bytes, a Pillow image or a uint8 array (H, W) or (H, W, C).

        An image that cannot be read has its ``error`` set; the others are not affected.

        Raises:
            UserError: the model has no head; ``top`` is below 1; an object that is no image.
        """
        return list(self.stream(images, top=top))

    def stream(self, images: Iterable[ImageLike], *, top: int = 5) -> Iterator[Prediction]:
        """The same one by one, in order; ``images`` is read as batches are needed."""
        classes = self._answers.classes
        if top < 1:
            raise UserError(f"top {top}: give 1 or more")
        if not classes:
            raise UserError("the model has no head, so it has features and no labels: use features, or vitrail embed")
        for image, row, error in self._each(images, lambda pixels: self._answers.rank(pixels, min(top, classes))):
            if row is None:
                yield Prediction(name_of(image), None, None, error=error)
                continue
            ranked = tuple((self.labels[index], probability) for index, probability in row)
            yield Prediction(name_of(image), *ranked[0], top=ranked)

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
        return np.stack(rows) if rows else np.zeros((0, self._answers.feature_width), dtype=np.float32)

    def stream_features(self, images: Iterable[ImageLike]) -> Iterator[Features]:
        """The features of each image in order, or its error."""
        for image, row, error in self._each(images, self._answers.features):
            yield Features(name_of(image), row, image.label if isinstance(image, Source) else None, error)

    def pixels(self, image: ImageLike) -> "torch.Tensor | str":
        """The image as the model gets it before mean and deviation, uint8 (C, H, W); or why it cannot be read.

        For an exported model it is an array.
        """
        found: torch.Tensor | str = self._load(image)
        return found

    def identity(self) -> dict[str, Any]:
        """What decides the answers to the bit, in plain values: two predictors with the same give the same."""
        return {
            **self._answers.identity(),
            "pixels": repr(self.preprocess),
            "labels": hashlib.sha256("\0".join(self.labels).encode("utf-8", "surrogatepass")).hexdigest(),
            "batch size": self.batch_size,
        }

    def _each(
        self, images: Iterable[ImageLike], answer: Callable[[Sequence[Any]], Sequence[Answer]]
    ) -> Iterator[tuple[ImageLike, Answer | None, str | None]]:
        """Each image with its answer, or with the message of its error."""
        if (single := one_image(images)) is not None:
            raise UserError(f"images is {single}, and no list of them: give [image], also of one")
        for batch in loaded(images, self._load, self.batch_size, self._answers.ahead):
            pixels = [found for _, found in batch if not isinstance(found, str)]
            rows = iter(answer(pixels) if pixels else ())
            for image, found in batch:
                yield (image, None, found) if isinstance(found, str) else (image, next(rows), None)

    def _load(self, image: ImageLike) -> Any:
        """The pixels of an image, of the kind that the answers come from, or the message of its error."""
        name = name_of(image) or "image"
        around = image.around() if isinstance(image, Source) else nullcontext()
        try:
            with around:
                return self._answers.load(encoded(image), name)
        except ImageError as error:
            return str(error)
        except OSError as error:
            return f"{name}: cannot be read ({error.strerror or error})"

    def _in_torch(self) -> Any:
        if not hasattr(self._answers, "model"):
            raise UserError("an exported model is not one of torch's: give the folder that it was exported from")
        return self._answers


@contextmanager
def uncollected() -> Iterator[None]:
    """While a model is opened: importing its library makes very many objects and no garbage, so looking for some is idle."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _answers(model: "Model | Engine | str | Path", device: str, engine: str, threads: int | None) -> Answers:
    """What computes the answers of a model, whatever it is given as."""
    from vitrail.prediction.by_engine import EngineAnswers, is_engine, opened

    running = opened(model, device, engine, threads)
    if running is not None:
        return EngineAnswers(running, (model, device, engine, threads) if isinstance(model, str | Path) else None)

    from vitrail.prediction.by_torch import TorchAnswers
    from vitrail.weights.load import load

    if isinstance(model, str | Path):
        model = load(model)
    assert not is_engine(model)  # it would have been running
    return TorchAnswers(model, device)
