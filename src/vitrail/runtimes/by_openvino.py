"""OpenVINO as an engine, for its own models and for ONNX.

A few images are computed at once by all threads (latency). Many are dealt out in small parts to streams of threads, which
keeps the cores from waiting for one another, and their caches from overflowing (throughput).
"""

import hashlib
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from vitrail.runtimes.engine import Forward, Hint, Pixels
from vitrail.runtimes.exported import Exported

_MANY = 4  # images, from which on streams pay
_PART = 4  # images at most that a stream computes at a time
_STREAM = 1  # threads of a stream
_CACHE = 2  # 1 was kept without weights (CACHE_MODE OPTIMIZE_SIZE), and gave wrong answers for relative positions
_DIGEST = ".sha256"  # beside a compiled model


def open_model(exported: Exported, threads: int, hint: Hint | None, cache: bool) -> Forward:
    """The model compiled for the CPU, at the first batch where no hint is given, and kept so in the user's cache."""
    core = openvino.Core()
    compiled: dict[str, _Compiled] = {}
    alone = threading.Lock()  # requests hold the arrays of one call

    def forward(images: Pixels) -> Sequence[NDArray[np.float32]]:
        many = len(images) >= _MANY and threads > 1 and exported.batch is None
        wanted: Hint = hint or ("throughput" if many else "latency")
        with alone:
            if wanted not in compiled and (hint is not None or wanted == "throughput" or not compiled):
                compiled[wanted] = _compiled(core, exported, threads, wanted, cache)
            return compiled.get(wanted, next(iter(compiled.values()))).run(images)

    if hint is not None:
        compiled[hint] = _compiled(core, exported, threads, hint, cache)
    return forward


def _compiled(core: openvino.Core, exported: Exported, threads: int, hint: Hint, cache: bool) -> "_Compiled":
    """The model compiled, or as an earlier start has compiled it, if that is unchanged since."""
    kept = cache_folder(exported) if cache else None
    if kept is None:
        return _Compiled(core, exported, threads, hint, None)
    there = list(kept.glob("*.blob"))
    with ThreadPoolExecutor(1) as pool:  # hashing takes about as long as reading
        damaged = pool.submit(_damaged, there)
        model = _Compiled(core, exported, threads, hint, kept)
        if blobs := damaged.result():
            for blob in blobs:
                blob.unlink(missing_ok=True)
            model = _Compiled(core, exported, threads, hint, kept)
    _vouch(kept)
    return model


def _damaged(blobs: Sequence[Path]) -> list[Path]:
    """Those compiled models that are not what was written, or for which nothing vouches."""
    return [blob for blob in blobs if not _is_vouched_for(blob)]


def _is_vouched_for(blob: Path) -> bool:
    try:
        return blob.with_suffix(_DIGEST).read_text(encoding="utf-8") == _sha256(blob)
    except (OSError, ValueError):
        return False


def _vouch(folder: Path) -> None:
    """Write the digests of compiled models that are new."""
    with suppress(OSError):
        for blob in folder.glob("*.blob"):
            if not blob.with_suffix(_DIGEST).is_file():
                blob.with_suffix(_DIGEST).write_text(_sha256(blob), encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Compiled:
    """A model compiled for one of the two ways of working."""

    def __init__(self, core: openvino.Core, exported: Exported, threads: int, hint: Hint, kept: Path | None) -> None:
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": hint.upper(),
            "INFERENCE_NUM_THREADS": threads,
            # where the processor has bfloat16 it would be taken, and the answers would not be those that were checked
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if hint == "throughput":
            config["NUM_STREAMS"] = max(1, threads // _STREAM)
        if kept is not None:
            config["CACHE_DIR"] = str(kept)
        self._model = core.compile_model(str(exported.path), "CPU", config)
        self._outputs = [self._model.output(name) for name in exported.outputs]
        self._streams = self._model.get_property("NUM_STREAMS") if hint == "throughput" else 1
        self._whole = exported.batch is not None
        self._requests = [self._model.create_infer_request() for _ in range(self._streams)]

    def run(self, images: Pixels) -> Sequence[NDArray[np.float32]]:
        part = min(_PART, -(-len(images) // self._streams))
        if self._streams == 1 or self._whole or part == len(images):
            found = self._requests[0].infer([images], share_inputs=True)
            return [np.array(found[output]) for output in self._outputs]
        starts = range(0, len(images), part)
        rows: list[list[NDArray[np.float32]]] = [[] for _ in starts]
        # parts go to the streams in turn, so that which stream has which does not depend on timing
        for number, start in enumerate(starts):
            request = self._requests[number % self._streams]
            if number >= self._streams:
                self._collect(request, rows[number - self._streams])
            request.start_async([images[start : start + part]], share_inputs=True)
        for number in range(max(0, len(starts) - self._streams), len(starts)):
            self._collect(self._requests[number % self._streams], rows[number])
        return [np.concatenate([row[i] for row in rows]) for i in range(len(self._outputs))]

    def _collect(self, request: openvino.InferRequest, into: list[NDArray[np.float32]]) -> None:
        request.wait()
        into.extend(np.array(request.get_tensor(output).data) for output in self._outputs)


def cache_folder(exported: Exported) -> Path | None:
    """Where a model is kept compiled from one start to the next; None where no folder can be made.

    OpenVINO knows a model by its path and the second in which it was changed, which another model's files can have too: so
    each has a folder named by its contents.
    """
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    known = hashlib.sha256(repr((sorted(exported.digests.items()), openvino.__version__, _CACHE)).encode()).hexdigest()
    folder = base / "vitrail" / "openvino" / known[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
