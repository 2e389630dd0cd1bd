"""What OpenVINO keeps compiled is never another model, nor a damaged one; and threads do not get each other's answers."""

import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")

import tiny

from vitrail.errors import UserError
from vitrail.runtimes import by_openvino
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


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("once") / "out", 1)


@pytest.fixture
def folder(once: Path, tmp_path: Path) -> Path:
    """An exported folder of the test's own."""
    return Path(shutil.copytree(once, tmp_path / "a"))


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


def test_a_damaged_compiled_model_is_compiled_again(folder: Path, cache: Path, images: np.ndarray) -> None:
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


def test_threads_that_share_an_engine_get_their_own_answers(folder: Path, cache: Path) -> None:
    engine = open_engine(folder, threads=2)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (rng.integers(1, 9), 3, *tiny.SIZE), dtype=np.uint8) for _ in range(40)]
    alone = [engine.run(batch)["logits"] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: engine.run(batch)["logits"], batches))
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(alone, together, strict=True))


def damaged(path: Path) -> bytes:
    """Change a file's content -> what it was."""
    path.chmod(0o644)
    whole = path.read_bytes()
    data = bytearray(whole)
    for place in range(len(data) // 2, len(data) - 8, 97):
        data[place] ^= 0x55
    path.write_bytes(data)
    return whole


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every time that OpenVINO was asked for a model: whether it took it from the cache."""
    asked: list[bool] = []

    class Counted(by_openvino._Compiled):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            asked.append(self.from_cache)

    monkeypatch.setattr(by_openvino, "_Compiled", Counted)
    return asked


@pytest.mark.parametrize("before", ["no start", "a start", "a start, and another time of change"])
def test_a_model_that_was_damaged_for_a_while_leaves_nothing_wrong_behind(
    before: str, folder: Path, cache: Path, images: np.ndarray
) -> None:
    right = open_engine(folder, hint="latency", cache=False).run(images)["logits"]
    if before != "no start":
        open_engine(folder, hint="latency")
    if "change" in before:
        os.utime(folder / "model.xml", (2e9, 2e9))
    weights = folder / "model.bin"
    whole, bias = weights.read_bytes(), (tiny.model().head.bias.detach() + 1).numpy()
    assert whole.count(bias.tobytes()) == 1
    weights.write_bytes(whole.replace(bias.tobytes(), (-bias).tobytes()))  # OpenVINO notices nothing
    with pytest.raises(UserError, match=r"model\.bin is damaged"):
        open_engine(folder, hint="latency")
    weights.write_bytes(whole)
    for _ in range(2):
        assert np.array_equal(open_engine(folder, hint="latency").run(images)["logits"], right)


def test_a_model_that_is_damaged_before_the_first_batch_is_refused(
    folder: Path, cache: Path, images: np.ndarray
) -> None:
    engine = open_engine(folder)
    damaged(folder / "model.bin")
    with pytest.raises(UserError, match=r"model\.bin is damaged"):
        engine.run(images)
    assert not list(cache.rglob("*.blob"))


@pytest.mark.parametrize("suffix", [".blob", ".sha256"])
def test_a_damaged_cache_is_mended_by_one_start(
    suffix: str, folder: Path, cache: Path, images: np.ndarray, compiled: list[bool]
) -> None:
    right = open_engine(folder, hint="latency").run(images)["logits"]
    (kept,) = cache.rglob(f"*{suffix}")
    damaged(kept)
    assert np.array_equal(open_engine(folder, hint="latency").run(images)["logits"], right)
    del compiled[:]
    assert np.array_equal(open_engine(folder, hint="latency").run(images)["logits"], right)
    assert compiled == [True]


def test_of_two_first_starts_at_once_one_leaves_its_model_and_its_digest(
    folder: Path, cache: Path, compiled: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, others = by_openvino._Compiled, [folder]

    class Meanwhile(counted):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            if others:  # another start from beginning to end, before this one has kept what it has compiled
                open_engine(others.pop(), hint="throughput")

    monkeypatch.setattr(by_openvino, "_Compiled", Meanwhile)
    open_engine(folder, hint="latency")
    assert compiled == [False, False]
    (blob,) = cache.rglob("*.blob")
    assert blob.with_suffix(".sha256").read_text() == hashlib.sha256(blob.read_bytes()).hexdigest()
    assert len(list(cache.iterdir())) == 1
    open_engine(folder, hint="latency")
    assert compiled[2:] == [True]


def test_compiled_models_that_were_not_used_for_long_are_removed(folder: Path, cache: Path) -> None:
    now = time.time()
    for name, days in (("old", 91), ("recent", 89), (".left", 2), (".made", 0.5)):
        (cache / name).mkdir(parents=True)
        (cache / name / "1.blob").write_bytes(b"compiled")
        os.utime(cache / name, (now - days * 86400,) * 2)
    open_engine(folder, hint="latency")
    (own,) = {path.name for path in cache.iterdir()} - {"recent", ".made"}
    os.utime(cache / own, (1e9, 1e9))
    open_engine(folder, hint="latency")
    assert (cache / own).stat().st_mtime > now - 60  # it is in use
