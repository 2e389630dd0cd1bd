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


def tiny(**changes: Any) -> Study:
    """The study with some of its values changed."""
    return Study(**{**TINY, **changes})
