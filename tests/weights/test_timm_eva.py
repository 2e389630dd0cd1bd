"""DINOv3 in timm, which is its Eva, and our models of rotary positions there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vitrail
from timm_models import SMALL, assert_goes_round, assert_same_answers, open_theirs, randomise, write_theirs
from vitrail.errors import UserError
from vitrail.model import ViT
from vitrail.weights.convert import convert, tensors_for
from vitrail.weights.folder import write_json, write_tensors
from vitrail.weights.formats.timm import FORMATS, no_equal

Make = Callable[..., ViT]
ROTARY = {"position": "rotary2d"}

THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("vit_small_patch16_dinov3", {"img_size": 32}),
    ("vit_small_patch16_dinov3", {"img_size": (32, 48), "global_pool": "token", "rope_temperature": 50.0}),
    ("vit_small_patch16_dinov3", {"img_size": 32, "use_fc_norm": True, "in_chans": 1}),
    ("vit_small_patch16_dinov3", {"img_size": 32, "use_pre_transformer_norm": True, "qk_norm": True}),
    ("vit_small_patch16_dinov3", {"img_size": 32, "use_post_transformer_norm": False, "num_reg_tokens": 0}),
    ("vit_small_patch16_dinov3_qkvb", {"img_size": 32, "num_classes": 0}),
    ("vit_small_plus_patch16_dinov3", {"img_size": 32}),
    ("vit_huge_plus_patch16_dinov3_qkvb", {"img_size": 32, "mlp_ratio": 2.1}),
    ("vit_7b_patch16_dinov3", {"img_size": 32}),
    ("vit_small_patch16_lingbot", {"img_size": 32}),
    ("vit_giant_patch16_lingbot", {"img_size": 32}),
]


@pytest.mark.parametrize(("architecture", "args"), THEIRS, ids=str)
def test_dinov3_opens_here_and_goes_back_bit_by_bit(tmp_path: Path, architecture: str, args: dict) -> None:
    ours = assert_goes_round(tmp_path, architecture, **{**SMALL, **args})
    assert ours.config.position == "rotary2d"


@pytest.mark.slow
def test_dinov3_at_full_depth_too(tmp_path: Path) -> None:
    theirs = write_theirs(tmp_path, "vit_small_plus_patch16_dinov3", num_classes=10)
    assert_same_answers(vitrail.load(tmp_path), theirs)


@pytest.mark.parametrize(
    ("architecture", "args"),
    [
        ("eva_giant_patch14_224", {"img_size": 28}),  # EVA itself: learned positions, and no bias of keys
        ("eva_giant_patch14_clip_224", {"img_size": 28, "init_values": 0.1}),
        ("vit_small_patch16_dinov3_qkvb", {"img_size": 32, "attn_type": "rope"}),
        ("vit_small_patch16_dinov3_qkvb", {"img_size": 32, "attn_type": "rope", "qkv_fused": False}),
        ("vit_small_patch16_dinov3_qkvb", {"img_size": 32, "qkv_fused": False}),
        ("vit_small_patch16_dinov3", {"img_size": 32, "swiglu_mlp": True}),
        (
            "vit_small_patch16_dinov3",
            {"img_size": 32, "global_pool": "map", "class_token": False, "num_reg_tokens": 0, "init_values": 0.0},
        ),
    ],
    ids=str,
)
def test_eva_under_other_names_opens_here(tmp_path: Path, architecture: str, args: dict) -> None:
    theirs = write_theirs(tmp_path / "theirs", architecture, **{**SMALL, **args})
    ours = vitrail.load(tmp_path / "theirs")
    assert_same_answers(ours, theirs)


AS_IT_IS: list[dict[str, Any]] = [
    {},
    {"gated_mlp": True, "activation": "silu", "registers": 2, "pool": "avg"},
    {"qkv_bias": False, "qk_norm": True, "rotary_base": 30.0, "final_norm": "pooled"},
    {"pool": "map", "class_token": False, "channels": 1},
    {"pre_norm": True, "patch_bias": False, "final_norm": "none", "classes": 0},
]


@pytest.mark.parametrize("choice", AS_IT_IS, ids=str)
def test_our_folder_gives_the_same_logits_in_timm(tmp_path: Path, make_model: Make, choice: dict) -> None:
    model = make_model(**ROTARY, **choice)
    randomise(model)
    vitrail.save(model, tmp_path)
    assert_same_answers(model, open_theirs(tmp_path))


CONVERTED: list[dict[str, Any]] = [
    {"qkv_bias": False, "layer_scale": 0.1},
    {"norm_eps": 1e-5},  # of which timm has no architecture without LayerScale
    {"norm_eps": 1e-5, "qkv_bias": False, "gated_mlp": True, "activation": "silu", "mlp_width": 51},
    {"patch_bias": False, "layer_scale": 0.1, "qkv_bias": False},
]


@pytest.mark.parametrize("choice", CONVERTED, ids=str)
def test_what_timm_names_otherwise_is_converted(tmp_path: Path, make_model: Make, choice: dict) -> None:
    model = make_model(**ROTARY, **choice)
    randomise(model)
    assert "`vitrail convert --to timm` writes a folder for it" in no_equal(model.config)
    convert(model, "timm", tmp_path)
    assert_same_answers(model, open_theirs(tmp_path))
    assert_same_answers(model, vitrail.load(tmp_path))


def test_a_bias_of_keys_that_training_added_is_not_lost(tmp_path: Path, make_model: Make) -> None:
    """DINOv3's names have no place for it; the other names that timm has do."""
    model = make_model(**ROTARY, layer_scale=0.1, norm_eps=1e-5, gated_mlp=True, activation="silu")
    randomise(model)
    dinov3, rope = FORMATS
    with pytest.raises(UserError, match="bias of keys"):
        tensors_for(dinov3, model)
    write_tensors(tensors_for(rope, model), tmp_path / rope.weights_file)
    for name, values in rope.documents(model.config, model.labels, model.preprocess).items():
        write_json(values, tmp_path / name)
    assert_same_answers(model, open_theirs(tmp_path))
    assert_same_answers(model, vitrail.load(tmp_path))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.bias[32:64] = 0
    convert(model, "timm", tmp_path)
    assert "blocks.0.attn.q_bias" in load_file(tmp_path / "model.safetensors")
    assert_same_answers(model, open_theirs(tmp_path))


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"activation": "relu"}, "rotary positions with relu in a plain MLP"),
        ({"gated_mlp": True}, "rotary positions with gelu in a gated MLP"),
        ({"stem": "hybrid", "stem_layers": (), "patch_size": 16}, "rotary positions with a hybrid stem"),
        ({"distilled": True}, "rotary positions with a distillation token"),
        ({"pool": "map"}, "attention pooling beside class token or registers"),
        ({"norm_eps": 1e-3}, "norm_eps of 0.001"),
    ],
)
def test_what_timm_cannot_build_is_said(make_model: Make, choice: dict, reason: str) -> None:
    assert reason in no_equal(make_model(**ROTARY, **choice).config)


@pytest.mark.parametrize(
    ("architecture", "args", "message"),
    [
        ("vit_small_patch16_dinov3", {"rope_type": "cat"}, "rope_type = 'cat'"),
        ("vit_small_patch16_dinov3", {"rope_rotate_half": False}, "rope_rotate_half = False"),
        ("vit_small_patch16_dinov3", {"use_abs_pos_emb": True}, "use_abs_pos_emb = True"),
        ("vit_small_patch16_dinov3", {"use_post_norm": True}, "use_post_norm = True"),
        ("vit_small_patch16_dinov3", {"attn_only_layer_scale": True}, "attn_only_layer_scale = True"),
        ("vit_small_patch16_dinov3", {"rope_grid_offset": 0.5}, "rope_grid_offset = 0.5"),
        ("vit_small_patch16_dinov3", {"global_pool": "map"}, "global_pool = 'map'"),
        ("vit_small_patch16_dinov3", {"use_fc_norm": True, "use_post_transformer_norm": True}, "use_fc_norm = True"),
        ("vit_small_patch16_dinov3", {"qkv_fused": False, "attn_type": "rope", "num_kv_heads": 1}, "num_kv_heads = 1"),
        ("eva02_tiny_patch14_224", {}, "'eva02_tiny_patch14_224' is not one that opens here"),
    ],
)
def test_what_has_no_equal_here_is_refused_by_its_key(
    tmp_path: Path, architecture: str, args: dict, message: str
) -> None:
    write_theirs(tmp_path, architecture, **{**SMALL, "img_size": 32, "patch_size": 16, **args})
    with pytest.raises(UserError, match=message):
        vitrail.load(tmp_path)


def test_an_older_file_with_the_table_of_rotations_opens(tmp_path: Path) -> None:
    theirs = write_theirs(tmp_path, "vit_small_patch16_dinov3", **SMALL, img_size=32)
    tensors = load_file(tmp_path / "model.safetensors") | {"rope.periods": torch.rand(4)}
    write_tensors(tensors, tmp_path / "model.safetensors")
    assert_same_answers(vitrail.load(tmp_path), theirs)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "vit_small_patch16_dinov3"
