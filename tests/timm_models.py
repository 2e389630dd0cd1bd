"""Models of timm with random weights in folders as timm writes them, and what both libraries answer."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

import vitrail
from vitrail.model import ResNet, ViT
from vitrail.weights.convert import convert

LARGEST_DIFFERENCE = 2e-5  # of logits of about 1, between the same sums in another order
SMALL = {"num_classes": 7, "depth": 2, "embed_dim": 48, "num_heads": 3}
LABELS = tuple("abcdefg")


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Every parameter random; the norms' scales around 1, and matrices so that values neither grow nor vanish."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.normal_(1, 0.2)
        elif name.endswith("weight"):
            parameter.normal_(0, 0.6 / parameter[0].numel() ** 0.5)
        else:
            parameter.normal_(0.3 if "gamma" in name else 0, 0.15)


def write_theirs(folder: Path, architecture: str, **args: Any) -> nn.Module:
    """A model that timm builds with these arguments, saved by timm's own function."""
    model = timm.create_model(architecture, **args).eval()
    randomise(model)
    labels = {"label_names": list(LABELS)} if model.num_classes == len(LABELS) else {}
    save_for_hf(model, str(folder), model_config=labels, safe_serialization=True)
    return model


def open_theirs(folder: Path) -> nn.Module:
    """What timm's ordinary call makes of a folder."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


@torch.no_grad()
def assert_same_answers(ours: ViT | ResNet, theirs: nn.Module) -> None:
    """Logits on random images of the model's own size agree."""
    images = torch.randn(2, ours.config.channels, *ours.config.image_size)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=LARGEST_DIFFERENCE)


def assert_goes_round(tmp_path: Path, architecture: str, **args: Any) -> ViT | ResNet:
    """timm's model opens here with its answers and labels; written for timm, it has the same bits under the same names."""
    theirs = write_theirs(tmp_path / "theirs", architecture, **args)
    ours = vitrail.load(tmp_path / "theirs")
    assert_same_answers(ours, theirs)
    assert ours.labels == (LABELS if ours.config.classes == len(LABELS) else ())
    convert(ours, "timm", tmp_path / "again")
    assert_same_answers(ours, open_theirs(tmp_path / "again"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return ours
