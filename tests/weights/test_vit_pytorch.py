"""vit-pytorch's models open here with their own answers, those of older versions too, and load what is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from vit_pytorch import ViT as TheirViT
from vit_pytorch.simple_vit import SimpleViT
from vit_pytorch.simple_vit_with_qk_norm import SimpleViT as SimpleViTWithQKNorm
from vit_pytorch.simple_vit_with_register_tokens import SimpleViT as SimpleViTWithRegisters

import vitrail
from timm_models import LARGEST_DIFFERENCE, randomise
from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig
from vitrail.weights import read
from vitrail.weights.convert import convert

State = dict[str, Tensor]

SIZES: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 48, "depth": 2, "heads": 2, "mlp_dim": 40,
}  # fmt: skip
OURS: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "classes": 5, "width": 48, "depth": 2, "heads": 2, "head_width": 64, "mlp_width": 40,
    "qkv_bias": False, "patch_norm": True, "norm_eps": 1e-5,
}  # fmt: skip


def _build(kind: type[nn.Module] = TheirViT, **changes: Any) -> nn.Module:
    model = kind(**{**SIZES, **changes}).eval()
    randomise(model)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and name.endswith("weight"):  # norms that their names do not tell
            nn.init.normal_(parameter, 1, 0.2)
    return model


def _save(path: Path, state: State) -> Path:
    torch.save(state, path)
    return path


@torch.no_grad()
def _assert_same(ours: ViT, theirs: Any) -> None:
    images = torch.randn(2, ours.config.channels, *ours.config.image_size)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=LARGEST_DIFFERENCE)


def _assert_round_trip(tmp_path: Path, ours: ViT, state: State) -> None:
    convert(ours, "vit-pytorch", tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "changes",
    [{}, {"pool": "mean"}, {"channels": 1, "patch_size": 4}, {"dim": 128}, {"dim": 64, "heads": 1}],
    ids=str,
)
def test_vit_opens_and_goes_round(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = _build(**changes)
    ours = vitrail.load(_save(tmp_path / "a.pt", theirs.state_dict()))
    assert (ours.config.heads, ours.config.norm_eps, ours.config.patch_norm) == (changes.get("heads", 2), 1e-5, True)
    assert (ours.config.pool, ours.config.class_token) == (("avg", False) if "pool" in changes else ("token", True))
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, theirs.state_dict())


@pytest.mark.parametrize("kind", [SimpleViT, SimpleViTWithRegisters], ids=["plain", "registers"])
def test_simple_vit_opens_at_any_size_and_goes_round(tmp_path: Path, kind: type[nn.Module]) -> None:
    theirs = _build(kind)
    path = _save(tmp_path / "a.pt", theirs.state_dict())
    ours = vitrail.load(path, {"image_size": 32})
    assert (ours.config.position, ours.config.pool) == ("sincos2d", "avg")
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, theirs.state_dict())
    assert read(path).config.image_size == (224, 224)
    assert "assumed images of 224x224" in " ".join(read(path).notes)


def _older(style: str, *, relu: bool = False) -> tuple[State, Any]:
    """A state dict as versions before 1.0 named it, and what it answers, written out."""
    torch.manual_seed(0)
    fn = {"PreNorm": "fn.", "Residual": "fn.fn."}[style]
    norm = {"PreNorm": "norm", "Residual": "fn.norm"}[style]
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embedding": (1, 17, 48), "cls_token": (1, 1, 48), "to_patch_embedding.1.weight": (48, 192),
        "to_patch_embedding.1.bias": (48,),
    }  # fmt: skip
    for i in range(2):
        attention, mlp = f"transformer.layers.{i}.0.", f"transformer.layers.{i}.1."
        shapes |= {
            f"{attention}{norm}.weight": (48,), f"{attention}{norm}.bias": (48,),
            f"{attention}{fn}to_qkv.weight": (384, 48), f"{attention}{fn}to_out.0.weight": (48, 128),
            f"{attention}{fn}to_out.0.bias": (48,), f"{mlp}{norm}.weight": (48,), f"{mlp}{norm}.bias": (48,),
            f"{mlp}{fn}net.0.weight": (40, 48), f"{mlp}{fn}net.0.bias": (40,),
            f"{mlp}{fn}net.3.weight": (48, 40), f"{mlp}{fn}net.3.bias": (48,),
        }  # fmt: skip
    shapes |= {
        "mlp_head.0.weight": (48,),
        "mlp_head.0.bias": (48,),
        "mlp_head.1.weight": (5, 48),
        "mlp_head.1.bias": (5,),
    }
    state = {
        name: torch.randn(shape) * (0.6 / shape[-1] ** 0.5 if len(shape) == 2 else 0.2)
        for name, shape in shapes.items()
    }
    state |= {name: state[name] + 1 for name in state if len(state[name]) == 48 and name.endswith("norm.weight")}

    def answer(images: Tensor) -> Tensor:
        B = len(images)
        patches = images.reshape(B, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(B, 16, 192)  # (p1 p2 c)
        x = F.linear(patches, state["to_patch_embedding.1.weight"], state["to_patch_embedding.1.bias"])
        x = torch.cat([state["cls_token"].expand(B, 1, 48), x], dim=1) + state["pos_embedding"]
        for i in range(2):
            own = {
                name.removeprefix(f"transformer.layers.{i}."): tensor
                for name, tensor in state.items()
                if name.startswith(f"transformer.layers.{i}.")
            }
            y = F.layer_norm(x, (48,), own[f"0.{norm}.weight"], own[f"0.{norm}.bias"])
            q, k, v = (
                part.reshape(B, 17, 2, 64).transpose(1, 2)
                for part in F.linear(y, own[f"0.{fn}to_qkv.weight"]).chunk(3, -1)
            )
            y = (((q @ k.transpose(-1, -2)) * 64**-0.5).softmax(-1) @ v).transpose(1, 2).reshape(B, 17, 128)
            x = x + F.linear(y, own[f"0.{fn}to_out.0.weight"], own[f"0.{fn}to_out.0.bias"])
            y = F.layer_norm(x, (48,), own[f"1.{norm}.weight"], own[f"1.{norm}.bias"])
            y = F.linear(y, own[f"1.{fn}net.0.weight"], own[f"1.{fn}net.0.bias"])
            x = x + F.linear(F.relu(y) if relu else F.gelu(y), own[f"1.{fn}net.3.weight"], own[f"1.{fn}net.3.bias"])
        x = F.layer_norm(x[:, 0], (48,), state["mlp_head.0.weight"], state["mlp_head.0.bias"])
        return F.linear(x, state["mlp_head.1.weight"], state["mlp_head.1.bias"])

    return state, answer


@pytest.mark.parametrize("style", ["PreNorm", "Residual"])
def test_older_versions_open(tmp_path: Path, style: str) -> None:
    state, answer = _older(style)
    ours = vitrail.load(_save(tmp_path / "a.pt", state))
    assert (ours.config.patch_norm, ours.config.heads, ours.config.head_width) == (False, 2, 64)
    _assert_same(ours, answer)


def test_an_activation_that_weights_do_not_tell_can_be_said(tmp_path: Path) -> None:
    state, answer = _older("PreNorm", relu=True)
    path = _save(tmp_path / "a.pt", state)
    _assert_same(vitrail.load(path, {"activation": "relu"}), answer)
    notes = " ".join(read(path).notes)
    assert "assumed the activation gelu" in notes
    assert "--set model.activation=relu" in notes


def test_an_older_simple_vit_norms_after_pooling(tmp_path: Path) -> None:
    class Older(SimpleViT):
        def __init__(self) -> None:
            super().__init__(**SIZES)
            self.transformer.norm = nn.Identity()
            self.linear_head = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 5))

    theirs = Older().eval()
    randomise(theirs)
    ours = vitrail.load(_save(tmp_path / "a.pt", theirs.state_dict()), {"image_size": 32})
    assert ours.config.final_norm == "pooled"
    _assert_same(ours, theirs)


WRITTEN = [
    ({}, {}),
    ({"pool": "avg", "class_token": False}, {"pool": "mean"}),
    ({"prefix_positions": False}, {}),
    ({"image_size": (32, 48), "channels": 1}, {"image_size": (32, 48), "channels": 1}),
    ({"head_width": None}, {"dim_head": 24}),
    ({"position": "sincos2d"}, {}),
]


@pytest.mark.parametrize(("ours", "theirs"), WRITTEN, ids=str)
def test_vit_loads_what_is_written(tmp_path: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    model = ViT(ViTConfig(**{**OURS, **ours})).eval()
    randomise(model)
    convert(model, "vit-pytorch", tmp_path / "a.safetensors")
    reader = TheirViT(**{**SIZES, **theirs}).eval()
    reader.load_state_dict(load_file(tmp_path / "a.safetensors"))
    _assert_same(model, reader)


def test_a_matrix_behind_a_single_head_has_no_place(tmp_path: Path) -> None:
    model = ViT(ViTConfig(**{**OURS, "heads": 1, "head_width": None}))
    randomise(model)
    with pytest.raises(UserError, match="a matrix behind its single head"):
        convert(model, "vit-pytorch", tmp_path / "a.safetensors")


def test_pixels_are_unknown_and_that_is_said(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pt", _build().state_dict())
    assert vitrail.load(path).preprocess is None
    notes = " ".join(read(path).notes)
    assert "give --mean and --std" in notes
    assert "assumed heads of width 64, 2 in number" in notes


def test_relatives_with_another_forward_pass_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        vitrail.load(_save(tmp_path / "a.pt", _build(SimpleViTWithQKNorm).state_dict()))
    state = _build().state_dict()
    with pytest.raises(UserError, match=r"1 left over \(transformer.layers.0.0.temperature\)"):
        vitrail.load(_save(tmp_path / "b.pt", state | {"transformer.layers.0.0.temperature": torch.ones(1)}))


def test_heads_that_are_not_the_packages_own_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pt", _build(dim_head=24).state_dict())
    with pytest.raises(UserError, match=r"does not tell the number of heads.*model\.heads"):
        vitrail.load(path)


def test_a_grid_that_is_not_square_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pt", _build(image_size=(32, 48)).state_dict())
    with pytest.raises(UserError, match=r"24 patches are no square grid: .*image_size"):
        vitrail.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_norm": False}, "its patch_norm of False"),
        ({"qkv_bias": True}, "its qkv_bias of True"),
        ({"norm_eps": 1e-6}, "its norm_eps of 1e-06"),
        ({"classes": 0}, "that it has no head"),
        ({"registers": 2}, "its registers of 2"),
        ({"pool": "map"}, "its pool map with a class token"),
    ],
)
def test_what_vit_pytorch_has_no_equal_of_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = ViTConfig(**{**OURS, **({"head_width": None} if "pool" in changes else {}), **changes})
    with pytest.raises(UserError, match=message):
        convert(ViT(config), "vit-pytorch", tmp_path / "a.safetensors")
