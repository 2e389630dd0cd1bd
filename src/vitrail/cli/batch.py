"""Answers for ``--out``, as ``predict`` and ``embed`` need them: in parts that outlive the process, by a watched worker."""

import atexit
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vitrail.batch.flight import Flight
    from vitrail.batch.job import Job
    from vitrail.batch.part import Answer
    from vitrail.batch.work import Survey
    from vitrail.inputs import Inputs, Source
    from vitrail.prediction import Predictor

Restart = Annotated[
    bool, typer.Option("--restart", help="Begin anew what was interrupted, instead of going on with it.")
]


@dataclass(frozen=True)
class Asked:
    """A command whose answers go to a file."""

    inputs: "Inputs"
    survey: "Survey"
    flight: "Flight | None"
    out: Path
    restart: bool

    def long(self, batch_size: int) -> bool:
        """Whether the answers come in several parts, which are kept until the last is there."""
        from vitrail.batch.work import part_size

        return self.survey.count > part_size(batch_size)

    @contextmanager
    def answered(
        self,
        predictor: "Predictor",
        answers: "Callable[[Iterator[Source]], Iterable[Answer]]",
        identity: Callable[[], dict[str, Any]],
        what: str,
    ) -> "Iterator[tuple[Job, Callable[[], Iterator[Answer]]]]":
        """The job with everything answered, and its answers in order, as often as they are asked for.

        Args:
            predictor: has the model.
            answers: to images, one by one in order.
            identity: gives what decides the answers beside the inputs; called where something is to be kept.
            what: the work, for the bar.

        Raises:
            UserError, Failure: see ``job_at``.
        """
        from vitrail.batch.job import job_at
        from vitrail.batch.work import part_size, try_suspects, work
        from vitrail.cli.console import note
        from vitrail.cli.progress import progress

        def whole() -> dict[str, Any]:
            return {**identity(), "inputs": _digest(self.inputs.names)}

        size, count = part_size(predictor.batch_size), self.survey.count
        with job_at(self.out, whole, long=self.long(predictor.batch_size), restart=self.restart, say=note) as job:
            if self.flight is not None:
                try_suspects(job, self.survey.suspects, predictor.pixels, self.flight)
            with progress(what) as move:
                parts = work(
                    job,
                    self.inputs,
                    answers,
                    size=size,
                    count=count,
                    flight=self.flight,
                    say=note,
                    moved=lambda done: move(done, count),
                )
            yield job, lambda: job.answers(parts)


def asked(names: Sequence[str], out: Path, *, labelled: bool = False, restart: bool = False) -> Asked:
    """Begin a command whose answers go to a file; from here on this may be a process that another one watches.

    Raises:
        UserError: see ``Inputs``.
    """
    from vitrail.batch.supervise import supervise
    from vitrail.cli.console import note

    flight = supervise(note)

    from vitrail.batch.work import survey
    from vitrail.inputs import Inputs

    inputs = Inputs(names, labelled=labelled)
    return Asked(inputs, survey(inputs, flight), flight, out, restart)


def leave() -> None:
    """End the process, which has done its work, where it is that of the command: at once.

    To take all libraries apart takes longer than to label an image. This returns where a program has called the command,
    or where threads are still at work.
    """
    from vitrail.batch.supervise import is_the_command

    at_work = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    if not is_the_command() or at_work:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
