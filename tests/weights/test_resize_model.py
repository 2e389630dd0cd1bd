"""A resized model answers as the library it came from answers at that size, and keeps what resizing need not change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor
from transformers_models import randomise

import vitrail
from positions_cases import PLACED, randomised, small
from stripes import write_images
from timm_models import SMALL, write_theirs
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ResNet, ResNetConfig, ViT
from vitrail.model.resize import METHODS, resize_kernel, resize_positions
from vitrail.recipes.files import from_dict
from vitrail.weights.start import start_from

Make = Callable[..., ViT]

LARGEST_DIFFERENCE = 2e-5  # of logits of about 1, between the same sums in another order

# --- against other libraries


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 32), (16, 96), (48, 32)], ids=str)
@pytest.mark.parametrize(
    ("architecture", "args"),
    [
        ("vit_small_patch16_224", {"img_size": (32, 48)}),
        ("vit_small_patch16_224", {"img_size": 32, "class_token": False, "global_pool": "avg", "reg_tokens": 2}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": (32, 48), "patch_size": 16}),
        ("vit_small_patch16_dinov3", {"img_size": (32, 48)}),  # rotary
    ],
    ids=str,
)
def test_a_model_of_timm_is_resized_as_timm_does(
    tmp_path: Path, architecture: str, args: dict, size: tuple[int, int]
) -> None:
    theirs = write_theirs(tmp_path, architecture, **{**SMALL, **args})
    ours = vitrail.resize(vitrail.load(tmp_path), size)
    theirs.set_input_size(img_size=size)
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=LARGEST_DIFFERENCE)


@torch.no_grad()
@pytest.mark.parametrize(("size", "p"), [((48, 72), 24), ((32, 48), 8), ((60, 40), 20)], ids=str)
def test_patches_of_another_size_are_those_of_timm(tmp_path: Path, size: tuple[int, int], p: int) -> None:
    theirs = write_theirs(tmp_path, "vit_small_patch16_224", **{**SMALL, "img_size": (32, 48)})
    ours = vitrail.resize(vitrail.load(tmp_path), size, p)
    theirs.set_input_size(img_size=size, patch_size=p)
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(
        ours(images), theirs(images), rtol=0, atol=2 * LARGEST_DIFFERENCE
    )  # its inverse is float32


@torch.no_grad()
@pytest.mark.parametrize("size", [(224, 224), (518, 518), (224, 448), (448, 224)], ids=str)
def test_dinov2_at_any_size_gives_the_features_of_transformers(tmp_path: Path, size: tuple[int, int]) -> None:
    """Patches of 14 pixels and a grid of 37 x 37, as it is published."""
    config = hf.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=518, patch_size=14)
    theirs = hf.Dinov2Model(config).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    images = torch.randn(1, 3, *size)
    expected = theirs(images)
    ours = vitrail.load(tmp_path)
    for model in (ours, vitrail.resize(ours, size)):
        torch.testing.assert_close(model.features(images), expected.pooler_output, rtol=0, atol=1e-4)
        torch.testing.assert_close(model.encode(images), expected.last_hidden_state, rtol=0, atol=1e-4)


# --- the same size, another size


def resnet() -> ResNet:
    torch.manual_seed(0)
    return ResNet(ResNetConfig(image_size=(32, 32), layers=(1,), classes=4)).eval()


STEMS: list[dict[str, Any]] = [
    {"stem": "conv"},
    {"stem": "hybrid", "stem_layers": (), "stem_root": "small", "stem_width": 32},
    {"patch_norm": True, "position": "sincos2d", "registers": 2},
    {"distilled": True},
    {"position": "none", "pool": "map", "class_token": False},
]


@torch.no_grad()
@pytest.mark.parametrize("patch_size", [None, 4])
@pytest.mark.parametrize(
    "choice", [{"position": kind, "position_site": site} for kind, site in PLACED] + STEMS, ids=str
)
def test_the_same_size_is_the_same_to_the_bit(choice: dict, patch_size: int | None) -> None:
    model = randomised(small(**choice))
    model.labels = ("a", "b", "c")
    images = torch.randn(2, 3, 12, 20)
    for same in (
        vitrail.resize(model, (12, 20), patch_size),
        vitrail.resize(model, patch_size=patch_size, method="area"),
    ):
        assert torch.equal(same(images), model(images))
        assert (same.config, same.labels, same.training) == (model.config, model.labels, False)
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in same.state_dict().items())


@torch.no_grad()
def test_a_resnet_only_notes_its_size() -> None:
    model = resnet()
    model.preprocess = Preprocess((32, 32))
    images = torch.randn(2, 3, 64, 48)
    resized = vitrail.resize(model, (64, 48))
    assert resized.config.image_size == resized.preprocess.image_size == (64, 48)
    assert torch.equal(resized(images), model(images))


@torch.no_grad()
@pytest.mark.parametrize(("kind", "site"), PLACED)
def test_a_resized_model_answers_as_the_model_does_at_that_size(kind: str, site: str) -> None:
    model = randomised(small(position=kind, position_site=site, registers=1, position_interpolation="bilinear"))
    for size in ((24, 16), (4, 60), (60, 4)):
        images = torch.randn(2, 3, *size)
        assert torch.equal(vitrail.resize(model, size)(images), model(images))


@torch.no_grad()
def test_the_new_model_is_another_one_and_learns(make_model: Make) -> None:
    model = make_model(position_interpolation="bicubic")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    resized = vitrail.resize(model, 64)
    assert resized.config == model.config.with_changes(image_size=(64, 64))
    assert resized.preprocess == Preprocess((64, 64), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    assert resized.labels == model.labels
    assert torch.equal(resized.pos_embed[:, :1], model.pos_embed[:, :1])
    with torch.enable_grad():
        resized(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in resized.parameters())
    for parameter in resized.parameters():
        parameter += 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_another_way_of_interpolating_is_taken_once_and_not_kept(make_model: Make) -> None:
    model = make_model(position_interpolation="bicubic")
    for method in METHODS:
        resized = vitrail.resize(model, (64, 32), method=method)
        expected = resize_positions(model.pos_embed, (4, 6), (8, 4), prefix=1, method=method)
        assert torch.equal(resized.pos_embed, expected)
        assert resized.config.position_interpolation == "bicubic"


@torch.no_grad()
def test_half_precision_and_a_contract_of_whole_patches_are_kept(make_model: Make) -> None:
    model = make_model().to(torch.bfloat16)
    model.preprocess = Preprocess((32, 48), mode="native", patch_size=8)
    resized = vitrail.resize(model, (64, 48), 16)
    assert {tensor.dtype for tensor in resized.state_dict().values()} == {torch.bfloat16}
    assert resized(torch.randn(1, 3, 64, 48).bfloat16()).isfinite().all()
    assert (resized.preprocess.image_size, resized.preprocess.patch_size) == ((64, 48), 16)


@torch.no_grad()
def test_a_resized_model_is_saved_and_read_as_any_other(tmp_path: Path, make_model: Make) -> None:
    resized = vitrail.resize(make_model(), (48, 36), 12)
    vitrail.save(resized, tmp_path)
    again = vitrail.load(tmp_path)
    assert (again.config, again.preprocess) == (resized.config, resized.preprocess)
    images = torch.randn(2, 3, 48, 36)
    assert torch.equal(again(images), resized(images))


# --- another patch size


def enlarged(images: Tensor, p: int, new: int) -> Tensor:
    """Every patch by itself resized from p to p' pixels, in the same grid."""
    B, C, H, W = images.shape
    patches = F.unfold(images, p, stride=p).transpose(1, 2).reshape(-1, C, p, p)
    patches = F.interpolate(patches, size=(new, new), mode="bicubic", antialias=True)
    columns = patches.reshape(B, -1, C * new * new).transpose(1, 2)
    return F.fold(columns, (H // p * new, W // p * new), new, stride=new)


@torch.no_grad()
@pytest.mark.parametrize(("p", "new"), [(16, 32), (16, 20), (8, 12), (14, 16), (1, 2), (4, 7)])
@pytest.mark.parametrize("kind", ["learned", "sincos2d", "relative", "relative_bias", "rotary2d"])
def test_an_image_of_enlarged_patches_gives_the_same_tokens_and_logits(kind: str, p: int, new: int) -> None:
    model = randomised(small(image_size=(3 * p, 5 * p), patch_size=p, position=kind, registers=1))
    images = torch.randn(2, 3, 3 * p, 5 * p)
    resized = vitrail.resize(model, (3 * new, 5 * new), new)
    larger = enlarged(images, p, new)
    for ours, expected in (
        (resized.patch_embed(larger), model.patch_embed(images)),
        (resized(larger), model(images)),
        (model(larger, patch_size=new), model(images)),
    ):
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1)
    plain = vitrail.resize(model, (3 * new, 5 * new), new, patch_method="interpolate")
    assert not torch.allclose(plain(larger), model(images), rtol=0, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "site"), PLACED)
@pytest.mark.parametrize(("size", "p"), [((12, 20), 2), ((24, 40), 8), ((12, 18), 3), ((12, 20), 4)])
def test_cutting_the_image_otherwise_is_what_a_resized_model_does(
    kind: str, site: str, size: tuple[int, int], p: int
) -> None:
    model = randomised(small(position=kind, position_site=site))
    images = torch.randn(2, 3, *size)
    resized = vitrail.resize(model, size, p)
    assert resized.config.grid == (size[0] // p, size[1] // p)
    torch.testing.assert_close(model(images, patch_size=p), resized(images), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.features(images, patch_size=p), resized.features(images), rtol=0, atol=1e-6)


def test_every_weight_learns_from_patches_of_another_size() -> None:
    model = randomised(small(registers=1)).train()
    model(torch.randn(2, 3, 12, 20), patch_size=2).square().sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in model.parameters())


@torch.no_grad()
def test_a_hybrids_patches_are_places_of_its_feature_map() -> None:
    stem = {"stem": "hybrid", "stem_layers": (1,), "stem_root": "small", "stem_width": 32}
    model = randomised(small(image_size=(24, 32), patch_size=2, **stem))
    resized = vitrail.resize(model, (36, 48), 3)
    assert torch.equal(resized.patch_embed.proj.weight, resize_kernel(model.patch_embed.proj.weight, 3))
    assert resized.config.grid == model.config.grid
    places = torch.randn(2, model.patch_embed.proj.in_channels, 24, 32)
    before, after = model.patch_embed.proj(places), resized.patch_embed.proj(enlarged(places, 2, 3))
    assert (before - after).abs().max() <= 1e-4 * before.abs().max()
    for name, tensor in model.patch_embed.backbone.state_dict().items():
        assert torch.equal(resized.patch_embed.backbone.state_dict()[name], tensor)
    assert resized(torch.randn(2, 3, 36, 48)).isfinite().all()


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"stem": "conv"}, {"patch_size": 2}, "patch size 2: this model's convolutional stem is built for 4"),
        ({"patch_norm": True}, {"patch_size": 2}, "patch size 2: this model normalises the 4x4 pixels of a patch"),
        ({}, {"patch_size": 5}, "image size 12x20 is not divisible by patch size 5"),
        ({}, {"patch_size": 0}, "model.patch_size is 0: it must be at least 1"),
        ({}, {"patch_size": -4}, "model.patch_size is -4"),
        ({}, {"image_size": 18}, "image size 18x18 is not divisible by patch size 4: the nearest sizes are 16x16 and"),
        ({}, {"image_size": 0}, "image size 0x0 is not positive"),
        ({}, {"image_size": (-4, 8)}, "image size -4x8 is not positive"),
        ({}, {"image_size": (8, 8, 8)}, "it must be one whole number, or height and width"),
        ({}, {"image_size": "large"}, "it must be one whole number, or height and width"),
        ({}, {"image_size": 16, "method": "bicubc"}, "unknown interpolation method 'bicubc': did you mean bicubic"),
        ({}, {"image_size": 16, "patch_method": "pinv"}, "unknown method for patches 'pinv'"),
        (None, {"patch_size": 8}, "patch size 8: this model is a ResNet, which has no patches"),
    ],
    ids=str,
)
def test_what_is_not_possible_is_refused_in_one_line(changes: dict | None, arguments: dict, message: str) -> None:
    model = resnet() if changes is None else randomised(small(**changes))
    with pytest.raises(UserError, match=message) as refused:
        vitrail.resize(model, **arguments)
    assert "\n" not in str(refused.value)


@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "p", "message"),
    [
        ({"stem": "conv"}, 2, "only a linear stem can be cut otherwise, not the conv one"),
        (STEMS[1], 2, "not the hybrid one"),
        ({"patch_norm": True}, 2, "not one that normalises its pixels"),
        ({}, 0, "patches of 0 pixels: give a positive number"),
        ({}, -2, "patches of -2 pixels"),
        ({}, 5, "H and W divisible by 5"),
    ],
    ids=str,
)
def test_an_image_that_cannot_be_cut_so_is_refused(changes: dict, p: int, message: str) -> None:
    model = randomised(small(**changes))
    images = torch.randn(2, 3, 12, 20)
    with pytest.raises(UserError, match=message):
        model(images, patch_size=p)
    assert torch.equal(model(images, patch_size=4), model(images))  # its own size is no other


# --- fine-tuning from patches of another size


@torch.no_grad()
@pytest.mark.parametrize(("size", "p"), [((48, 72), 12), ((32, 48), 16), ((64, 64), 16)])
@pytest.mark.parametrize("kind", ["learned", "sincos2d", "relative_bias", "rotary2d"])
def test_fine_tuning_may_start_with_another_patch_size(
    make_model: Make, kind: str, size: tuple[int, int], p: int
) -> None:
    source = make_model(position=kind, registers=1, pool="avg")
    model, notes = start_from(source.config.at_size(size, p), source)
    kernel = resize_kernel(source.patch_embed.proj.weight, p, method="pseudo_inverse")
    assert torch.equal(model.patch_embed.proj.weight, kernel)
    assert f"patch kernel resized (pseudo-inverse) from 8 to {p} pixels" in notes
    images = torch.randn(2, 3, *size)
    expected = vitrail.resize(source, size, p).features(images)
    torch.testing.assert_close(model.eval().features(images), expected, rtol=0, atol=1e-6)
    assert model.preprocess.image_size == size


def test_a_start_model_whose_patch_size_is_built_in_says_so(make_model: Make) -> None:
    for stem, message in (
        ({"stem": "conv"}, "convolutional stem"),
        ({"patch_norm": True}, "normalises the 8x8 pixels"),
    ):
        source = make_model(**stem)
        with pytest.raises(UserError, match=message):
            start_from(source.config.with_changes(patch_size=16), source)


def test_a_recipe_fine_tunes_with_another_patch_size(tmp_path: Path, make_model: Make) -> None:
    source = make_model(image_size=(16, 16))
    vitrail.save(source, tmp_path / "start")
    data = write_images(tmp_path / "stripes", {"high": 4, "low": 4})
    recipe = {
        "init": str(tmp_path / "start"),
        "image_size": 24,
        "model": {"patch_size": 12},
        "steps": 1,
        "batch_size": 2,
    }
    recipe |= {"augment": {"crop": "none", "flip": 0}, "data": {"val_fraction": 0.25}, "optimizer": {"lr": 1e-12}}
    vitrail.train(from_dict(recipe), data, out=tmp_path / "run", quiet=True)
    trained = vitrail.load(tmp_path / "run")
    assert (trained.config.image_size, trained.config.patch_size) == ((24, 24), 12)
    expected = resize_kernel(source.patch_embed.proj.weight, 12)
    torch.testing.assert_close(trained.patch_embed.proj.weight, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_card_says_where_timm_interpolates_otherwise(tmp_path: Path, make_model: Make, method: str) -> None:
    vitrail.save(make_model(position_interpolation=method), tmp_path)
    assert vitrail.load(tmp_path).config.position_interpolation == method
    said = f"timm interpolates the positions by bicubic_antialias, and vitrail by {method}."
    assert (said in (tmp_path / "README.md").read_text()) == (method != "bicubic_antialias")


@torch.no_grad()
def test_without_an_image_size_the_contract_keeps_its_own() -> None:
    """A model can be used at another size than that of its table of positions, as DINOv2 is."""
    model = randomised(small(image_size=(32, 32), patch_size=8))
    model.preprocess = vitrail.Preprocess((16, 16))
    assert vitrail.resize(model).preprocess == model.preprocess
    finer = vitrail.resize(model, patch_size=4)
    assert (finer.config.image_size, finer.preprocess.image_size) == ((32, 32), (16, 16))
    with pytest.raises(UserError, match="16x16 is not divisible by patch size 32"):
        vitrail.resize(model, patch_size=32)
    assert vitrail.resize(model, (32, 32)).preprocess.image_size == (32, 32)


@torch.no_grad()
@pytest.mark.parametrize("origin", ["torchvision", "facebook"])
def test_a_resized_model_with_sines_and_cosines_goes_to_files_of_others(origin: str, tmp_path: Path) -> None:
    model = randomised(small(image_size=(32, 32), patch_size=8, position="sincos2d", mlp_width=64, norm_eps=1e-6))
    model.preprocess = vitrail.Preprocess((32, 32))
    resized = vitrail.resize(model, 48)
    vitrail.convert(resized, origin, tmp_path / "other.safetensors")
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(vitrail.load(tmp_path / "other.safetensors")(images), resized(images))
