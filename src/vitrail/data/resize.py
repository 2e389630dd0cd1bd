"""Antialiased resizing of images, whole or in part, and of pictures that do not fill their pixels.

Shapes: C channels, H W height and width.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vitrail.data.decode import OpenedImage

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Box = tuple[float, float, float, float]
"""(top, left, bottom, right) in pixels; fractions cut through pixels."""


def resample(
    image: torch.Tensor, size: tuple[int, int], interpolation: str, picture: Box | None = None
) -> torch.Tensor:
    """Antialiased resize, uint8 (C, H, W) -> uint8 (C, *size): the width first, then the height, as torch does it.

    Agrees with Pillow's to a grey level or two, where it too begins with the width.

    Args:
        image: the pixels.
        size: (height, width) of the result.
        interpolation: bicubic or bilinear.
        picture: the part of the image that is resized, None for all; it reaches at least one end of either side.
    """
    if picture is None and tuple(image.shape[-2:]) == tuple(size):
        return image
    # torch resizes interleaved pixels twice as fast, if the strides say clearly that they are interleaved
    if picture is None:
        batch = _interleaved(image)
        return F.interpolate(batch, size=size, mode=interpolation, antialias=True)[0]
    top, left, bottom, right = picture
    # torch counts from the first pixel: a picture that leaves the first ones out is turned round
    turned = [axis for axis, start in ((-2, top), (-1, left)) if start > 0]
    batch = _interleaved(image.flip(turned))
    # a little more, as the length of the result is rounded down; and less than a pixel too much, which is cut off
    scale = ((size[0] + 1e-6) / (bottom - top), (size[1] + 1e-6) / (right - left))
    resized = F.interpolate(batch, scale_factor=scale, mode=interpolation, antialias=True)[0]
    return resized[:, : size[0], : size[1]].flip(turned)


def _interleaved(image: torch.Tensor) -> torch.Tensor:
    """(C, H, W) -> (1, C, H, W), with the channels of a pixel side by side in memory."""
    return image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)


def resample_part(
    image: torch.Tensor,
    size: tuple[int, int],
    part: tuple[int, int, int, int],
    interpolation: str,
    picture: Box | None,
) -> torch.Tensor:
    """``part`` (top, left, rows, columns) of what `resample` gives, without the rest of it -> uint8 (C, rows, columns).

    Resized whole, a strip of 10 x 100,000 pixels would fill the memory. Pillow can begin anywhere, torch cannot.
    """
    top, left, bottom, right = picture or (0, 0, *image.shape[-2:])
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
    pixels = np.ascontiguousarray(image[:, spans[0], spans[1]].permute(1, 2, 0).numpy())
    cut = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    (upper, lower), (west, east) = box
    resized = cut.resize((part[3], part[2]), _FILTERS[interpolation], (west, upper, east, lower))
    return torch.from_numpy(np.array(resized).reshape(part[2], part[3], -1)).permute(2, 0, 1)


def picture_in(opened: OpenedImage, image: torch.Tensor) -> Box | None:
    """Where the picture lies in pixels decoded at reduced scale: blocks of them that reach beyond its edge are whole.

    Without this, the picture would be up to half a pixel of the model's smaller. None where it fills them.
    """
    (height, width), (rows, columns) = opened.size, image.shape[-2:]
    reduction = next(n for n in (1, 2, 4, 8) if (-(-height // n), -(-width // n)) == (rows, columns))
    if height == rows * reduction and width == columns * reduction:
        return None
    # what reaches beyond is below and to the right, as stored; see the EXIF orientations in decode.py
    spare = rows - height / reduction, columns - width / reduction
    top = spare[0] if opened.orientation in (3, 4, 7, 8) else 0.0
    left = spare[1] if opened.orientation in (2, 3, 6, 7) else 0.0
    return top, left, top + height / reduction, left + width / reduction
