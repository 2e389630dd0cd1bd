"""Pictures for the page: any image -> a small data URI."""

import base64
import io

from torch import Tensor

SIDE = 128
# Below this side a picture is drawn with visible pixels rather than blurred.
PIXELATED = 48
Picture = bytes | Tensor
"""An encoded image, or uint8 (C, H, W) with C 1 or 3."""


def data_uri(picture: Picture, side: int = SIDE) -> tuple[str, bool]:
    """A data URI of the picture, fitted into ``side`` x ``side`` pixels, and whether it is smaller than 48 pixels.

    Small pictures become PNG, which keeps every pixel; others JPEG of quality 80. Raises ImageError for bytes that are
    no image.
    """
    from PIL import Image

    from vitrail.data.decode import decode

    pixels = decode(picture, at_least=(side, side)) if isinstance(picture, bytes) else picture
    array = pixels.cpu().permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    tiny = max(image.size) < PIXELATED
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    if tiny:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=80)
    kind = "png" if tiny else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", tiny
