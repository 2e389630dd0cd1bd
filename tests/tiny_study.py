"""A study that is trained in seconds, for the tests that need one."""

from typing import Any

from vitrail.studies.study import Study

TINY: dict[str, Any] = {
    "title": "Tiny",
    "question": "Does it run?",
    "reference": "with",
    "seeds": 2,
    "sweep_seeds": 1,
    "lr": [1e-3, 1e-2],
    "recipe": {
        "steps": 6,
        "batch_size": 32,
        "model": {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16},
        "ema.decay": 0.0,
    },
    "arms": {"with": {}, "without": {"model.position": "none"}},
}

OF_SIZES: dict[str, Any] = {
    "view": "sizes",
    "sizes": {"scales": [0.5, 1, 1.5], "tune": 0.5},
    "arms": {
        "with": {},
        "read bilinear": {"of": "with", "model.position_interpolation": "bilinear"},
        "without": {"model.position": "none"},
    },
}
"""What makes it a study of sizes: two arms that are trained, and one that reads the first one's models in its way."""


def tiny(**changes: Any) -> Study:
    """The study with some of its values changed."""
    return Study(**{**TINY, **changes})


def tiny_of_sizes(**changes: Any) -> Study:
    """The study of sizes, likewise."""
    return tiny(**{**OF_SIZES, **changes})
