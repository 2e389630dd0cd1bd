"""Pixels without torch are those with it, to the bit: a model exported sees what the model itself has seen."""

import tracemalloc

import numpy as np
import pytest
import torch
from pictures import encode, smooth
from PIL import Image

from vitrail.data.preprocess import Preprocess
from vitrail.data.resample import resample_array
from vitrail.data.resize import resample

ORIENTATION = 0x0112


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Pixels without any likeness to their neighbours, so that every weight counts."""
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_has_torchs_pixels(interpolation: str, channels: int) -> None:
    rng = np.random.default_rng(channels)
    for _ in range(60):
        image = noise(rng, *rng.integers(1, 100, 2), channels)
        size = tuple(rng.integers(2, 90, 2).tolist())
        expected = resample(torch.from_numpy(image).permute(2, 0, 1), size, interpolation).numpy()
        np.testing.assert_array_equal(resample_array(image, size, interpolation), expected)


def test_a_much_smaller_size_has_torchs_pixels() -> None:
    """The sums are of many pixels then, and would not be exact in float32."""
    rng = np.random.default_rng(0)
    for size, own in (((12, 16), (700, 900)), ((40, 20), (43, 1200)), ((300, 50), (5, 3000))):
        image = noise(rng, *own, 3)
        expected = resample(torch.from_numpy(image).permute(2, 0, 1), size, "bicubic").numpy()
        np.testing.assert_array_equal(resample_array(image, size, "bicubic"), expected)


def test_a_picture_within_its_pixels_has_torchs_pixels() -> None:
    rng = np.random.default_rng(1)
    for number in range(60):
        height, width = rng.integers(3, 90, 2).tolist()
        top, left = (float(rng.choice([0, 0.125, 0.5, 0.875])) for _ in range(2))
        bottom = float(height) if top else height - float(rng.choice([0, 0.25, 0.875]))
        right = float(width) if left else width - float(rng.choice([0, 0.5, 0.75]))
        image, size = noise(rng, height, width, 3), tuple(rng.integers(2, 70, 2).tolist())
        picture, interpolation = (top, left, bottom, right), ("bicubic", "bilinear")[number % 2]
        expected = resample(torch.from_numpy(image).permute(2, 0, 1), size, interpolation, picture).numpy()
        np.testing.assert_array_equal(resample_array(image, size, interpolation, picture), expected)


def test_a_part_is_that_of_the_whole() -> None:
    image = noise(np.random.default_rng(2), 61, 83, 3)
    whole = resample_array(image, (40, 30), "bicubic")
    for part in ((0, 0, 40, 30), (3, 5, 17, 20), (39, 29, 1, 1), (0, 10, 40, 1)):
        top, left, rows, columns = part
        found = resample_array(image, (40, 30), "bicubic", part=part)
        np.testing.assert_array_equal(found, whole[:, top : top + rows, left : left + columns])


@pytest.mark.parametrize("mode", ["crop", "squash", "pad", "native"])
@pytest.mark.parametrize("rounding", ["even", "down"])
def test_a_contract_loads_the_same_with_torch_and_without(mode: str, rounding: str) -> None:
    for number, shape in enumerate([(60, 90), (321, 433), (64, 48), (17, 200), (5, 7), (1, 1), (3, 700)]):
        for channels in (1, 3):
            contract = Preprocess(
                (32, 48),
                channels,
                mode,
                interpolation=("bicubic", "bilinear")[number % 2],
                mean=(0.3,) * channels,
                std=(0.2,) * channels,
                crop_rounding=rounding,
                patch_size=16,
            )
            for data in (encode(smooth(*shape, channels=3)), encode(smooth(*shape, channels=3), "JPEG", quality=90)):
                found = contract.load_array(data)
                assert (found.dtype, found.flags.c_contiguous) == (np.uint8, True)
                np.testing.assert_array_equal(found, contract.load(data).numpy())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright_the_same_way(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for shape in ((321, 433), (40, 50)):
        data = encode(smooth(*shape), "JPEG", quality=95, exif=exif)
        for contract in (Preprocess((20, 20)), Preprocess((24, 16), mode="squash", interpolation="bilinear")):
            np.testing.assert_array_equal(contract.load_array(data), contract.load(data).numpy())


def test_a_very_long_image_is_not_resized_whole() -> None:
    image = encode(noise(np.random.default_rng(3), 2, 40_000, 3))
    contract = Preprocess((64, 64), crop_fraction=0.5)
    np.testing.assert_array_equal(contract.load_array(image), contract.load(image).numpy())


def test_a_strip_far_longer_than_the_result_takes_little_memory() -> None:
    """All weights together would be as many as the strip is long, for every pixel of the result."""
    image = noise(np.random.default_rng(4), 2, 1_000_000, 3)
    tracemalloc.start()
    found = resample_array(image, (64, 64), "bicubic")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * image.nbytes
    expected = resample(torch.from_numpy(image).permute(2, 0, 1), (64, 64), "bicubic").numpy()
    assert np.abs(found.astype(int) - expected).max() <= 1
