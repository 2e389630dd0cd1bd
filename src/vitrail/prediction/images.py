"""Every form in which an image comes -> the bytes of an image file, so that all of them take the same way."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vitrail.data.decode import ImageError
from vitrail.errors import UserError
from vitrail.inputs import Source, file_source

ImageLike = str | Path | bytes | Image.Image | np.ndarray | Source

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_SIXTEEN_BITS = {"I;16B", "I;16L", "I;16N"}  # in other orders of their bytes


def encoded(image: ImageLike) -> bytes:
    """The bytes of an image file; pictures and arrays become one.

    Raises:
        UserError: it is no image.
        ImageError, OSError: it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, Source):
        return image.read()
    if isinstance(image, str | Path):
        return file_source(str(image), Path(image)).read()
    if isinstance(image, np.ndarray):
        image = _picture(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"an image is a path, bytes, a Pillow image or a uint8 array, not {type(image).__name__}")
    if 0 in image.size:
        raise ImageError(f"image: a picture of {image.width}x{image.height} has no pixels")
    try:
        return _png(image)
    except (OSError, ImageError):
        raise
    except Exception as error:  # it may be closed, or read from its file only now; Pillow raises nearly everything then
        raise ImageError(f"image: cannot be read ({error})") from error


def one_image(images: object) -> str | None:
    """What it is, where one image stands in the place of many; an array of four axes is as many as its first one is long."""
    if isinstance(images, np.ndarray):
        return f"an array of shape {images.shape}" if images.ndim < 4 else None
    return type(images).__name__ if isinstance(images, str | bytes | Path | Image.Image | Source) else None


def _png(image: Image.Image) -> bytes:
    sixteen = image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PPM")  # as data/decode.py has it
    if image.mode in ("I", "F") and not sixteen:
        raise ImageError("image: 32-bit pixels have no fixed range to show; convert it to 8 or 16 bits")
    upright = ImageOps.exif_transpose(image)
    if sixteen:  # Pillow's own conversion makes all above 255 white
        upright = Image.fromarray(np.asarray(upright).clip(0, 65535).astype(np.uint16))
    elif upright.mode not in _PNG_MODES:
        upright = upright.convert("RGB")
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _picture(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise UserError(f"an array must be uint8 (H, W) or (H, W, C), not {array.dtype} {array.shape}")
    if not array.size:
        raise ImageError(f"image: an array {array.shape} has no pixels")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def name_of(image: ImageLike) -> str | None:
    """The path or the name of an image; None for what has none."""
    if isinstance(image, Source):
        return image.name
    return str(image) if isinstance(image, str | Path) else None
