"""Torch as an engine: programs of ``torch.export``."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vitrail.runtimes.engine import Forward, Hint, Pixels
from vitrail.runtimes.exported import Exported


def open_model(exported: Exported, threads: int | None, hint: Hint | None, cache: bool) -> Forward:
    """The program as a module on the CPU; neither hint nor cache changes anything.

    ``threads`` are then those of all of torch in this process; without, torch's own stay as they are.
    """
    if threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    module = torch.export.load(exported.path).module()

    def forward(images: Pixels) -> Sequence[NDArray[np.float32]]:
        with torch.inference_mode():
            # a copy where the array may not be written to: torch has no read-only tensors
            outputs = module(torch.from_numpy(images if images.flags.writeable else images.copy()))
        return [output.numpy() for output in outputs]

    return forward
