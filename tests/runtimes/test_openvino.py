"""What OpenVINO keeps compiled is never another model, nor a damaged one; and threads do not get each other's answers."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")

import tiny

from vitrail.runtimes.engine import open_engine
from vitrail.runtimes.export import Plan, export


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitrail" / "openvino"


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 3, *tiny.SIZE), dtype=np.uint8)


def exported(folder: Path, seed: int) -> Path:
    made = tiny.model()
    with torch.no_grad():
        made.head.bias.add_(float(seed))
        made.head.weight.mul_(seed)
    export(made, folder, Plan("openvino"))
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    return folder


def test_another_model_under_the_same_path_and_time_is_not_taken_for_the_first(
    tmp_path: Path, cache: Path, images: np.ndarray
) -> None:
    first, second = (open_engine(exported(tmp_path / name, seed)).run(images) for name, seed in (("a", 1), ("b", 2)))
    assert not np.allclose(first["logits"], second["logits"])
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(tmp_path / "b", tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        os.utime(path, (1e9, 1e9))
    assert np.allclose(open_engine(tmp_path / "a").run(images)["logits"], second["logits"], atol=1e-6)


def test_a_damaged_compiled_model_is_compiled_again(tmp_path: Path, cache: Path, images: np.ndarray) -> None:
    folder = exported(tmp_path / "a", 1)
    right = open_engine(folder, hint="latency").run(images)["logits"]
    blobs = list(cache.rglob("*.blob"))
    assert blobs
    for blob in blobs:
        assert blob.with_suffix(".sha256").is_file()
        blob.chmod(0o644)
        data = bytearray(blob.read_bytes())
        for place in range(len(data) // 2, len(data) - 8, 997):
            data[place] ^= 0x55
        blob.write_bytes(data)
    assert np.array_equal(open_engine(folder, hint="latency").run(images)["logits"], right)
    assert np.array_equal(open_engine(folder, hint="latency").run(images)["logits"], right)


def test_threads_that_share_an_engine_get_their_own_answers(tmp_path: Path, cache: Path) -> None:
    engine = open_engine(exported(tmp_path / "a", 1), threads=2)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (rng.integers(1, 9), 3, *tiny.SIZE), dtype=np.uint8) for _ in range(40)]
    alone = [engine.run(batch)["logits"] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: engine.run(batch)["logits"], batches))
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(alone, together, strict=True))
