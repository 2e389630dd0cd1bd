"""Job: the folder beside the output in which a long job keeps what is done, so that it can be ended and continued."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.batch import part
from vitrail.batch.part import Answer
from vitrail.errors import Failure, UserError, is_full
from vitrail.inputs import Source, stamp

if TYPE_CHECKING:
    from filelock import FileLock

_JOB, _ASIDE, _LOCK = "job.json", "aside.json", "lock"
_PATIENCE = 5.0  # seconds: what a killed job leaves behind has ended by then
_OURS = re.compile(r"(job|aside)\.json|\d{6,}\.part|merged(\..+)?|\..+\.writing-.*")  # beside the lock
_SHORT = 60  # characters of a value that an error shows


class Job:
    """What is done of a job, and what is set aside.

    A job of one part is kept in memory, as it would be done anew anyway; the folder is made if there is more to keep.
    """

    def __init__(self, out: Path, identity: Callable[[], Mapping[str, Any]], say: Callable[[str], None]) -> None:
        self.out = out.resolve()  # a link is followed, not replaced
        self.folder = self.out.with_name(f".{self.out.name}.parts")
        self._identity, self._say = identity, say
        self._lock: FileLock | None = None
        self._kept: dict[int, list[Answer]] = {}
        self._aside: dict[str, dict[str, str]] = {}

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """All that decides the answers, by the name under which a person knows it."""
        return json.loads(json.dumps(self._identity()))

    @property
    def lasting(self) -> bool:
        """Whether the job has its folder."""
        return self._lock is not None

    @property
    def target(self) -> Path:
        """Where the output is written before ``deliver``."""
        return self.folder / f"merged{self.out.suffix}" if self.lasting else self.out

    def found(self) -> bool:
        """Whether a job was begun here and not ended."""
        return (self.folder / _JOB).exists()

    def keep(self, *, restart: bool = False) -> None:
        """Make or take the folder.

        Raises:
            UserError: another process has it, or what was begun there is another job.
        """
        from vitrail.weights import replace

        self._take()
        replace.sweep(self.folder)
        if restart or not self.found():
            self._clear()
            self._write(_JOB, self.identity)
        elif differences := self._differences():
            raise UserError(
                f"{self.folder}: an unfinished job with {'; '.join(differences)}: continue it as it was begun, or name "
                "another --out, or begin anew with --restart"
            )
        self._aside = self._set_aside_before()

    def has(self, number: int) -> bool:
        """Whether a part was written, for whichever inputs."""
        return self.lasting and self._part(number).exists()

    def answered(self, number: int) -> str | None:
        """The digest of the inputs that a part answers; None where it is not there, or damaged."""
        return part.answered(self._part(number)) if self.lasting else None

    def store(self, number: int, answers: Sequence[Answer], inputs: str) -> None:
        """Keep the answers to a stretch of inputs whose digest is ``inputs``."""
        if self.lasting:
            part.write(self._part(number), answers, inputs)
        else:
            self._kept[number] = list(answers)

    def answers(self, parts: int) -> Iterator[Answer]:
        """All answers of the first ``parts`` parts, in the order of the inputs."""
        for number in range(parts):
            yield from part.read(self._part(number)) if self.lasting else self._kept[number]

    def set_aside(self, source: Source, reason: str) -> None:
        """Leave an image out of this job, as long as its file stays as it is."""
        if not self.lasting:
            self.keep()
        self._aside[source.name] = {"stamp": stamp(source), "reason": reason}
        self._write(_ASIDE, self._aside)

    def aside(self, source: Source) -> str | None:
        """Why an image is left out; None where it is not."""
        known = self._aside.get(source.name)
        return known["reason"] if known is not None and known["stamp"] == stamp(source) else None

    def deliver(self) -> None:
        """Put the output, which is written, in its place; the job is over."""
        if self.lasting:
            from vitrail.weights import replace

            self.target.replace(self.out)
            replace.sync(self.out.parent)
        self.discard()

    def discard(self) -> None:
        """Remove what the job has kept, and its folder, unless a person has put something there."""
        if self.lasting:
            (self.folder / _JOB).unlink()  # what is left if this is interrupted is no job
            self._clear()
            with suppress(OSError):
                (self.folder / _LOCK).unlink()
                self.folder.rmdir()

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.release()

    def _take(self) -> None:
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / _LOCK)
        try:
            while self._lock is None:
                self.folder.mkdir(exist_ok=True)
                # the holder before removes the folder when it is done, while this waits for the lock or as it takes it
                with suppress(FileNotFoundError):
                    lock.acquire(timeout=_PATIENCE)
                if lock.is_locked and (self.folder / _LOCK).exists():
                    self._lock = lock
                else:
                    lock.release()
        except Timeout:
            raise UserError(
                f"{self.out} is being written by another process: wait for it, or name another --out"
            ) from None

    def _differences(self) -> list[str]:
        path = self.folder / _JOB
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            before = None
        if not isinstance(before, dict):
            raise UserError(f"{path} is damaged: begin anew with --restart, or name another --out")
        old, new = _flat(before), _flat(self.identity)
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return [f"{key} {', not '.join(_contrasted(old.get(key), new.get(key)))}" for key in keys]

    def _set_aside_before(self) -> dict[str, dict[str, str]]:
        """The images that were left out before; a file that is damaged is told, and counts for nothing."""
        try:
            found = json.loads((self.folder / _ASIDE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            found = None
        entries = found.values() if isinstance(found, dict) else [found]
        if all(
            isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("stamp", "reason"))
            for entry in entries
        ):
            return dict(found)
        self._say(f"{self.folder / _ASIDE} is damaged: the images that were left out are tried again")
        return {}

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name) and not path.is_dir():
                path.unlink()

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.part"

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        from vitrail.weights import replace

        with replace.file(self.folder / name) as staging:
            staging.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


@contextmanager
def job_at(
    out: Path,
    identity: Callable[[], Mapping[str, Any]],
    *,
    long: bool,
    restart: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Job]:
    """The job that writes ``out``: a new one, or the one that was begun and not ended.

    Args:
        out: the output.
        identity: gives all that decides the answers; asked where there is something to keep.
        long: whether it has several parts.
        restart: begin anew, whatever is there.
        say: tells the person one line.

    Raises:
        UserError: another process writes it, or what was begun there is another job.
        Failure: the disk is full, or what is written there cannot be.
    """
    job = Job(out, identity, say)
    try:
        if long or job.folder.exists():
            job.keep(restart=restart)
        yield job
    except OSError as error:
        full = "the disk is full" if is_full(error) else error.strerror or str(error)
        kept = ": what is done is kept, and the same command goes on from there" if job.lasting else ""
        raise Failure(f"{out} cannot be written ({full}){kept}") from error
    finally:
        job.release()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without values that are tables themselves: each of their entries by both names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            {f"{key} {inner}": entry for inner, entry in value.items()} if isinstance(value, dict) else {key: value}
        )
    return found


def _contrasted(old: object, new: object) -> tuple[str, str]:
    """Two values, short, and of long ones the part that differs."""
    texts = tuple("none" if value is None else str(value) for value in (old, new))
    start = 0
    if max(map(len, texts)) > _SHORT:
        pairs = enumerate(zip(*texts, strict=False))
        same = next((place for place, (a, b) in pairs if a != b), min(map(len, texts)))
        start = texts[0].rfind(" ", 0, same) + 1  # the beginning of the word that differs
    return _short(texts[0], start), _short(texts[1], start)


def _short(text: str, start: int) -> str:
    if re.fullmatch("[0-9a-f]{64}", text):  # a digest
        return f"{text[:8]}..."
    rest = text[start:]
    return f"{'...' if start else ''}{rest if len(rest) <= _SHORT else f'{rest[: _SHORT - 3]}...'}"
