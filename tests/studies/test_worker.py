"""The process that does a study's jobs."""

import signal
from typing import Any

import pytest

from vitrail.studies import job, worker


def test_a_signal_stops_a_job_and_not_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked_to_stop(task: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(job, "task_of", lambda line: line)
    monkeypatch.setattr(job, "perform", asked_to_stop)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert worker._answer("{}")["error"] == "stopped"
        signal.raise_signal(signal.SIGTERM)  # between two jobs
    finally:
        signal.signal(signal.SIGTERM, before)
