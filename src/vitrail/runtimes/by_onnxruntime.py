"""ONNX Runtime as an engine."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vitrail.runtimes.engine import Forward, Hint, Pixels, default_threads
from vitrail.runtimes.exported import Exported

_ERRORS_ALONE = 3  # its levels of logging: 0 verbose, 1 info, 2 warning, 3 error


def open_model(exported: Exported, threads: int | None, hint: Hint | None, cache: bool) -> Forward:
    """A session on the CPU; a session spreads each operation over all threads whatever the hint, and compiles nothing."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    # between batches its threads would wait at full speed, on cores that decode the next images
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS_ALONE
    session = onnxruntime.InferenceSession(str(exported.path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def forward(images: Pixels) -> Sequence[NDArray[np.float32]]:
        return session.run(list(exported.outputs), {name: images})

    return forward
