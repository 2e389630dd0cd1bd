"""One tensor as it lies in a file, checked before any of it is read, and read straight into memory of its own."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitrail.errors import UserError
from vitrail.weights.files.untrusted import shown

if TYPE_CHECKING:
    from torch import Tensor

# torch's names of the types that open here -> bytes of an element.
ITEM = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}
CHUNK = 1 << 20  # bytes read at once, few enough that the next step finds them in the processor's cache
_AXES, _ELEMENTS = 16, 1 << 48  # beyond any weights; below what torch can count

Fill = Callable[[memoryview], object]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a header describes it. Raises ValueError where the description makes no sense."""

    name: str
    dtype: str
    """torch's name of it, one of ``ITEM``."""
    shape: tuple[int, ...]
    offset: int
    """Of its first byte, from the start of the file, or of ``member`` unpacked."""
    stride: tuple[int, ...] | None = None
    """Elements from one to the next, axis by axis; None where they lie row after row."""
    member: str | None = None
    """The file in an archive that holds it; None where it lies in the file as it is."""
    big_endian: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ITEM:
            raise ValueError(f"{shown(self.name)} has elements of type {shown(self.dtype)}, which does not open here")
        stride = self.stride if self.stride is not None else self.shape
        numbers = (*self.shape, *stride, self.offset)
        sensible = len(stride) == len(self.shape) <= _AXES and all(type(n) is int and n >= 0 for n in numbers)
        # An axis of length zero makes any other harmless to count, but not to build.
        if not sensible or math.prod(max(n, 1) for n in self.shape) > _ELEMENTS or self.span > _ELEMENTS:
            raise ValueError(f"{shown(self.name)} claims the shape {shown(self.shape, 80)}, which no tensor can have")

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What its elements take in the file's type, each counted once."""
        return self.elements * ITEM[self.dtype]

    @property
    def span(self) -> int:
        """Bytes from its first element to the end of its last one."""
        if self.stride is None or not self.elements:
            return self.bytes
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * ITEM[self.dtype]


def read(stored: Stored, fill: Fill) -> "Tensor":
    """The tensor, in memory of its own, row after row; floating ones in float32, others as they are.

    Args:
        stored: what is to be read.
        fill: puts the file's next bytes, from ``stored.offset`` on, into all of a buffer.
    """
    if stored.stride is None:
        return _run(stored.elements, stored, fill).reshape(stored.shape)
    flat = _run(stored.span // ITEM[stored.dtype], stored, fill)
    rows = flat.as_strided(stored.shape, stored.stride)
    import torch

    return rows.clone(memory_format=torch.contiguous_format)


def _run(count: int, stored: Stored, fill: Fill) -> "Tensor":
    """The next ``count`` elements."""
    import torch

    dtype: torch.dtype = getattr(torch, stored.dtype)
    flat = torch.empty(count, dtype=torch.float32 if dtype.is_floating_point else dtype)
    if flat.dtype == dtype and not stored.big_endian and dtype != torch.bool:
        if count:
            fill(flat.view(torch.uint8).numpy().data)
        return flat
    item = ITEM[stored.dtype]
    buffer = torch.empty(min(count * item, CHUNK), dtype=torch.uint8)
    for start in range(0, count, CHUNK // item):
        part = buffer[: min(CHUNK, (count - start) * item)]
        fill(part.numpy().data)
        if stored.big_endian:
            part = part.view(-1, item // 2 if dtype.is_complex else item).flip(1).reshape(-1)
        # A byte that is neither 0 nor 1 is no bool that torch can be trusted with.
        flat[start : start + len(part) // item] = part != 0 if dtype == torch.bool else part.view(dtype)
    return flat


def check_finite(tensors: Mapping[str, "Tensor"], source: object) -> None:
    """Refuse weights that cannot work.

    Raises:
        UserError: the first tensor with values that are NaN or infinite, how many it has, and how many such tensors.
    """
    bad = {}
    for name, tensor in tensors.items():
        # One value that is not finite makes the sum so; a sum that overflows only costs the second look.
        if tensor.is_floating_point() and not math.isfinite(tensor.sum().item()):
            count = sum(int((~part.isfinite()).sum()) for part in tensor.flatten().split(CHUNK))
            if count:
                bad[name] = count
    if bad:
        name, count = next(iter(bad.items()))
        others = f" ({len(bad)} tensors have some)" if len(bad) > 1 else ""
        raise UserError(
            f"{source}: {count:,} of the {tensors[name].numel():,} values of {shown(name)} are NaN or infinite{others}: "
            "the training diverged or the file is damaged; take another checkpoint"
        )
