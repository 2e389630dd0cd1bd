"""The training view of one image: random crop and per-image policy, in the loader's workers, uint8 -> uint8."""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from vitrail.data.augment import Augment
from vitrail.data.decode import open_image
from vitrail.data.preprocess import Preprocess
from vitrail.data.randomness import stream, words
from vitrail.data.resize import resample

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


def random_resized_crop(
    data: bytes, name: str, preprocess: Preprocess, augment: Augment, *, seed: int, epoch: int, index: int
) -> torch.Tensor:
    """Decode, cut out a random part and resize it -> uint8 (C, h, w).

    In mode native the part keeps its aspect ratio, and ``augment.ratio`` is relative to the image's: a wide image has wide
    parts. The part is chosen from the header's size alone, so a JPEG is decoded at a reduced scale wherever the part stays
    at least as large as the image size.
    """
    opened = open_image(data, name)
    draws = stream(seed, "crop", epoch, index)
    ratio = augment.ratio
    if preprocess.varies:
        own = opened.size[1] / opened.size[0]
        ratio = ratio[0] * own, ratio[1] * own
    top, left, height, width = crop_box(opened.size, augment.scale, ratio, draws)
    (whole_height, whole_width), (h, w) = opened.size, preprocess.size_of((height, width))
    at_least = math.ceil(whole_height * h / height), math.ceil(whole_width * w / width)
    image = opened.pixels(preprocess.channels, at_least=at_least)
    y, x = image.shape[-2] / whole_height, image.shape[-1] / whole_width  # 1, 1/2, 1/4 or 1/8
    rows = slice(int(top * y), max(int(top * y) + 1, round((top + height) * y)))
    columns = slice(int(left * x), max(int(left * x) + 1, round((left + width) * x)))
    return resample(image[:, rows, columns], (h, w), preprocess.interpolation).contiguous()


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
