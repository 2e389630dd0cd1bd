"""Our models, written for transformers, open there by its ordinary calls and give the same answers."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from transformers_models import (
    TOLERANCE,
    Output,
    class_token,
    image_embeds,
    logits,
    open_theirs,
    patch_mean,
    pictures,
    pooled,
)

import vitrail
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ResNet, ResNetConfig, ViT
from vitrail.weights import convert

Make = Callable[..., ViT]
CLASSIFIER, MODEL = "AutoModelForImageClassification", "AutoModel"
NO_CLASS_TOKEN = {"class_token": False, "pool": "avg"}
CLIP = {"pre_norm": True, "patch_bias": False}
GATED = {"gated_mlp": True, "activation": "silu"}

# our choice, the class that it becomes, the call that opens it, and what of its output ours equals
OURS: list[tuple[dict[str, Any], str, str, Output]] = [
    ({}, "ViTForImageClassification", CLASSIFIER, logits),
    ({"qkv_bias": False, "activation": "gelu_tanh"}, "ViTForImageClassification", CLASSIFIER, logits),
    ({"final_norm": "pooled", "patch_bias": False}, "ViTForImageClassification", CLASSIFIER, logits),
    ({"prefix_positions": False, "activation": "relu"}, "ViTForImageClassification", CLASSIFIER, logits),
    ({"position": "none", "activation": "silu"}, "ViTForImageClassification", CLASSIFIER, logits),
    ({"position": "sincos2d", "activation": "quick_gelu"}, "ViTForImageClassification", CLASSIFIER, logits),
    ({"image_size": (32, 48), "head_width": 12, "channels": 1}, "ViTForImageClassification", CLASSIFIER, logits),
    ({"classes": 0, "representation": 20}, "ViTModel", MODEL, pooled),
    ({"registers": 1}, "DeiTForImageClassification", CLASSIFIER, logits),
    ({"distilled": True}, "DeiTForImageClassificationWithTeacher", CLASSIFIER, logits),
    ({"classes": 0, "registers": 1, "representation": 20}, "DeiTModel", MODEL, pooled),
    ({"pool": "token_avg", "layer_scale": 0.3}, "Dinov2ForImageClassification", CLASSIFIER, logits),
    ({"layer_scale": 0.3, **GATED, "mlp_width": 88}, "Dinov2ForImageClassification", CLASSIFIER, logits),
    ({"pool": "avg"}, "Dinov2ForImageClassification", CLASSIFIER, logits),
    ({"pool": "token_avg", "classes": 0}, "Dinov2ForImageClassification", CLASSIFIER, logits),
    ({"classes": 0, "layer_scale": 0.3}, "Dinov2Model", MODEL, pooled),
    ({"registers": 3}, "Dinov2WithRegistersForImageClassification", CLASSIFIER, logits),
    (
        {"registers": 3, "prefix_positions": False, "layer_scale": 1.0, "classes": 0},
        "Dinov2WithRegistersModel",
        MODEL,
        pooled,
    ),
    ({"position": "rotary2d", "classes": 0}, "DINOv3ViTModel", MODEL, pooled),
    (
        {"position": "rotary2d", "classes": 0, "registers": 2, "layer_scale": 1.0, **GATED},
        "DINOv3ViTModel",
        MODEL,
        pooled,
    ),
    ({"position": "rotary2d", "classes": 0, "qkv_bias": False, "patch_bias": False}, "DINOv3ViTModel", MODEL, pooled),
    ({**CLIP, "pool": "avg", "final_norm": "none"}, "CLIPForImageClassification", CLASSIFIER, logits),
    ({**CLIP, "classes": 0, "qkv_bias": False}, "CLIPVisionModel", MODEL, pooled),
    ({"class_token": False, "pool": "map", "classes": 0}, "SiglipVisionModel", MODEL, pooled),
    ({**NO_CLASS_TOKEN, "activation": "gelu_tanh"}, "SiglipForImageClassification", CLASSIFIER, logits),
    ({**NO_CLASS_TOKEN, "activation": "gelu_tanh", "classes": 0}, "SiglipVisionModel", MODEL, patch_mean),
    (NO_CLASS_TOKEN, "IJepaForImageClassification", CLASSIFIER, logits),
    ({**NO_CLASS_TOKEN, "classes": 0}, "IJepaModel", MODEL, patch_mean),
    ({**NO_CLASS_TOKEN, "qkv_bias": False, "head_width": 12}, "IJepaForImageClassification", CLASSIFIER, logits),
]


def _name(value: Any) -> str:
    """The same for every process that runs tests, which a function's address is not."""
    return value.__name__ if callable(value) else str(value)


@pytest.mark.parametrize(("choice", "kind", "call", "output"), OURS, ids=_name)
def test_a_written_model_gives_the_same_answers_there(
    tmp_path: Path, make_model: Make, choice: dict, kind: str, call: str, output: Output
) -> None:
    model = make_model(**{"image_size": (32, 32), "mlp_width": 64, **choice})
    model.preprocess = None
    convert(model, "transformers", tmp_path / "out")
    theirs = open_theirs(call, tmp_path / "out")
    assert type(theirs).__name__ == kind
    images = pictures(model.config.image_size, model.config.channels)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(output(theirs, images), expected, rtol=0, atol=TOLERANCE)
    assert expected.std() > 0.01
    if model.config.classes:
        assert tuple(theirs.config.id2label.values()) == model.labels


def test_a_projection_without_a_bias_is_written_as_clips(tmp_path: Path, make_model: Make) -> None:
    model = make_model(**CLIP, image_size=(32, 32))
    model.preprocess = None
    with pytest.raises(UserError, match="a bias on its head"):
        convert(model, "transformers", tmp_path / "out")
    torch.nn.init.zeros_(model.head.bias)
    convert(model, "transformers", tmp_path / "out")
    theirs = open_theirs("CLIPVisionModelWithProjection", tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(image_embeds(theirs, pictures()), model(pictures()), rtol=0, atol=TOLERANCE)


def test_a_backbone_without_a_pooler_is_written_as_vit(tmp_path: Path, make_model: Make) -> None:
    model = make_model(classes=0, image_size=(32, 32))
    model.preprocess = None
    convert(model, "transformers", tmp_path / "out")
    theirs = hf.ViTModel.from_pretrained(tmp_path / "out", add_pooling_layer=False).eval()
    with torch.no_grad():
        torch.testing.assert_close(class_token(theirs, pictures()), model(pictures()), rtol=0, atol=TOLERANCE)


def test_a_resnet_is_written_as_bit(tmp_path: Path) -> None:
    model = ResNet(ResNetConfig(image_size=(48, 48), layers=(1, 2), width_factor=2, classes=3)).eval()
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    convert(model, "transformers", tmp_path / "out")
    theirs = open_theirs(CLASSIFIER, tmp_path / "out")
    images = pictures((48, 40))
    with torch.no_grad():
        torch.testing.assert_close(logits(theirs, images), model(images), rtol=1e-5, atol=TOLERANCE)


def test_position_interpolation_at_another_size_is_not_what_is_written(tmp_path: Path, make_model: Make) -> None:
    """transformers has one way a family: a model that interpolated otherwise is equal at its own size alone."""
    model = make_model(image_size=(32, 32), position_interpolation="bilinear_corners")
    model.preprocess = None
    convert(model, "transformers", tmp_path / "out")
    assert vitrail.load(tmp_path / "out").config.position_interpolation == "bicubic"


REFUSED = [
    ({"stem": "conv"}, "its stem conv"),
    ({"pool": "map", "class_token": False}, "its head after attention pooling"),
    ({"representation": 20}, "its representation"),
    ({"position": "rotary2d"}, "its classes 5, where it has 0"),
    ({"pool": "avg", "final_norm": "pooled"}, "its final_norm pooled with pool avg"),
    ({"image_size": (32, 48), "layer_scale": 1.0}, "its grid of 4 x 6"),
    ({"mlp_width": 50, "layer_scale": 1.0}, "its mlp_width 50"),
    ({"gated_mlp": True}, "its gate of gelu"),
    ({"qk_norm": True}, "its qk_norm true"),
    ({"distilled": True, "classes": 0}, "its distillation token without heads"),
]


@pytest.mark.parametrize(("choice", "reason"), REFUSED, ids=str)
def test_what_transformers_cannot_build_is_refused_with_the_reason(
    tmp_path: Path, make_model: Make, choice: dict, reason: str
) -> None:
    model = make_model(**{"image_size": (32, 32), "mlp_width": 64, **choice})
    with pytest.raises(UserError, match=f"transformers has no equal of this model.*{reason}"):
        convert(model, "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


CONTRACTS = [
    ({}, {"mode": "squash", "interpolation": "bilinear"}),
    ({}, {"mode": "crop", "crop_fraction": 0.875, "crop_rounding": "down"}),
    ({"pool": "token_avg"}, {"mode": "crop", "crop_fraction": 0.875, "crop_rounding": "down"}),
    ({**CLIP, "classes": 0}, {"mode": "crop", "crop_fraction": 1.0, "crop_rounding": "down"}),
    ({**NO_CLASS_TOKEN, "activation": "gelu_tanh"}, {"mode": "squash"}),
    ({"registers": 1}, {"mode": "squash", "crop_fraction": 0.875}),
]


@pytest.mark.parametrize(("choice", "contract"), CONTRACTS, ids=str)
def test_the_processor_gives_the_same_pixels_there(
    tmp_path: Path, make_model: Make, choice: dict, contract: dict
) -> None:
    model = make_model(**{"image_size": (32, 32), "mlp_width": 64, **choice})
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    model.preprocess = Preprocess((32, 32), mean=mean, std=std, **contract)
    convert(model, "transformers", tmp_path / "out")
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path / "out")
    noise = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((120, 97), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "PNG")
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    ours = model.preprocess.normalize(model.preprocess.load(file.getvalue())[None])
    one_grey_level = 1 / 255 / min(std)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1.01 * one_grey_level)
    again = vitrail.load(tmp_path / "out").preprocess
    assert (again.mode, again.interpolation, again.mean) == (
        model.preprocess.mode,
        model.preprocess.interpolation,
        mean,
    )


def test_a_classifier_fine_tuned_from_dinov2_opens_with_its_labels_and_pixels(tmp_path: Path, make_model: Make) -> None:
    """What most people do: their features, a new head on the class token, back to their tool."""
    model = make_model(image_size=(28, 28), patch_size=14, layer_scale=1.0, mlp_width=64, pool="token")
    model.preprocess = Preprocess((28, 28), mode="crop")
    convert(model, "transformers", tmp_path / "out")
    pipe = hf.pipeline("image-classification", str(tmp_path / "out"), device="cpu")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    pixels = model.preprocess.normalize(model.preprocess.load(file.getvalue())[None])
    with torch.no_grad():
        expected = dict(zip(model.labels, model(pixels).softmax(dim=1)[0].tolist(), strict=True))
    got = {answer["label"]: answer["score"] for answer in pipe(picture, top_k=5)}
    assert got == pytest.approx(expected, abs=1e-4)
