"""The ResNet side in timm, both ways: BiT's ResNet-v2, and the hybrids that have a ResNet for a stem."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vitrail
from timm_models import SMALL, assert_goes_round, assert_same_answers, open_theirs, randomise, write_theirs
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ResNet, ResNetConfig, ViT
from vitrail.weights.convert import convert
from vitrail.weights.formats.timm import no_equal
from vitrail.weights.formats.timm.resnet import describe

Make = Callable[..., ViT]
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("architecture", "args"),
    [
        ("vit_tiny_r_s16_p8_224", {"img_size": (64, 96), "in_chans": 1}),
        pytest.param("vit_small_r26_s32_224", {"img_size": 64}, marks=SLOW),
        pytest.param("vit_base_r50_s16_224", {"img_size": (32, 48), "global_pool": "avg", "reg_tokens": 1}, marks=SLOW),
        pytest.param("vit_large_r50_s32_224", {"img_size": 64, "patch_size": 2, "pre_norm": True}, marks=SLOW),
    ],
)
def test_timms_hybrids_open_here_and_go_back_bit_by_bit(tmp_path: Path, architecture: str, args: dict) -> None:
    ours = assert_goes_round(tmp_path, architecture, **{**SMALL, **args})
    assert ours.config.stem == "hybrid"


@pytest.mark.parametrize("choice", [{"stem_layers": (), "pool": "map"}, pytest.param({}, marks=SLOW)], ids=str)
def test_our_hybrid_gives_the_same_logits_in_timm(tmp_path: Path, make_model: Make, choice: dict) -> None:
    model = make_model(stem="hybrid", patch_size=32, image_size=(64, 96), **choice)
    randomise(model)
    vitrail.save(model, tmp_path)
    assert_same_answers(model, open_theirs(tmp_path))


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"stem_root": "small", "patch_size": 4}, "its hybrid stem with a small root"),
        ({"stem_width": 32, "patch_size": 16}, "its hybrid stem with a root of 32 channels, where there is only 64"),
    ],
)
def test_a_hybrid_with_a_root_of_its_own_is_kept_here_and_refused_elsewhere(
    tmp_path: Path, make_model: Make, choice: dict, reason: str
) -> None:
    model = make_model(stem="hybrid", stem_layers=(), **choice)
    for origin in ("timm", "google"):
        with pytest.raises(UserError, match=reason):
            convert(model, origin, tmp_path / "out")
    vitrail.save(model, tmp_path / "m")
    again = vitrail.load(tmp_path / "m")
    assert again.config == model.config
    images = torch.randn(2, 3, 32, 48)
    assert torch.equal(again(images), model(images))
    card = (tmp_path / "m" / "README.md").read_text()
    assert ("root for small images" in card, "root of 32 channels" in card) == (
        "stem_root" in choice,
        "stem_width" in choice,
    )


def test_a_hybrid_of_other_layers_has_no_equal(make_model: Make) -> None:
    model = make_model(stem="hybrid", stem_layers=(1, 2), patch_size=16)
    assert "hybrid stem of 1-2 units a stage (timm: 2-2-2-2, 3-4-9, 3-4-6-3)" in no_equal(model.config)


@SLOW
def test_bit_opens_here_and_goes_back_bit_by_bit(tmp_path: Path) -> None:
    ours = assert_goes_round(tmp_path, "resnetv2_50x1_bit", num_classes=7, in_chans=1)
    assert ours.config == ResNetConfig(channels=1, classes=7)
    assert ours.preprocess.interpolation == "bicubic"


@SLOW
def test_our_resnet_gives_the_same_logits_in_timm(tmp_path: Path) -> None:
    model = ResNet(ResNetConfig(image_size=(70, 64), classes=3)).eval()
    randomise(model)
    model.preprocess, model.labels = Preprocess((70, 64)), ("a", "b", "c")
    vitrail.save(model, tmp_path)
    theirs = open_theirs(tmp_path)
    assert_same_answers(model, theirs)
    assert theirs.pretrained_cfg["input_size"] == (3, 70, 64)
    assert tuple(theirs.pretrained_cfg["label_names"]) == model.labels


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layers": (1, 1), "stem": "small"}, "its small stem"),
        ({"layers": (1, 1)}, "its ResNet of 1-1 units a stage at width factor 1"),
        ({"layers": (3, 4, 6, 3), "root_width": 32}, "its root of 32 channels"),
        ({"width_factor": 2}, "its ResNet of 3-4-6-3 units a stage at width factor 2"),
        ({"root_width": 128}, "its ResNet of 3-4-6-3 units a stage at width factor 2"),
    ],
)
def test_a_resnet_that_timm_does_not_register_has_no_equal(tmp_path: Path, changes: dict, reason: str) -> None:
    config = ResNetConfig(image_size=(32, 32), classes=2, **changes)
    assert reason in no_equal(config)
    if config.layers == (1, 1) and config.stem == "small":
        with pytest.raises(UserError, match=reason):
            convert(ResNet(config), "timm", tmp_path / "out")


def test_the_width_counts_and_not_how_it_is_written() -> None:
    for changes in ({"width_factor": 3}, {"root_width": 192}, {"root_width": 32, "width_factor": 6}):
        config = ResNetConfig(**changes)
        assert no_equal(config) is None
        assert describe(config)[0] == "resnetv2_50x3_bit"


def test_a_resnet_that_pools_otherwise_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"architecture": "resnetv2_50x1_bit", "model_args": {"global_pool": "max"}, "pretrained_cfg": {}}'
    )
    with pytest.raises(UserError, match="model_args.global_pool = 'max' has no equal here"):
        _ = vitrail.weights.read(tmp_path).config


@SLOW
def test_a_hybrid_at_full_depth_too(tmp_path: Path) -> None:
    theirs = write_theirs(tmp_path, "vit_tiny_r_s16_p8_224")
    assert_same_answers(vitrail.load(tmp_path), theirs)
    torch.manual_seed(1)
    assert_same_answers(vitrail.load(tmp_path), theirs)
