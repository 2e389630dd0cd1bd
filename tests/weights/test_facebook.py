"""Facebook's checkpoints open here with the answers of timm, which reads them too, and go round to the bit."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers import SwiGLUPacked
from timm.models import deit, eva, vision_transformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitrail
from timm_models import LARGEST_DIFFERENCE, randomise
from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig
from vitrail.weights import read
from vitrail.weights.convert import convert

State = dict[str, Tensor]

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 1, "mlp_ratio": 2}
OURS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "classes": 0,
    "width": 64,
    "depth": 4,
    "heads": 1,
    "mlp_width": 128,
}


def _theirs(**changes: Any) -> VisionTransformer:
    model = VisionTransformer(**{**SIZES, "num_classes": 0, **changes}).eval()
    randomise(model)
    return model


def _random(shapes: Mapping[str, tuple[int, ...]]) -> State:
    torch.manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        scale = 1.0 if "norm" in name and name.endswith("weight") else 0.3 if "gamma" in name else 0.0
        fan_in = torch.Size(shape[1:]).numel()
        state[name] = scale + torch.randn(shape) * (0.6 / fan_in**0.5 if len(shape) in (2, 4) else 0.15)
    return state


def _blocks(hidden: Mapping[str, tuple[int, ...]], names: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of blocks of width 64 with LayerScale."""
    inner: dict[str, tuple[int, ...]] = {
        "norm1.weight": (64,), "norm1.bias": (64,), "attn.qkv.weight": (192, 64), "attn.qkv.bias": (192,),
        "attn.proj.weight": (64, 64), "attn.proj.bias": (64,), "ls1.gamma": (64,), "norm2.weight": (64,), "norm2.bias": (64,),
        **{f"mlp.{name}.weight": shape for name, shape in hidden.items()},
        **{f"mlp.{name}.bias": shape[:1] for name, shape in hidden.items()}, "ls2.gamma": (64,),
    }  # fmt: skip
    return {f"{name}.{key}": shape for name in names for key, shape in inner.items()}


PLAIN_MLP = {"fc1": (128, 64), "fc2": (64, 128)}
DINOV2_SWIGLU = {"w12": (160, 64), "w3": (64, 80)}
DINOV3_SWIGLU = {"w1": (80, 64), "w2": (80, 64), "w3": (64, 80)}
FOUR = [f"blocks.{i}" for i in range(4)]
CHUNKED = ["blocks.0.0", "blocks.0.1", "blocks.1.2", "blocks.1.3"]


def _dinov2(hidden: Mapping[str, tuple[int, ...]], registers: int = 0, names: list[str] = FOUR) -> State:
    return _random(
        {
            "cls_token": (1, 1, 64),
            "pos_embed": (1, 17, 64),
            "mask_token": (1, 64),
            **({"register_tokens": (1, registers, 64)} if registers else {}),
            "patch_embed.proj.weight": (64, 3, 8, 8),
            "patch_embed.proj.bias": (64,),
            **_blocks(hidden, names),
            "norm.weight": (64,),
            "norm.bias": (64,),
        }
    )


def _timm_dinov2(state: State, **changes: Any) -> VisionTransformer:
    """What timm makes of DINOv2's own names, with blocks in one row."""
    model = VisionTransformer(**{**SIZES, "num_classes": 0, "init_values": 1.0, **changes}).eval()
    model.load_state_dict(vision_transformer.checkpoint_filter_fn(dict(state), model))
    return model


def _save(path: Path, state: State) -> Path:
    torch.save(state, path)
    return path


@torch.no_grad()
def _assert_same(ours: ViT, theirs: nn.Module) -> None:
    images = torch.randn(2, 3, *ours.config.image_size)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=LARGEST_DIFFERENCE)


def _assert_round_trip(tmp_path: Path, ours: ViT, state: State, *, excused: tuple[str, ...] = (), by: str) -> None:
    assert convert(ours, "facebook", tmp_path / "again.safetensors").name == by
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state if name not in excused)


def _told(path: Path) -> str:
    return " ".join(read(path).notes)


def test_dinos_backbone_opens_and_goes_round(tmp_path: Path) -> None:
    theirs = _theirs()
    path = _save(tmp_path / "a.pth", theirs.state_dict())
    ours = vitrail.load(path)
    assert (ours.config.classes, ours.config.heads, ours.config.position_interpolation) == (0, 1, "bicubic")
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, theirs.state_dict(), by="facebook")
    assert ours.preprocess is not None
    assert (ours.preprocess.crop_fraction, ours.preprocess.interpolation) == (0.875, "bicubic")
    assert ours.preprocess.mean == (0.485, 0.456, 0.406)
    assert "taken for DINO" in _told(path)
    assert "want mean and deviation 0.5" in _told(path)
    assert "assumed heads of width 64, 1 in number" in _told(path)


def test_dinos_training_checkpoint_opens_without_its_projection_head(tmp_path: Path) -> None:
    theirs = _theirs()
    backbone = {f"module.backbone.{name}": tensor for name, tensor in theirs.state_dict().items()}
    head = {"module.head.mlp.0.weight": torch.randn(8, 64), "module.head.last_layer.weight_v": torch.randn(9, 8)}
    torch.save({"student": {**backbone, **head}, "teacher": {**backbone, **head}, "epoch": 3}, tmp_path / "a.pth")
    _assert_same(vitrail.load(tmp_path / "a.pth"), theirs)


def test_mae_opens_without_its_decoder(tmp_path: Path) -> None:
    theirs = _theirs()
    decoder = {
        "mask_token": torch.randn(1, 1, 32),
        "decoder_pos_embed": torch.randn(1, 17, 32),
        "decoder_embed.weight": torch.randn(32, 64),
        "decoder_blocks.0.norm1.weight": torch.randn(32),
        "decoder_pred.bias": torch.randn(192),
    }
    torch.save({"model": {**theirs.state_dict(), **decoder}}, tmp_path / "a.pth")
    _assert_same(vitrail.load(tmp_path / "a.pth"), theirs)
    assert "facebook mae format" in _told(tmp_path / "a.pth")


def test_a_model_without_a_class_token_averages_its_patches(tmp_path: Path) -> None:
    theirs = _theirs(class_token=False, global_pool="avg", fc_norm=False)
    target = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"encoder": {}, "target_encoder": target, "opt": {}}, tmp_path / "a.pth")
    _assert_same(vitrail.load(tmp_path / "a.pth"), theirs)
    assert "facebook i-jepa format" in _told(tmp_path / "a.pth")


def test_a_fine_tuned_mae_norms_after_pooling(tmp_path: Path) -> None:
    theirs = _theirs(global_pool="avg", fc_norm=True, num_classes=5)
    ours = vitrail.load(_save(tmp_path / "a.pth", theirs.state_dict()))
    assert (ours.config.pool, ours.config.final_norm, ours.config.classes) == ("avg", "pooled", 5)
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, theirs.state_dict(), by="facebook")


def test_a_distilled_deit_opens_and_goes_round(tmp_path: Path) -> None:
    theirs = deit.VisionTransformerDistilled(**SIZES, num_classes=5).eval()
    randomise(theirs)
    ours = vitrail.load(_save(tmp_path / "a.pth", theirs.state_dict()))
    assert ours.config.distilled
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, theirs.state_dict(), by="facebook")


def test_deit_3_names_layer_scale_otherwise_and_gives_the_class_token_no_position(tmp_path: Path) -> None:
    theirs = _theirs(init_values=0.1, no_embed_class=True, num_classes=5)
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in theirs.state_dict().items()
    }
    ours = vitrail.load(_save(tmp_path / "a.pth", state))
    assert not ours.config.prefix_positions
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, state, by="facebook deit3")


def test_dinov2_opens_and_goes_round(tmp_path: Path) -> None:
    state = _dinov2(PLAIN_MLP)
    path = _save(tmp_path / "a.pth", state)
    ours = vitrail.load(path)
    _assert_same(ours, _timm_dinov2(state))
    _assert_round_trip(tmp_path, ours, state, excused=("mask_token",), by="facebook dinov2")
    assert "facebook dinov2 format" in _told(path)


def test_dinov2_with_registers_gives_them_no_positions(tmp_path: Path) -> None:
    state = _dinov2(PLAIN_MLP, registers=3)
    ours = vitrail.load(_save(tmp_path / "a.pth", state))
    assert (ours.config.registers, ours.config.position_interpolation) == (3, "bicubic_antialias")
    _assert_same(ours, _timm_dinov2(state, reg_tokens=3, no_embed_class=True))
    _assert_round_trip(tmp_path, ours, state, excused=("mask_token",), by="facebook dinov2")


def test_dinov2s_giant_has_a_gated_mlp(tmp_path: Path) -> None:
    state = _dinov2(DINOV2_SWIGLU)
    ours = vitrail.load(_save(tmp_path / "a.pth", state))
    assert (ours.config.gated_mlp, ours.config.activation, ours.config.mlp_width) == (True, "silu", 80)
    _assert_same(ours, _timm_dinov2(state, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, mlp_ratio=2.5))
    _assert_round_trip(tmp_path, ours, state, excused=("mask_token",), by="facebook dinov2")


def test_blocks_in_chunks_are_the_same_blocks(tmp_path: Path) -> None:
    chunked, row = _dinov2(DINOV2_SWIGLU, registers=2, names=CHUNKED), _dinov2(DINOV2_SWIGLU, registers=2)
    ours = vitrail.load(_save(tmp_path / "a.pth", chunked)).state_dict()
    wanted = vitrail.load(_save(tmp_path / "b.pth", row)).state_dict()
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def test_dinov2_is_evaluated_at_224_though_its_table_is_for_518(tmp_path: Path) -> None:
    state = _dinov2(PLAIN_MLP, names=["blocks.0"])
    state |= {"pos_embed": torch.randn(1, 1 + 37 * 37, 64), "patch_embed.proj.weight": torch.randn(64, 3, 14, 14)}
    description = read(_save(tmp_path / "a.pth", state))
    assert description.config.image_size == (518, 518)
    assert description.preprocess is not None
    assert description.preprocess.image_size == (224, 224)
    assert "adds 0.1 to the sides" in description.notes[-1]


def test_what_registers_positions_add_is_written_into_the_registers(tmp_path: Path) -> None:
    model = ViT(ViTConfig(**OURS, registers=3, layer_scale=0.1)).eval()
    randomise(model)
    convert(model, "facebook", tmp_path / "a.safetensors")
    state = load_file(tmp_path / "a.safetensors")
    assert state["mask_token"].shape == (1, 64)
    _assert_same(model, _timm_dinov2(state, reg_tokens=3, no_embed_class=True))


def test_the_class_tokens_position_is_written_into_the_token_for_deit_3(tmp_path: Path) -> None:
    model = ViT(ViTConfig(**{**OURS, "classes": 5}, layer_scale=0.1)).eval()
    randomise(model)
    assert convert(model, "facebook", tmp_path / "a.safetensors").name == "facebook deit3"
    state = load_file(tmp_path / "a.safetensors")
    h, w = model.config.grid
    assert state["pos_embed"].shape == (1, h * w, 64)  # the patches' alone
    _assert_same(model, vitrail.load(tmp_path / "a.safetensors"))


def _dinov3(hidden: Mapping[str, tuple[int, ...]], *, bias: bool = True) -> State:
    state = _random(
        {
            "cls_token": (1, 1, 64),
            "storage_tokens": (1, 4, 64),
            "mask_token": (1, 64),
            "patch_embed.proj.weight": (64, 3, 16, 16),
            "patch_embed.proj.bias": (64,),
            **_blocks(hidden, FOUR),
            "norm.weight": (64,),
            "norm.bias": (64,),
        }
    )
    state["rope_embed.periods"] = 100 ** (2 * torch.arange(8) / 16)  # two heads of 32
    for name in FOUR:
        if bias:
            state[f"{name}.attn.qkv.bias_mask"] = torch.tensor([1.0, 0, 1]).repeat_interleave(64)
            state[f"{name}.attn.qkv.bias"] = state[f"{name}.attn.qkv.bias"] * state[f"{name}.attn.qkv.bias_mask"]
        else:
            del state[f"{name}.attn.qkv.bias"]
    return state


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("hidden", [PLAIN_MLP, DINOV3_SWIGLU], ids=["mlp", "gated"])
def test_dinov3_opens_and_goes_round(tmp_path: Path, hidden: Mapping[str, tuple[int, ...]], bias: bool) -> None:
    state = _dinov3(hidden, bias=bias)
    path = _save(tmp_path / "a.pth", state)
    ours = vitrail.load(path, {"image_size": [64, 96]})
    assert (ours.config.heads, ours.config.registers, ours.config.norm_eps) == (2, 4, 1e-5)
    gated = (
        {"swiglu_mlp": True, "swiglu_align_to": 1, "mlp_ratio": 1.25} if hidden is DINOV3_SWIGLU else {"mlp_ratio": 2}
    )
    theirs = timm.create_model(
        f"vit_small_patch16_dinov3{'_qkvb' if bias else ''}", img_size=(64, 96), embed_dim=64, depth=4, num_heads=2,
        num_classes=0, global_pool="token", **gated,
    ).eval()  # fmt: skip
    theirs.load_state_dict(eva.checkpoint_filter_fn(dict(state), theirs))
    _assert_same(ours, theirs)
    excused = ("mask_token", "rope_embed.periods")
    _assert_round_trip(tmp_path, ours, state, excused=excused, by="facebook dinov3")
    torch.testing.assert_close(
        load_file(tmp_path / "again.safetensors")["rope_embed.periods"], state["rope_embed.periods"]
    )
    assert "assumed images of 224x224" in _told(path)
    assert "SAT-493M" in _told(path)


def test_a_mask_takes_the_bias_from_dinov3s_keys(tmp_path: Path) -> None:
    state = _dinov3(PLAIN_MLP)
    wanted = vitrail.load(_save(tmp_path / "a.pth", state)).state_dict()
    for name in FOUR:
        state[f"{name}.attn.qkv.bias"][64:128] = 7.0
    ours = vitrail.load(_save(tmp_path / "b.pth", state)).state_dict()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def test_a_bias_on_dinov3s_keys_is_written_without_a_mask(tmp_path: Path) -> None:
    config = ViTConfig(**OURS, position="rotary2d", registers=2, layer_scale=0.1, norm_eps=1e-5)
    model = ViT(config).eval()
    randomise(model)
    convert(model, "facebook", tmp_path / "a.safetensors")
    assert not [name for name in load_file(tmp_path / "a.safetensors") if "mask" in name and "bias" in name]
    again = vitrail.load(tmp_path / "a.safetensors", {"image_size": 32})
    _assert_same(again, model)


TIMM = [
    {"reg_tokens": 4, "class_token": False, "global_pool": "avg", "no_embed_class": True},
    {"reg_tokens": 2},
    {"global_pool": "map", "class_token": False},
    {"pre_norm": True, "norm_layer": partial(nn.LayerNorm, eps=1e-5)},
    {"qk_norm": True},
]


@pytest.mark.parametrize("changes", TIMM, ids=str)
def test_timms_names_open_without_their_config(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = _theirs(num_classes=5, **changes)
    path = _save(tmp_path / "a.pth", theirs.state_dict())
    ours = vitrail.load(path)
    if changes.get("global_pool") == "avg":  # the norm of timm's own choice is after pooling
        assert ours.config.final_norm == "pooled"
    _assert_same(ours, theirs)
    assert "timm tensors format" in _told(path)
    assert "without its config.json" in _told(path)


def test_timms_hybrids_open_without_their_config(tmp_path: Path) -> None:
    theirs = timm.create_model(
        "vit_tiny_r_s16_p8_224", img_size=64, embed_dim=64, num_heads=1, depth=2, num_classes=5
    ).eval()
    randomise(theirs)
    ours = vitrail.load(_save(tmp_path / "a.pth", theirs.state_dict()))
    assert (ours.config.stem, ours.config.stem_layers, ours.config.patch_size) == ("hybrid", (), 32)
    _assert_same(ours, theirs)


def test_rotary_models_of_timm_are_refused_without_their_config(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_small_patch16_dinov3", embed_dim=64, depth=1, num_heads=2)
    with pytest.raises(UserError, match=r"has no positions .*config\.json"):
        vitrail.load(_save(tmp_path / "a.pth", theirs.state_dict()))


def test_a_grid_that_is_not_square_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pth", _theirs(img_size=(32, 48)).state_dict())
    with pytest.raises(UserError, match=r"25 rows, and 24 patches are no square grid: .*image_size"):
        vitrail.load(path)


def test_names_of_blocks_beyond_reason_are_refused_in_one_line(tmp_path: Path) -> None:
    long = _dinov2(PLAIN_MLP) | {f"blocks.{'1' * 5000}.weight": torch.randn(1)}
    with pytest.raises(UserError, match=r"1 left over \(blocks.1111") as error:
        vitrail.load(_save(tmp_path / "a.pth", long))
    assert len(str(error.value)) < 1000
    many = _dinov2(PLAIN_MLP) | {f"blocks.{i}.weight": torch.randn(1) for i in range(4, 1001)}
    with pytest.raises(UserError, match="has 1001 layers of names such as .*: at most 1000 open here"):
        vitrail.load(_save(tmp_path / "b.pth", many))


def test_relative_positions_are_refused_as_left_over(tmp_path: Path) -> None:
    state = _theirs().state_dict() | {"blocks.0.attn.relative_position_bias_table": torch.randn(9, 1)}
    with pytest.raises(UserError, match="1 left over .*relative_position_bias_table"):
        vitrail.load(_save(tmp_path / "a.pth", state))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem": "conv"}, "its stem of 'conv'"),
        ({"pool": "avg"}, "its pool avg with final_norm tokens"),
        ({"activation": "relu"}, "its activation of 'relu'"),
        ({"position": "none"}, "that it has no positions"),
        ({"class_token": False, "pool": "avg"}, "its class_token of False"),
        ({"registers": 2, "classes": 3}, "its registers of 2"),
        ({"heads": 2, "head_width": 16}, "add up to 32"),
    ],
)
def test_what_facebook_has_no_equal_of_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        convert(ViT(ViTConfig(**{**OURS, **changes})), "facebook", tmp_path / "a.safetensors")
