"""timm's names of architectures are read by rule here; timm's own arguments are the measure, for every name it knows."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import LayerNorm, SwiGLUPacked
from timm.models import deit, eva, resnetv2, vision_transformer, vision_transformer_hybrid

from vitrail.errors import UserError
from vitrail.weights import build
from vitrail.weights.formats.timm import entries, read_config
from vitrail.weights.formats.timm.architectures import (
    CLIP_NORM,
    DISTILLED,
    EVA,
    GATED,
    HYBRID,
    LAYERS,
    MODEL,
    RESNET,
    VIT,
    WIDTH_FACTOR,
    arguments,
)
from vitrail.weights.found import Found
from vitrail.weights.names import plan

_CLASSES = {
    VIT: vision_transformer.VisionTransformer,
    DISTILLED: vision_transformer.VisionTransformer,
    HYBRID: vision_transformer.VisionTransformer,
    EVA: eva.Eva,
    RESNET: resnetv2.ResNetV2,
}
_MODULES = ("vision_transformer", "deit", "vision_transformer_hybrid", "eva", "resnetv2")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Every name of timm's plain Vision Transformers and ResNets -> what its function gives to timm's class."""
    built: dict[str, dict[str, Any]] = {}

    def capture(kind: str, variant: str, pretrained: bool = False, **args: Any) -> torch.nn.Module:
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            args.pop(key, None)
        built[variant] = {MODEL: DISTILLED if args.pop("distilled", False) else kind, **args}
        return torch.nn.Identity()

    def hybrid(variant: str, backbone: Any, pretrained: bool = False, **args: Any) -> torch.nn.Module:
        return capture(HYBRID, variant, **{"patch_size": 1, **args, LAYERS: backbone})

    monkeypatch.setattr(vision_transformer, "_create_vision_transformer", partial(capture, VIT))
    monkeypatch.setattr(deit, "_create_deit", partial(capture, VIT))
    monkeypatch.setattr(vision_transformer_hybrid, "_create_vision_transformer_hybrid", hybrid)
    monkeypatch.setattr(vision_transformer_hybrid, "_resnetv2", lambda layers=(3, 4, 9), **_: layers)
    for backbone in ("resnet26d", "resnet50d", "ConvStem"):
        monkeypatch.setattr(vision_transformer_hybrid, backbone, lambda **_: None)
    monkeypatch.setattr(eva, "_create_eva", partial(capture, EVA))
    monkeypatch.setattr(resnetv2, "_create_resnetv2_bit", partial(capture, RESNET))
    monkeypatch.setattr(resnetv2, "_create_resnetv2", partial(capture, "another ResNet"))
    for module in _MODULES:
        for name in timm.list_models(module=module):
            timm.models.model_entrypoint(name)()
    return built


def _told(value: Any) -> Any:
    """A class as our rule names it."""
    if isinstance(value, partial) and value.func is LayerNorm and value.keywords == {"eps": 1e-5}:
        return CLIP_NORM
    return {SwiGLUPacked: GATED, torch.nn.SiLU: "silu"}.get(value, value) if callable(value) else value


def _settled(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments that tell a model from another: without the class's own values, and those that change no answer."""
    signature = inspect.signature(_CLASSES[args[MODEL]]).parameters
    own = {name: parameter.default for name, parameter in signature.items()}
    told = {key: _told(value) for key, value in args.items() if key != "dynamic_img_size"}
    return {key: value for key, value in told.items() if value is not None and own.get(key, ...) != value}


def test_every_architecture_that_opens_is_read_as_timm_builds_it(registered: dict[str, dict[str, Any]]) -> None:
    opened = {}
    for name, theirs in registered.items():
        try:
            ours = arguments(name)
        except UserError:
            continue
        if theirs[MODEL] == RESNET:
            theirs = {MODEL: RESNET, LAYERS: tuple(theirs["layers"]), WIDTH_FACTOR: theirs["width_factor"]}
        opened[name] = theirs[MODEL]
        assert _settled(ours) == _settled(theirs), name
    counts = {kind: list(opened.values()).count(kind) for kind in _CLASSES}
    for kind, fewest in {
        VIT: 100,
        DISTILLED: 4,
        HYBRID: 9,
        EVA: 15,
        RESNET: 6,
    }.items():  # later versions of timm have more
        assert counts[kind] >= fewest


def test_what_does_not_open_is_of_another_make(registered: dict[str, dict[str, Any]]) -> None:
    """Each name that is refused has an argument for it, or is a hybrid of another ResNet."""
    other = {
        "block_fn",
        "attn_layer",
        "scale_attn_norm",
        "pool_include_prefix",
        "num_kv_heads",
        "scale_mlp",
        "rope_type",
    }
    other |= {"ref_feat_shape", "use_post_norm", "rope_grid_indexing"}
    for name, theirs in registered.items():
        try:
            arguments(name)
        except UserError:
            rms = "rms" in str(theirs.get("norm_layer", "")).lower()
            resnet = theirs[MODEL] == "another ResNet" or theirs.get(LAYERS, ...) is None
            assert rms or resnet or other & theirs.keys(), name


@pytest.mark.slow
def test_every_architecture_that_opens_has_the_tensors_that_timm_builds() -> None:
    """At its own width and two blocks deep, from its own pretrained_cfg: names, shapes and the size of the images."""
    opened = 0
    for name in (name for module in _MODULES for name in timm.list_models(module=module)):
        cfg = timm.get_pretrained_cfg(name).to_dict(remove_source=True)
        two = {} if name.startswith("resnetv2") else {"depth": 2}
        found = Found(Path("folder"), {"architecture": name, "model_args": two, "pretrained_cfg": cfg}, {})
        try:
            config = read_config(found)
        except UserError as error:
            assert "architecture" in str(error)  # noqa: PT017  (one of many names)
            continue
        with torch.device("meta"):
            theirs = timm.create_model(name, **two)
        shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
        wanted = build.shapes(build.empty(config))
        chosen, report = plan(entries(config, shapes, wanted), shapes, wanted, {})
        assert report.problem is None, name
        alone = [one for one in chosen if len(one.theirs) == 1]
        assert [shapes[one.theirs[0]] for one in alone] == [wanted[one.ours] for one in alone], name
        opened += 1
    assert opened >= 140


def test_names_that_timm_has_given_up_are_read_as_what_they_mean_now() -> None:
    renamed = timm.models._registry._deprecated_models
    read = 0
    for old, new in renamed.items():
        try:
            wanted = arguments(new)
        except UserError:
            continue
        assert _settled(arguments(old)) == _settled(wanted), old
        read += 1
    assert read >= 30


@pytest.mark.parametrize(
    "name", ["resnet50", "vit_base_patch16_rope_224", "vit_base_patch16_xp_224", "beit_base_patch16_224"]
)
def test_a_name_of_another_family_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"architecture '{name}' is not one that opens here: vit_"):
        arguments(name)


@pytest.mark.parametrize(
    "name",
    ["vit_base_patch" + "1" * 5000 + "_224", "vit_base_patch16" + "_gap" * 10**6, "x\n" * 1000],
    ids=["digits", "words", "lines"],
)
def test_a_name_of_any_length_is_refused_at_once_and_in_short(name: str) -> None:
    with pytest.raises(UserError, match="is not one that opens here") as error:
        arguments(name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
