"""Models that transformers saved open here and give the same answers."""

import functools
import re
from pathlib import Path

import pytest
import torch
import transformers as hf
from transformers_models import (
    NAMED,
    RATIO,
    SIZES,
    TEXT,
    TOLERANCE,
    Case,
    Output,
    all_patches,
    class_token,
    image_embeds,
    image_features,
    logits,
    patch_mean,
    pictures,
    pooled,
    tensors,
)

import vitrail
from vitrail.weights import convert, read

TOWERS = {"vision_config": dict(SIZES), "text_config": dict(TEXT)}
CASES = [
    Case("ViTForImageClassification", hf.ViTConfig(**SIZES, **NAMED), logits),
    Case("ViTForImageClassification", hf.ViTConfig(**SIZES, num_labels=3, qkv_bias=False, hidden_act="relu"), logits),
    Case("ViTForImageClassification", hf.ViTConfig(**SIZES, hidden_act="gelu_new", layer_norm_eps=1e-3), logits),
    Case("ViTForImageClassification", hf.ViTConfig(**{**SIZES, "image_size": [32, 32], "patch_size": [8, 8]}), logits),
    Case("ViTForImageClassification", hf.ViTConfig(**SIZES, head_dim=12, num_channels=1, hidden_act="silu"), logits),
    Case("ViTModel", hf.ViTConfig(**SIZES), pooled),
    Case("ViTModel", hf.ViTConfig(**SIZES, pooler_output_size=20), pooled),
    Case("ViTModel", hf.ViTConfig(**SIZES), class_token, arguments={"add_pooling_layer": False}),
    Case("DeiTForImageClassification", hf.DeiTConfig(**SIZES, **NAMED), logits),
    Case("DeiTForImageClassificationWithTeacher", hf.DeiTConfig(**SIZES, **NAMED), logits),
    Case("DeiTModel", hf.DeiTConfig(**SIZES), pooled),
    Case("ViTMAEModel", hf.ViTMAEConfig(**SIZES, mask_ratio=0.0), all_patches(lambda model: model)),
    Case(
        "ViTMAEForPreTraining",
        hf.ViTMAEConfig(**SIZES, mask_ratio=0.0, decoder_num_hidden_layers=1, decoder_hidden_size=32),
        all_patches(lambda model: model.vit),
        excused=("decoder.",),
    ),
    Case("ViTMSNModel", hf.ViTMSNConfig(**SIZES), class_token),
    Case("ViTMSNForImageClassification", hf.ViTMSNConfig(**SIZES, **NAMED), logits),
    Case("IJepaForImageClassification", hf.IJepaConfig(**SIZES, **NAMED), logits),
    Case("IJepaModel", hf.IJepaConfig(**SIZES), patch_mean),
    Case("Dinov2Model", hf.Dinov2Config(**RATIO), pooled, excused=("embeddings.mask_token",)),
    Case("Dinov2ForImageClassification", hf.Dinov2Config(**RATIO, use_mask_token=False, **NAMED), logits),
    Case(
        "Dinov2ForImageClassification",
        hf.Dinov2Config(**RATIO, use_mask_token=False, use_swiglu_ffn=True, num_labels=0, qkv_bias=False),
        logits,
    ),
    Case(
        "Dinov2WithRegistersModel",
        hf.Dinov2WithRegistersConfig(**RATIO, use_swiglu_ffn=True),
        pooled,
        excused=("embeddings.mask_token",),
    ),
    Case(
        "Dinov2WithRegistersForImageClassification",
        hf.Dinov2WithRegistersConfig(**RATIO, num_register_tokens=2, **NAMED),
        logits,
        excused=("dinov2_with_registers.embeddings.mask_token",),
    ),
    Case("DINOv3ViTModel", hf.DINOv3ViTConfig(**SIZES), pooled, excused=("embeddings.mask_token",)),
    Case(
        "DINOv3ViTModel",
        hf.DINOv3ViTConfig(
            **SIZES, use_gated_mlp=True, hidden_act="silu", num_register_tokens=3, key_bias=True, rope_theta=50.0
        ),
        pooled,
        excused=("embeddings.mask_token",),
    ),
    Case(
        "DINOv3ViTModel",
        hf.DINOv3ViTConfig(**SIZES, query_bias=False, value_bias=False, proj_bias=False, mlp_bias=False),
        pooled,
        excused=("embeddings.mask_token",),
    ),
    Case("CLIPVisionModel", hf.CLIPVisionConfig(**SIZES), pooled),
    Case("CLIPVisionModelWithProjection", hf.CLIPVisionConfig(**SIZES, projection_dim=24), image_embeds),
    Case(
        "CLIPForImageClassification", hf.CLIPConfig(**TOWERS, **NAMED), logits, excused=("vision_model.post_layernorm",)
    ),
    Case("CLIPModel", hf.CLIPConfig(**TOWERS, projection_dim=24), image_features, excused=("text", "logit_scale")),
    Case("SiglipVisionModel", hf.SiglipVisionConfig(**SIZES), pooled),
    Case("SiglipVisionModel", hf.SiglipVisionConfig(**SIZES, vision_use_head=False), patch_mean),
    Case("SiglipForImageClassification", hf.SiglipConfig(**TOWERS, **NAMED), logits, excused=("vision_model.head",)),
    Case("SiglipModel", hf.SiglipConfig(**TOWERS), image_features, excused=("text", "logit")),
    Case("BitForImageClassification", hf.BitConfig(depths=[1, 2], hidden_sizes=[256, 512], **NAMED), logits),
    Case(
        "BitModel",
        hf.BitConfig(depths=[1], hidden_sizes=[512], embedding_size=128),
        lambda model, images: pooled(model, images).flatten(1),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_saved_model_gives_the_same_answers_here(tmp_path: Path, case: Case) -> None:
    theirs = case.build()
    theirs.save_pretrained(tmp_path)
    images = pictures(channels=getattr(case.config, "num_channels", 3))
    assert not any("keys that are unknown" in note for note in read(tmp_path).notes)
    ours = vitrail.load(tmp_path)
    with torch.no_grad():
        expected, got = case.output(theirs, images), ours(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_was_read_is_written_with_the_same_bits(tmp_path: Path, case: Case) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    case.build().save_pretrained(theirs)
    model = vitrail.load(theirs)
    convert(model, "transformers", ours)
    before, after = bare(tensors(theirs)), bare(tensors(ours))
    kept = {name for name in before if not name.startswith(tuple(bare(dict.fromkeys(case.excused, 0))))}
    assert kept <= after.keys()
    for name in kept:
        assert torch.equal(before[name], after[name]), name
    for name in after.keys() - kept:  # what its class always has, though ours does without
        assert after[name].numel() == 0 or after[name].std() == 0, name
    again = vitrail.load(ours)
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def bare(named: dict) -> dict:
    """Names without what stands before all of an encoder's."""
    prefix = re.compile(r"^(vit|deit|ijepa|dinov2|dinov2_with_registers|vision_model)\.")
    return {prefix.sub("", name): value for name, value in named.items()}


# --- at other sizes, positions are interpolated as transformers does


BIT = hf.BitConfig(depths=[1, 1], hidden_sizes=[256, 512], num_labels=3)


def interpolated(output: Output) -> Output:
    """ViT and those of its shape interpolate only when they are asked to."""
    return lambda model, images: output(functools.partial(model, interpolate_pos_encoding=True), images)


SIZED = [
    Case("ViTForImageClassification", hf.ViTConfig(**SIZES), interpolated(logits)),
    Case("DeiTForImageClassificationWithTeacher", hf.DeiTConfig(**SIZES), interpolated(logits)),
    Case("ViTMSNModel", hf.ViTMSNConfig(**SIZES), interpolated(class_token)),
    Case("IJepaForImageClassification", hf.IJepaConfig(**SIZES), interpolated(logits)),
    Case("Dinov2Model", hf.Dinov2Config(**RATIO), pooled),
    Case("Dinov2WithRegistersModel", hf.Dinov2WithRegistersConfig(**RATIO), pooled),
    Case("Dinov2WithRegistersModel", hf.Dinov2WithRegistersConfig(**RATIO, num_register_tokens=0), pooled),
    Case("DINOv3ViTModel", hf.DINOv3ViTConfig(**SIZES, num_register_tokens=2), pooled),
    Case("CLIPVisionModel", hf.CLIPVisionConfig(**SIZES), interpolated(pooled)),
    Case("SiglipVisionModel", hf.SiglipVisionConfig(**SIZES), interpolated(pooled)),
    Case("BitForImageClassification", BIT, logits),
]


@pytest.mark.parametrize("case", SIZED, ids=str)
@pytest.mark.parametrize("size", [(24, 24), (40, 16)], ids=str)
def test_answers_are_the_same_at_other_sizes(tmp_path: Path, case: Case, size: tuple[int, int]) -> None:
    theirs = case.build()
    theirs.save_pretrained(tmp_path)
    images = pictures(size)
    ours = vitrail.load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), case.output(theirs, images), rtol=0, atol=TOLERANCE)


SMALL_VIT = {"hidden_size": 384, "num_attention_heads": 6}
FULL_SIZE = [
    Case("ViTForImageClassification", hf.ViTConfig(**SMALL_VIT, intermediate_size=1536, image_size=64), logits),
    Case("Dinov2ForImageClassification", hf.Dinov2Config(**SMALL_VIT, image_size=70), logits),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", FULL_SIZE, ids=str)
def test_a_small_vit_at_full_depth_gives_the_same_answers(tmp_path: Path, case: Case) -> None:
    theirs = case.build()
    theirs.save_pretrained(tmp_path)
    images = pictures((case.config.image_size,) * 2)
    with torch.no_grad():
        torch.testing.assert_close(vitrail.load(tmp_path)(images), case.output(theirs, images), rtol=0, atol=TOLERANCE)
