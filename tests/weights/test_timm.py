"""Model folders open in timm with the same answers, and timm's open here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.models import vision_transformer as timm_vit

import vitrail
from vitrail.errors import UserError
from vitrail.model import ViT
from vitrail.weights import read
from vitrail.weights.formats.timm_architectures import arguments

Make = Callable[..., ViT]

OURS = [
    {},
    {"pool": "avg"},
    {"pool": "avg", "class_token": False, "registers": 2},
    {"pool": "map", "class_token": False},
    {"pool": "map", "registers": 2, "activation": "gelu_tanh"},
    {"registers": 3, "layer_scale": 0.3},
    {"layer_scale": 0.0},
    {"position": "sincos2d", "pool": "avg", "class_token": False},
    {"position": "none", "qkv_bias": False},
    {"activation": "quick_gelu"},
    {"activation": "relu", "channels": 1, "patch_size": 4},
    {"activation": "silu", "classes": 0},
    {"width": 24, "heads": 3, "mlp_width": 97},
]


@pytest.mark.parametrize("choice", OURS, ids=str)
def test_our_folder_gives_the_same_logits_in_timm(tmp_path: Path, make_model: Make, choice: dict) -> None:
    model = make_model(**choice)
    vitrail.save(model, tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(3, model.config.channels, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), model(images), rtol=1e-5, atol=1e-5)
    data = timm.data.resolve_model_data_config(theirs)
    assert data["input_size"] == (model.config.channels, 32, 48)
    assert tuple(data["mean"]) == model.preprocess.mean
    assert (data["crop_pct"], data["crop_mode"]) == (0.875, "center")
    assert tuple(theirs.pretrained_cfg.get("label_names") or ()) == model.labels


def test_our_folder_says_nothing_of_classes_in_model_args(tmp_path: Path, make_model: Make) -> None:
    """transformers passes their number itself, and a second one is an error there."""
    vitrail.save(make_model(), tmp_path)
    assert "num_classes" not in json.loads((tmp_path / "config.json").read_text())["model_args"]


THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {"img_size": 32}),
    ("vit_tiny_patch16_224", {"img_size": (32, 48), "patch_size": 8, "in_chans": 1}),
    ("vit_small_patch16_224", {"img_size": 48, "fc_norm": True, "act_layer": "gelu_tanh"}),
    ("vit_small_patch14_reg4_dinov2", {"img_size": (28, 42)}),
    ("deit3_small_patch16_224", {"img_size": 32, "reg_tokens": 1}),
    ("vit_base_patch16_siglip_224", {"img_size": 32, "embed_dim": 96, "num_heads": 12}),
    ("vit_base_patch16_gap_224", {"img_size": 32, "num_heads": 4}),
    ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg", "fc_norm": False}),
    ("vit_tiny_patch16_224", {"img_size": 32, "pos_embed": "none", "qkv_bias": False, "drop_rate": 0.1}),
]


def _save_theirs(folder: Path, architecture: str, **args: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    small = {"num_classes": 7, "depth": 2, "embed_dim": 48, "num_heads": 3}
    model = timm.create_model(architecture, **{**small, **args}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_for_hf(model, folder, model_config={"label_names": list("abcdefg")}, safe_serialization=True)
    return model


@pytest.mark.parametrize(("architecture", "args"), THEIRS, ids=str)
def test_timms_folder_gives_the_same_logits_here(tmp_path: Path, architecture: str, args: dict) -> None:
    theirs = _save_theirs(tmp_path, architecture, **args)
    ours = vitrail.load(tmp_path)
    images = torch.randn(3, ours.config.channels, *ours.config.image_size)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    saved = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    data = timm.data.resolve_data_config(pretrained_cfg=saved)
    assert ours.labels == tuple("abcdefg")
    assert (ours.preprocess.channels, *ours.preprocess.image_size) == tuple(data["input_size"])
    assert ours.preprocess.crop_fraction == data["crop_pct"]
    if ours.preprocess.channels == 3:
        assert (ours.preprocess.mean, ours.preprocess.std) == (tuple(data["mean"]), tuple(data["std"]))


@pytest.mark.parametrize(
    ("architecture", "args", "message"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, "fc_norm with global_pool = 'avg'"),
        ("vit_tiny_patch16_224", {"qk_norm": True}, "model_args.qk_norm = True"),
        ("vit_tiny_patch16_224", {"final_norm": False}, "model_args.final_norm = False"),
        ("vit_tiny_patch16_224", {"global_pool": "max", "fc_norm": False}, "global_pool = 'max'"),
        ("vit_tiny_patch16_224", {"act_layer": "mish"}, "act_layer = 'mish'"),
        ("vit_base_patch16_clip_224", {}, "'vit_base_patch16_clip_224' is not one"),
    ],
)
def test_what_has_no_equal_here_is_refused_by_its_key(
    tmp_path: Path, architecture: str, args: dict, message: str
) -> None:
    _save_theirs(tmp_path, architecture, img_size=32, **args)
    with pytest.raises(UserError, match=message):
        vitrail.load(tmp_path)


def test_a_border_crop_that_loses_pixels_has_no_equal(tmp_path: Path) -> None:
    _save_theirs(tmp_path, "vit_tiny_patch16_224", img_size=32)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["pretrained_cfg"] |= {"crop_mode": "border", "crop_pct": 0.9}
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"crop_mode 'border' with crop_pct 0\.9"):
        vitrail.load(tmp_path)
    values["pretrained_cfg"]["crop_pct"] = 1.0
    path.write_text(json.dumps(values))
    assert vitrail.load(tmp_path).preprocess.mode == "pad"


def test_the_oldest_folders_with_everything_at_the_top_open(tmp_path: Path) -> None:
    theirs = _save_theirs(tmp_path, "vit_tiny_patch16_224", img_size=32)
    values = json.loads((tmp_path / "config.json").read_text())
    flat = {**values.pop("pretrained_cfg"), **values, "labels": values.pop("label_names")}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in flat.items() if k != "label_names"}))
    ours = vitrail.load(tmp_path)
    assert ours.labels == tuple("abcdefg")
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_every_architecture_that_opens_is_read_as_timm_builds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are read by rule here; timm's own arguments are the measure, for every name that it knows."""
    built: dict[str, dict[str, Any]] = {}

    def capture(variant: str, pretrained: bool = False, **args: Any) -> torch.nn.Module:
        built[variant] = {"patch_size": 16, "mlp_ratio": 4, **args}
        return torch.nn.Identity()

    monkeypatch.setattr(timm_vit, "_create_vision_transformer", capture)
    monkeypatch.setattr(timm.models.deit, "_create_deit", capture)
    for module in ("vision_transformer", "deit"):
        for name in timm.list_models(module=module):
            timm.models.model_entrypoint(name)()
    opened = 0
    for name, theirs in built.items():
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            theirs.pop(key, None)
        try:
            ours = arguments(name)
        except UserError:
            continue
        opened += 1
        assert ours == theirs, name
    assert opened >= 75


def test_a_name_that_timm_alone_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", "num_classes": 10}))
    with pytest.raises(UserError, match="architecture 'resnet50' is not one that opens here"):
        _ = read(tmp_path).config
