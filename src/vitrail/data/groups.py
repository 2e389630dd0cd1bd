"""Images of several sizes, gathered into batches of one size each.

Shapes: b images of one size, C channels, h w height and width.
"""

from collections.abc import Sequence

import numpy as np
import torch


def by_size(images: Sequence[torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], list[int]]:
    """Images (C, h, w) -> batches (b, C, h, w), one a size, and the order: for each place in them the image that is there.

    Sizes come in the order in which they are first met, and images of one size in their own order, so that images that
    are all of one size are one batch, in order.
    """
    places: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        places.setdefault(image.shape, []).append(index)
    groups = tuple(_stacked([images[index] for index in own]) for own in places.values())
    return groups, [index for own in places.values() for index in own]


def _stacked(images: list[torch.Tensor]) -> torch.Tensor:
    """Images (C, h, w) of one size -> (b, C, h, w)."""
    first = images[0]
    if first.is_contiguous() or first.device.type != "cpu":
        return torch.stack(images)
    batch = torch.empty((len(images), *first.shape), dtype=first.dtype)
    for into, image in zip(batch.numpy(), images, strict=True):
        np.copyto(into, image.numpy())  # in half of torch's time where the channels of a pixel lie side by side
    return batch
