"""Antialiased resizing in NumPy, without torch, with the very pixels that torch gives; see `resize` for torch's.

torch resizes 8-bit images in integers: a pixel of the result is a sum of pixels by 16-bit weights, shifted down. Here the
same sums are taken as products of matrices in floating point, where they are exact: no sum reaches the largest whole
number up to which every one has a float. Pillow's weights have more bits, so that 4 values in 1,000 differ by one level,
and it takes longer.

Shapes: H W height and width of the image, C channels.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitrail.data.decode import OpenedImage

Box = tuple[float, float, float, float]
"""(top, left, bottom, right) in pixels; fractions cut through pixels."""
Pixels = NDArray[np.uint8]

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_REACH = {"bicubic": 2.0, "bilinear": 1.0}  # of the filters, in pixels of the coarser of the two images
_CENTRE = 128  # taken from pixels, so that sums of them stay small
_EXACT_FLOAT32 = 1 << 24
# Of the result, so many columns or rows at a time: the weights of more of them together are mostly zeros.
_BLOCK = 16
# Rows of the image at a time: no second copy of a large one, what is in hand stays in the processor's cache, and products
# are so small that the library of matrices does not call threads, of which every decoder is one already.
_STRIP_ROWS, _STRIP_VALUES = 256, 1 << 17

# Beyond such a reduction of a side, which no photograph has, the weights would be too many to keep: Pillow does without.
_COARSEST = 64

Part = tuple[int, int, int, int]
"""(top, left, rows, columns) of the resized image."""


def resample_array(
    image: Pixels, size: tuple[int, int], interpolation: str, picture: Box | None = None, part: Part | None = None
) -> Pixels:
    """Antialiased resize, (H, W, C) -> (C, rows, columns): what `resize.resample` gives, and of it ``part`` alone.

    Args:
        image: the pixels.
        size: (height, width) of the result.
        interpolation: bicubic or bilinear.
        picture: the part of the image that is resized, None for all; it reaches at least one end of either side.
        part: what of the result is needed, None for all; the rest is not computed.

    Returns:
        torch's pixels; by Pillow, and then up to a level from them, where a side is reduced by more than 64.
    """
    if max(image.shape[0] / size[0], image.shape[1] / size[1]) > _COARSEST:
        return resample_array_part(image, size, part or (0, 0, *size), interpolation, picture).transpose(2, 0, 1)
    top, left, rows, columns = part or (0, 0, *size)
    spans = [(0.0, float(side)) for side in image.shape[:2]]
    if picture is not None:
        spans = [(picture[0], picture[2]), (picture[1], picture[3])]
    down = _side(image.shape[0], size[0], *spans[0], top, rows, interpolation, picture is not None)
    across = _side(image.shape[1], size[1], *spans[1], left, columns, interpolation, picture is not None)
    begin, end = (top, top + rows) if down is None else (down.begin, down.end)
    narrowed = _columns(image[begin:end], across, slice(left, left + columns))
    return narrowed if down is None else _rows(narrowed, down)


def resample_array_part(
    image: Pixels, size: tuple[int, int], part: Part, interpolation: str, picture: Box | None
) -> Pixels:
    """``part`` of the image (H, W, C) resized to ``size``, by Pillow, which can begin anywhere -> (rows, columns, C)."""
    top, left, bottom, right = picture or (0, 0, *image.shape[:2])
    spans, box = [], []
    for start, end, length, first, count in (
        (top, bottom, size[0], part[0], part[2]),
        (left, right, size[1], part[1], part[3]),
    ):
        step = (end - start) / length
        begin, stop = start + first * step, start + (first + count) * step
        # pixels beyond the reach of the filter do not matter, and coordinates near 0 are the most exact
        reach = 2 * max(1, step) + 1
        span = slice(max(0, math.floor(begin - reach)), math.ceil(stop + reach))
        spans.append(span)
        box.append((begin - span.start, stop - span.start))
    pixels = np.ascontiguousarray(image[spans[0], spans[1]])
    cut = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    (upper, lower), (west, east) = box
    resized = cut.resize((part[3], part[2]), FILTERS[interpolation], (west, upper, east, lower))
    return np.array(resized).reshape(part[2], part[3], -1)


def picture_in(opened: OpenedImage, decoded: tuple[int, int]) -> Box | None:
    """Where the picture lies in (rows, columns) decoded at reduced scale: blocks that reach beyond its edge are whole.

    Without this, the picture would be up to half a pixel of the model's smaller. None where it fills them.
    """
    (height, width), (rows, columns) = opened.size, decoded
    reduction = next(n for n in (1, 2, 4, 8) if (-(-height // n), -(-width // n)) == (rows, columns))
    if height == rows * reduction and width == columns * reduction:
        return None
    # what reaches beyond is below and to the right, as stored; see the EXIF orientations in decode.py
    spare = rows - height / reduction, columns - width / reduction
    top = spare[0] if opened.orientation in (3, 4, 7, 8) else 0.0
    left = spare[1] if opened.orientation in (2, 3, 6, 7) else 0.0
    return top, left, top + height / reduction, left + width / reduction


class _Side:
    """How the pixels of one side become those of the result: the weights, in blocks that lie beside one another."""

    def __init__(self, firsts: NDArray[np.int64], weights: NDArray[np.int32], precision: int, own: int) -> None:
        """
        Args:
            firsts: (n,) for each pixel of the result, the first of the image that it is a sum of.
            weights: (n, taps) of this one and those after it.
            precision: the bits by which the sums are shifted down.
            own: the pixels of the image.
        """
        self.begin, self.end = int(firsts.min()), min(own, int(firsts.max()) + weights.shape[1])
        """The pixels of the image that are needed."""
        self.precision = precision
        self.length = len(firsts)
        self.offset = weights.sum(1, dtype=np.int32) * _CENTRE + (1 << (precision - 1))
        """What the sums lack, as pixels are centred; and half, so that they are rounded."""
        largest = int(np.abs(weights, dtype=np.int64).sum(1).max()) * _CENTRE
        self.kind: Any = np.float32 if largest < _EXACT_FLOAT32 else np.float64
        self.blocks: list[tuple[slice, slice, NDArray[Any]]] = []
        """(columns of the result, pixels from ``begin``, weights of these for those)."""
        for low in range(0, self.length, _BLOCK):
            own_firsts = firsts[low : low + _BLOCK] - self.begin
            start, stop = int(own_firsts.min()), int(own_firsts.max()) + weights.shape[1]
            block = np.zeros((stop - start, len(own_firsts)), dtype=self.kind)
            places = own_firsts[:, None] - start + np.arange(weights.shape[1])
            block[places, np.arange(len(own_firsts))[:, None]] = weights[low : low + _BLOCK]
            stop = min(stop, self.end - self.begin)
            self.blocks.append((slice(low, low + len(own_firsts)), slice(start, stop), block[: stop - start]))

    def round(self, sums: NDArray[Any], offset: NDArray[np.int32]) -> Pixels:
        """Sums by the weights -> pixels."""
        whole = sums.astype(np.int32)
        whole += offset
        whole >>= self.precision
        return whole.clip(0, 255, out=whole).astype(np.uint8)


@lru_cache(maxsize=64)  # photographs of one camera have the same few sizes
def _side(
    own: int, wanted: int, start: float, stop: float, first: int, count: int, interpolation: str, by_scale: bool
) -> _Side | None:
    """One side of ``own`` pixels, of which ``start`` to ``stop`` are resized to ``wanted``: ``count`` from ``first``.

    None where nothing is to be done.
    """
    length, scale, turned = wanted, own / wanted, False
    if by_scale:  # as `resize.resample` asks torch: from one end, by a scale, and what is too much is cut off
        factor = (wanted + 1e-6) / (stop - start)
        length, scale, turned = math.floor(own * factor), 1 / factor, start > 0
    if length == own:
        if not turned and length == wanted:
            return None
        firsts, weights, precision = np.arange(own), np.ones((own, 1), dtype=np.int32) << 1, 1
    else:
        firsts, weights, precision = _weights(own, length, scale, interpolation)
    firsts, weights = firsts[:wanted], weights[:wanted]
    if turned:  # torch turns the image round, before and after
        firsts, weights = own - firsts[::-1] - weights.shape[1], weights[::-1, ::-1]
        under = np.maximum(0, -firsts)  # the last weights, which are zeros, would lie before the first pixel
        if under.any():
            firsts, weights = _shifted(firsts, weights, under)
    return _Side(firsts[first : first + count], weights[first : first + count], precision, own)


def _shifted(
    firsts: NDArray[np.int64], weights: NDArray[np.int32], by: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The same sums, that of each row begun ``by`` so many pixels later; the weights before are zeros."""
    moved = np.zeros_like(weights)
    for row, step in enumerate(by):
        moved[row, : weights.shape[1] - step] = weights[row, step:]
    return firsts + by, moved


def _weights(
    own: int, wanted: int, scale: float, interpolation: str
) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """As torch has them: the first pixel of each sum, the weights (wanted, taps), and their bits after the point.

    Source: ``HelperInterpBase`` in ATen/native/cpu/UpSampleKernel.cpp of PyTorch, which follows Pillow's Resample.c.
    """
    stretch = max(scale, 1.0)
    reach = _REACH[interpolation] * stretch
    centres = scale * (np.arange(wanted) + 0.5)
    firsts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + reach + 0.5).astype(np.int64), own)
    places = firsts[:, None] + np.arange(max(1, int((ends - firsts).max())))
    far = np.abs((places - centres[:, None] + 0.5) * (1 / stretch))
    if interpolation == "bicubic":  # Keys's kernel with a = -1/2
        near = (1.5 * far - 2.5) * far * far + 1
        weights = np.where(far < 1, near, np.where(far < 2, (((far - 5) * far + 8) * far - 4) * -0.5, 0.0))
    else:
        weights = np.where(far < 1, 1 - far, 0.0)
    weights[places >= ends[:, None]] = 0
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]  # one after the other, as torch adds them
    largest, precision = float(weights.max()), 0
    while precision < 22 and 0.5 + largest * (1 << (precision + 1)) < 1 << 15:
        precision += 1
    weights *= 1 << precision
    return firsts, np.trunc(weights + np.copysign(0.5, weights)).astype(np.int32), precision


def _columns(image: Pixels, side: _Side | None, kept: slice) -> Pixels:
    """The first step, strip by strip: (H, W, C) -> (C, H, columns)."""
    height, width, channels = image.shape
    if side is None:
        return np.ascontiguousarray(image[:, kept].transpose(2, 0, 1))
    out = np.empty((channels, height, side.length), dtype=np.uint8)
    rows = min(_STRIP_ROWS, max(1, _STRIP_VALUES // (width * channels)))
    values = np.empty((channels, rows, side.end - side.begin), dtype=side.kind)
    sums = np.empty((channels, rows, side.length), dtype=side.kind)
    for top in range(0, height, rows):
        strip = image[top : top + rows, side.begin : side.end].transpose(2, 0, 1)
        values, sums = values[:, : strip.shape[1]], sums[:, : strip.shape[1]]  # the last strip is a short one
        np.subtract(strip, _CENTRE, out=values, dtype=side.kind, casting="unsafe")
        for columns, pixels, weights in side.blocks:
            np.matmul(values[:, :, pixels], weights, out=sums[:, :, columns])
        out[:, top : top + rows] = side.round(sums, side.offset)
    return out


def _rows(image: Pixels, side: _Side) -> Pixels:
    """The second step, on the rows that are needed: (C, end - begin, columns) -> (C, rows, columns)."""
    channels, _, columns = image.shape
    out = np.empty((channels, side.length, columns), dtype=np.uint8)
    for left in range(0, columns, _STRIP_ROWS):
        strip = image[:, :, left : left + _STRIP_ROWS]
        for rows, pixels, weights in side.blocks:
            values = strip[:, pixels].astype(side.kind)
            values -= _CENTRE
            out[:, rows, left : left + _STRIP_ROWS] = side.round(weights.T @ values, side.offset[rows, None])
    return out
