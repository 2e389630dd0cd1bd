"""Encoded bytes -> uint8 image: formats, orientation, colour, size limits, and one clear error.

Colour is settled as a browser would show the picture: transparency is laid on white, the first frame of an animation
is the image, 16-bit values are scaled (not clipped) to 8 bits, CMYK and palettes become RGB. Only the formats that
photographs come in are opened, so a damaged or malicious file meets as few parsers as possible.
"""

import functools
import importlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import (  # the plug-ins are named so that Pillow does not import all others at the first WebP or TIFF
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vitrail.data.jpeg import shortened
from vitrail.errors import UserError

if TYPE_CHECKING:
    import torch

# Pillow warns of odd metadata, which we do not use. Filters are global, and changing them for each image would not be
# safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        BmpImagePlugin.DibImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
    )
)
SUFFIXES = frozenset(  # in lower case
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif"),
        *(".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    ]
)
MAX_PIXELS = 100_000_000
WEBP_WEIGHT = 2  # Pillow reads WebP by its animation decoder, which takes twice the memory and time of the others
STRIP_PIXELS = 1 << 20  # images are converted in strips of about so many pixels: no second full-size copy in memory

ORIENTATION = 0x0112  # the EXIF tag
PNG_EXIF = frozenset(["exif", "Raw profile type exif"])  # Pillow's names for where it may stand
EXIF = PNG_EXIF | {"xmp"}


class ImageError(UserError):
    """An image that cannot be read or decoded; the message starts with its name."""


@dataclass(frozen=True)
class OpenedImage:
    """An image whose header has been read and checked, and whose pixels have not been decoded yet."""

    data: bytes
    image: Image.Image
    name: str
    orientation: int
    """The EXIF orientation, 1 to 8; 1 is upright."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright image, before any reduction."""
        width, height = self.image.size
        return (width, height) if self.orientation >= 5 else (height, width)

    def pixels(
        self, channels: int = 3, at_least: tuple[int, int] | None = None, rows: int | None = None
    ) -> "torch.Tensor":
        """The upright image, uint8 (channels, H, W); arguments and errors are those of `array`. Can be called once."""
        import torch

        stored = torch.from_numpy(self._stored(channels, at_least, rows)).permute(2, 0, 1)
        return _upright(stored, self.orientation)

    def array(self, channels: int = 3, at_least: tuple[int, int] | None = None, rows: int | None = None) -> np.ndarray:
        """The upright image, uint8 (H, W, channels), without torch. Can be called once.

        Args:
            channels: 3 for RGB, 1 for luminance.
            at_least: a (height, width) that is enough: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as
                neither side falls below it, which costs a fraction of the time.
            rows: how many from the top of the unreduced image are needed. What is below may hold anything: of a JPEG it
                is not decoded, and damage that only shows there is not noticed.

        Raises:
            ImageError: the data are damaged or end early, or the image is of a kind that has no 8-bit meaning.
        """
        return _upright_array(self._stored(channels, at_least, rows), self.orientation)

    def _stored(self, channels: int, at_least: tuple[int, int] | None, rows: int | None) -> np.ndarray:
        """The pixels as the file has them, (H, W, channels)."""
        try:
            reduction = self._reduction(at_least)
            pixels = self._by_simplejpeg(channels, reduction, rows)
            if pixels is None:
                width, height = self.image.size
                self.image.draft(None, (width // reduction, height // reduction))
                self.image.load()
                pixels = _to_array(self.image, self.name, channels)
        except ImageError:
            raise
        except Exception as error:  # Pillow's parsers raise nearly every built-in exception on damaged data
            raise ImageError(f"{self.name}: damaged or incomplete image ({_reason(error)})") from error
        return pixels

    def _reduction(self, at_least: tuple[int, int] | None) -> int:
        """By how much a JPEG may be reduced: 1, 2, 4 or 8."""
        if at_least is None:
            return 1
        ratio = min(own // max(1, least) for own, least in zip(self.size, at_least, strict=True))
        return max(factor for factor in (1, 2, 4, 8) if factor <= max(1, ratio))

    def _by_simplejpeg(self, channels: int, reduction: int, rows: int | None) -> np.ndarray | None:
        """The pixels (H, W, channels) of a plain JPEG by libjpeg-turbo directly: Pillow's, in three quarters of the time.

        None where it is not installed, and for what it does not take: Pillow decides on that, so both accept the same.
        """
        decode_jpeg = _simplejpeg()
        same = self.image.mode == "L" or (self.image.mode == "RGB" and channels == 3)
        if decode_jpeg is None or not same or not isinstance(self.image, JpegImagePlugin.JpegImageFile):
            return None
        width, height = (-(-side // reduction) for side in self.image.size)
        colour = "RGB" if channels == 3 else "GRAY"
        if rows is not None and self.orientation <= 2:  # upright, or mirrored from left to right
            short = shortened(self.data, rows, reduction)
            if short is not None:
                data, kept = short
                # what is not written to costs nothing
                pixels = np.empty((height, width, channels), dtype=np.uint8)
                if _decode_top(data, pixels[: -(-kept // reduction)], colour):
                    return pixels
        try:
            pixels = decode_jpeg(self.data, colour, min_height=height, min_width=width)
        except ValueError:
            return None
        return pixels if pixels.shape == (height, width, channels) else None


@functools.cache
def _simplejpeg() -> Callable[..., np.ndarray] | None:
    try:
        return importlib.import_module("simplejpeg").decode_jpeg
    except ImportError:
        return None


def _decode_top(data: bytes, into: np.ndarray, colour: str) -> bool:
    """Decode a JPEG that `jpeg.shortened` has made into (rows, columns, channels). False where it is not sound."""
    decode_jpeg = _simplejpeg()
    assert decode_jpeg is not None
    try:
        decoded = decode_jpeg(data, colour, min_height=into.shape[0], min_width=into.shape[1], buffer=into)
    except ValueError as error:  # raised when all is decoded, of the first thing amiss: the code of the other rows
        return re.match(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9$", str(error)) is not None
    return decoded.shape == into.shape


def open_image(data: bytes, name: str = "image", *, max_pixels: int = MAX_PIXELS) -> OpenedImage:
    """Read the header of an encoded image: format, size and orientation, checked before any pixel is decoded.

    Raises:
        ImageError: not an image of a known format, a damaged header, or more than ``max_pixels`` pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        kind = "an empty file" if not data else "not an image in a format that photographs come in"
        raise ImageError(f"{name}: {kind} ({', '.join(FORMATS)} are read)") from None
    except Image.DecompressionBombError:  # Pillow's own limit, 179 million
        raise ImageError(f"{name}: more than the limit of {max_pixels:,} pixels; make it smaller") from None
    except Exception as error:  # see OpenedImage.pixels
        raise ImageError(f"{name}: damaged image header ({_reason(error)})") from error
    orientation = _orientation(image)
    width, height = image.size
    limit = max_pixels // WEBP_WEIGHT if image.format == "WEBP" else max_pixels
    if width * height > limit:
        raise ImageError(f"{name}: {width}x{height} pixels are more than the limit of {limit:,}; make it smaller")
    if width < 1 or height < 1:
        raise ImageError(f"{name}: an image of {width}x{height} has no pixels")
    return OpenedImage(data, image, name, orientation)


def decode(
    data: bytes,
    name: str = "image",
    *,
    channels: int = 3,
    at_least: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> "torch.Tensor":
    """Decode an image to uint8 (channels, H, W), upright. Arguments and errors are those of the two steps above."""
    return open_image(data, name, max_pixels=max_pixels).pixels(channels, at_least)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1, upright, where nothing is said."""
    if image.format == "TIFF":
        return 1  # Pillow turns a TIFF upright itself when it loads it, and gives the upright size before
    # a PNG is decoded when it is asked for EXIF that it does not have before its pixels
    if not (PNG_EXIF if image.format == "PNG" else EXIF) & image.info.keys():
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata do not make the picture unreadable
        return 1
    return value if value in range(1, 9) else 1


_MIRRORED = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}  # by orientation: of (C, H, W)


def _upright(image: "torch.Tensor", orientation: int) -> "torch.Tensor":
    """(C, H, W) as stored -> as seen, by EXIF's orientation: 5 to 8 swap rows and columns, then some are mirrored."""
    if orientation >= 5:
        image = image.transpose(1, 2)
    mirrored = _MIRRORED.get(orientation)
    return image.flip(mirrored) if mirrored else image


def _upright_array(image: np.ndarray, orientation: int) -> np.ndarray:
    """The same of (H, W, C): a view."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    return np.flip(image, tuple(axis - 1 for axis in _MIRRORED.get(orientation, ())))


def _to_array(image: Image.Image, name: str, channels: int) -> np.ndarray:
    """Any loaded Pillow image -> uint8 (H, W, channels), strip by strip."""
    if image.mode in ("I", "F") and image.format != "PPM":  # a PPM's "I" is 16-bit
        raise ImageError(f"{name}: 32-bit pixels have no fixed range to show; convert it to 8 or 16 bits")
    width, height = image.size
    out = np.empty((height, width, channels), dtype=np.uint8)
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        flat = np.asarray(_to_colour(strip, channels))
        out[top:bottom] = flat if flat.ndim == 3 else flat[:, :, None]
    return out


def _to_colour(image: Image.Image, channels: int) -> Image.Image:
    """Any mode of Pillow's -> 8-bit RGB (3 channels) or luminance (1 channel)."""
    wanted = "RGB" if channels == 3 else "L"
    if image.mode == wanted and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        image = _sixteen_to_eight(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode in ("LAB", "HSV", "YCbCr", "CMYK", "P", "PA", "RGBA") and wanted == "L":
        image = image.convert("RGB")  # Pillow has no direct way from some of these to luminance
    return image.convert(wanted)


def _sixteen_to_eight(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32).clip(0, 65535)
    return Image.fromarray((values / 257.0 + 0.5).astype(np.uint8))


def _reason(error: Exception) -> str:
    """The error's own words on one line, at most 120 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
