"""Patch filters are the principal components of what the first layer looks for, or its kernels."""

from typing import Any

import numpy as np
import pytest
import torch

from vitrail.errors import UserError
from vitrail.inspection.filters import components, patch_filters
from vitrail.model import ResNet, ResNetConfig, ViT, ViTConfig


def vit(**changes: Any) -> ViT:
    shape = {"image_size": (16, 24), "patch_size": 4, "width": 64, "depth": 1, "heads": 2, "mlp_width": 8, "classes": 2}
    torch.manual_seed(0)
    return ViT(ViTConfig(**{**shape, **changes}))


def set_kernels(model: ViT, kernels: torch.Tensor) -> None:
    with torch.no_grad():
        model.patch_embed.proj.weight.copy_(kernels)  # type: ignore[union-attr, operator]


def test_kernels_that_mix_few_patterns_give_these_back() -> None:
    torch.manual_seed(0)
    patterns, _ = torch.linalg.qr(torch.randn(48, 3))  # orthonormal columns
    amounts = torch.randn(64, 3) * torch.tensor([3.0, 2.0, 0.5])
    model = vit()
    # amounts without a mean and without correlation: then the patterns are the components themselves
    amounts, _ = torch.linalg.qr(amounts - amounts.mean(dim=0))
    set_kernels(model, (amounts * torch.tensor([3.0, 2.0, 0.5]) @ patterns.T).reshape(64, 3, 4, 4))
    found = patch_filters(model, 3)
    np.testing.assert_allclose(found.shares, np.array([9, 4, 0.25]) / 13.25, atol=1e-5)
    for picture, pattern in zip(found.pictures, patterns.T.reshape(3, 3, 4, 4), strict=True):
        seen = torch.from_numpy(picture).permute(2, 0, 1) - 0.5
        agreement = torch.cosine_similarity(seen.flatten(), pattern.flatten(), dim=0)
        assert abs(agreement.item()) == pytest.approx(1, abs=1e-5)


def test_components_are_the_main_axes_of_the_covariance() -> None:
    points = torch.from_numpy(np.random.default_rng(0).normal(2.0, 1.0, (40, 12)).astype(np.float32))
    found, shares = components(points, 5)
    variances, axes = np.linalg.eigh(np.cov(points.numpy().astype(np.float64), rowvar=False))  # rising
    np.testing.assert_allclose(np.abs((found.numpy() * axes.T[::-1][:5]).sum(axis=1)), 1, atol=1e-4)
    np.testing.assert_allclose(shares.numpy(), variances[::-1][:5] / variances.sum(), atol=1e-5)
    strongest = found.gather(1, found.abs().argmax(dim=1, keepdim=True))
    assert (strongest > 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_reach_from_black_to_white_about_grey(channels: int) -> None:
    found = patch_filters(vit(channels=channels))
    count = min(28, 16 * channels)
    assert found.pictures.shape == (count, 4, 4, channels)
    assert found.pictures.dtype == np.float32
    np.testing.assert_allclose(np.abs(found.pictures - 0.5).max(axis=(1, 2, 3)), 0.5, atol=1e-6)
    np.testing.assert_allclose(found.pictures.max(axis=(1, 2, 3)), 1, atol=1e-6)  # the strongest pixel is bright
    assert (np.diff(found.shares) <= 1e-6).all()
    assert found.shares.sum() <= 1 + 1e-6


def test_all_components_explain_everything_and_there_are_no_more() -> None:
    found = patch_filters(vit(width=8), 1000)
    assert found.pictures.shape == (8, 4, 4, 3)
    assert found.shares.sum() == pytest.approx(1, abs=1e-6)
    assert found.shares[-1] == pytest.approx(0, abs=1e-6)  # eight points lie in seven dimensions


def test_factors_of_the_norm_over_a_patchs_pixels_count() -> None:
    torch.manual_seed(0)
    model = vit(patch_norm=True)
    factors, kernels = torch.rand(48) * 3, torch.randn(64, 3, 4, 4)
    set_kernels(model, kernels)
    with torch.no_grad():
        model.patch_embed.norm_pixels.weight.copy_(factors)  # type: ignore[union-attr, operator]
    plain = vit()
    set_kernels(plain, kernels * factors.reshape(3, 4, 4))
    np.testing.assert_allclose(patch_filters(model).pictures, patch_filters(plain).pictures, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "shape", "centred"),
    [
        (lambda: vit(stem="conv"), (28, 3, 3, 3), False),
        (lambda: vit(stem="hybrid", patch_size=8, stem_layers=(1,), stem_width=32), (28, 7, 7, 3), True),
        (lambda: vit(stem="hybrid", stem_layers=(), stem_root="small", stem_width=8, channels=1), (8, 3, 3, 1), True),
        (lambda: ResNet(ResNetConfig(layers=(1,), image_size=(32, 32), classes=2)), (28, 7, 7, 3), True),
    ],
    ids=["conv", "hybrid", "small hybrid", "resnet"],
)
def test_of_convolutions_the_first_kernels_are_shown(model: Any, shape: tuple[int, ...], centred: bool) -> None:
    torch.manual_seed(0)
    built = model()
    first = next(module for module in built.modules() if isinstance(module, torch.nn.Conv2d))
    torch.nn.init.normal_(first.weight, mean=0.3)
    found = patch_filters(built)
    assert found.pictures.shape == (min(28, len(first.weight)), *shape[1:])
    assert found.shares.shape == (0,)
    assert "first convolution" in found.what
    kernel = first.weight.detach()[2]
    kernel = kernel - kernel.mean() if centred else kernel
    expected = 0.5 + kernel / (2 * kernel.abs().max())
    np.testing.assert_allclose(found.pictures[2], expected.permute(1, 2, 0).numpy(), atol=1e-6)


def test_half_precision_and_kernels_of_nothing_do_no_harm() -> None:
    model = vit()
    expected = patch_filters(model, 4)
    np.testing.assert_allclose(patch_filters(model.half(), 4).shares, expected.shares, atol=1e-3)
    set_kernels(model, torch.zeros(64, 3, 4, 4))
    nothing = patch_filters(model)
    assert np.isfinite(nothing.pictures).all()
    assert (nothing.shares == 0).all()


def test_what_is_no_picture_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="4 channels"):
        patch_filters(vit(channels=4))
    with pytest.raises(UserError, match="positive"):
        patch_filters(vit(), 0)
