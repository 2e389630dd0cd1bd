"""Image sizes as a person writes them: 224, or 384x256 (height, then width)."""

import re

from vitrail.errors import UserError


def image_size(text: str) -> tuple[int, int]:
    """Height and width in pixels.

    Raises:
        UserError: anything but one number, or two with an x between.
    """
    match = re.fullmatch(r"(\d+)(?:\s*[xX×]\s*(\d+))?", text.strip())
    if match is None or int(match[1]) < 1 or int(match[2] or 1) < 1:
        raise UserError(f"image size {text!r}: write 224, or 384x256 for a height of 384 and a width of 256")
    return int(match[1]), int(match[2] or match[1])
