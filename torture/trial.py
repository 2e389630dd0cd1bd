"""What an ordeal counts: so many wanted, so many survived, and the reason of each one that was lost."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path


class OutOfTime(Exception):
    """The ordeal has used up its time; what is counted so far stands."""


@dataclass
class Count:
    """One line of the table."""

    ordeal: str
    what: str
    wanted: int
    survived: int = 0
    losses: list[str] = field(default_factory=list)
    """A line for each case that was tried and lost."""

    @property
    def tried(self) -> int:
        """Cases that came to their end, well or not."""
        return self.survived + len(self.losses)

    @property
    def complete(self) -> bool:
        """Whether all that was wanted was tried, and nothing was lost."""
        return self.survived >= self.wanted and not self.losses

    def add(self, problem: str | None, cases: int = 1) -> None:
        """Count cases that share one end: survived if ``problem`` is None, else lost."""
        if problem is None:
            self.survived += cases
        else:
            self.losses += [problem] * cases


@dataclass
class Trial:
    """One ordeal under way: its randomness, its folder, its time and its counts."""

    ordeal: str
    seed: int
    folder: Path
    """Empty, for whatever the ordeal writes; removed after it."""
    shared: Path
    """What several ordeals use, such as the run that nothing happened to."""
    limit: float
    """Seconds."""
    short: bool
    counts: list[Count] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.random = random.Random(f"{self.seed} {self.ordeal}")

    def size(self, full: int, short: int) -> int:
        """How many cases: in the full form, and in the short one."""
        return short if self.short else full

    def count(self, what: str, wanted: int) -> Count:
        """A new line of the table."""
        self.counts.append(Count(self.ordeal, what, wanted))
        return self.counts[-1]

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds left, ``at_most`` so many.

        Raises:
            OutOfTime: there are none.
        """
        left = self.limit - (time.monotonic() - self.started)
        if left <= 0:
            raise OutOfTime(f"{self.ordeal}: the {self.limit:.0f} seconds are over")
        return min(left, at_most)

    @property
    def seconds(self) -> float:
        """How long the ordeal has been under way."""
        return time.monotonic() - self.started
