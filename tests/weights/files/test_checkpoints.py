"""The weights meant come out of torch's checkpoints of any age, and it is said what was taken."""

import argparse
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from saved import SAVERS, as_read, assert_same, save_legacy, tensors_of

from vitrail.errors import UserError
from vitrail.weights.files.tensors import open_weights


@pytest.mark.parametrize("saver", ["zip", "legacy"])
def test_views_of_memory_come_back_as_tensors_of_their_own(tmp_path: Path, saver: str) -> None:
    base = torch.randn(6, 10)
    shared = torch.randn(4, 4)
    tensors = {
        "transposed": base.T,
        "sliced": base[1::2, 3:],
        "expanded": base[:, :1].expand(6, 3),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "half": torch.randn(5, 6).half().T,
        "tied": shared,
        "tied too": shared,
    }
    SAVERS[saver](tensors, tmp_path / "w.pth")
    got = open_weights([tmp_path / "w.pth"]).read()
    assert_same(got, as_read(tensors))
    got["tied"].zero_()
    torch.testing.assert_close(got["tied too"], shared, rtol=0, atol=0)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_pickle_protocol_opens(tmp_path: Path, protocol: int) -> None:
    tensors = OrderedDict(tensors_of("float32", "int64"), p=torch.nn.Parameter(torch.randn(3, 2)))
    content = {"model": tensors, "args": argparse.Namespace(lr=0.1), "epoch": 3, "names": ("a", ["b"], {"c"}, b"d")}
    torch.save(content, tmp_path / "w.pth", pickle_protocol=protocol)
    assert_same(open_weights([tmp_path / "w.pth"]).read(), as_read(tensors))


def test_a_checkpoint_of_pythons_and_torchs_first_versions_opens(tmp_path: Path) -> None:
    """Python 2 pickled an OrderedDict as pairs, and texts as bytes; torch pickled views of storages."""
    memory = torch.randn(10)

    class Storage:
        pass

    class OldPickler(pickle.Pickler):
        def persistent_id(self, value: object) -> tuple | None:
            # a view of the storage "7" that begins at its second number and has eight
            view = ("view", 2, 8)
            return ("storage", torch.FloatStorage, "7", "cpu", 10, view) if isinstance(value, Storage) else None

    class Call:
        def __init__(self, function: Callable, *arguments: object) -> None:
            self.parts = function, arguments

        def __reduce__(self) -> tuple:
            return self.parts

    tensor = Call(torch._utils._rebuild_tensor, Storage(), 1, (2, 3), (3, 1))
    with (tmp_path / "w.pth").open("wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(header, file, 2)
        OldPickler(file, 2).dump(Call(OrderedDict, [["w", tensor]]))
        pickle.dump(["7"], file, 2)
        file.write(struct.pack("<q", 10) + memory.numpy().tobytes())
    text = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(text.replace(b"X\x01\x00\x00\x00w", b"U\x01w"))
    assert_same(open_weights([tmp_path / "w.pth"]).read(), {"w": memory[3:9].reshape(2, 3)})


def test_a_checkpoint_of_a_big_endian_machine_opens(tmp_path: Path) -> None:
    tensors = tensors_of("float32", "float16", "int64", "bool")
    torch.save(tensors, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for number, tensor in enumerate(tensors.values()):
        swapped = tensor.contiguous().view(torch.uint8).reshape(-1, tensor.element_size()).flip(1)
        files[f"w/data/{number}"] = swapped.numpy().tobytes()
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        for name, data in (files | {"w/byteorder": b"big"}).items():
            archive.writestr(name, data)
    assert_same(open_weights([tmp_path / "w.pth"]).read(), as_read(tensors))


def test_what_lies_beside_the_weights_of_published_checkpoints_does_no_harm(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=np.float64(0.1), out=Path("runs"), device=torch.device("cpu")),
        "history": {"loss": np.arange(3.0), "best": np.float32(0.5), "shape": torch.Size([2, 3])},
        "scaler": {"scale": torch.tensor(2.0)},
    }
    for saver in (torch.save, save_legacy):
        saver(content, tmp_path / "w.pth")
        weights = open_weights([tmp_path / "w.pth"])
        assert_same(weights.read(), as_read(model.state_dict()))
        assert weights.notes == ("w.pth: took the weights under model; the file also has tensors under scaler",)


NESTED = [
    # (content, which of the tensors named in it are taken, what the notes say)
    ({"state_dict": "a", "epoch": 3}, "a", ["under state_dict"]),
    (
        {"state_dict": "a", "state_dict_ema": "b"},
        "b",
        ["under state_dict_ema (averaged", "also has tensors under state_dict"],
    ),
    ({"model": "a", "model_ema": "b", "optimizer": {"state": {0: "c"}}}, "b", ["under model_ema"]),
    (
        {"student": "a", "teacher": "b", "dino_loss": "c"},
        "b",
        ["under teacher (averaged weights)", "student, dino_loss"],
    ),
    ({"teacher": {"backbone": "a"}}, "a", ["under teacher.backbone (averaged weights)"]),
    ({"anything": "a", "optimizer": "b", "my_loss": "c", "epoch": 1}, "a", ["under anything"]),
    ({"loss": None, "model": {"module": "a"}}, "a", ["under model.module"]),
]


@pytest.mark.parametrize(("content", "taken", "notes"), NESTED, ids=str)
def test_the_weights_meant_are_taken_from_among_others_and_it_is_said(
    tmp_path: Path, content: dict, taken: str, notes: list[str]
) -> None:
    states = {letter: {"w": torch.randn(3), "b": torch.randn(2)} for letter in "abc"}

    def filled(value: object) -> object:
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        return states[value] if isinstance(value, str) else value

    torch.save(filled(content), tmp_path / "w.pth")
    weights = open_weights([tmp_path / "w.pth"])
    assert_same(weights.read(), states[taken])
    assert len(weights.notes) == 1
    for words in notes:
        assert words in weights.notes[0]


def test_several_models_of_equal_right_are_not_guessed_among(tmp_path: Path) -> None:
    state = {"w": torch.randn(3)}
    torch.save({"left": state, "right": state}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"holds several models \(left, right\)"):
        open_weights([tmp_path / "w.pth"])


PREFIXED = [
    (["module.a", "module.b"], ["a", "b"], None),
    (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"], None),
    (["model.a", "b"], ["model.a", "b"], None),
    (
        ["backbone.a", "backbone.b", "head.mlp.0", "head.last"],
        ["a", "b"],
        r"left out 2 tensors beside backbone\.\* \(head\)",
    ),
    (["module.backbone.a", "module.dino_head.c", "module.ibot_head.c"], ["a"], r"\(dino_head, ibot_head\)"),
    (["backbone.a", "neck.b"], ["backbone.a", "neck.b"], None),
    (
        ["teacher.backbone.a", "teacher.dino_head.b", "student.backbone.a", "dino_loss.center"],
        ["a"],
        "dino_loss, student",
    ),
    (["head.a", "blocks.b"], ["head.a", "blocks.b"], None),
]


@pytest.mark.parametrize(("names", "kept", "note"), PREFIXED, ids=str)
def test_what_wrapped_the_model_is_taken_off_the_names(
    tmp_path: Path, names: list[str], kept: list[str], note: str | None
) -> None:
    torch.save({name: torch.randn(2) for name in names}, tmp_path / "w.pth")
    weights = open_weights([tmp_path / "w.pth"])
    assert list(weights.shapes) == kept
    if note is None:
        assert weights.notes == ()
    else:
        assert re.search(note, " | ".join(weights.notes))
