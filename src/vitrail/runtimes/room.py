"""Whether there is room for an export, asked before it begins: runtimes say so late, and torch by ending the process."""

import math
import shutil
import tempfile
from pathlib import Path

import psutil

from vitrail.errors import Failure, UserError

_SPARE_BYTES = 2**21  # of a disk: what is written beside the weights
_COPIES = 4  # of a batch's images, at least, on their way through a model


def require_disk(folder: Path, numbers: int, *, int8: bool) -> None:
    """Refuse a disk that cannot take the model.

    Args:
        folder: where it is to be; it need not exist.
        numbers: parameters of the model.
        int8: whether they become 8 bits, behind a float32 model among the system's temporary files.

    Raises:
        Failure: there is too little room.
    """
    there = next(above for above in folder.absolute().parents if above.is_dir())
    wanted = {there: numbers if int8 else 4 * numbers}
    if int8:
        scratch = Path(tempfile.gettempdir())
        wanted[scratch] = wanted.get(scratch, 0) + 4 * numbers
    for place, size in wanted.items():
        needed, free = size + _SPARE_BYTES, shutil.disk_usage(place).free
        if free < needed:
            raise Failure(
                f"no space left to write {folder}: about {needed / 1e6:,.0f} MB are needed in {place}, and "
                f"{free / 1e6:,.0f} MB are free; make room"
            )


def require_memory(batch: int, image_shape: tuple[int, int, int]) -> None:
    """Refuse so many images (C, H, W) at a time that they alone fill the memory. Raises UserError."""
    size, free = 4 * batch * math.prod(image_shape), psutil.virtual_memory().available
    if _COPIES * size > free:
        raise UserError(
            f"--batch {batch}: its images take {size / 1e9:,.1f} GB each time that they are written, of "
            f"{free / 1e9:,.1f} GB of memory that are free; give fewer"
        )
