"""A configuration refuses what cannot be built, and the named variants are those of the papers."""

import json

import numpy as np
import pytest
import torch

from published import PARAMETERS
from vitrail.errors import UserError
from vitrail.model import VARIANTS, ResNetConfig, ViT, ViTConfig, model_variant, variant


@pytest.mark.parametrize("name", PARAMETERS)
def test_variants_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = ViT(variant(name))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "count"), [("S/16", 22_049_896), ("B/16", 86_566_120)])
def test_average_pooling_saves_the_class_token_and_its_position(name: str, count: int) -> None:
    with torch.device("meta"):
        model = ViT(variant(name, pool="avg", class_token=False))
    assert sum(p.numel() for p in model.parameters()) == count


def test_every_variant_can_be_built() -> None:
    with torch.device("meta"):
        for name in VARIANTS:
            named = 32 if name == "R+Ti/16" else int(name.split("/")[1])  # it counts 8 on a map 4 times smaller
            assert ViT(variant(name, depth=1)).config.patch_size == named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_size": (224, 230)},
            "224x230 is not divisible by patch size 16: the nearest sizes are 224x224 and 224x240",
        ),
        ({"width": 100, "heads": 3}, "model.width 100 is not divisible by model.heads 3"),
        ({"pool": "avrage"}, "did you mean avg"),
        ({"pool": "token", "class_token": False}, "set pool to avg or map"),
        ({"stem": "conv", "patch_size": 14}, "2, 4, 8, 16"),
        ({"position": "sincos2d", "width": 6, "heads": 3}, "divisible by 4"),
        ({"depth": 0}, "model.depth is 0: it must be at least 1"),
        ({"dropout": 1.0}, "model.dropout is 1.0"),
        ({"width": "abc"}, "model.width is 'abc': it must be a whole number"),
        ({"depth": 2.5}, "model.depth is 2.5: it must be a whole number"),
        ({"heads": True}, "model.heads is True: it must be a whole number"),
        ({"head_width": "64"}, "model.head_width is '64': it must be a whole number, or null"),
        ({"mlp_width": None}, "model.mlp_width is None: it must be a whole number$"),
        ({"class_token": "maybe"}, "model.class_token is 'maybe': it must be true or false"),
        ({"qkv_bias": 1}, "model.qkv_bias is 1: it must be true or false"),
        ({"norm_eps": "1e-6x"}, "model.norm_eps is '1e-6x': it must be a number"),
        ({"layer_scale": float("nan")}, "model.layer_scale is nan: it must be a number, or null"),
        ({"position": None}, "model.position is None: did you mean none"),
        ({"position": "rotary2d", "width": 36, "heads": 6}, "rotary positions need a head width divisible by 4, not 6"),
        ({"position": "learned2d", "width": 45, "heads": 3}, "learned2d positions need an even model.width, not 45"),
        ({"position_site": "layer"}, "model.position_site is 'layer': did you mean layers"),
        ({"position": "sincos2d", "position_site": "layers"}, "layers, where sincos2d positions have stem or shared"),
        ({"position": "relative", "position_site": "stem"}, "is stem, where relative positions have layers or shared"),
        ({"position": "rotary2d", "position_site": "stem"}, "is stem, where rotary2d positions have shared or null"),
        ({"position": "none", "position_site": "stem"}, "is stem, where none positions have null"),
        ({"stem": "hybrid", "patch_size": 24, "image_size": 48}, "patch size divisible by 16, not 24"),
        ({"stem_width": 32}, "model.stem_width 32 needs the conv or the hybrid stem, not linear: leave it out"),
        ({"stem": "conv", "stem_layers": (1, 1)}, r"model.stem_layers \[1, 1\] needs the hybrid stem, not conv"),
        ({"stem_root": "smal"}, "model.stem_root is 'smal': did you mean small"),
        ({"stem_root": "small"}, "model.stem_root small needs the hybrid stem, not linear"),
        ({"stem": "hybrid", "stem_width": 9}, "model.stem_width is 9: it must be an even number, at least 2"),
        ({"stem": "hybrid", "stem_layers": (1, 1), "stem_root": "small", "patch_size": 7}, "divisible by 2, not 7"),
        ({"stem_layers": (3, 0)}, r"model.stem_layers is \[3, 0\]: it must be at most 4 stages of 1 to 1000 units"),
        ({"stem_layers": 3}, "model.stem_layers is 3: it must be a list of whole numbers"),
        ({"distilled": True, "pool": "avg"}, "model.distilled needs pool token"),
        ({"stem": "conv", "patch_norm": True}, "model.patch_norm needs the linear stem, not conv"),
        ({"final_norm": "last"}, "model.final_norm is 'last'"),
        ({"image_size": "ab"}, "image size 'ab': it must be one whole number, or height and width"),
        ({"image_size": (224.5, 224)}, "image size .224.5, 224.: it must be"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ViTConfig(**changes)


def test_an_unknown_variant_or_field_names_the_nearest() -> None:
    with pytest.raises(UserError, match="S/16"):
        variant("s/16")
    with pytest.raises(UserError, match="did you mean patch_size"):
        variant("S/16", patchsize=8)


def test_a_hybrids_name_with_another_stem_has_no_units() -> None:
    assert variant("R26+S/32", stem="linear") == variant("S/32")
    with pytest.raises(UserError, match="stem_layers"):
        variant("R26+S/32", stem="linear", stem_layers=[1])


def test_a_variant_refuses_a_patch_size_that_is_no_number() -> None:
    with pytest.raises(UserError, match="model.patch_size is 'x': it must be a whole number"):
        variant("S/16", patch_size="x")


def test_numbers_of_numpy_become_plain_ones_that_json_takes() -> None:
    config = ViTConfig(
        width=np.int64(96), heads=np.int32(3), norm_eps=np.float32(0.5), dropout=0, image_size=[np.int64(64), 32]
    )
    assert config == ViTConfig(width=96, heads=3, norm_eps=0.5, image_size=(64, 32))
    assert json.loads(json.dumps(config.to_dict()))["dropout"] == 0.0
    assert isinstance(config.dropout, float)


def test_a_size_takes_any_patch_size() -> None:
    config = variant("Ti/4", image_size=32)
    assert (config.grid, config.tokens) == ((8, 8), 65)
    assert variant("B/1", image_size=(4, 6)).tokens == 25


def test_a_configuration_survives_json() -> None:
    config = variant("S/16", image_size=(384, 256), pool="map", registers=4, layer_scale=1e-5)
    assert ViTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_any_name_gives_the_kind_of_model_that_it_names() -> None:
    assert model_variant("R50x1", classes=3) == ResNetConfig(classes=3)
    assert model_variant("R50+B/16") == variant("R50+B/16")
    assert model_variant("Ti/4", image_size=32) == variant("Ti/4", image_size=32)
    with pytest.raises(UserError, match="R50x1"):
        model_variant("R50")
