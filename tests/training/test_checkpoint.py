"""A checkpoint is complete or absent, and what is damaged is passed over by name."""

import json
from pathlib import Path

import pytest
import torch

from vitrail.training import checkpoint
from vitrail.training.checkpoint import Checkpoint


def a_checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "model": {"a": torch.randn(3, 4, generator=generator), "n": torch.tensor(step)},
        "optimizer": {"a:step": torch.tensor(float(step)), "a:exp_avg": torch.randn(3, 4, generator=generator)},
    }
    return Checkpoint(step, tensors, {"seconds": 1.5, "best": None})


def equal(one: Checkpoint, other: Checkpoint) -> bool:
    same = all(torch.equal(t, other.tensors[part][name]) for part, ts in one.tensors.items() for name, t in ts.items())
    return same and (one.step, one.state) == (other.step, other.state)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, a_checkpoint(7), keep=2)
    found, damaged = checkpoint.newest_valid(tmp_path)
    assert found is not None
    assert equal(found, a_checkpoint(7))
    assert damaged == []


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint.save(tmp_path, a_checkpoint(step), keep=2)
    assert checkpoint.steps(tmp_path) == [15, 20]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000015", "step-00000020"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path: Path, damage: str) -> None:
    for step in (5, 10):
        checkpoint.save(tmp_path, a_checkpoint(step), keep=2)
    newest = tmp_path / "step-00000010"
    file = newest / "model.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-3] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[:-8])
    elif damage == "remove":
        file.unlink()
    else:
        (newest / "manifest.json").write_text('{"sha2')
    found, damaged = checkpoint.newest_valid(tmp_path)
    assert found is not None
    assert equal(found, a_checkpoint(5))
    assert len(damaged) == 1
    assert "step-00000010" in damaged[0]


@pytest.mark.parametrize("listed", [{}, {"../other": "00"}])
def test_a_manifest_that_does_not_list_the_files_vouches_for_none(tmp_path: Path, listed: dict[str, str]) -> None:
    checkpoint.save(tmp_path, a_checkpoint(5), keep=2)
    manifest = tmp_path / "step-00000005" / "manifest.json"
    manifest.write_text(json.dumps({"sha256": listed}, indent=1) + "\n")
    found, damaged = checkpoint.newest_valid(tmp_path)
    assert found is None
    assert "manifest.json cannot be read: it " in damaged[0]


def test_a_folder_that_a_person_has_named_alike_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, a_checkpoint(5), keep=2)
    (tmp_path / "step-000000040").mkdir()
    assert checkpoint.steps(tmp_path) == [5]
    assert checkpoint.newest_valid(tmp_path)[1] == []
    checkpoint.set_aside_after(tmp_path, 5)


def test_an_unfinished_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".step-00000030.writing-x").mkdir()
    (tmp_path / "step-00000030.old").mkdir()
    assert checkpoint.newest_valid(tmp_path) == (None, [])


def test_a_crash_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, a_checkpoint(5), keep=1)

    def crash(path: Path) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "sha256", crash)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, a_checkpoint(10), keep=1)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000005"]
    assert checkpoint.newest_valid(tmp_path)[0] is not None


def test_a_checkpoint_just_written_is_never_the_one_removed(tmp_path: Path) -> None:
    for step in (200, 250):
        checkpoint.save(tmp_path, a_checkpoint(step), keep=2)
    checkpoint.save(tmp_path, a_checkpoint(10), keep=1)
    assert 10 in checkpoint.steps(tmp_path)
    checkpoint.set_aside_after(tmp_path, 10)
    assert checkpoint.steps(tmp_path) == [10]
