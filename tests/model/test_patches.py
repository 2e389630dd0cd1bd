"""Images become tokens as the paper says."""

import torch

from vitrail.model import ViTConfig
from vitrail.model.patches import ConvStem, LinearPatches, patchify


def test_patches_are_cut_row_by_row() -> None:
    images = torch.randn(2, 3, 6, 9)
    patches = patchify(images, 3)
    assert patches.shape == (2, 6, 27)
    torch.testing.assert_close(patches[:, 4].reshape(2, 3, 3, 3), images[:, :, 3:6, 3:6], rtol=0, atol=0)


def test_linear_patches_are_a_strided_convolution() -> None:
    torch.manual_seed(0)
    stem = LinearPatches(ViTConfig(image_size=(8, 12), patch_size=4, width=16, heads=2))
    images = torch.randn(2, 3, 8, 12)
    expected = stem.proj(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(stem(images), expected, atol=1e-6, rtol=1e-5)


def test_with_patches_of_one_pixel_every_pixel_is_a_token() -> None:
    images = torch.randn(1, 3, 5, 4)
    torch.testing.assert_close(patchify(images, 1), images.flatten(2).transpose(1, 2), rtol=0, atol=0)


def test_the_conv_stem_halves_down_to_the_grid() -> None:
    config = ViTConfig(image_size=(32, 64), patch_size=8, width=48, heads=2, stem="conv")
    stem = ConvStem(config)
    assert stem(torch.randn(2, 3, 32, 64)).shape == (2, 4 * 8, 48)
    assert [m.out_channels for m in stem.modules() if isinstance(m, torch.nn.Conv2d)] == [12, 24, 48, 48]
