"""The device: VITRAIL_DEVICE where it is set, whoever asks; else the best there is."""

import pytest
import torch

from vitrail.device import best_device, named_device
from vitrail.errors import UserError


def test_the_environment_decides_where_nobody_names_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAIL_DEVICE", "meta")
    assert best_device() == named_device("auto") == torch.device("meta")
    assert named_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("VITRAIL_DEVICE", "abacus")
    with pytest.raises(UserError, match="VITRAIL_DEVICE 'abacus' cannot be used"):
        best_device()


def test_a_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRAIL_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device(3) == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert best_device(3) == torch.device("cpu")


def test_a_device_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UserError, match="device 'abacus' cannot be used") as caught:
        named_device("abacus")
    assert "\n" not in str(caught.value)
