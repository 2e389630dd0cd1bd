"""The border as a person meets it: strangers' models through the ordinary commands, good ones and hostile ones."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vitrail
from stripes import write_images
from vitrail.model import ViT, ViTConfig

Run = Callable[..., tuple[int, str, str]]

SIZES: dict[str, Any] = {"image_size": (28, 28), "patch_size": 14, "width": 64, "depth": 2, "heads": 1, "mlp_width": 96}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", {"high": 8, "low": 8})


def _model(**changes: Any) -> ViT:
    torch.manual_seed(0)
    model = ViT(ViTConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(float("norm" in name and name.endswith("weight")) + 0.2 * torch.randn_like(tensor))
    return model


def _dinov2_file(path: Path) -> ViT:
    """A file as Facebook publishes DINOv2: the backbone, without a head, with a mask token."""
    model = _model(classes=0, layer_scale=0.5)
    torch.save({**model.state_dict(), "mask_token": torch.randn(1, 64)}, path)
    return model


def test_a_strangers_file_is_fine_tuned_with_nothing_else_said(tmp_path: Path, photos: Path, run: Run) -> None:
    source = _dinov2_file(tmp_path / "dinov2.pth")
    code, _, err = run("train", photos, "--init", tmp_path / "dinov2.pth", "--steps", 2, "--out", tmp_path / "run")
    assert code == 0, err
    for text in ("facebook dinov2 format", "heads of width 64", "head of 2 classes starts at zero", "forecast: about"):
        assert text in err
    tuned = vitrail.load(tmp_path / "run")
    assert tuned.preprocess.mean == (0.485, 0.456, 0.406)
    assert (tuned.config.position_interpolation, tuned.labels) == ("bicubic", ("high", "low"))
    change = (tuned.blocks[1].mlp.fc1.weight - source.blocks[1].mlp.fc1.weight).abs().max()
    assert 0 < change < 0.01


def test_unknown_pixels_of_a_start_model_are_said(tmp_path: Path, photos: Path, run: Run) -> None:
    model = _model(classes=3)
    vitrail.save(model, tmp_path / "model")  # without a contract
    code, _, err = run("train", photos, "--init", tmp_path / "model", "--steps", 1, "--out", tmp_path / "run")
    assert code == 0, err
    assert "wants its pixels is not known: mean and std of 0.5 are taken" in err
    pixels = ("--set", "data.mean=[0.1,0.1,0.1]", "--set", "data.std=[0.3,0.3,0.3]")
    code, _, err = run("train", photos, "--init", tmp_path / "model", "--steps", 1, *pixels, "--out", tmp_path / "two")
    assert code == 0, err
    assert "is not known" not in err
    assert vitrail.load(tmp_path / "two").preprocess.mean == (0.1, 0.1, 0.1)


def test_what_a_file_does_not_tell_is_said_to_training_too(tmp_path: Path, photos: Path, run: Run) -> None:
    _dinov2_file(tmp_path / "dinov2.pth")
    options = ("--set", "model.activation=relu", "--set", "model.heads=2", "--steps", 1)
    code, _, err = run("train", photos, "--init", tmp_path / "dinov2.pth", *options, "--out", tmp_path / "run")
    assert code == 0, err
    config = vitrail.load(tmp_path / "run").config
    assert (config.activation, config.heads) == ("relu", 2)


def test_shards_open_as_one_model(tmp_path: Path) -> None:
    model = _model(classes=3)
    vitrail.save(model, tmp_path)
    state = model.state_dict()
    names = {"a": [name for name in state if "blocks" in name], "b": [name for name in state if "blocks" not in name]}
    for shard, members in names.items():
        save_file({name: state[name].clone() for name in members}, tmp_path / f"model-{shard}.safetensors")
    weight_map = {name: f"model-{shard}.safetensors" for shard, members in names.items() for name in members}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "model.safetensors").unlink()
    images = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(vitrail.load(tmp_path)(images), model(images), rtol=0, atol=0)


class _Code:
    """Pickled, it is a call of ``os.system``, when it is opened carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch code-has-run",)


def _flip(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


def _config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["vitrail"]["sha256"].pop("config.json")
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def _resave(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    _config(folder, lambda values: values["vitrail"].pop("sha256"))


def _outside(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(Path("..") / name)


def _pickled(folder: Path) -> None:
    torch.save({"model": _Code()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _ten_gigabytes(folder: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}'
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    _config(folder, lambda values: values["vitrail"].pop("sha256"))


def _not_a_number(folder: Path) -> None:
    _resave(folder, lambda tensors: tensors["norm.bias"].fill_(torch.nan))


def _flipped_weight(folder: Path) -> None:
    _flip(folder / "model.safetensors", -7)


_IN_VALUES = (_not_a_number, _flipped_weight)

HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle with code": (_pickled, r"system"),
    "a truncated file": (lambda f: os.truncate(f / "model.safetensors", 5000), r"model\.safetensors"),
    "a wrong shape": (
        lambda f: _resave(f, lambda t: t.update({"head.bias": torch.ones(9)})),
        r"head\.bias 9 instead of 2",
    ),
    "a missing key": (lambda f: _resave(f, lambda t: t.pop("norm.weight")), r"1 missing \(norm\.weight\)"),
    "an extra key": (lambda f: _resave(f, lambda t: t.update(odd=torch.ones(1))), r"1 left over \(odd\)"),
    "a json that is no configuration": (lambda f: (f / "config.json").write_text("[1, 2]"), r"holds no JSON object"),
    "a configuration of something else": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        r"model_type 'bert'",
    ),
    "NaN weights": (_not_a_number, r"norm\.bias"),
    "a header that claims 10 GB": (_ten_gigabytes, r"model\.safetensors"),
    "a flipped byte": (_flipped_weight, r"is damaged or was changed"),
    "a flipped byte in the configuration": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("gelu", "gelv", 1)),
        r"is damaged or was changed|activation",
    ),
    "a flipped byte in a name": (lambda f: _flip(f / "model.safetensors", 14), r"is damaged or was changed"),
    "weights outside of the folder": (lambda f: _outside(f, "model.safetensors"), r"leads out of the folder"),
    "a configuration outside of the folder": (lambda f: _outside(f, "config.json"), r"leads out of the folder"),
    "a width that is a word": (lambda f: _config(f, lambda v: v["vitrail"]["config"].update(width="wide")), r"width"),
    "a depth without end": (
        lambda f: _config(f, lambda v: v["vitrail"]["config"].update(depth=10**12)),
        r"do not belong together",
    ),
}


@pytest.mark.parametrize(("harm", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_folder_is_refused_in_one_line_by_every_command(
    tmp_path: Path,
    photos: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], object],
    message: str,
) -> None:
    import re

    folder = tmp_path / "model"
    model = _model(classes=2)
    model.preprocess, model.labels = vitrail.Preprocess((28, 28)), ("high", "low")
    vitrail.save(model, folder)
    harm(folder)
    monkeypatch.chdir(tmp_path)
    commands = [["evaluate", folder, photos], ["predict", folder, photos]]
    if harm not in _IN_VALUES:  # which info does not read
        commands.append(["info", folder, "--weights"])
    for command in commands:
        code, out, err = run(*command)
        assert code == 2, (command, out, err)
        assert "Traceback" not in err
        if command[0] != "info":  # whose table of weights may be the answer
            lines = [line for line in err.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, err
            assert re.search(message, lines[0])
    assert not (tmp_path / "code-has-run").exists()


def test_an_idx_file_and_a_model_without_a_contract_are_evaluated_with_what_is_said(tmp_path: Path, run: Run) -> None:
    """As for a small model of MNIST from elsewhere: neither the activation nor the pixels stand in its file."""
    of_vit_pytorch = {"qkv_bias": False, "patch_norm": True, "norm_eps": 1e-5, "heads": 2, "head_width": 64}
    model = _model(classes=4, channels=1, activation="relu", **of_vit_pytorch)
    pictures = np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8)
    normalised = (torch.from_numpy(pictures)[:, None] / 255 - 0.13) / 0.31
    with torch.no_grad():
        model.head.bias -= model(normalised).mean(0)  # so that every class is the answer to some picture
        labels = model(normalised).argmax(1).numpy().astype(np.uint8)
    assert set(labels.tolist()) == {0, 1, 2, 3}
    twin = ViT(model.config.with_changes(activation="gelu"))
    twin.load_state_dict(model.state_dict())
    vitrail.convert(twin, "vit-pytorch", tmp_path / "mnist.safetensors")
    save_file(
        load_file(tmp_path / "mnist.safetensors"), tmp_path / "mnist.safetensors"
    )  # as others write: tensors alone
    (tmp_path / "idx").mkdir()
    for name, values in (("t10k-images-idx3-ubyte", pictures), ("t10k-labels-idx1-ubyte", labels)):
        head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        (tmp_path / "idx" / name).write_bytes(head + values.tobytes())
    evaluate = ("evaluate", tmp_path / "mnist.safetensors", tmp_path / "idx")
    code, _, err = run(*evaluate)
    assert code == 2
    assert "give --mean and --std" in err
    given = ("--set", "model.activation=relu", "--mean", "0.13", "--std", "0.31", "--json", "-")
    code, out, err = run(*evaluate, *given)
    assert code == 0, err
    assert json.loads(out)["top1"] == 1.0
