"""Model folders open in timm with the same answers, and timm's open here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import vitrail
from timm_models import (
    LABELS,
    LARGEST_DIFFERENCE,
    SMALL,
    assert_goes_round,
    assert_same_answers,
    open_theirs,
    randomise,
    write_theirs,
)
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ViT
from vitrail.weights import read
from vitrail.weights.convert import convert
from vitrail.weights.formats.timm import no_equal

Make = Callable[..., ViT]

TINY, DINOV2, REG4 = "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"

AS_IT_IS: list[dict[str, Any]] = [
    {},
    {"pool": "avg"},
    {"pool": "avg", "class_token": False, "registers": 2},
    {"pool": "map", "class_token": False},
    {"pool": "map", "registers": 2, "activation": "gelu_tanh", "final_norm": "pooled"},
    {"registers": 3, "layer_scale": 0.3, "prefix_positions": False},
    {"layer_scale": 0.0},
    {"position": "sincos2d", "pool": "avg", "class_token": False},
    {"position": "none", "qkv_bias": False, "qk_norm": True},
    {"activation": "quick_gelu", "norm_eps": 1e-5, "pre_norm": True, "patch_bias": False},
    {"activation": "relu", "channels": 1, "patch_size": 4, "final_norm": "none"},
    {"activation": "silu", "classes": 0, "norm_eps": 1e-5},
    {"width": 24, "heads": 3, "mlp_width": 97, "pool": "avg", "final_norm": "pooled"},
    {"gated_mlp": True, "activation": "silu"},
    {
        "gated_mlp": True,
        "activation": "gelu",
        "layer_scale": 0.1,
        "mlp_width": 51,
        "pre_norm": True,
        "patch_bias": False,
    },
    {"distilled": True},
    {"distilled": True, "qk_norm": True, "layer_scale": 0.1, "channels": 1},
]


@pytest.mark.parametrize("choice", AS_IT_IS, ids=str)
def test_our_folder_gives_the_same_logits_in_timm(tmp_path: Path, make_model: Make, choice: dict) -> None:
    model = make_model(**choice)
    randomise(model)
    vitrail.save(model, tmp_path)
    theirs = open_theirs(tmp_path)
    assert_same_answers(model, theirs)
    data = timm.data.resolve_model_data_config(theirs)
    assert data["input_size"] == (model.config.channels, 32, 48)
    assert tuple(data["mean"]) == model.preprocess.mean
    assert (data["crop_pct"], data["crop_mode"]) == (0.875, "center")
    assert tuple(theirs.pretrained_cfg.get("label_names") or ()) == model.labels


CONVERTED: list[dict[str, Any]] = [
    {"patch_bias": False},
    {"patch_bias": False, "pool": "avg", "gated_mlp": True},
    {"pre_norm": True},
    {"pre_norm": True, "prefix_positions": False, "registers": 2, "norm_eps": 1e-5},
    {"pre_norm": True, "position": "sincos2d"},
]


@pytest.mark.parametrize("choice", CONVERTED, ids=str)
def test_what_timm_lays_out_otherwise_is_converted(tmp_path: Path, make_model: Make, choice: dict) -> None:
    model = make_model(**choice)
    randomise(model)
    vitrail.save(model, tmp_path / "ours")
    assert "architecture" not in json.loads((tmp_path / "ours" / "config.json").read_text())
    assert "`vitrail convert --to timm` writes a folder for it" in no_equal(model.config)
    convert(model, "timm", tmp_path / "theirs")
    assert_same_answers(model, open_theirs(tmp_path / "theirs"))
    assert_same_answers(model, vitrail.load(tmp_path / "theirs"))


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"stem": "conv"}, "its conv stem"),
        ({"head_width": 5}, "its heads of width 5"),
        ({"representation": 8}, "its representation layer"),
        ({"norm_eps": 1e-12}, r"norm_eps of 1e-12 \(timm: 1e-06, 1e-05\)"),
        ({"norm_eps": 1e-5, "gated_mlp": True}, "gated MLP with a norm_eps of 1e-05"),
        ({"patch_norm": True}, "norms around the patch matrix"),
        ({"pool": "token_avg"}, "class token and mean side by side"),
        ({"pre_norm": True, "position": "none"}, "bias of the patch matrix together with a norm"),
        ({"gated_mlp": True, "pool": "map"}, "gated MLP with attention pooling"),
        ({"distilled": True, "registers": 1}, "distillation token with registers"),
        ({"distilled": True, "classes": 0}, "distillation token without heads"),
    ],
)
def test_what_timm_cannot_build_is_said(tmp_path: Path, make_model: Make, choice: dict, reason: str) -> None:
    model = make_model(**choice)
    with pytest.raises(UserError, match=reason):
        convert(model, "timm", tmp_path / "theirs")
    vitrail.save(model, tmp_path / "ours")  # without timm's keys, so that neither timm nor transformers misreads it
    assert not {"architecture", "pretrained_cfg"} & json.loads((tmp_path / "ours" / "config.json").read_text()).keys()


def test_our_folder_says_nothing_of_classes_in_model_args(tmp_path: Path, make_model: Make) -> None:
    """transformers passes their number itself, and a second one is an error there."""
    vitrail.save(make_model(), tmp_path)
    assert "num_classes" not in json.loads((tmp_path / "config.json").read_text())["model_args"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"pool": "avg", "class_token": False, "norm_eps": 1e-5},
        {"distilled": True, "channels": 1},
        {"position": "rotary2d", "gated_mlp": True, "activation": "silu"},
        {"stem": "hybrid", "stem_layers": (2, 2, 2, 2), "patch_size": 32, "image_size": (32, 64)},
    ],
    ids=str,
)
def test_our_folder_opens_in_transformers_too(tmp_path: Path, make_model: Make, choice: dict) -> None:
    from transformers import AutoModelForImageClassification

    model = make_model(**choice)
    randomise(model)
    vitrail.save(model, tmp_path)
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert_same_answers(model, _Logits(theirs))
    assert tuple(theirs.config.id2label.values()) == model.labels


class _Logits(torch.nn.Module):
    """A model of transformers as one that gives logits."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).logits


THEIRS: list[tuple[str, dict[str, Any]]] = [
    (TINY, {"img_size": (32, 48), "patch_size": 8, "in_chans": 1}),
    (TINY, {"img_size": 32, "global_pool": "avg"}),
    (TINY, {"img_size": 32, "global_pool": "avg", "fc_norm": False}),
    (TINY, {"img_size": 32, "qk_norm": True, "norm_layer": "layernorm"}),
    (TINY, {"img_size": 32, "final_norm": False, "num_classes": 0}),
    (TINY, {"img_size": 32, "pos_embed": "none", "qkv_bias": False, "drop_rate": 0.1}),
    ("vit_small_patch16_224", {"img_size": 48, "fc_norm": True, "act_layer": "gelu_tanh"}),
    ("vit_base_patch16_224_miil", {"img_size": 32}),
    ("vit_base_patch16_gap_224", {"img_size": 32}),
    ("vit_medium_patch16_reg4_gap_256", {"img_size": 32}),
    ("vit_so150m_patch16_reg4_map_256", {"img_size": 32}),
    ("vit_base_patch16_siglip_224", {"img_size": 32}),
    ("vit_giantopt_patch16_siglip_gap_256", {"img_size": 32}),
    ("vit_base_patch32_clip_224", {"img_size": 64}),
    ("vit_base_patch16_clip_quickgelu_224", {"img_size": 32}),
    (DINOV2, {"img_size": (28, 42)}),
    (REG4, {"img_size": 28}),
    ("vit_giant_patch14_dinov2", {"img_size": 28}),
    ("vit_giant_patch14_reg4_dinov2", {"img_size": 28, "num_classes": 0}),
    ("vit_base_patch14_reg1_tipsv2", {"img_size": 28}),
    ("vit_base_patch16_radio_v3", {"img_size": 32}),
    ("vit_intern300m_patch14_448", {"img_size": 28}),
    ("flexivit_small", {"img_size": 32}),
    ("deit_tiny_patch16_224", {"img_size": 32}),
    ("deit_tiny_distilled_patch16_224", {"img_size": 32}),
    ("deit3_small_patch16_224", {"img_size": 32, "reg_tokens": 1}),
    ("test_vit2", {"img_size": 32}),
]


@pytest.mark.parametrize(("architecture", "args"), THEIRS, ids=str)
def test_timms_model_opens_here_and_goes_back_bit_by_bit(tmp_path: Path, architecture: str, args: dict) -> None:
    assert_goes_round(tmp_path, architecture, **{**SMALL, **args})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "args"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_small_patch16_224", {}),
        ("vit_base_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        (DINOV2, {"img_size": 224}),
        ("vit_large_patch14_clip_quickgelu_224", {"depth": 6}),
    ],
)
def test_at_full_depth_too(tmp_path: Path, architecture: str, args: dict) -> None:
    theirs = write_theirs(tmp_path, architecture, **args)
    assert_same_answers(vitrail.load(tmp_path), theirs)


@pytest.mark.parametrize(
    ("architecture", "args", "message"),
    [
        (TINY, {"global_pool": "max"}, "global_pool = 'max'"),
        (TINY, {"global_pool": "avgmax"}, "global_pool = 'avgmax'"),
        (TINY, {"act_layer": "mish"}, "act_layer = 'mish'"),
        (TINY, {"norm_layer": "rmsnorm"}, "norm_layer = 'rmsnorm'"),
        (TINY, {"scale_attn_norm": True}, "scale_attn_norm = True"),
        (TINY, {"proj_bias": False}, "proj_bias = False"),
        (TINY, {"attn_layer": "diff", "embed_dim": 96}, "attn_layer = 'diff'"),
        (REG4, {"img_size": 28, "global_pool": "avg", "pool_include_prefix": True}, "pool_include_prefix = True"),
        ("vit_base_patch16_xp_224", {}, "architecture 'vit_base_patch16_xp_224' is not one that opens here"),
    ],
)
def test_what_has_no_equal_here_is_refused_by_its_key(
    tmp_path: Path, architecture: str, args: dict, message: str
) -> None:
    write_theirs(tmp_path, architecture, **{**SMALL, "img_size": 32, **args})
    with pytest.raises(UserError, match=message):
        vitrail.load(tmp_path)


def _rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(model_args=[3]), "timm's model_args = [3] is not a mapping"),
        (lambda v: v.update(pretrained_cfg="x"), "timm's pretrained_cfg = 'x' is not a mapping"),
        (lambda v: v["model_args"].update(embed_dim="wide"), "embed_dim|mlp_ratio|model.width"),
        (lambda v: v["model_args"].update(mlp_ratio="wide"), "model_args.mlp_ratio = 'wide'"),
        (lambda v: v["model_args"].update(patch_size=[16, 8]), "model_args.patch_size = [16, 8]"),
        (lambda v: v["model_args"].update(img_size="big"), "model_args.img_size = 'big'"),
        (lambda v: v["pretrained_cfg"].update(crop_mode="random"), "crop_mode = 'random'"),
        (lambda v: v["model_args"].update(shiny=1), "model_args.shiny = 1 has no equal here"),
        (lambda v: v["model_args"].update(embed_dim=10**10, mlp_ratio="4"), "model_args.embed_dim = 10000000000"),
        (lambda v: v["model_args"].update(mlp_ratio="4"), "model_args.mlp_ratio = '4'"),
        (lambda v: v["model_args"].update(patch_size=[[16]]), "model_args.patch_size = [[16]]"),
        (lambda v: v["model_args"].update(img_size=[10**400, 32]), "model_args.img_size = [1000"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, change: Callable, message: str) -> None:
    write_theirs(tmp_path, TINY, **SMALL, img_size=32)
    _rewrite(tmp_path, change)
    with pytest.raises(UserError, match=message.replace("[", r"\[").replace("]", r"\]")):
        vitrail.load(tmp_path)


def test_an_argument_that_is_null_changes_nothing(tmp_path: Path) -> None:
    theirs = write_theirs(tmp_path, "vit_base_patch16_gap_224", **SMALL, img_size=32)
    _rewrite(tmp_path, lambda v: v["model_args"].update(class_token=None, fc_norm=None, init_values=None))
    assert_same_answers(vitrail.load(tmp_path), theirs)


def test_pixels_come_along_both_ways(tmp_path: Path) -> None:
    write_theirs(tmp_path / "theirs", "vit_base_patch16_clip_384", **SMALL, img_size=32)  # squashed, CLIP's mean
    ours = vitrail.load(tmp_path / "theirs")
    assert (ours.preprocess.mode, ours.preprocess.mean[0]) == ("squash", 0.48145466)
    convert(ours, "timm", tmp_path / "again")
    assert vitrail.load(tmp_path / "again").preprocess == ours.preprocess
    before, after = (
        timm.data.resolve_data_config(
            pretrained_cfg=json.loads((tmp_path / name / "config.json").read_text())["pretrained_cfg"]
        )
        for name in ("theirs", "again")
    )
    assert after == before


def test_a_distilled_model_without_heads_says_that_its_features_differ(tmp_path: Path) -> None:
    theirs = write_theirs(tmp_path, "deit_tiny_distilled_patch16_224", **{**SMALL, "num_classes": 0}, img_size=32)
    ours, images = vitrail.load(tmp_path), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        both = ours(images).unflatten(1, (2, -1))
        torch.testing.assert_close(both.mean(dim=1), theirs(images), rtol=0, atol=LARGEST_DIFFERENCE)
    assert "timm gives the mean of the two tokens" in read(tmp_path).notes[-1]


def test_a_border_crop_is_padding(tmp_path: Path) -> None:
    write_theirs(tmp_path, TINY, **SMALL, img_size=32)
    _rewrite(tmp_path, lambda v: v["pretrained_cfg"].update(crop_mode="border", crop_pct=1.0))
    assert vitrail.load(tmp_path).preprocess.mode == "pad"


def test_pixels_beyond_the_last_whole_patch_are_left_out_and_said(tmp_path: Path) -> None:
    """SigLIP's 384 x 384 with patches of 14: timm's model never sees the last six rows and columns."""
    theirs = write_theirs(tmp_path, "vit_so400m_patch14_siglip_384", **SMALL, img_size=34)
    ours = vitrail.load(tmp_path)
    assert ours.config.image_size == (28, 28)
    images = torch.randn(2, 3, 34, 34)
    with torch.no_grad():
        torch.testing.assert_close(ours(images[:, :, :28, :28]), theirs(images), rtol=0, atol=LARGEST_DIFFERENCE)
    assert "images of 34 x 34, of which whole patches cover the upper left 28 x 28" in read(tmp_path).notes[-1]
    resized = Preprocess((34, 34), crop_fraction=0.9)
    fraction = ours.preprocess.crop_fraction
    assert int(28 / fraction) == int(34 / resized.crop_fraction)  # images are resized as timm does


def test_another_image_size_changes_nothing_of_the_crop(tmp_path: Path) -> None:
    """What the person says is no part that whole patches leave out."""
    for architecture, said in ((TINY, (64, 64)), ("vit_so400m_patch14_siglip_384", (42, 42))):
        write_theirs(tmp_path, architecture, **SMALL, img_size=34)
        own, other = read(tmp_path).preprocess, read(tmp_path, {"image_size": said}).preprocess
        assert own is not None
        assert other is not None
        assert (other.image_size, other.crop_fraction) == (said, own.crop_fraction)


def test_numbers_for_imagenets_classes_are_said(tmp_path: Path) -> None:
    write_theirs(tmp_path, TINY, **{**SMALL, "num_classes": 1000}, img_size=32)
    assert any("its config.json names no classes: outputs are numbered" in note for note in read(tmp_path).notes)
    _rewrite(tmp_path, lambda v: v.update(label_names=[f"class {i}" for i in range(1000)]))
    assert not any("names no classes" in note for note in read(tmp_path).notes)


def test_the_oldest_folders_with_everything_at_the_top_open(tmp_path: Path) -> None:
    theirs = write_theirs(tmp_path, TINY, **SMALL, img_size=32)
    values = json.loads((tmp_path / "config.json").read_text())
    flat = {**values.pop("pretrained_cfg"), **values, "labels": values.pop("label_names")}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in flat.items() if k != "label_names"}))
    ours = vitrail.load(tmp_path)
    assert ours.labels == LABELS
    assert_same_answers(ours, theirs)


def test_the_oldest_names_of_layer_scale_open(tmp_path: Path) -> None:
    theirs = write_theirs(tmp_path, "deit3_small_patch16_224", **SMALL, img_size=32)
    weights = tmp_path / "model.safetensors"
    old = {
        k.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): v for k, v in load_file(weights).items()
    }
    save_file(old, weights)
    assert_same_answers(vitrail.load(tmp_path), theirs)


def test_the_attention_pooling_that_a_tower_does_not_use_is_excused(tmp_path: Path) -> None:
    theirs = write_theirs(tmp_path, "vit_base_patch16_siglip_gap_224", **SMALL, img_size=32)
    weights = tmp_path / "model.safetensors"
    save_file(load_file(weights) | {"attn_pool.latent": torch.randn(1, 1, 48)}, weights)
    assert_same_answers(vitrail.load(tmp_path), theirs)


def test_a_name_that_timm_alone_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", "num_classes": 10}))
    with pytest.raises(UserError, match="architecture 'resnet50' is not one that opens here"):
        _ = read(tmp_path).config
