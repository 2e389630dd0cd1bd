"""Engine: whatever runs an exported model, uint8 images in, logits and features out. Torch is imported by its own alone.

Shapes: B images, C channels, H W height and width, D width of the features.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vitrail.data.preprocess import Preprocess
from vitrail.errors import Failure, UserError, did_you_mean
from vitrail.model import ModelConfig
from vitrail.runtimes.exported import FORMS, Exported, read_exported

Pixels = NDArray[np.uint8]
Hint = Literal["latency", "throughput"]
Forward = Callable[[Pixels], Sequence[NDArray[np.float32]]]
"""(B, C, H, W) -> the outputs, in the order of ``Exported.outputs``."""
HINTS = ("latency", "throughput")
AUTO = "auto"
_MOST_THREADS = 1024


class Engine(Protocol):
    """What runs a model, with the contract for the pixels that it takes."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def labels(self) -> tuple[str, ...]: ...

    def run(self, images: Pixels) -> dict[str, NDArray[np.float32]]:
        """uint8 (B, C, H, W), as ``preprocess`` loads them -> ``features`` (B, D) and, with a head, ``logits``."""
        ...


@dataclass(frozen=True)
class Runtime:
    """A package that runs exported models."""

    package: str
    module: str
    """Of vitrail, with ``open_model(exported, threads, hint, cache) -> Forward``."""
    extra: str
    """The extra of vitrail that installs it."""


ENGINES: Mapping[str, Runtime] = {
    "openvino": Runtime("openvino", "vitrail.runtimes.by_openvino", "openvino"),
    "onnxruntime": Runtime("onnxruntime", "vitrail.runtimes.by_onnxruntime", "onnx"),
    "torch": Runtime("torch", "vitrail.runtimes.by_torch", ""),
}


class ExportedEngine:
    """An exported model, opened by a runtime."""

    def __init__(self, exported: Exported, name: str, forward: Forward) -> None:
        self.exported = exported
        self.name = name
        self._forward = forward
        self._process = os.getpid()

    @property
    def config(self) -> ModelConfig:
        return self.exported.config

    @property
    def preprocess(self) -> Preprocess:
        return self.exported.preprocess

    @property
    def labels(self) -> tuple[str, ...]:
        return self.exported.labels

    def run(self, images: Pixels) -> dict[str, NDArray[np.float32]]:
        """uint8 (B, C, H, W) -> ``features`` (B, D) and, with a head, ``logits`` (B, classes), both float32.

        A model that was exported for another number of images gets them in batches of its own, the last one filled up.

        Raises:
            UserError: arrays of another type or size than the model takes.
            Failure: this process was forked from the one that opened the model, whose threads are not here.
        """
        if os.getpid() != self._process:
            raise Failure(
                "the model was opened by the process that this one was forked from, and would wait for its threads for ever: "
                'open it here, or start processes with multiprocessing\'s "spawn"'
            )
        shape = self.exported.image_shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise UserError(
                f"the exported model takes uint8 images of shape (B, {', '.join(map(str, shape))}); got {images.dtype} "
                f"{images.shape}: for another image size, export the model again with --image-size"
            )
        if not len(images):
            raise UserError("the exported model takes at least one image; got none")
        images = np.ascontiguousarray(images)
        batch = self.exported.batch
        if batch is None or batch == len(images):
            outputs = self._forward(images)
        else:
            parts = [self._forward(_filled(images[i : i + batch], batch)) for i in range(0, len(images), batch)]
            outputs = [np.concatenate(rows)[: len(images)] for rows in zip(*parts, strict=True)]
        return dict(zip(self.exported.outputs, outputs, strict=True))


def open_engine(
    folder: str | Path,
    engine: str = AUTO,
    *,
    threads: int | None = None,
    hint: Hint | None = None,
    cache: bool = True,
) -> ExportedEngine:
    """An exported folder, opened to run.

    Args:
        folder: one that ``vitrail export`` has written.
        engine: auto, the best that is installed for what the folder holds; else a name in ENGINES.
        threads: that it may use; None for ``OMP_NUM_THREADS`` where that is set, else one a core. Torch's own form leaves
            the threads of the process as they are then.
        hint: ``latency`` for few images at a time, ``throughput`` for many; None decides by the batches that come.
        cache: keep the compiled model in the user's cache, where the runtime compiles, so that the next start is faster.

    Raises:
        UserError: not an exported folder, damaged; an engine that is unknown, cannot run it, or is not installed.
    """
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UserError(f"threads {threads}: give 1 to {_MOST_THREADS:,}")
    if hint is not None and hint not in HINTS:
        raise UserError(f"hint {hint!r}: {did_you_mean(str(hint), HINTS)}")
    exported = read_exported(folder)
    *better, last = choices(exported.form, engine)
    for name in better:
        with suppress(_NotImported):
            return _opened(exported, name, threads, hint, cache)
    return _opened(exported, last, threads, hint, cache)


class _NotImported(UserError):
    """A package that is there, and cannot be imported."""


def _opened(exported: Exported, name: str, threads: int | None, hint: Hint | None, cache: bool) -> ExportedEngine:
    if name == "torch":
        exported.verify()  # over a file that is damaged torch prints tracebacks of its own
    # the digests cost about as much as reading the files: on a thread of its own, while the runtime sets itself up
    with ThreadPoolExecutor(1) as pool:
        verified = pool.submit(exported.verify)
        try:
            forward = import_module(ENGINES[name].module).open_model(exported, threads, hint, cache)
        except UserError:
            raise
        except ImportError as error:
            package = ENGINES[name].package
            raise _NotImported(f"{package} is installed and cannot be imported ({error}): install it anew") from error
        except Exception as error:  # each runtime has its own; what is wrong with the file is then said by its digest
            verified.result()
            text = " ".join(str(error).split())[:300]
            raise UserError(f"{exported.path} cannot be opened by {name}: {text}") from error
        verified.result()
    return ExportedEngine(exported, name, forward)


def choices(form: str, engine: str = AUTO) -> list[str]:
    """The engines for a form of exported model: the one named, or those that are installed, the best first.

    Raises:
        UserError: it is unknown, cannot run this form, or is not installed.
    """
    able = FORMS[form].engines
    if engine != AUTO:
        if engine not in ENGINES:
            raise UserError(f"--engine {engine}: {did_you_mean(engine, (AUTO, *ENGINES))}")
        if engine not in able:
            raise UserError(f"--engine {engine} does not run a model exported to {form}: {' or '.join(able)} does")
        able = (engine,)
    if found := [name for name in able if installed(ENGINES[name].package)]:
        return found
    raise missing(able[0], ENGINES[able[0]].extra, f"the model is exported to {form}, and {' or '.join(able)} runs it")


def installed(package: str) -> bool:
    """Whether a package is there, without importing it."""
    return find_spec(package) is not None


def missing(package: str, extra: str, why: str) -> UserError:
    """The error for a package that is not installed."""
    return UserError(f"{why}; {package} is not installed: pip install 'vitrail[{extra}]'")


def default_threads() -> int:
    """The threads of an engine where nothing is said: ``OMP_NUM_THREADS`` if it is a number, else one a core."""
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # after commas: of nested loops
    if said.isascii() and said.isdigit() and int(said) > 0:
        return int(said)
    return usable_cores()


def usable_cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _filled(images: Pixels, batch: int) -> Pixels:
    """A batch filled up with its last image."""
    lacking = batch - len(images)
    return images if not lacking else np.concatenate([images, np.repeat(images[-1:], lacking, axis=0)])
