"""Random pictures, as arrays and as files."""

import io

import numpy as np
from PIL import Image


def smooth(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A random picture (H, W, channels) uint8 that is smooth, so that JPEG and resizing change it little."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for _ in range(channels):
        a, b, c, d = rng.uniform(-1, 1, 4)
        wave = np.sin(3 * a * y / height + 3 * b * x / width + 6 * c) + np.cos(5 * d * x / width - 4 * a * y / height)
        planes.append(128 + 60 * wave)
    return np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    """An array (H, W), (H, W, 1) or (H, W, 3 or 4) as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(
        file, form, **options
    )
    return file.getvalue()
