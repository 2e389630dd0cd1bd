"""Inputs to parts: what is done is passed over, what is set aside is answered by its reason, the rest is worked on."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from vitrail.batch.flight import Flight
from vitrail.batch.job import Job
from vitrail.batch.part import Answer
from vitrail.data.decode import ImageError
from vitrail.inputs import Inputs, Source, stamp

_ABOUT = 1000  # images of a part: what is lost when the work is killed, at most


@dataclass(frozen=True)
class Survey:
    """What a first walk over the inputs finds."""

    count: int
    suspects: tuple[Source, ...]
    """The images that may have crashed the decoder."""


@dataclass
class _Stretch:
    """Inputs that become one part."""

    number: int
    count: int
    digest: str = ""


def survey(inputs: Iterable[Source], flight: Flight | None) -> Survey:
    """Count the inputs, and find those that may be why the process before this one died."""
    wanted = set(flight.suspects) if flight is not None else set()
    count, suspects = 0, []
    for source in inputs:
        if count in wanted:
            suspects.append(source)
        count += 1
    if flight is not None:
        flight.total, flight.done, flight.suspects = count, 0, []
    return Survey(count, tuple(suspects))


def part_size(batch_size: int) -> int:
    """Images of a part: whole batches, so that batches are the same however often the work was interrupted."""
    return batch_size * max(1, round(_ABOUT / batch_size))


def try_suspects(job: Job, suspects: Iterable[Source], decode: Callable[[Source], object], flight: Flight) -> None:
    """Set those images aside that crash a process."""
    from vitrail.batch.trial import crashes

    remaining = [source for source in suspects if not job.aside(source)]
    for place, reason in crashes([partial(decode, source) for source in remaining], flight):
        job.set_aside(remaining[place], reason)
        flight.aside += 1


def work(
    job: Job,
    inputs: Inputs,
    answers: Callable[[Iterator[Source]], Iterable[Answer]],
    *,
    size: int,
    count: int,
    flight: Flight | None,
    say: Callable[[str], None],
    moved: Callable[[int], None],
) -> int:
    """Answer all inputs that are not answered yet; ``job`` has everything then.

    Args:
        job: where answers are kept.
        inputs: the images.
        answers: gives one answer for each image in order; it may read some images ahead.
        size: images of a part.
        count: images in all, to be told.
        flight: kept up to date for the process that watches, where there is one.
        say: tells the person one line.
        moved: told how many images are done.

    Returns:
        The number of parts.
    """
    progress = _Progress(job, size, count, flight, say, moved)
    found: list[Answer] = []
    for answer in answers(progress.wanted(inputs)):
        found.append(answer)
        moved(progress.done + len(found))
        if len(found) == progress.begun[0].count:
            progress.finish(found)
            found = []
    return progress.parts


class _Progress:
    """Which stretches are done, begun, and still to come."""

    def __init__(
        self,
        job: Job,
        size: int,
        count: int,
        flight: Flight | None,
        say: Callable[[str], None],
        moved: Callable[[int], None],
    ) -> None:
        self.job, self.size, self.count, self.flight, self.say, self.moved = job, size, count, flight, say, moved
        self.begun: deque[_Stretch] = deque()
        self.parts = self.done = 0
        self._begins = True  # nothing but what was done before has been seen yet
        self._warned = False

    def wanted(self, inputs: Inputs) -> Iterator[Source]:
        """The inputs that have no answer yet, in whole stretches."""
        remaining = iter(inputs)
        index = 0
        while sources := list(islice(remaining, self.size)):
            number, self.parts = self.parts, self.parts + 1
            if not self._is_answered(number, sources):
                stretch = _Stretch(number, len(sources))
                self.begun.append(stretch)
                digest = hashlib.sha256()
                for i, source in enumerate(sources):
                    digest.update(_line(source))  # before it is read: a change in between shows later
                    if i == len(sources) - 1:
                        stretch.digest = digest.hexdigest()
                    yield self._prepared(source, index + i)
            index += len(sources)
        self._tell_what_was_done()

    def finish(self, answers: list[Answer]) -> None:
        """Keep the answers to the stretch that was begun first."""
        stretch = self.begun.popleft()
        self.job.store(stretch.number, answers, stretch.digest)
        self._advance(stretch.count)

    def _is_answered(self, number: int, sources: list[Source]) -> bool:
        if self.job.has(number):
            if self.job.answered(number) == digest_of(sources):
                self._advance(len(sources))
                return True
            if not self._warned:
                self.say("inputs have changed since, or a part is damaged: the answers to them are computed anew")
            self._warned = True
        self._tell_what_was_done()
        return False

    def _tell_what_was_done(self) -> None:
        """Before anything is done now: how much there was."""
        if self._begins and self.done:
            self.say(f"going on: {self.done:,} of {self.count:,} images are done")
        self._begins = False

    def _prepared(self, source: Source, index: int) -> Source:
        reason = self.job.aside(source)
        if reason is not None:
            return replace(source, read=partial(_refuse, f"{source.name}: {reason}"))
        if self.flight is None:
            return source
        around: Callable[[], AbstractContextManager[object]] = partial(self.flight.decoding, index)
        return replace(source, around=around)

    def _advance(self, images: int) -> None:
        self.done += images
        self.moved(self.done)
        if self.flight is not None:
            self.flight.done = self.done


def digest_of(sources: Iterable[Source]) -> str:
    """What changes when one of these inputs, or their order, does."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(_line(source))
    return digest.hexdigest()


def _line(source: Source) -> bytes:
    parts = (source.name, source.label or "", stamp(source))
    return "\0".join(parts).encode("utf-8", "surrogatepass") + b"\n"


def _refuse(message: str) -> bytes:
    raise ImageError(message)
