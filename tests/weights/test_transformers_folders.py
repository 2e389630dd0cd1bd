"""What transformers' folders may look like: names of several ages, keys, labels, pixels; and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import save_file
from transformers_models import (
    LABELS,
    NAMED,
    RATIO,
    SIZES,
    TEXT,
    TOLERANCE,
    Case,
    class_token,
    logits,
    pictures,
    pooled,
    tensors,
)

import vitrail
from vitrail.errors import UserError
from vitrail.weights import read
from vitrail.weights.fit import fit
from vitrail.weights.formats.transformers import bit, clip, dinov2, dinov3, siglip, vit

VIT = Case("ViTForImageClassification", hf.ViTConfig(**SIZES, **NAMED), logits)
DINOV2 = Case("Dinov2Model", hf.Dinov2Config(**RATIO, use_swiglu_ffn=True, use_mask_token=False), pooled)
CLIP = Case("CLIPVisionModel", hf.CLIPVisionConfig(**SIZES), pooled)


def saved(folder: Path, case: Case, **changes: Any) -> Any:
    """A model that transformers saved, with some keys of its configuration changed; None removes a key."""
    model = case.build()
    model.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in values.items() if key not in changes or value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return model


def renamed(folder: Path, rename: Callable[[str], str]) -> None:
    save_file({rename(name): tensor for name, tensor in tensors(folder).items()}, folder / "model.safetensors")


def assert_same(folder: Path, theirs: Any, case: Case) -> None:
    with torch.no_grad():
        expected = case.output(theirs, pictures())
        torch.testing.assert_close(vitrail.load(folder)(pictures()), expected, rtol=0, atol=TOLERANCE)


# --- names


@pytest.mark.parametrize("case", [VIT, DINOV2], ids=str)
def test_the_names_of_transformers_5_in_memory_open_too(tmp_path: Path, case: Case) -> None:
    theirs = saved(tmp_path, case)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    assert_same(tmp_path, theirs, case)


def test_a_tower_saved_by_transformers_4_opens(tmp_path: Path) -> None:
    theirs = saved(tmp_path, CLIP)
    renamed(tmp_path, lambda name: f"vision_model.{name}")
    extra = {**tensors(tmp_path), "vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file(extra, tmp_path / "model.safetensors")
    assert_same(tmp_path, theirs, CLIP)


def test_a_classifier_of_vit_msn_saved_by_transformers_4_opens(tmp_path: Path) -> None:
    case = Case("ViTMSNForImageClassification", hf.ViTMSNConfig(**SIZES, **NAMED), logits)
    theirs = saved(tmp_path, case)
    renamed(tmp_path, lambda name: f"vit.{name}" if name.startswith("encoder") else name)
    assert_same(tmp_path, theirs, case)


def test_a_pytorch_checkpoint_opens(tmp_path: Path) -> None:
    theirs = saved(tmp_path, VIT)
    torch.save(tensors(tmp_path), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert_same(tmp_path, theirs, VIT)


def test_tensors_that_are_not_needed_are_excused_with_a_reason(tmp_path: Path) -> None:
    saved(tmp_path, Case("Dinov2Model", hf.Dinov2Config(**RATIO), pooled))
    report = fit(read(tmp_path)).report
    assert report.excused.keys() == {"embeddings.mask_token"}
    assert "masked patches" in report.excused["embeddings.mask_token"]


def test_a_missing_and_a_strange_tensor_are_named(tmp_path: Path) -> None:
    saved(tmp_path, VIT)
    renamed(tmp_path, lambda name: name.replace("vit.layernorm.weight", "vit.layernorm.gain"))
    with pytest.raises(UserError, match=r"vit.layernorm.weight, nearest is vit.layernorm.gain.*1 left over"):
        vitrail.load(tmp_path)


def test_weights_without_their_config_are_refused_with_the_way_out(tmp_path: Path) -> None:
    saved(tmp_path, VIT)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json, which is missing: put it beside"):
        vitrail.load(tmp_path / "model.safetensors")


# --- keys

CONFIGS = [
    (vit._DEFAULTS, hf.ViTConfig),
    (vit._DEFAULTS, hf.DeiTConfig),
    ({**vit._DEFAULTS, "pooler_act": None}, hf.ViTMAEConfig),
    ({**vit._DEFAULTS, "pooler_act": None, "layer_norm_eps": 1e-6}, hf.ViTMSNConfig),
    (vit._DEFAULTS, hf.IJepaConfig),
    (dinov2._DEFAULTS_OF["dinov2"], hf.Dinov2Config),
    (dinov2._DEFAULTS_OF["dinov2_with_registers"], hf.Dinov2WithRegistersConfig),
    (dinov3._DEFAULTS, hf.DINOv3ViTConfig),
    (clip._DEFAULTS, hf.CLIPVisionConfig),
    (siglip._DEFAULTS, hf.SiglipVisionConfig),
    (bit._DEFAULTS, hf.BitConfig),
]


@pytest.mark.parametrize(("defaults", "kind"), CONFIGS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_a_config_leaves_out_has_transformers_default(defaults: dict, kind: type) -> None:
    theirs = kind()
    assert {key: getattr(theirs, key, None) for key in defaults} == defaults


def test_an_epsilon_that_is_not_written_is_transformers_default(tmp_path: Path) -> None:
    saved(tmp_path, VIT, layer_norm_eps=None)
    assert vitrail.load(tmp_path).config.norm_eps == 1e-12


REFUSED = [
    (VIT, {"hidden_act": "mish"}, "hidden_act = 'mish'"),
    (VIT, {"patch_size": [8, 4]}, r"patch_size = \[8, 4\]"),
    (VIT, {"hidden_size": "wide"}, "hidden_size = 'wide'"),
    (VIT, {"hidden_size": 32.5}, "hidden_size = 32.5"),
    (VIT, {"num_hidden_layers": True}, "num_hidden_layers = True"),
    (VIT, {"qkv_bias": "no"}, "qkv_bias = 'no'"),
    (VIT, {"image_size": {}}, "image_size = {}"),
    (VIT, {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    (VIT, {"per_layer_config": {"0": {"hidden_act": "relu"}}}, "per_layer_config"),
    (VIT, {"quantization_config": {"load_in_8bit": True}}, "quantization_config"),
    (VIT, {"architectures": ["ViTForSegmentation"]}, "architectures = .*ViTForSegmentation"),
    (Case("ViTModel", hf.ViTConfig(**SIZES), pooled), {"pooler_act": "relu"}, "pooler_act = 'relu'.*'tanh' has"),
    (VIT, {"hidden_size": 10**400}, "hidden_size = 1000"),
    (VIT, {"image_size": 10**400}, "image_size = 1000"),
    (DINOV2, {"mlp_ratio": 10**400}, "mlp_ratio = 1000"),
    (CLIP, {"vision_config": 3}, "vision_config"),
]
BIT = Case("BitModel", hf.BitConfig(depths=[1], hidden_sizes=[256]), pooled)
REFUSED += [
    (BIT, {"global_padding": "SAME"}, "global_padding = 'SAME' has no equal here: null has"),
    (BIT, {"layer_type": "bottleneck"}, "layer_type"),
    (BIT, {"hidden_sizes": [128]}, r"hidden_sizes = \[128\].*\[256\] have"),
    (BIT, {"embedding_size": 100}, "embedding_size = 100"),
    (BIT, {"depths": "many"}, "depths = .many.*1 to 4 whole numbers"),
    (BIT, {"depths": [1] * 5}, "depths = "),
    (BIT, {"depths": [10**8]}, "depths = "),
    (BIT, {"hidden_sizes": 3}, "hidden_sizes = 3"),
]


@pytest.mark.parametrize(("case", "changes", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_has_no_equal_is_refused_by_its_key(tmp_path: Path, case: Case, changes: dict, message: str) -> None:
    saved(tmp_path, case, **changes)
    with pytest.raises(UserError, match=message):
        vitrail.load(tmp_path)


EVIL = "pa" + chr(27) + "[2J\n" + "x" * 10**6
EVIL_CONFIGS: list[dict[str, Any]] = [
    {"model_type": EVIL},
    {EVIL: 1},
    {"architecture": EVIL},
    {"architecture": "vit_tiny_patch16_224", "model_args": {EVIL: EVIL}},
    {"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_act": EVIL},
    {"model_type": "vit", "architectures": [EVIL]},
    {"model_type": "clip", "vision_config": EVIL},
]


@pytest.mark.parametrize("config", EVIL_CONFIGS, ids=range(len(EVIL_CONFIGS)))
def test_words_of_a_stranger_stay_on_one_short_line(tmp_path: Path, config: dict) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="pa.*xxx") as error:
        _ = read(tmp_path).config
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1500


def test_unknown_keys_are_said(tmp_path: Path) -> None:
    saved(tmp_path, VIT, colour="blue", _name_or_path="somewhere")
    (note,) = [note for note in read(tmp_path).notes if "keys that are unknown" in note]
    assert note == "config.json has keys that are unknown here and passed over: colour"
    case = Case("SiglipModel", hf.SiglipConfig(vision_config=dict(SIZES), text_config=dict(TEXT)), pooled)
    saved(tmp_path, case, vision_config={**SIZES, "shade": 3}, colour="blue")
    (note,) = [note for note in read(tmp_path).notes if "keys that are unknown" in note]
    assert note.endswith(": shade, colour")


@pytest.mark.parametrize("older", [{"layer_norm_eps": 1e-3}, {}], ids=str)
def test_the_older_of_two_vision_configs_and_its_defaults_win_as_in_transformers(tmp_path: Path, older: dict) -> None:
    towers = {"vision_config": {**SIZES, "layer_norm_eps": 0.1}, "vision_config_dict": {**SIZES, **older}}
    case = Case("CLIPForImageClassification", hf.CLIPConfig(vision_config=dict(SIZES), **NAMED), logits)
    saved(tmp_path, case, **towers)
    assert_same(tmp_path, hf.CLIPForImageClassification.from_pretrained(tmp_path).eval(), case)


def test_a_pooling_head_is_excused_tensor_by_tensor(tmp_path: Path) -> None:
    saved(tmp_path, Case("SiglipVisionModel", hf.SiglipVisionConfig(**SIZES), pooled))
    save_file({**tensors(tmp_path), "head.gate": torch.randn(3)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1 left over \(head.gate\)"):
        vitrail.load(tmp_path)


def test_an_image_size_that_patches_do_not_fill_is_cut_and_said(tmp_path: Path) -> None:
    case = Case("SiglipVisionModel", hf.SiglipVisionConfig(**{**SIZES, "image_size": 38}), pooled)
    theirs = saved(tmp_path, case)
    model, images = vitrail.load(tmp_path), pictures((38, 38))
    assert model.config.image_size == (32, 32)
    with torch.no_grad():
        expected = case.output(theirs, images)
        torch.testing.assert_close(model(images[..., :32, :32]), expected, rtol=0, atol=TOLERANCE)
    assert any("38x38 are 32x32 here" in note for note in read(tmp_path).notes)
    processor = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 38, "width": 38}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    preprocess = vitrail.load(tmp_path).preprocess
    whole, cut = torch.randint(256, (3, 38, 38), dtype=torch.uint8), slice(3, 35)
    assert torch.equal(preprocess.resize(whole), whole[:, cut, cut])


# --- labels


def test_labels_come_along_in_the_order_of_the_logits(tmp_path: Path) -> None:
    scrambled = {str(index): LABELS[index] for index in (3, 0, 4, 1, 2)}
    saved(tmp_path, VIT, id2label=scrambled)
    assert vitrail.load(tmp_path).labels == tuple(LABELS.values())


def test_placeholders_are_no_labels(tmp_path: Path) -> None:
    saved(tmp_path, Case("ViTForImageClassification", hf.ViTConfig(**SIZES, num_labels=3), logits))
    model = vitrail.load(tmp_path)
    assert model.labels == ()
    assert model.config.classes == 3


def test_a_model_without_a_head_has_no_labels(tmp_path: Path) -> None:
    saved(tmp_path, Case("ViTModel", hf.ViTConfig(**SIZES, **NAMED), class_token))
    assert vitrail.load(tmp_path).labels == ()


# --- pixels


def test_the_processor_says_what_pixels_are(tmp_path: Path) -> None:
    saved(tmp_path, VIT)
    values = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.1, 0.2, 0.3],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    preprocess = vitrail.load(tmp_path).preprocess
    assert (preprocess.mode, preprocess.interpolation) == ("squash", "bilinear")
    assert (preprocess.mean, preprocess.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_published_pixels_stand_in_for_a_missing_processor_and_it_is_said(tmp_path: Path) -> None:
    saved(tmp_path, CLIP)
    preprocess = vitrail.load(tmp_path).preprocess
    assert preprocess.mean == (0.48145466, 0.4578275, 0.40821073)
    assert (preprocess.mode, preprocess.crop_fraction, preprocess.image_size) == ("crop", 1.0, (32, 32))
    assert any("as CLIP publishes" in note for note in read(tmp_path).notes)


def test_pixels_of_a_plain_vit_are_unknown_without_a_processor(tmp_path: Path) -> None:
    """Google's want 0.5, DINO's the colours of ImageNet: nothing in the folder tells which."""
    saved(tmp_path, VIT)
    assert vitrail.load(tmp_path).preprocess is None
