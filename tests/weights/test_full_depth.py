"""Twelve blocks of width 768, as published: differences that small models hide would add up here, in both directions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor, nn
from vit_pytorch import ViT as VitPytorch

import vitrail
from vitrail.weights import convert

LARGEST_DIFFERENCE = 2e-5
pytestmark = pytest.mark.slow
B = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 64, "patch_size": 16}

Answer = Callable[[Any, Tensor], Tensor]


def _logits(model: Any, images: Tensor) -> Tensor:
    return model(images).logits


def _pooled(model: Any, images: Tensor) -> Tensor:
    return model(images).pooler_output


def _built(make: Callable[[], nn.Module]) -> Any:
    """The model with its library's initial values, none of which is left a zero or a one."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda: hf.ViTForImageClassification(hf.ViTConfig(**B, num_labels=9)), _logits),
        (lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**B, num_labels=9)), _logits),
        (lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**B, num_labels=9)), _logits),
        (
            lambda: hf.Dinov2WithRegistersForImageClassification(hf.Dinov2WithRegistersConfig(**B, num_labels=9)),
            _logits,
        ),
        (lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**B, intermediate_size=3072, num_register_tokens=4)), _pooled),
        (lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**B, intermediate_size=3072)), _pooled),
        (lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**B, intermediate_size=3072)), _pooled),
    ],
    ids=["vit", "deit", "dinov2", "dinov2 with registers", "dinov3", "clip", "siglip"],
)
@torch.no_grad()
def test_transformers_base_models(tmp_path: Path, make: Callable[[], nn.Module], answer: Answer) -> None:
    theirs = _built(make)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, images = vitrail.load(tmp_path / "theirs"), torch.randn(2, 3, 64, 64)
    said = ours(images) if ours.config.classes else ours.features(images)
    torch.testing.assert_close(said, answer(theirs, images), rtol=0, atol=LARGEST_DIFFERENCE)
    convert(ours, "transformers", tmp_path / "again")
    again = type(theirs).from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(answer(again, images), said, rtol=0, atol=LARGEST_DIFFERENCE)


@pytest.mark.parametrize(
    ("origin", "make"),
    [
        ("torchvision", lambda: torchvision.models.vit_b_16(image_size=64, num_classes=9)),
        (
            "vit-pytorch",
            lambda: VitPytorch(
                image_size=64, patch_size=16, num_classes=9, dim=768, depth=12, heads=12, mlp_dim=3072, channels=3
            ),
        ),
        ("facebook", lambda: timm.create_model("deit_base_distilled_patch16_224", img_size=64, num_classes=9)),
        ("facebook", lambda: timm.create_model("vit_base_patch16_224", img_size=64, num_classes=9)),
    ],
    ids=["torchvision", "vit-pytorch", "deit", "plain"],
)
@torch.no_grad()
def test_base_models_in_one_file(tmp_path: Path, origin: str, make: Callable[[], nn.Module]) -> None:
    theirs = _built(make)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours, images = vitrail.load(tmp_path / "theirs.pth"), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=LARGEST_DIFFERENCE)
    convert(ours, origin, tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.state_dict().items())


@torch.no_grad()
def test_googles_base_model_as_timm_reads_it(tmp_path: Path) -> None:
    """Google's gelu is the approximate one, which timm has to be told."""
    config = vitrail.variant("B/16", image_size=64, classes=9, activation="gelu_tanh")
    ours = _built(lambda: vitrail.ViT(config))
    convert(ours, "google", tmp_path / "ours.npz")
    theirs = timm.create_model("vit_base_patch16_224", img_size=64, num_classes=9, act_layer="gelu_tanh").eval()
    theirs.load_pretrained(str(tmp_path / "ours.npz"))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs(images), ours(images), rtol=0, atol=LARGEST_DIFFERENCE)
    torch.testing.assert_close(vitrail.load(tmp_path / "ours.npz")(images), ours(images), rtol=0, atol=0)
