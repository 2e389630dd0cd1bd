"""Antialiased resizing by torch, of images whole or in part, and of pictures that do not fill their pixels.

`resample` does the same in NumPy alone. Shapes: C channels, H W height and width.
"""

import numpy as np
import torch
import torch.nn.functional as F

from vitrail.data.resample import Box, Part, resample_array_part


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


def planar(image: torch.Tensor) -> torch.Tensor:
    """(C, H, W) of any strides -> the same with one plane after the other in memory."""
    if image.stride(0) != 1:
        return image.contiguous()
    return torch.from_numpy(np.ascontiguousarray(image.numpy()))  # NumPy takes half the time of torch


def resample_part(
    image: torch.Tensor, size: tuple[int, int], part: Part, interpolation: str, picture: Box | None
) -> torch.Tensor:
    """``part`` (top, left, rows, columns) of what `resample` gives, without the rest of it -> uint8 (C, rows, columns).

    Resized whole, a strip of 10 x 100,000 pixels would fill the memory. Pillow can begin anywhere, torch cannot.
    """
    found = resample_array_part(image.permute(1, 2, 0).numpy(), size, part, interpolation, picture)
    return torch.from_numpy(found).permute(2, 0, 1)
