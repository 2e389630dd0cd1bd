"""How many processes load images, where the person does not say."""

import os

_FEW = 256


def loader_workers(given: int | None, images: int, device: str) -> int:
    """``given``, else none for so few images that starting processes would take longer than decoding them.

    Otherwise one for each core, at most 8; where the model computes on those cores too, half as many.
    """
    if given is not None:
        return given
    cores = os.cpu_count() or 1
    return 0 if images < _FEW else cores // 2 if device == "cpu" else min(8, cores)
