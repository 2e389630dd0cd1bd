"""A process that does jobs: it reads them line by line from standard input, and answers on standard output.

It is started by ``workers.Worker`` and ends when standard input closes, at once, so that no run outlives its study.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from types import FrameType
from typing import IO, Any

from vitrail.errors import Failure, UserError


def main() -> None:
    """Answer every job with ``{"done": cell}``, or with the error: its kind, its message, its traceback."""
    # The three standard streams stay free for what a library does with them: what it prints is no answer, and a thread
    # that reads standard input would hold its lock against everybody who asks whether it is a terminal.
    incoming = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    signal.signal(signal.SIGTERM, _between_jobs)
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(incoming, jobs), daemon=True).start()
    while True:
        reply = _answer(jobs.get())
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _read(lines: IO[str], jobs: "queue.Queue[str]") -> None:
    for line in lines:
        jobs.put(line)
    os._exit(0)  # the study is over, or was killed


def _between_jobs(number: int, frame: FrameType | None) -> None:
    """There is nothing to stop. The study closes standard input, or is gone, and that ends the process."""


def _answer(line: str) -> dict[str, Any]:
    from vitrail.studies.job import perform, task_of
    from vitrail.training.interrupt import Stopped

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # outside of a training, which has its own
    try:
        outcome = perform(task_of(json.loads(line)))
    except (Stopped, KeyboardInterrupt):
        return {"error": "stopped", "message": "", "traceback": ""}
    except UserError as error:
        return {"error": "user", "message": str(error), "traceback": traceback.format_exc()}
    except Failure as error:
        return {"error": "failure", "message": str(error), "traceback": traceback.format_exc()}
    except Exception as error:
        return {
            "error": "failure",
            "message": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
    finally:
        signal.signal(signal.SIGTERM, _between_jobs)
    return {"done": asdict(outcome.cell)}


if __name__ == "__main__":
    main()
