"""Any file that a photograph may come as gives an upright image in 8-bit RGB or luminance, or one clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from pictures import encode, smooth
from PIL import Image, ImageFile, features

from vitrail.data import decode as decoding
from vitrail.data.decode import ImageError, decode, open_image

PILLOW_WARNS = pytest.mark.filterwarnings(r"ignore:::PIL\..*")  # as decode.py has it, where warnings are not errors
LOSSLESS = ("PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP")


def as_array(image: torch.Tensor) -> np.ndarray:
    assert image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("form", ["JPEG", *LOSSLESS])
def test_every_photo_format_is_read(form: str) -> None:
    if form == "WEBP" and not features.check("webp"):
        pytest.skip("this build of Pillow reads no WebP")
    pixels = smooth(31, 45)
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    found = as_array(decode(encode(pixels, form, **options))).astype(int)
    tolerance = {"JPEG": 6, "GIF": 40}.get(form, 0)  # GIF has a palette
    assert np.abs(found - pixels).max() <= tolerance


@pytest.mark.parametrize("form", ["EPS", "ICO", "PCX", "TGA", "SGI", "PDF"])
def test_other_formats_are_refused_unread(form: str) -> None:
    with pytest.raises(ImageError, match=r"^holiday: not an image in a format .*JPEG"):
        decode(encode(smooth(16, 16), form), "holiday")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_before_the_size_is_told(form: str, orientation: int) -> None:
    upright = smooth(48, 32, seed=2)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    data = encode(np.ascontiguousarray(stored), form, exif=exif.tobytes(), **options)
    assert open_image(data).size == (48, 32)
    assert np.abs(as_array(decode(data)).astype(int) - upright).max() <= (4 if form == "JPEG" else 0)


@PILLOW_WARNS
def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encode(smooth(20, 20), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 30)
    assert decode(data).shape == (3, 20, 20)


def test_grey_becomes_rgb_and_rgb_luminance() -> None:
    grey = smooth(10, 12, channels=1)
    assert np.array_equal(as_array(decode(encode(grey))), grey.repeat(3, axis=2))
    colour = smooth(10, 12)
    luminance = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(as_array(decode(encode(colour), channels=1))[:, :, 0] - luminance).max() <= 1


def test_transparency_shows_white() -> None:
    pixels = np.dstack([smooth(8, 8), np.full((8, 8), 255, np.uint8)])
    pixels[:4, :, 3] = 0
    pixels[4, :, 3] = 128
    found = as_array(decode(encode(pixels))).astype(int)
    assert (found[:4] == 255).all()
    assert np.array_equal(found[5:], pixels[5:, :, :3])
    assert np.abs(found[4] - (pixels[4, :, :3].astype(int) + 255) / 2).max() <= 1
    luminance = as_array(decode(encode(pixels), channels=1))
    assert (luminance[:4] == 255).all()


def test_palette_with_transparent_colour_shows_white() -> None:
    image = Image.new("P", (6, 4), 0)
    image.putpalette([200, 10, 10, 10, 10, 200])
    image.putpixel((2, 1), 1)
    file = io.BytesIO()
    image.save(file, "PNG", transparency=0)
    found = as_array(decode(file.getvalue()))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 2].tolist() == [10, 10, 200]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(form: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, form)
    found = as_array(decode(file.getvalue()))[:, :, 0].astype(int)
    assert np.abs(found - values / 257).max() <= 1
    assert np.unique(found).size == 64


def test_thirty_two_bit_pixels_are_an_error_rather_than_noise() -> None:
    with pytest.raises(ImageError, match=r"^scan\.tif: 32-bit"):
        decode(encode(np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32), "TIFF"), "scan.tif")


def test_cmyk_becomes_rgb() -> None:
    file = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(file, "JPEG", quality=100)
    red = as_array(decode(file.getvalue())).reshape(-1, 3).mean(axis=0)
    assert red[0] > 200
    assert red[1:].max() < 60


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation_is_the_image(form: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "lime")]
    file = io.BytesIO()
    options = {"lossless": True} if form == "WEBP" else {}
    frames[0].save(file, form, save_all=True, append_images=frames[1:], **options)
    assert as_array(decode(file.getvalue()))[4, 4].tolist() == [255, 0, 0]


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that asks for width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@PILLOW_WARNS
@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (60_000, 60_000), (2_000_000_000, 2_000_000_000)])
def test_too_many_pixels_are_refused_from_the_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small = encode(smooth(10, 10))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(ImageError, match="100,000,000"):
        decode(bomb(width, height), "bomb.png")
    with pytest.raises(ImageError, match="limit of 99"):
        open_image(small, max_pixels=99)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_file_that_ends_early_is_one_error_with_its_name(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, form)
    for keep in (0, 1, 3, 10, 40, len(data) // 2):
        with pytest.raises(ImageError, match=r"^cat\.jpg: ") as caught:
            decode(data[:keep], "cat.jpg")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250


def test_flipped_bytes_give_an_image_or_an_image_error() -> None:
    rng = np.random.default_rng(0)
    forms = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
    for data in [encode(smooth(24, 24, seed=i), form) for i, form in enumerate(forms)]:
        for _ in range(30):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 5):
                damaged[place] = rng.integers(0, 256)
            try:
                assert decode(bytes(damaged), "x").dtype == torch.uint8
            except ImageError as error:
                assert str(error).startswith("x: ")  # noqa: PT017 - either outcome is right


def test_large_jpeg_is_reduced_but_never_below_what_is_enough() -> None:
    data = encode(smooth(480, 640), "JPEG", quality=95)
    full = decode(data)
    for at_least, shape in (
        ((61, 61), (120, 160)),
        ((60, 60), (60, 80)),
        ((120, 161), (240, 320)),
        ((300, 300), (480, 640)),
    ):
        assert decode(data, at_least=at_least).shape == (3, *shape), at_least
    half = decode(data, at_least=(240, 320)).float()
    averaged = torch.nn.functional.avg_pool2d(full.float(), 2)
    assert (half - averaged).abs().mean() < 1


def test_rotated_jpeg_is_reduced_by_its_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(smooth(400, 200), "JPEG", exif=exif.tobytes())
    assert decode(data).shape == (3, 200, 400)
    assert decode(data, at_least=(50, 100)).shape == (3, 50, 100)
    assert decode(data, at_least=(100, 50)).shape == (3, 100, 200)


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (33, 250), (120, 64)])
@pytest.mark.parametrize("at_least", [None, (1, 1), (8, 8), (30, 30)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_the_same_without_the_fast_jpeg_decoder(
    shape: tuple[int, int], at_least: tuple[int, int] | None, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for options in ({}, {"subsampling": 0}, {"progressive": True}):
        for pixels in (noise, noise[:, :, 0]):
            data = encode(pixels, "JPEG", **options)
            fast = decode(data, channels=channels, at_least=at_least)
            with monkeypatch.context() as patch:
                patch.setattr(decoding, "_simplejpeg", lambda: None)
                assert torch.equal(fast, decode(data, channels=channels, at_least=at_least))
