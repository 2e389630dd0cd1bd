"""Finding: one thing that was looked at, and what to do where it is wrong."""

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found. A problem makes results wrong or stops the work; a warning may."""

    level: Level
    about: str
    """The subject in a word or two: weights, pixels, classes ..."""
    what: str
    advice: str = ""
    """What to do about it."""

    def to_dict(self) -> dict[str, str]:
        """The object of ``doctor --json``."""
        return asdict(self)


def ok(about: str, what: str) -> Finding:
    """All is well."""
    return Finding("ok", about, what)


def warning(about: str, what: str, advice: str) -> Finding:
    """It may be meant so."""
    return Finding("warning", about, what, advice)


def problem(about: str, what: str, advice: str) -> Finding:
    """It is not meant so."""
    return Finding("problem", about, what, advice)
