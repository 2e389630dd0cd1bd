"""OpenVINO as an engine, for its own models and for ONNX.

A few images are computed at once by all threads (latency). Many are dealt out in small parts to streams of threads, which
keeps the cores from waiting for one another, and their caches from overflowing (throughput).
"""

import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from vitrail.runtimes.engine import Forward, Hint, Pixels, default_threads
from vitrail.runtimes.exported import Exported

_MANY = 4  # images, from which on streams pay
_PART = 4  # images at most that a stream computes at a time
_STREAM = 1  # threads of a stream
# 1 was kept without weights (CACHE_MODE OPTIMIZE_SIZE), and gave wrong answers for relative positions; 2 may have been
# compiled of files that were damaged then
_CACHE = 3
_DIGEST = ".sha256"  # beside a compiled model
_UNUSED_DAYS = 90  # after which a compiled model is removed
_LEFT_DAYS = 1  # the same of a folder in which one was being made


def open_model(exported: Exported, threads: int | None, hint: Hint | None, cache: bool) -> Forward:
    """The model compiled for the CPU, at the first batch where no hint is given, and kept so in the user's cache."""
    core, threads = openvino.Core(), threads or default_threads()
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
    """The model compiled, or as an earlier start has compiled it, if that is unchanged since.

    Raises:
        UserError: a file of the model is missing or is not what was written.
    """
    kept = cache_folder(core, exported) if cache else None
    if kept is None:
        exported.verify()
        return _Compiled(core, exported, threads, hint, None)
    if kept.is_dir():
        model = _found(core, exported, threads, hint, kept)
        if model is not None:
            return model
        _remove(kept)
    exported.verify()  # what is compiled of a damaged file would be taken for the model even when the file is mended
    return _made(core, exported, threads, hint, kept)


def _found(core: openvino.Core, exported: Exported, threads: int, hint: Hint, kept: Path) -> "_Compiled | None":
    """The model as it lies compiled in a folder; None where that is not whole, or OpenVINO has not taken it."""
    try:
        os.utime(kept)  # it is in use
        (blob,) = kept.glob("*.blob")
        digest = blob.with_suffix(_DIGEST).read_text(encoding="utf-8")
        # opened before OpenVINO does, so that what is hashed is no newer than what it reads
        with blob.open("rb") as file, ThreadPoolExecutor(1) as pool:  # hashing takes about as long as reading
            hashed = pool.submit(hashlib.file_digest, file, "sha256")
            model = _Compiled(core, exported, threads, hint, kept)
            return model if model.from_cache and hashed.result().hexdigest() == digest else None
    except (OSError, ValueError, RuntimeError):  # the last is OpenVINO's
        return None


def _made(core: openvino.Core, exported: Exported, threads: int, hint: Hint, kept: Path) -> "_Compiled":
    """The model compiled, in a folder of its own that then becomes ``kept``: as a whole, and if no other was first."""
    try:
        place = Path(tempfile.mkdtemp(prefix=".", dir=kept.parent))
    except OSError:
        return _Compiled(core, exported, threads, hint, None)
    try:
        model = _Compiled(core, exported, threads, hint, place)
        with suppress(OSError, ValueError):
            (blob,) = place.glob("*.blob")
            with blob.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            blob.with_suffix(_DIGEST).write_text(digest, encoding="utf-8")
            place.rename(kept)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    _prune(kept.parent)
    return model


def _prune(base: Path) -> None:
    """Remove compiled models that were not used for long, and what processes that were killed have left."""
    now = time.time()
    with suppress(OSError):
        for folder in base.iterdir():
            days = (now - folder.stat().st_mtime) / 86400
            if days > (_LEFT_DAYS if folder.name.startswith(".") else _UNUSED_DAYS):
                _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder at once for others that look for it. Those that have mapped the file keep it."""
    with suppress(OSError):
        aside = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        with suppress(OSError):
            folder.rename(aside / "old")
        shutil.rmtree(aside, ignore_errors=True)


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
        self.from_cache = kept is not None and bool(self._model.get_property("LOADED_FROM_CACHE"))
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


def cache_folder(core: openvino.Core, exported: Exported) -> Path | None:
    """Where a model is kept compiled from one start to the next, once it is; None where no folder can be made.

    Such a folder holds one compiled model and its digest, and appears as a whole. OpenVINO knows a model by its path and the
    second in which it was changed, which another model's files can have too: so the name is that of the contents as well.
    """
    try:
        home = Path.home()
        changed = int(exported.path.stat().st_mtime)
    except (RuntimeError, OSError):
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    base = base / "vitrail" / "openvino"
    processor = core.get_property("CPU", "FULL_DEVICE_NAME")  # machines may share a home
    known = (sorted(exported.digests.items()), str(exported.path.absolute()), changed, openvino.__version__, processor)
    name = hashlib.sha256(repr((known, _CACHE)).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return base / name if os.access(base, os.W_OK) else None
