"""How fast a run is."""

import time


class Pace:
    """Images per second since the last evaluation; the first two steps after a pause are left out, as they are slower."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.total_measured = 0.0
        self.known = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin anew: what lies between was no training."""
        self.steps, self.since = -2, time.monotonic()
        self.latest = self.since

    def tick(self) -> None:
        """A step is done."""
        now = time.monotonic()
        self.steps += 1
        if self.steps > 0:
            self.total_measured += now - self.latest
            self.known = self.steps * self.batch_size / (now - self.since)
        elif self.steps == 0:
            self.since = now
        self.latest = now

    def images_per_second(self) -> float:
        """The speed; 0 before the third step of a run."""
        return self.known
