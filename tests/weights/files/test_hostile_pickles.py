"""Pickles that are damaged or mean harm are refused in one line: no code runs, no memory is taken, nothing hangs."""

import pickle
import struct
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refusals import MARKER, TOUCH, Evil, little_memory_and_time, refused

from vitrail.weights.files.tensors import open_weights


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- pickles with code -----------------------------------------------------------------------------------------------


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def raw(data: bytes) -> Callable[[object, Path], None]:
    return lambda _, path: path.write_bytes(data) and None


def plain(protocol: int) -> Callable[[object, Path], None]:
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol)) and None


STATE = {"w": torch.arange(3.0)}
WITH_CODE: list[tuple[str, Callable[[object, Path], None], object, str]] = [
    ("zip", torch.save, {"model": STATE, "x": TOUCH}, r"wants to run code \((posix|nt)\.system\), and was not opened"),
    ("legacy", legacy, {"model": STATE, "x": TOUCH}, r"wants to run code \((posix|nt)\.system\)"),
    ("eval", torch.save, {"w": Evil(eval, f"open({MARKER!r}, 'w')")}, r"\(builtins\.eval\)"),
    ("nested", torch.save, OrderedDict(a=[{"b": (1, OrderedDict(c=TOUCH))}]), r"\.system\)"),
    ("subprocess", torch.save, {"w": Evil(subprocess.getoutput, f"touch {MARKER}")}, r"\((subprocess|commands)\.getoutput\)"),
    ("inner pickle", torch.save, {"w": Evil(torch.storage._load_from_bytes, b"x")}, r"\(torch\.storage\._load_from_bytes\)"),
    ("getattr", torch.save, {"w": Evil(getattr, "", "format")}, r"\(builtins\.getattr\)"),
    ("no checkpoint", plain(2), TOUCH, r"\.system\)"),
    ("protocol 0", plain(0), [TOUCH], r"\.system\)"),
    ("protocol 4", plain(4), [TOUCH], r"\.system\)"),
    ("by hand", raw(f"cos\nsystem\n(S'touch {MARKER}'\ntR.".encode()), None, r"\(os\.system\)"),
    ("instance", raw(f"(S'touch {MARKER}'\nios\nsystem\n.".encode()), None, r"\(os\.system\)"),
    ("object", raw(f"(cos\nsystem\nS'touch {MARKER}'\no.".encode()), None, r"\(os\.system\)"),
    ("no end", raw(f"cos\nsystem\n(S'touch {MARKER}'\ntR".encode()), None, r"\(os\.system\)"),
    ("escapes", raw(b"cos\nsy\x1b[2J\rstem\n."), None, r"\(os\.sy\?\[2J stem\)"),
    ("what it made", raw(b"cargparse\nNamespace\n)R)R."), None, r"a call of what the file itself made"),
    ("whole model", torch.save, torch.nn.Sequential(torch.nn.Linear(2, 2)), "holds a whole pickled model.*Sequential"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("save", "content", "message"), [case[1:] for case in WITH_CODE], ids=[c[0] for c in WITH_CODE]
)
def test_a_pickle_with_code_is_not_opened(
    tmp_path: Path, save: Callable[[object, Path], None], content: object, message: str
) -> None:
    save(content, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", message)


def test_the_way_out_of_a_pickle_with_code_is_said(tmp_path: Path) -> None:
    torch.save(TOUCH, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", r"save the model's state_dict\(\) as a \.safetensors file, and give that")


# --- pickles that claim too much -------------------------------------------------------------------------------------


def rebuilt(offset: object, shape: object, stride: object) -> Evil:
    """A tensor on three numbers of memory that claims whatever is asked."""
    storage = torch.arange(3.0)._typed_storage()
    return Evil(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, OrderedDict())


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(1).expand(100_000, 100_000), "claim to hold tensors of 40.0 GB"),
        (rebuilt(0, (4,), (1,)), r"w claims 16 bytes \(\(4,\)\), but has 12 bytes"),
        (rebuilt(2, (2,), (1,)), "w claims 8 bytes"),
        (rebuilt(0, (2, 2), (3, 1)), "w claims 20 bytes"),
        (rebuilt(-1, (2,), (1,)), "-1 where a size should be"),
        (rebuilt(0, (-2,), (1,)), "-2 where a size should be"),
        (rebuilt(0, (2,), (-1,)), "-1 where a size should be"),
        (rebuilt(0, (2,), (1, 1)), "which no tensor can have"),
        (rebuilt(0, (1 << 61, 1 << 61), (1, 1)), "which no tensor can have"),
        (rebuilt(0, (0, 1 << 61), (1, 1)), "which no tensor can have"),
        (rebuilt(0, (1 << 70,), (1,)), "where a size should be"),
        (rebuilt(0, (1,) * 1000, (1,) * 1000), "1000 axes"),
        (rebuilt(0, "many", (1,)), "not a readable checkpoint"),
        (rebuilt(True, (1,), (1,)), "True where a size should be"),
    ],
    ids=range(14),
)
def test_a_pickled_tensor_that_claims_what_is_not_there_is_refused(
    tmp_path: Path, tensor: object, message: str
) -> None:
    for save in (torch.save, legacy):
        save({"w": tensor}, tmp_path / "w.pth")
        refused(tmp_path / "w.pth", message)


def repack(path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    """Write a zip again with other contents; None leaves a file out."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)


def test_a_checkpoint_with_less_memory_than_it_claims_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.randn(1000)}, path)
    repack(path, lambda name, data: data[:100] if "/data/" in name else data)
    refused(path, "w claims 4.0 kB .* but has 100 bytes")
    repack(path, lambda name, data: None if "/data/" in name else data)
    refused(path, "the memory of w is missing")


def test_a_checkpoint_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for save in (torch.save, legacy):
        save({"w": torch.randn(1000)}, path)
        whole = path.read_bytes()
        for length in (3, 30, 300, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            refused(path, "not a readable checkpoint|claims")


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("w/data.pkl", "w") as file:
        for _ in range(200):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    refused(path, "is compressed")


BOMBS = {
    "a memo of 4 billion entries": b"\x80\x02}r\xff\xff\xff\xff.",
    "a text of 4 GB": b"\x80\x02X\xff\xff\xff\xffabc.",
    "bytes of 10 GB": b"\x80\x04\x8e" + struct.pack("<Q", 10**10) + b"abc.",
    "a bytearray of 10 GB": b"\x80\x05\x96" + struct.pack("<Q", 10**10) + b"abc.",
    "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "tuples in tuples": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
    "lists of lists": b"\x80\x02]" + b"q\x00(h\x00h\x00e" * 30_000 + b".",
    "steps without end": b"\x80\x02" + b"N0" * 1_100_000 + b".",
    "more steps back than there are": b"\x80\x020000.",
    "nothing": b"\x80\x02.",
    "an extension": b"\x80\x02\x82\x01.",
    "noise": b"\x80\x02" + bytes(range(256)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_made_to_take_memory_or_time_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "w.pth").write_bytes(BOMBS[name])
    refused(tmp_path / "w.pth", "not a readable checkpoint")
    if len(BOMBS[name]) > 1 << 20:
        return  # once is enough of what takes seconds
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("z/data.pkl", BOMBS[name])
    refused(tmp_path / "z.pth", "not a readable checkpoint|holds no")


def test_what_a_checkpoint_would_only_allocate_is_not_allocated(tmp_path: Path) -> None:
    torch.save({"model": STATE, "x": Evil(bytearray, 10**11), "y": Evil(torch.Size, (10**9,))}, tmp_path / "w.pth")
    with little_memory_and_time():
        assert torch.equal(open_weights([tmp_path / "w.pth"]).read()["w"], STATE["w"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": torch.eye(3).to_sparse()}, r"w is a tensor of a kind that does not open here \(sparse_tensor\)"),
        ({"model": {"w": Evil(torch._utils._rebuild_nested_tensor, 1), "v": torch.ones(1)}}, "nested_tensor"),
        ({"w": torch.ones(2, dtype=torch.complex64).conj()}, "w is a tensor of a kind that does not open here"),
        ({"w": torch.ones(2, device="meta")}, "meta_tensor"),
        ({"epoch": 3, "args": "x"}, "holds no tensors by name"),
        ([torch.ones(2)], "holds no weights by name"),
        (torch.ones(2), "holds no weights by name"),
    ],
    ids=range(7),
)
def test_a_checkpoint_without_ordinary_tensors_by_name_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", message)


def test_torchscript_is_code_and_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02c__torch__\nModel\n.")
        archive.writestr("w/constants.pkl", b"\x80\x02).")
    refused(tmp_path / "w.pt", "TorchScript archive, which is code")
