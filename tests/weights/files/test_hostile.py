"""Files that are damaged or mean harm are refused in one line: no code runs, no memory is taken, nothing hangs."""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import MARKER, TOUCH, little_memory_and_time, refused
from safetensors.torch import save_file

from vitrail.errors import UserError
from vitrail.weights.files.tensors import inside, read_json, weights_files


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- safetensors -----------------------------------------------------------------------------------------------------

GOOD = '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
HEADERS: list[tuple[str, str, str]] = [
    ("a tensor of 10 GB", GOOD.replace("[2]", "[2500000000]").replace("[0,8]", "[0,10000000000]"), "not fully covered"),
    ("offsets beyond the end", GOOD.replace("[0,8]", "[8,16]"), "offset"),
    ("offsets below zero", GOOD.replace("[0,8]", "[-8,0]"), "-8"),
    ("offsets backwards", GOOD.replace("[0,8]", "[8,0]"), "offset"),
    ("offsets that do not fit the shape", GOOD.replace("[2]", "[3]"), "offset"),
    ("two tensors in one place", GOOD[:-1] + "," + GOOD[1:].replace("w", "v"), "offset"),
    ("one name twice", GOOD[:-1] + "," + GOOD[1:], "names w twice"),
    ("one key twice", GOOD.replace('"shape":[2]', '"shape":[1],"shape":[2]'), "duplicate field"),
    (
        "a shape that overflows",
        GOOD[:-1] + ',"v":{"dtype":"F32","shape":[0,99999999999999999],"data_offsets":[8,8]}}',
        "shape",
    ),
    ("an unknown type", GOOD.replace("F32", "F31"), "F31"),
    ("a type without an equal", GOOD.replace("F32", "F4").replace("[2]", "[16]"), "type F4, which does not open here"),
    ("no JSON", GOOD.replace(":", ";"), "JSON"),
    ("no object", "[1, 2]", "not a readable safetensors file"),
    ("nested without end", "[" * 100_000, "not a readable safetensors file"),
    ("nothing", "", "not a readable safetensors file"),
    ("no tensors", "{}", "not a readable"),
    ("a name with a line's end", GOOD.replace('"w"', '"\\n\\u001b[2J"').replace("[2]", "[3]"), "not a readable"),
]


@pytest.mark.parametrize(("header", "message"), [case[1:] for case in HEADERS], ids=[case[0] for case in HEADERS])
def test_a_safetensors_header_that_does_not_describe_the_file_is_refused(
    tmp_path: Path, header: str, message: str
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    refused(path, message)


def test_a_header_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 10**10) + GOOD.encode() + bytes(8))
    refused(path, "claims a header of 10.0 GB, more than the whole file")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 10**9))
        file.truncate(10**10)  # sparse: takes no room on the disk
    refused(path, "1.0 GB of names and shapes")


def test_safetensors_that_were_cut_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.randn(1000)}, path)
    whole = path.read_bytes()
    for length in (3, 8, 30, 2000, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, "not a readable safetensors file")
    path.write_bytes(whole + b"x")
    refused(path, "not a readable safetensors file")


# --- .npz ------------------------------------------------------------------------------------------------------------


def npy(header: str, data: bytes = bytes(8)) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def described(shape: str, descr: str = "'<f4'") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")


MEMBERS: list[tuple[str, bytes, str]] = [
    ("10 GB", described("(2500000000,)"), "w claims 10.0 GB .*, but has 8 bytes"),
    ("too little", described("(1,)"), "w claims 4 bytes"),
    ("a length below zero", described("(-2,)"), "which no tensor can have"),
    ("a shape that overflows", described("(0, 99999999999999999)"), "which no tensor can have"),
    ("objects", described("(1,)", "'|O'"), "array of Python objects"),
    ("code", npy(f"__import__('os').system('touch {MARKER}')"), "not a readable .npz file"),
    ("nested without end", npy("(" * 5000), "not a readable .npz file"),
    ("minus without end", npy("-" * 5000 + "1"), "not a readable .npz file"),
    ("no header", b"\x93NUMPY\x01\x00\xff\xffabc", "not a readable .npz file"),
    ("a header of 4 GB", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{" + bytes(99), "header that no plain array needs"),
    ("nothing", b"", "not a readable .npz file"),
    ("records", described("(1,)", "[('a', '<f4'), ('b', '<f4')]"), "holds no tensors"),
]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize(("member", "message"), [case[1:] for case in MEMBERS], ids=[case[0] for case in MEMBERS])
def test_an_array_that_is_not_what_its_header_says_is_refused(
    tmp_path: Path, member: bytes, message: str, compression: int
) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w", compression) as archive:
        archive.writestr("w.npy", member)
    refused(tmp_path / "w.npz", message)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.array([TOUCH], dtype=object), v=np.ones(2))
    refused(tmp_path / "w.npz", "w is an array of Python objects, which would run code")


def test_an_npz_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("w.npy", "w") as file:
        file.write(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (52428800,)}", b""))
        for _ in range(200):
            file.write(bytes(1 << 20))
    refused(path, r"kB that claim to unpack to 209\.7 MB")


def test_an_npz_whose_sizes_lie_or_overlap_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez_compressed(path, w=np.zeros(100_000, np.float32))
    whole = path.read_bytes()
    small = struct.pack("<L", 400_000 + 128)
    assert whole.count(small) >= 1
    path.write_bytes(whole.replace(small, struct.pack("<L", 4_000_000_000)))  # a bomb that says it is one
    refused(path, "not a readable .npz file")
    path.write_bytes(whole.replace(small, struct.pack("<L", 4_000)))  # and one that does not
    refused(path, "not a readable .npz file")
    for length in (30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, "not a readable .npz file")
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            with pytest.warns(UserWarning, match="Duplicate") if _ else little_memory_and_time():
                archive.writestr("w.npy", described("(2,)"))
    refused(path, "two of its files have one name")


def test_a_flipped_byte_of_an_npz_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.random.default_rng(0).normal(size=1000))
    data = bytearray((tmp_path / "w.npz").read_bytes())
    data[4000] ^= 1
    (tmp_path / "w.npz").write_bytes(data)
    refused(tmp_path / "w.npz", "CRC")


# --- values, places and JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: save_file(content, path)], ids=["zip", "safetensors"]
)
def test_weights_that_are_not_finite_are_named(tmp_path: Path, save: Callable) -> None:
    state = {
        "good": torch.randn(5),
        "blocks.0.w": torch.randn(40, 50),
        "n": torch.arange(3),
        "half": torch.randn(6).half(),
    }
    state["blocks.0.w"][3, 7:9] = torch.tensor([float("nan"), float("inf")])
    save(state, tmp_path / "w.bin")
    refused(
        tmp_path / "w.bin", r"w\.bin: 2 of the 2,000 values of blocks\.0\.w are NaN or infinite: the training diverged"
    )
    state["half"][0] = -float("inf")
    save(state, tmp_path / "w.bin")
    refused(tmp_path / "w.bin", r"infinite \(2 tensors have some\)")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz", ".h5"])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    refused(path, "there is no file")
    path.touch()
    refused(path, "is empty")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    refused(path, "pointer of Git LFS")
    path.write_bytes(b"<!DOCTYPE html><html>" * 9)
    refused(path, "not a readable|neither")
    path.unlink()
    path.mkdir()
    refused(path, "is a folder")
    path.rmdir()
    os.mkfifo(path)
    refused(path, "is a device, a pipe or a socket")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(path, "is a device, a pipe or a socket")
    path.unlink()
    path.symlink_to(path)
    refused(path, "cannot be opened")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "other.npz"]
)
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_text("{}")
    (folder / name).symlink_to("../secret")
    message = rf"{name} is a link that leads out of the folder to .*secret: name that file itself"
    with pytest.raises(UserError, match=message):
        weights_files(folder)
    with pytest.raises(UserError, match=message):
        inside(folder, folder / name)
    (tmp_path / "secret").unlink()  # no less a link out when nothing is there
    with pytest.raises(UserError, match=message):
        weights_files(folder)


def test_what_only_looks_like_the_hubs_cache_is_no_way_out(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123abc"
    other = tmp_path / "models--owner--other" / "blobs"
    snapshot.mkdir(parents=True)
    other.mkdir(parents=True)
    (other / "hash").touch()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "hash").touch()
    for target in (other / "hash", tmp_path / "blobs" / "hash", snapshot.parents[1] / "blobs" / ".." / "secret"):
        (snapshot / "config.json").unlink(missing_ok=True)
        (snapshot / "config.json").symlink_to(target)
        with pytest.raises(UserError, match="leads out of the folder"):
            inside(snapshot, snapshot / "config.json")
    plain = tmp_path / "a" / "b"
    plain.mkdir(parents=True)
    (plain / "config.json").symlink_to("../../blobs/hash")
    with pytest.raises(UserError, match="leads out of the folder"):
        inside(plain, plain / "config.json")


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "C:\\w.safetensors", "", 3, None, "w.pth", "\n"],
)
def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path: Path, name: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(UserError, match="names .*which is no file of weights in its folder") as caught:
        weights_files(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "cannot be read as JSON: "),
        (b"", "cannot be read as JSON: "),
        (b"\xff\xfe{}", "cannot be read as JSON: "),
        (b"[" * 200_000, "cannot be read as JSON: it is nested too deeply"),
        (b'{"a":' * 200_000, "cannot be read as JSON: it is nested too deeply"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "cannot be read as JSON: "),
        (b"[1]", "holds no JSON object"),
        (b"3", "holds no JSON object"),
        (b'{"weight_map": []}', 'has no "weight_map"'),
        (b"{}", 'has no "weight_map"'),
    ],
    ids=range(10),
)
def test_json_that_makes_no_sense_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text)
    with little_memory_and_time(), pytest.raises(UserError, match=rf"index\.json {message}") as caught:
        weights_files(tmp_path)
    assert "\n" not in str(caught.value)


def test_json_of_enormous_size_or_of_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(10**10)
    with little_memory_and_time(), pytest.raises(UserError, match="cannot be read as JSON: it is larger than 67.1 MB"):
        read_json(path)
    path.unlink()
    os.mkfifo(path)
    with little_memory_and_time(), pytest.raises(UserError, match="cannot be read as JSON: .* is a device, a pipe"):
        read_json(path)
