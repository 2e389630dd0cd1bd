"""Weights come out of files as they went in, whatever the container, and the files of a folder are found."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from saved import SAVERS, TYPES, as_read, assert_same, save_legacy, tensors_of
from torch import Tensor

from vitrail.errors import UserError
from vitrail.weights.files.tensors import inside, open_weights, read_json, weights_files


@pytest.mark.parametrize("saver", SAVERS)
def test_every_type_comes_back(tmp_path: Path, saver: str) -> None:
    tensors = tensors_of(*TYPES) | {
        "scalar": torch.tensor(3.25),
        "empty": torch.empty(0, 4),
        "one": torch.randn(1, 1, 5),
    }
    SAVERS[saver](tensors, tmp_path / "w.pth")
    weights = open_weights([tmp_path / "w.pth"])
    assert weights.container == ("safetensors" if saver == "safetensors" else "pickle")
    assert weights.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert weights.notes == ()
    assert_same(weights.read(), as_read(tensors))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_tensors_larger_than_one_read_come_back(tmp_path: Path, dtype: str) -> None:
    values = torch.randn(1_300_001)
    tensors = {"w": values > 0 if dtype == "bool" else values.to(getattr(torch, dtype)), "v": torch.randn(3)}
    save_file(tensors, tmp_path / "w.safetensors")
    assert_same(open_weights([tmp_path / "w.safetensors"]).read(), as_read(tensors))


def test_arrays_of_npz_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(5, 6)).astype(np.float32)
    brain = torch.randn(4, 3).bfloat16()
    arrays = {
        "Transformer/encoderblock_0/kernel": plain,
        "columns": np.asfortranarray(rng.normal(size=(3, 4, 5))),
        "big": plain.astype(">f4"),
        "big complex": (plain + 1j).astype(">c8"),
        "half": plain.astype(np.float16),
        "bfloat16": np.frombuffer(brain.view(torch.uint8).numpy().tobytes(), "V2").reshape(4, 3),
        "0": np.float32(2.5),
        "1": np.int64(-3),
        "empty": np.zeros((0, 3), np.float32),
    }
    wanted = {
        name: torch.tensor(np.asarray(a).astype(a.dtype.newbyteorder("=")))
        for name, a in arrays.items()
        if a.dtype != "V2"
    }
    wanted["bfloat16"] = brain
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "w.npz", **arrays, words=np.array(["x", "yz"]))
        weights = open_weights([tmp_path / "w.npz"])
        assert weights.container == "npz"
        assert weights.shapes == {name: tuple(tensor.shape) for name, tensor in wanted.items()}
        assert weights.notes == ("w.npz: left out words.npy: no arrays of numbers",)
        assert_same(weights.read(), as_read(wanted))


def test_describing_a_file_imports_no_torch(tmp_path: Path) -> None:
    tensors = tensors_of("float32")
    torch.save(tensors, tmp_path / "zip.pth")
    save_legacy(tensors, tmp_path / "legacy.pth")
    save_file(tensors, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", w=np.ones(3))
    program = (
        "import sys; from pathlib import Path; from vitrail.weights.files.tensors import open_weights\n"
        "for name in sys.argv[1:]: assert open_weights([Path(name)]).shapes\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, *map(str, tmp_path.iterdir())], check=True)


def test_the_tensors_are_not_the_file(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(100)}
    save_file(tensors, tmp_path / "w.safetensors")
    got = open_weights([tmp_path / "w.safetensors"]).read()
    with (tmp_path / "w.safetensors").open("r+b") as file:
        file.write(bytes(file.seek(0, os.SEEK_END)))
    assert_same(got, tensors)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.npz"])
@pytest.mark.parametrize("place", ["header", "data"])
def test_a_flipped_byte_is_noticed_where_a_digest_is_known(tmp_path: Path, name: str, place: str) -> None:
    path = tmp_path / name
    tensors = {"weight": torch.randn(2000), "bias": torch.randn(3)}
    if name.endswith(".npz"):
        np.savez(path, **{key: tensor.numpy() for key, tensor in tensors.items()})
    else:
        (save_file if name.endswith(".safetensors") else torch.save)(tensors, path)
    data = bytearray(path.read_bytes())
    recorded = {name: hashlib.sha256(data).hexdigest()}
    assert_same(open_weights([path], recorded=recorded).read(), tensors)
    data[9 if place == "header" else len(data) // 2] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{name} is damaged or was changed: its SHA-256 is not the one in config.json"):
        open_weights([path], recorded=recorded).read()


def test_a_file_that_was_replaced_in_the_meantime_is_not_read_with_the_old_header(tmp_path: Path) -> None:
    save_file({"w": torch.randn(5)}, tmp_path / "w.safetensors")
    weights = open_weights([tmp_path / "w.safetensors"])
    save_file({"v": torch.randn(5)}, tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="was replaced or written to"):
        weights.read()


def test_values_that_only_add_up_to_infinity_are_read(tmp_path: Path) -> None:
    tensors = {"w": torch.full((4,), 3e38)}
    save_file(tensors, tmp_path / "w.safetensors")
    assert_same(open_weights([tmp_path / "w.safetensors"]).read(), tensors)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_parts_named_by_an_index_are_read_as_one(tmp_path: Path, suffix: str) -> None:
    tensors, name = tensors_of("float32", "float16", "int64"), "model" if suffix == ".safetensors" else "pytorch_model"
    parts = {key: f"{name}-0000{i + 1}-of-00003{suffix}" for i, key in enumerate(tensors)}
    for key, part in parts.items():
        (save_file if suffix == ".safetensors" else torch.save)({key: tensors[key]}, tmp_path / part)
    (tmp_path / f"{name}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    files = weights_files(tmp_path)
    assert [path.name for path in files] == sorted(parts.values())
    assert_same(open_weights(files).read(), as_read(tensors))
    files[1].unlink()
    with pytest.raises(UserError, match=f"has no {name}-00002-of-00003{suffix}, which {name}{suffix}.index.json says"):
        weights_files(tmp_path)


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    for name in ("1.safetensors", "2.safetensors"):
        save_file({"w": torch.randn(2)}, tmp_path / name)
    with pytest.raises(UserError, match=r"2\.safetensors: w is in another of the files too"):
        open_weights([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["model.safetensors", "pytorch_model.bin", "other.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "other.safetensors"], "pytorch_model.bin"),
        (["other.safetensors", "w.npz", "w.pth"], "other.safetensors"),
        (["w.npz", "training_args.bin", "optimizer.pt", "README.md"], "w.npz"),
        (["w.pth", ".w.pth.part.pth"], "w.pth"),
    ],
)
def test_the_weights_of_a_folder_are_found(tmp_path: Path, there: list[str], taken: str) -> None:
    for name in there:
        (tmp_path / name).write_bytes(b"x")
    assert weights_files(tmp_path) == (tmp_path / taken,)


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ([], "has no weights, such as model.safetensors.*: it is empty"),
        (["config.json", "tf_model.h5"], "it holds config.json, tf_model.h5"),
        (["a.safetensors", "b.safetensors"], r"several files of weights \(a.safetensors, b.safetensors\): name one"),
        (["a.pth", "b.npz"], r"several files of weights \(a.pth, b.npz\)"),
    ],
)
def test_a_folder_that_leaves_it_open_is_told_what_it_holds(tmp_path: Path, there: list[str], message: str) -> None:
    for name in there:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        weights_files(tmp_path)


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    model = tmp_path / "models--owner--name"
    snapshot = model / "snapshots" / "0123abc"
    (model / "blobs").mkdir(parents=True)
    (snapshot / "sub").mkdir(parents=True)
    save_file({"w": torch.randn(2)}, model / "blobs" / "hash")
    (model / "blobs" / "json").write_text('{"a": 1}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/hash")
    (snapshot / "sub" / "config.json").symlink_to("../../../blobs/json")
    assert list(open_weights(weights_files(snapshot)).read()) == ["w"]
    assert read_json(inside(snapshot, snapshot / "sub" / "config.json")) == {"a": 1}
    assert read_json(inside(snapshot / "sub", snapshot / "sub" / "config.json")) == {"a": 1}


def test_links_within_a_folder_and_to_a_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    save_file({"w": torch.randn(2)}, tmp_path / "real" / "weights-3.safetensors")
    (tmp_path / "real" / "model.safetensors").symlink_to("weights-3.safetensors")
    (tmp_path / "latest").symlink_to("real")
    assert weights_files(tmp_path / "latest") == (tmp_path / "latest" / "model.safetensors",)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what a process took")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("saver", "dtype"), [("safetensors", "float32"), ("safetensors", "float16"), ("zip", "float32")]
)
def test_reading_takes_little_more_memory_than_the_weights(tmp_path: Path, saver: str, dtype: str) -> None:
    """At most 1.2 times their bytes in float32, measured in a process of its own, digest included."""
    made: Callable[[int], Tensor] = lambda i: torch.randn(5_000_000).to(getattr(torch, dtype))  # noqa: E731
    path = tmp_path / "w.bin"
    SAVERS[saver]({f"{i}.w": made(i) for i in range(10)}, path)
    program = (
        "import sys, torch; from pathlib import Path; from vitrail.weights.files.tensors import open_weights\n"
        "torch.zeros(1).sum()\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024\n"
        "before = peak()\n"
        "got = open_weights([Path(sys.argv[1])], recorded={'w.bin': sys.argv[2]}).read()\n"
        "weights = sum(t.nbytes for t in got.values())\n"
        "print((peak() - before) / weights)"
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), digest], check=True, capture_output=True, text=True
    )
    assert 0.9 < float(done.stdout) < 1.2
