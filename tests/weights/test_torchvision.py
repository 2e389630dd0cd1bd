"""torchvision's Vision Transformers open here with their own answers, and load what is written for them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

import vitrail
from timm_models import LARGEST_DIFFERENCE, randomise
from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig
from vitrail.weights import read
from vitrail.weights.convert import convert

SIZES: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 128, "mlp_dim": 48, "num_classes": 5,
}  # fmt: skip
OURS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "classes": 5,
    "width": 48,
    "depth": 2,
    "heads": 4,
    "mlp_width": 20,
}


def _theirs(**changes: Any) -> VisionTransformer:
    model = VisionTransformer(**{**SIZES, **changes}).eval()
    randomise(model)
    return model


@torch.no_grad()
def _assert_same(ours: ViT, theirs: VisionTransformer) -> None:
    images = torch.randn(2, 3, *ours.config.image_size)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=LARGEST_DIFFERENCE)


def _save(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("changes", [{}, {"representation_size": 24}, {"image_size": 48, "num_layers": 3}], ids=str)
def test_a_state_dict_opens_and_goes_round(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = _theirs(**changes)
    state = theirs.state_dict()
    ours = vitrail.load(_save(tmp_path / "a.pth", state))
    assert (ours.config.heads, ours.config.norm_eps, ours.labels) == (2, 1e-6, ())
    _assert_same(ours, theirs)
    convert(ours, "torchvision", tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_older_files_name_the_mlp_otherwise(tmp_path: Path) -> None:
    theirs = _theirs()
    older = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for name, tensor in theirs.state_dict().items()
    }
    _assert_same(vitrail.load(_save(tmp_path / "a.pth", older)), theirs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"representation": 24},
        {"prefix_positions": False},
        {"position": "sincos2d"},
        {"mlp_width": 64, "depth": 1},
    ],
    ids=str,
)
def test_torchvision_loads_what_is_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = ViT(ViTConfig(**{**OURS, **changes})).eval()
    randomise(model)
    convert(model, "torchvision", tmp_path / "a.safetensors")
    c = model.config
    theirs = _theirs(
        hidden_dim=48, num_heads=4, mlp_dim=c.mlp_width, num_layers=c.depth, representation_size=c.representation
    )
    theirs.load_state_dict(load_file(tmp_path / "a.safetensors"))
    _assert_same(model, theirs)


# width, patch size, image size -> (interpolation, crop fraction), and a part of the note
PUBLISHED = [
    (
        768,
        16,
        224,
        "bilinear",
        224 / 256,
        "IMAGENET1K_V1 of torchvision has them: the default there; IMAGENET1K_SWAG_LINEAR",
    ),
    (768, 32, 224, "bilinear", 224 / 256, "pixels as IMAGENET1K_V1 of torchvision has them"),
    (1024, 16, 224, "bilinear", 224 / 242, "IMAGENET1K_SWAG_LINEAR_V1 has the same shapes"),
    (1280, 14, 224, "bicubic", 1.0, "pixels as IMAGENET1K_SWAG_LINEAR_V1 of torchvision has them"),
    (768, 16, 384, "bicubic", 1.0, "pixels as IMAGENET1K_SWAG_E2E_V1"),
    (1280, 14, 518, "bicubic", 1.0, "pixels as IMAGENET1K_SWAG_E2E_V1"),
]


@pytest.mark.parametrize(("width", "patch", "image", "interpolation", "fraction", "note"), PUBLISHED, ids=str)
def test_pixels_are_those_of_the_published_weights_that_fit(
    tmp_path: Path, width: int, patch: int, image: int, interpolation: str, fraction: float, note: str
) -> None:
    with torch.device("meta"):
        model = VisionTransformer(image, patch, 1, width // 64, width, 8)
    shapes = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in model.state_dict().items()}
    small = {name: tensor.contiguous() for name, tensor in shapes.items()}
    save_file(small, tmp_path / "a.safetensors")
    description = read(tmp_path / "a.safetensors")
    preprocess = description.preprocess
    assert preprocess is not None
    assert (preprocess.interpolation, preprocess.crop_fraction) == (interpolation, pytest.approx(fraction))
    assert preprocess.image_size == (image, image)
    assert (preprocess.mode, preprocess.mean) == ("crop", (0.485, 0.456, 0.406))
    assert note in " ".join(description.notes)


@pytest.mark.parametrize(("width", "heads"), [(64, 1), (192, 3), (1152, 16), (1280, 16), (1408, 16), (1664, 16)])
def test_heads_are_those_of_the_published_models_and_said(tmp_path: Path, width: int, heads: int) -> None:
    with torch.device("meta"):
        model = VisionTransformer(16, 16, 1, 1, width, 8)
    save_file({name: torch.zeros(t.shape) for name, t in model.state_dict().items()}, tmp_path / "a.safetensors")
    description = read(tmp_path / "a.safetensors")
    assert description.config.heads == heads
    assert f"assumed heads of width {width // heads}, {heads} in number" in " ".join(description.notes)


def test_heads_that_no_published_model_has_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pth", _theirs(hidden_dim=48, num_heads=4).state_dict())
    with pytest.raises(UserError, match=r"does not tell the number of heads.* width 48: .*model\.heads"):
        vitrail.load(path)


def test_a_convolutional_stem_is_refused(tmp_path: Path) -> None:
    theirs = _theirs(conv_stem_configs=[ConvStemConfig(16, 3, 2), ConvStemConfig(32, 3, 4)])
    with pytest.raises(UserError, match="convolutional stem"):
        vitrail.load(_save(tmp_path / "a.pth", theirs.state_dict()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, "that it has no head"),
        ({"image_size": (32, 48)}, "images, which are not square"),
        ({"registers": 1}, "its registers of 1"),
        ({"pool": "avg"}, "its pool of 'avg'"),
        ({"activation": "relu"}, "its activation of 'relu'"),
        ({"position": "rotary2d"}, "its rotary2d positions"),
        ({"channels": 1}, "its channels of 1"),
        ({"head_width": 8}, "add up to 32"),
    ],
)
def test_what_torchvision_has_no_equal_of_is_refused_by_name(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(ViT(ViTConfig(**{**OURS, **changes})), "torchvision", tmp_path / "a.safetensors")
