"""The pixel contract: where each part of an image ends up, at any shape, and the same numbers wherever it is used."""

import json

import numpy as np
import pytest
import torch
from pictures import encode, smooth
from PIL import Image

from vitrail.data.decode import decode
from vitrail.data.preprocess import Preprocess
from vitrail.data.resize import resample
from vitrail.errors import UserError

SHAPES = [(60, 90), (90, 60), (64, 64), (17, 200), (300, 20), (5, 7), (1, 1), (1, 400)]


def pixels(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(smooth(height, width, seed=seed)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(32, 32), (48, 24)])
def test_every_shape_comes_out_at_the_image_size(mode: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    preprocess = Preprocess(size, mode=mode)
    for image in (preprocess.resize(pixels(*shape)), preprocess.load(encode(smooth(*shape)))):
        assert image.dtype == torch.uint8
        assert image.shape == (3, *size)
        assert image.is_contiguous()


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_very_long_image_takes_no_more_memory_than_a_square_one(mode: str) -> None:
    """Resized whole, the first would have 73 x 182,500,000 pixels."""
    long = torch.randint(0, 256, (3, 2, 5_000_000), dtype=torch.uint8)
    assert Preprocess((64, 64), mode=mode).resize(long).shape == (3, 64, 64)
    assert Preprocess((64, 64), mode=mode, crop_fraction=0.01).resize(long[:, :, :200]).shape == (3, 64, 64)


@pytest.mark.parametrize("shape", [(16, 500), (700, 30), (90, 80)])
@pytest.mark.parametrize("channels", [1, 3])
def test_part_of_a_very_long_image_is_that_of_the_whole(shape: tuple[int, int], channels: int) -> None:
    from torchvision.transforms import v2

    image = smooth(*shape, channels=channels)
    fraction = 0.15 if shape == (90, 80) else 0.9
    reference = v2.Compose(
        [v2.Resize(int(24 / fraction), v2.InterpolationMode.BICUBIC), v2.CenterCrop(24), v2.PILToTensor()]
    )
    ours = Preprocess((24, 24), channels, crop_fraction=fraction, mean=(0.5,) * channels, std=(0.5,) * channels)
    expected = reference(Image.fromarray(image[:, :, 0] if channels == 1 else image))
    assert (ours.load(encode(image)).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("interpolation", "pillow"), [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)])
@pytest.mark.parametrize(("shape", "size"), [((60, 90), (31, 40)), ((20, 16), (50, 70)), ((200, 200), (13, 9))])
def test_resize_agrees_with_pillow(
    interpolation: str, pillow: int, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = resample(torch.from_numpy(noise).permute(2, 0, 1), size, interpolation).permute(1, 2, 0).numpy()
    theirs = np.asarray(Image.fromarray(noise).resize(size[::-1], pillow))
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 2  # both round fixed-point weights, twice; 2 only where noise is enlarged
    assert difference.mean() < 0.02


@pytest.mark.parametrize("shape", [(60, 90), (97, 51), (64, 64)])
@pytest.mark.parametrize("fraction", [0.875, 0.9, 1.0])
def test_crop_is_torchvisions_resize_and_centre_crop(shape: tuple[int, int], fraction: float) -> None:
    from torchvision.transforms import v2

    image = smooth(*shape)
    side = int(48 / fraction)  # timm's rule
    reference = v2.Compose([v2.Resize(side, v2.InterpolationMode.BICUBIC), v2.CenterCrop(48), v2.PILToTensor()])
    ours = Preprocess((48, 48), crop_fraction=fraction).load(encode(image))
    difference = (ours.int() - reference(Image.fromarray(image)).int()).abs()
    assert difference.max() <= 1


def test_pad_keeps_the_aspect_and_fills_with_the_mean() -> None:
    preprocess = Preprocess((40, 40), mode="pad", mean=(0.2, 0.5, 0.8))
    image = preprocess.resize(torch.full((3, 10, 40), 255, dtype=torch.uint8))
    assert (image[:, 15:25] == 255).all()
    border = torch.tensor([51, 128, 204], dtype=torch.uint8)[:, None, None]
    assert (image[:, :15] == border).all()
    assert (image[:, 25:] == border).all()
    assert preprocess.normalize(image[None])[0, :, 0].abs().max() < 0.02


def test_squash_uses_the_whole_image() -> None:
    image = pixels(80, 20)
    image[:, 0], image[:, -1] = 255, 0
    squashed = Preprocess((20, 20), mode="squash", interpolation="bilinear").resize(image)
    assert squashed[:, 0].float().mean() > squashed[:, 1].float().mean()
    assert squashed[:, -1].float().mean() < squashed[:, -2].float().mean()


def test_grey_model_gets_one_channel() -> None:
    preprocess = Preprocess((16, 16), channels=1, mean=(0.1307,), std=(0.3081,))
    image = preprocess.load(encode(smooth(20, 20)))
    assert image.shape == (1, 16, 16)
    assert preprocess.normalize(image[None]).shape == (1, 1, 16, 16)


def test_normalize_is_the_same_for_bytes_and_fractions() -> None:
    preprocess = Preprocess((8, 8))
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    kept = images.clone()
    expected = (
        images.double() / 255 - torch.tensor(preprocess.mean, dtype=torch.float64)[:, None, None]
    ) / torch.tensor(preprocess.std, dtype=torch.float64)[:, None, None]
    fractions = images.float() / 255
    for given in (images, fractions):
        found = preprocess.normalize(given)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 2e-6  # a few roundings of values up to 2.7
    assert torch.equal(images, kept)
    assert torch.equal(fractions, images.float() / 255)


def test_large_photograph_is_decoded_reduced_and_looks_the_same() -> None:
    data = encode(smooth(600, 800), "JPEG", quality=95)
    preprocess = Preprocess((64, 64))
    reduced, full = preprocess.load(data), preprocess.resize(decode(data))
    assert (reduced.float() - full.float()).abs().mean() < 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["crop", "squash"])
def test_photograph_decoded_reduced_keeps_its_place(orientation: int, mode: str) -> None:
    """Its last blocks reach beyond its edge: taken for a part of it, they would move the others by up to half a pixel."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(smooth(321, 433), "JPEG", quality=98, subsampling=0, exif=exif)
    preprocess = Preprocess((20, 20), mode=mode)
    reduced, full = preprocess.load(data), preprocess.resize(decode(data))
    assert (reduced.float() - full.float()).abs().mean() < 0.3
    assert (reduced.float() - full.float()).abs().max() <= 2  # 3 to 9 where it is moved


def test_crop_begins_where_its_rounding_says() -> None:
    image = torch.arange(15, dtype=torch.uint8).expand(3, 8, 15)
    for wanted, even, down in ((8, 4, 3), (12, 2, 1), (10, 2, 2), (9, 3, 3)):
        size = (8, wanted)
        for rounding, start in (("even", even), ("down", down)):
            span = Preprocess(size, crop_fraction=1.0, crop_rounding=rounding)._span(15, wanted)
            assert span == (start, 0, wanted)
    assert torch.equal(Preprocess((8, 8), crop_fraction=1.0).resize(image)[0, 0], torch.arange(4, 12).to(torch.uint8))


def test_crop_fraction_is_the_modes_own_where_it_is_left_out() -> None:
    assert [Preprocess((8, 8), mode=mode).crop_fraction for mode in ("crop", "squash", "pad")] == [0.875, 1.0, 1.0]


@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_contract_saved_when_the_fraction_had_no_effect_keeps_its_pixels(mode: str) -> None:
    saved = {"image_size": [24, 24], "mode": mode, "crop_fraction": 0.875}
    image = pixels(40, 31)
    expected = Preprocess((24, 24), mode=mode).resize(image)
    assert torch.equal(Preprocess.from_dict(saved).resize(image), expected)
    assert not torch.equal(Preprocess.from_dict({**saved, "version": 2}).resize(image), expected)
    assert Preprocess.from_dict({**saved, "mode": "crop"}).crop_fraction == 0.875


def test_contract_survives_json() -> None:
    preprocess = Preprocess(
        (48, 32), 1, "pad", 0.9, interpolation="bilinear", mean=(0.1,), std=(0.4,), crop_rounding="down"
    )
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": [8, 8], "interpolatoin": "bicubic"}, r"interpolatoin.*did you mean interpolation"),
        ({"image_size": [8, 8], "mode": "sqash"}, r"sqash.*squash"),
        ({"image_size": [8, 8], "interpolation": "nearest"}, "nearest"),
        ({"image_size": [8, 0]}, "image_size"),
        ({"image_size": [8]}, "image_size"),
        ({"image_size": [8, 8], "channels": 4}, "channels 4"),
        ({"image_size": [8, 8], "crop_fraction": 0}, "crop_fraction"),
        ({"image_size": [8, 8], "mean": [0.5]}, "mean"),
        ({"image_size": [8, 8], "std": [0.5, 0.5, 0]}, "std"),
        ({"image_size": [8, 8], "std": [0.5, 0.5, float("nan")]}, "std.*finite"),
        ({"image_size": [8, 8], "crop_rounding": "up"}, "crop_rounding 'up'"),
        ({"image_size": [8, 8], "version": 4}, "version 4.*upgrade"),
        ({}, "image_size is missing"),
        ({"image_size": None}, "not a usable contract"),
        ({"image_size": [8, 8], "crop_fraction": "all"}, "not a usable contract"),
    ],
)
def test_impossible_contract_is_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess.from_dict(values)
