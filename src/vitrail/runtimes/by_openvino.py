"""OpenVINO as an engine, for its own models and for ONNX.

A few images are computed at once by all threads (latency). Many are dealt out in small parts to streams of threads, which
keeps the cores from waiting for one another, and their caches from overflowing (throughput).
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from vitrail.runtimes.engine import Forward, Hint, Pixels
from vitrail.runtimes.exported import Exported

_MANY = 4  # images, from which on streams pay
_PART = 4  # images at most that a stream computes at a time


def open_model(exported: Exported, threads: int, hint: Hint | None, cache: bool) -> Forward:
    """The model compiled for the CPU, at the first batch where no hint is given, and kept so in the user's cache."""
    core = openvino.Core()
    if hint is not None:
        return _Compiled(core, exported, threads, hint, cache).run
    compiled: dict[str, _Compiled] = {}

    def forward(images: Pixels) -> Sequence[NDArray[np.float32]]:
        wanted: Hint = "throughput" if len(images) >= _MANY and threads > 1 and exported.batch is None else "latency"
        if wanted not in compiled and (wanted == "throughput" or not compiled):
            compiled[wanted] = _Compiled(core, exported, threads, wanted, cache)
        return compiled.get(wanted, next(iter(compiled.values()))).run(images)

    return forward


class _Compiled:
    """A model compiled for one of the two ways of working."""

    def __init__(self, core: openvino.Core, exported: Exported, threads: int, hint: Hint, cache: bool) -> None:
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": hint.upper(),
            "INFERENCE_NUM_THREADS": threads,
            # where the processor has bfloat16 it would be taken, and the answers would not be those that were checked
            "INFERENCE_PRECISION_HINT": "f32",
        }
        kept = cache_folder() if cache else None
        if kept is not None:
            config["CACHE_DIR"] = str(kept)
        self._model = core.compile_model(str(exported.path), "CPU", config)
        self._outputs = [self._model.output(name) for name in exported.outputs]
        self._streams = self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") if hint == "throughput" else 1
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


def cache_folder() -> Path | None:
    """Where compiled models are kept from one start to the next; None where no folder can be made."""
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
    folder = base / "vitrail" / "openvino"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
