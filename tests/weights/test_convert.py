"""What is written for others opens here again, and says of itself what its names and shapes cannot."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import vitrail
from positions_cases import PLACED
from vitrail.errors import UserError
from vitrail.model import ResNet, ResNetConfig, ViT
from vitrail.weights import convert, load, read
from vitrail.weights.formats import formats, origins

Make = Callable[..., ViT]

# What the tensors of a file without config.json do not tell: five heads of 16, and a grid that is no square.
UNUSUAL = {"width": 80, "heads": 5, "image_size": (32, 48)}


@pytest.mark.parametrize(
    ("origin", "name", "changes"),
    [
        ("google", "m.npz", {}),
        ("facebook", "m.safetensors", {}),
        ("torchvision", "m.safetensors", {"image_size": (32, 32)}),
        (
            "vit-pytorch",
            "m.safetensors",
            {"head_width": 16, "qkv_bias": False, "patch_norm": True, "norm_eps": 1e-5, "final_norm": "tokens"},
        ),
    ],
)
@torch.no_grad()
def test_a_file_that_we_wrote_says_what_its_tensors_cannot(
    tmp_path: Path, make_model: Make, origin: str, name: str, changes: dict
) -> None:
    model = make_model(**{**UNUSUAL, **changes})
    convert(model, origin, tmp_path / name)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # beside it, and of another model
    again = load(tmp_path / name)
    assert (again.config, again.labels, again.preprocess) == (model.config, model.labels, model.preprocess)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert "written by vitrail" in read(tmp_path / name).notes[0]


ELSEWHERE = [(kind, site) for kind, site in PLACED if (kind, site) not in (("learned", "stem"), ("sincos2d", "stem"))]
SIMPLE = {"patch_norm": True, "norm_eps": 1e-5, "head_width": 64, "qkv_bias": False}
WRITTEN: list[dict] = [
    {},
    {"classes": 0, "layer_scale": 0.1, "registers": 1},
    {"prefix_positions": False},
    {"pool": "avg", "class_token": False, "activation": "gelu_tanh"},
    {"pre_norm": True, "patch_bias": False},
    SIMPLE,
    {**SIMPLE, "position": "sincos2d", "pool": "avg", "class_token": False},
]


@pytest.mark.parametrize(("kind", "site"), ELSEWHERE)
def test_positions_that_an_origin_lacks_are_refused_by_their_name(make_model: Make, kind: str, site: str) -> None:
    asked = set()
    for changes in WRITTEN:
        written = make_model(image_size=(32, 32), **changes).config
        other = written.with_changes(position=kind, position_site=site)
        for known in formats():
            if known.no_equal is not None and known.no_equal(written) is None:
                reason = known.no_equal(other)
                if kind == "rotary2d" and known.origin == "timm":
                    continue  # which has it
                assert reason is not None, known.name
                assert kind in reason, known.name
                asked.add(known.origin)
    assert asked >= set(origins()) - ({"timm"} if kind == "rotary2d" else set())


@pytest.mark.parametrize("changes", [{}, {"classes": 0}, {"prefix_positions": False}])
def test_no_positions_and_learned_rows_and_columns_are_refused_with_a_way_out(make_model: Make, changes: dict) -> None:
    none, learned2d = (make_model(image_size=(32, 32), position=kind, **changes) for kind in ("none", "learned2d"))
    for origin in ("torchvision", "facebook"):
        if changes.get("classes") != 0:
            with pytest.raises(UserError, match="that it has no positions .timm and transformers take that"):
                convert(none, origin, Path("never.safetensors"))
            with pytest.raises(UserError, match="its learned2d positions .one trained with model.position=learned"):
                convert(learned2d, origin, Path("never.safetensors"))


@torch.no_grad()
@pytest.mark.parametrize(("origin", "name"), [("google", "m.npz"), ("transformers", "m")])
@pytest.mark.parametrize("changes", [{"root_width": 128}, {"root_width": 32, "width_factor": 2}])
def test_a_resnets_width_counts_and_not_how_it_is_written(
    tmp_path: Path, origin: str, name: str, changes: dict
) -> None:
    torch.manual_seed(0)
    model = ResNet(ResNetConfig(image_size=(32, 32), layers=(1, 1), classes=4, **changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    convert(model, origin, tmp_path / name)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load(tmp_path / name)(images), model(images), rtol=0, atol=0)
    narrow = ResNet(model.config.with_changes(root_width=16, width_factor=3))
    with pytest.raises(UserError, match="its root of 48 channels .BiT: a multiple of 64"):
        convert(narrow, origin, tmp_path / f"narrow-{name}")


def test_others_see_the_tensors_alone(tmp_path: Path, make_model: Make) -> None:
    convert(make_model(), "google", tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert not [name for name in archive.files if "vitrail" in name]
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        assert json.loads(archive.comment)["model"]["heads"] == 4
    convert(make_model(image_size=(32, 32)), "torchvision", tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "vitrail" in name]  # noqa: SIM118 (no mapping)
        assert file.metadata()["format"] == "pt"


def test_very_many_class_names_do_not_fit_into_an_archive_and_are_left_out(tmp_path: Path, make_model: Make) -> None:
    model = make_model(classes=4000)
    model.labels = tuple(f"a rather long name of class {number}" for number in range(4000))
    convert(model, "google", tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    assert (again.config, again.labels) == (model.config, ())


def test_what_a_stranger_wrote_there_is_checked(tmp_path: Path, make_model: Make) -> None:
    convert(make_model(image_size=(32, 32)), "google", tmp_path / "m.npz")
    for comment, message in (
        (b'{"model": {"widht": 3}}', "did you mean width"),
        (b'{"model": {"width": 4}}', "do not fit the model wanted"),
        (b'{"model": {"heads": "many"}}', "it must be a whole number"),
    ):
        with zipfile.ZipFile(tmp_path / "m.npz", "a") as archive:
            archive.comment = comment
        with pytest.raises(UserError, match=message):
            load(tmp_path / "m.npz")
    for comment in (b"made by hand", b"[1]", b"{}", b'{"model": 3}'):
        with zipfile.ZipFile(tmp_path / "m.npz", "a") as archive:
            archive.comment = comment
        assert "written by vitrail" not in read(tmp_path / "m.npz").notes[0]


@torch.no_grad()
def test_a_format_that_cannot_hold_the_values_gives_way_to_the_next(tmp_path: Path, make_model: Make) -> None:
    """timm's DINOv3 has no bias of keys; its rotary models of another kind have one."""
    model = make_model(position="rotary2d", registers=1, layer_scale=0.1, width=64, heads=4, classes=5)
    assert model.blocks[0].attn.qkv.bias[64:128].abs().max() > 0
    assert vitrail.convert(model, "timm", tmp_path / "m").name == "timm rope"
    again = load(tmp_path / "m")
    images = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(again(images), model(images), rtol=0, atol=2e-5)


def test_an_origin_without_an_equal_is_refused_with_the_reason_and_nothing_is_written(
    tmp_path: Path, make_model: Make
) -> None:
    for origin, message in (("timm", "its conv stem"), ("goggle", "did you mean google")):
        with pytest.raises(UserError, match=message):
            convert(make_model(stem="conv"), origin, tmp_path / "m")
    with pytest.raises(UserError, match=r"must end in \.npz"):
        convert(make_model(), "google", tmp_path / "m.pth")
    (tmp_path / "project").mkdir()
    for name in ("config.json", "notes.txt"):
        (tmp_path / "project" / name).write_text("{}")
    with pytest.raises(UserError, match=r"holds other files too \(notes\.txt\)"):
        convert(make_model(), "timm", tmp_path / "project")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match="is not a model folder"):
        convert(make_model(), "timm", tmp_path / "thesis")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "config.json",
        "notes.txt",
        "project",
        "thesis",
        "thesis.tex",
    ]


def test_a_configuration_that_asks_for_far_more_than_the_files_hold_is_refused_at_once(
    tmp_path: Path, make_model: Make
) -> None:
    vitrail.save(make_model(), tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["vitrail"] |= {"config": {**values["vitrail"]["config"], "depth": 10**9}, "sha256": {}}
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"describes a model of [\d,]+ parameters, and the files hold"):
        load(tmp_path)


@torch.no_grad()
def test_what_the_files_do_not_say_a_person_can(tmp_path: Path, make_model: Make) -> None:
    from safetensors.torch import save_file

    model = make_model(width=80, heads=5, activation="relu", classes=0)
    save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match=r"no square grid: say it with --set model\.image_size"):
        load(tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match=r"--set model\.heads=N"):
        load(tmp_path / "bare.safetensors", {"image_size": [32, 48]})
    said = {"heads": 5, "image_size": [32, 48], "activation": "relu"}
    images = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(load(tmp_path / "bare.safetensors", said)(images), model(images), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("origin", ["vitrail", "transformers"])
def test_a_model_is_loaded_in_little_more_memory_than_its_weights(
    tmp_path: Path, make_model: Make, origin: str
) -> None:
    """At most 1.25 times, in a process of its own, also where queries, keys and values are put together from three."""
    model = make_model(width=512, depth=12, heads=8, mlp_width=2048, image_size=(32, 32))
    if origin == "vitrail":
        vitrail.save(model, tmp_path / "m")
    else:
        convert(model, origin, tmp_path / "m")
    program = (
        "import sys, torch, vitrail; from pathlib import Path; from vitrail.model import ViT, ViTConfig\n"
        "ViT(ViTConfig(image_size=8, patch_size=8, width=8, heads=1, mlp_width=8, depth=1))(torch.randn(1, 3, 8, 8))\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024\n"
        "vitrail.load(sys.argv[2]); Path('/proc/self/clear_refs').write_text('5'); before = peak()\n"
        "model = vitrail.load(sys.argv[1])\n"
        "print((peak() - before) / sum(t.nbytes for t in model.state_dict().values()))"
    )
    convert(make_model(image_size=(32, 32)), "transformers", tmp_path / "small")
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "m", tmp_path / "small"], check=True, capture_output=True, text=True
    )
    assert 0.9 < float(done.stdout) < 1.25
