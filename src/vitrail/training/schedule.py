"""The learning-rate schedule: a pure function of the step."""

import math


def learning_rate_factor(step: int, *, total: int, warmup: int, name: str, final_fraction: float = 0.0) -> float:
    """What the learning rate is multiplied by at ``step`` (0 for the first).

    During the warm-up it rises linearly, ``(step + 1) / warmup``, and is 1 at its last step. Then it falls from 1 to
    ``final_fraction`` along half a cosine or a line, or stays 1 (``constant``). Warm-up and decay together last
    ``total`` steps.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(total - warmup, 1))
    shape = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[name]
    return shape if name == "constant" else final_fraction + (1 - final_fraction) * shape
