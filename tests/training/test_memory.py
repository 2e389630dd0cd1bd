"""A batch that does not fit is refused before it is tried, with one that does."""

import pytest
import torch

from vitrail.errors import UserError
from vitrail.model import variant
from vitrail.recipes.files import from_dict
from vitrail.training import memory
from vitrail.training.device import Devices

CPU = Devices(0, 1, torch.device("cpu"))


def check(monkeypatch: pytest.MonkeyPatch, free: int, **recipe: object) -> str:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    values = {"epochs": 1, "batch_size": 256, **recipe}
    return memory.check_memory(from_dict(values), variant("S/16"), CPU, "float32")


def test_a_batch_that_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "free" in check(monkeypatch, 200 * 10**9)


def test_the_suggested_batch_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 4 * 10**9
    with pytest.raises(UserError, match=r"use --batch-size (\d+), or .*accumulate=(\d+)") as caught:
        check(monkeypatch, free)
    words = str(caught.value).replace(",", "").split()
    suggested = int(words[words.index("--batch-size") + 1])
    parts = int(words[-1].removeprefix("optimizer.accumulate="))
    assert 0 < suggested < 256
    assert "free" in check(monkeypatch, free, batch_size=suggested)
    assert "free" in check(monkeypatch, free, optimizer={"accumulate": parts})


def test_the_suggested_parts_divide_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        check(monkeypatch, 10**9, batch_size=100)
    parts = int(str(caught.value).rpartition("=")[2])
    assert 100 % parts == 0
    check(monkeypatch, 10**9, batch_size=100, optimizer={"accumulate": parts})


def test_a_model_that_never_fits_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="smaller model"):
        check(monkeypatch, 10**8)
