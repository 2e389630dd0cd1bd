"""The training view of one image: random crop and per-image policy, in the loader's workers, uint8 -> uint8."""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from vitrail.data.augment import Augment
from vitrail.data.decode import open_image
from vitrail.data.kept import Kept
from vitrail.data.preprocess import Preprocess
from vitrail.data.randomness import stream, words
from vitrail.data.resize import planar, resample

CROP_TRIES = 10


def train_view(
    data: bytes, name: str, preprocess: Preprocess, augment: Augment, *, seed: int, epoch: int, index: int
) -> torch.Tensor:
    """The image as training sees it before it enters a batch, uint8 (C, h, w): a function of (seed, epoch, index).

    Raises:
        ImageError: see `decode.open_image` and `decode.OpenedImage.pixels`.
    """
    if augment.crop == "random_resized":
        image = random_resized_crop(data, name, preprocess, augment, seed=seed, epoch=epoch, index=index)
    else:
        image = preprocess.load(data, name)
    return apply_policy(image, augment, seed=seed, epoch=epoch, index=index)


def kept_view(
    kept: Kept, preprocess: Preprocess, augment: Augment, *, seed: int, epoch: int, index: int
) -> torch.Tensor:
    """As `train_view`, of an image that was decoded and reduced in advance: the same part of it.

    The channels of a pixel may be side by side in memory, as whoever makes a batch of it copies it anyhow.

    Raises:
        Failure: the file that they are kept in is not there any more.
    """
    image, whole = kept.image(index), kept.size(index)
    if augment.crop == "random_resized":
        box, wanted = _box(whole, preprocess, augment, seed=seed, epoch=epoch, index=index)
        rows = _nearest(box[0], box[2], image.shape[0] / whole[0])
        columns = _nearest(box[1], box[3], image.shape[1] / whole[1])
        # a copy: torch takes no memory that may not be written to
        part = torch.from_numpy(image[rows, columns].copy()).permute(2, 0, 1)
        view = resample(part, wanted, preprocess.interpolation)
        view = view if augment.policy == "none" else planar(view)
    else:
        view = preprocess.resize(torch.from_numpy(image.copy()).permute(2, 0, 1))
    return apply_policy(view, augment, seed=seed, epoch=epoch, index=index)


def random_resized_crop(
    data: bytes, name: str, preprocess: Preprocess, augment: Augment, *, seed: int, epoch: int, index: int
) -> torch.Tensor:
    """Decode, cut out a random part and resize it -> uint8 (C, h, w).

    The part is chosen from the header's size alone, so a JPEG is decoded at a reduced scale wherever the part stays at
    least as large as the image size, and no further than to the part's last row.
    """
    opened = open_image(data, name)
    box, (h, w) = _box(opened.size, preprocess, augment, seed=seed, epoch=epoch, index=index)
    (whole_height, whole_width), (top, left, height, width) = opened.size, box
    at_least = math.ceil(whole_height * h / height), math.ceil(whole_width * w / width)
    image = opened.pixels(preprocess.channels, at_least=at_least, rows=top + height)
    y, x = image.shape[-2] / whole_height, image.shape[-1] / whole_width  # 1, 1/2, 1/4 or 1/8
    rows = slice(int(top * y), max(int(top * y) + 1, round((top + height) * y)))
    columns = slice(int(left * x), max(int(left * x) + 1, round((left + width) * x)))
    return planar(resample(image[:, rows, columns], (h, w), preprocess.interpolation))


def _nearest(start: int, length: int, scale: float) -> slice:
    """The whole pixels that are nearest to a part of one side, once that is scaled; one at least."""
    first, end = round(start * scale), round((start + length) * scale)
    return slice(first, end) if end > first else slice(end - 1, end) if end > 0 else slice(0, 1)


def _box(
    size: tuple[int, int], preprocess: Preprocess, augment: Augment, *, seed: int, epoch: int, index: int
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """The random part (top, left, height, width) of an image of ``size``, and the (height, width) it is resized to.

    In mode native the part keeps its aspect ratio, and ``augment.ratio`` is relative to the image's: a wide image has wide
    parts.
    """
    ratio = augment.ratio
    if preprocess.varies:
        own = size[1] / size[0]
        ratio = ratio[0] * own, ratio[1] * own
    box = crop_box(size, augment.scale, ratio, stream(seed, "crop", epoch, index))
    return box, preprocess.size_of((box[2], box[3]))


def crop_box(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], draws: Iterator[float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part (Szegedy et al., arXiv 1409.4842): an area uniform in ``scale``, an
    aspect ratio log-uniform in ``ratio``; ten tries, then the largest centred part with a permitted ratio.

    Args:
        size: (height, width) of the image.
        draws: uniform numbers.
    """
    height, width = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(CROP_TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * next(draws))
        aspect = math.exp(low + (high - low) * next(draws))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int((height - h + 1) * next(draws)), int((width - w + 1) * next(draws)), h, w
    h, w = min(height, max(1, round(width / ratio[0]))), min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def apply_policy(image: torch.Tensor, augment: Augment, *, seed: int, epoch: int, index: int) -> torch.Tensor:
    """Change one image by the chosen policy, uint8 (C, h, w) -> uint8 (C, h, w)."""
    if augment.policy == "none":
        return image
    change = _policy(augment.policy, augment.randaugment_layers, augment.randaugment_magnitude, *image.shape)
    word = words(seed, "policy", epoch, index, count=1)[0, 0]
    with torch.random.fork_rng(devices=[]):  # the policies draw from torch's global generator
        torch.default_generator.manual_seed(int(word >> np.uint64(1)))
        return change(image)


@functools.cache
def _policy(
    name: str, layers: int, magnitude: int, channels: int, height: int, width: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    from torchvision.transforms import v2  # takes seconds to import, and only training with a policy needs it

    bilinear = v2.InterpolationMode.BILINEAR
    if name == "randaugment":
        return v2.RandAugment(num_ops=layers, magnitude=magnitude, interpolation=bilinear)
    if name == "trivial":
        return v2.TrivialAugmentWide(interpolation=bilinear)
    # 3-Augment (Touvron et al., "DeiT III", arXiv 2204.07118); its colour jitter is the batch's
    return v2.RandomChoice(
        [
            v2.Grayscale(num_output_channels=channels),
            v2.RandomSolarize(threshold=128, p=1.0),
            v2.GaussianBlur(kernel_size=1 + 2 * min(4, min(height, width) - 1), sigma=(0.1, 2.0)),
        ]
    )
