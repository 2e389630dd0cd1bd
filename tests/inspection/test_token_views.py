"""Tokens as they are shown: lengths and artefacts, what is alike, colours, and patches with their numbers."""

from typing import Any

import numpy as np
import pytest
import torch

from vitrail.errors import UserError
from vitrail.inspection.look import Look, look
from vitrail.inspection.tokens import colours, norms, numbered_patches, outliers, patch_features, similarity
from vitrail.model import ViT, ViTConfig


def seen(*, tokens: bool = True, **changes: Any) -> tuple[Look, list[torch.Tensor]]:
    """A look at two pictures of 3 x 2 patches, and the tokens after each block as the forward pass gives them."""
    torch.manual_seed(0)
    shape = {"image_size": (16, 16), "patch_size": 4, "width": 16, "depth": 3, "heads": 2, "mlp_width": 8, "classes": 2}
    model = ViT(ViTConfig(**{**shape, **changes})).eval()
    images = torch.randn(2, 3, 12, 8)
    with torch.no_grad():
        return look(model, images, tokens=tokens), model(images, collect=("tokens",))["tokens"]


def test_norms_are_the_lengths_of_all_tokens_by_layer() -> None:
    found, tokens = seen(registers=2)
    expected = torch.stack(tokens, dim=1).square().sum(dim=-1).sqrt()
    assert norms(found).shape == (2, 3, 3 + 6)
    torch.testing.assert_close(norms(found), expected, atol=1e-5, rtol=1e-5)


def test_patch_features_lie_on_the_grid_without_the_prefix() -> None:
    found, tokens = seen(registers=2)
    torch.testing.assert_close(patch_features(found)[1, 2, 1], tokens[-1][1, 3 + 5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(patch_features(found, 0)[0, 1, 0], tokens[0][0, 3 + 2], atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="blocks 0 to 2"):
        patch_features(found, 3)


def test_a_look_without_tokens_is_refused() -> None:
    found, _ = seen(tokens=False)
    for call in (norms, patch_features):
        with pytest.raises(UserError, match="tokens=True"):
            call(found)


def test_patches_far_longer_than_the_others_of_their_picture_are_outliers() -> None:
    torch.manual_seed(0)
    lengths = 40 + 3 * torch.randn(2, 12, 1 + 196)
    lengths[..., 0] = 500  # the class token, which is not judged
    lengths[0, 9:, 7] = 150  # an artefact in the last quarter of the layers
    lengths[1, :9, 20] = 150  # only before it
    lengths[1, 9:, 30] = 58  # long, but not by half
    marked = outliers(lengths, prefix=1)
    assert marked.shape == (2, 197)
    assert marked.nonzero().tolist() == [[0, 7]]
    assert torch.equal(outliers(lengths[0], prefix=1), marked[0])
    assert outliers(lengths[..., 1:])[0].nonzero().tolist() == [[6]]


def test_where_lengths_differ_much_anyway_only_the_extreme_is_an_outlier() -> None:
    torch.manual_seed(0)
    lengths = 40 + 10 * torch.randn(1, 400)  # deviation 10: the limit is about 100
    lengths[0, 5], lengths[0, 6] = 85, 115
    assert outliers(lengths).nonzero().tolist() == [[6]]


def test_patches_that_are_all_alike_have_no_outlier() -> None:
    lengths = torch.full((4, 50), 10.0)
    lengths[:, 3] = 11
    assert not outliers(lengths).any()


def test_similarity_is_the_cosine_with_every_patch() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 16)
    features[0, 2, 1] = 5 * features[0, 0, 3]
    features[1, 2, 1] = -features[1, 0, 3]
    found = similarity(features, (0, 3))
    expected = torch.cosine_similarity(features, features[:, :1, 3:], dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert found[:, 2, 1].tolist() == pytest.approx([1, -1])
    for patch in ((3, 0), (0, 4), (-1, 0)):
        with pytest.raises(UserError, match="rows go from 0 to 2"):
            similarity(features, patch)


def test_colours_are_the_three_main_directions_of_all_pictures_together() -> None:
    torch.manual_seed(0)
    places = torch.rand(2, 10, 10, 3) * torch.tensor([9.0, 4.0, 2.0])
    directions, _ = torch.linalg.qr(torch.randn(32, 32))
    features = places @ directions[:3] + 0.01 * torch.randn(2, 10, 10, 32) + 7
    found = colours(features)
    assert found.shape == (2, 10, 10, 3)
    assert found.min() == 0
    assert found.max() == 1
    for channel in range(3):
        pairs = torch.stack([found[..., channel].flatten(), places[..., channel].flatten()])
        assert abs(torch.corrcoef(pairs)[0, 1]) > 0.98
    assert torch.equal(colours(features.flatten(0, 2)), found.flatten(0, 2))


def test_one_stray_patch_does_not_take_the_colours_of_the_others() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 20, 20, 8) * torch.tensor([5.0, 3.0, 2.0, 0.1, 0.1, 0.1, 0.1, 0.1])
    ordinary = colours(features)
    features[0, 4, 4, 0] = 60
    found = colours(features)
    assert found.std(dim=(0, 1, 2)).min() > 0.8 * ordinary.std(dim=(0, 1, 2)).min()


@pytest.mark.parametrize("width", [1, 2, 8])
def test_channels_without_a_direction_are_grey(width: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(1, 4, 4, 1)
    found = colours(values * torch.randn(width))  # all on one line
    assert found[..., 0].std() > 0.1
    assert (found[..., 1:] == 0.5).all()
    assert (colours(torch.full((1, 2, 2, width), 3.0)) == 0.5).all()


def test_numbered_patches_keep_every_pixel_outside_numbers_and_gaps() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    drawn = np.asarray(numbered_patches(image, 8))
    cell, gap = 248, 15  # 4 columns in about 1,000 pixels, a multiple of 8
    assert drawn.shape == (3 * cell + 2 * gap, 4 * cell + 3 * gap, 3)
    assert (drawn[cell : cell + gap] == 255).all()
    assert (drawn[:, cell : cell + gap] == 255).all()
    for row in range(3):
        for column in range(4):
            patch = drawn[row * (cell + gap) :, column * (cell + gap) :][:cell, :cell]
            expected = image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].repeat(31, axis=0).repeat(31, axis=1)
            assert (patch[:, cell // 2 :] == expected[:, cell // 2 :]).all()
            assert (patch[: cell // 2, : cell // 2] != expected[: cell // 2, : cell // 2]).any()  # its number


@pytest.mark.parametrize(("side", "patch", "step"), [(56, 14, 1), (224, 16, 1), (518, 14, 2), (62, 1, 3)])
def test_numbers_are_thinned_out_where_patches_are_small(side: int, patch: int, step: int) -> None:
    grey = np.full((side, side, 3), 100, np.uint8)
    drawn = np.asarray(numbered_patches(grey, patch)).astype(int)
    n = side // patch
    pitch = (len(drawn) + 1) / n
    written = (np.abs(drawn - 100).max(axis=2) > 0) & (drawn.min(axis=2) < 100)  # the outlines
    lines = written.any(axis=1)
    starts = (lines[1:] & ~lines[:-1]).nonzero()[0] + 1
    assert [int(start // pitch) for start in starts] == list(range(0, n, step))
    assert 900 < len(drawn) < 1200


def test_no_number_is_cut_by_the_edge() -> None:
    grey = np.full((518, 518, 3), 100, np.uint8)
    drawn = np.asarray(numbered_patches(grey, 14)).astype(int)
    dark = drawn.min(axis=2) < 100
    assert not dark[:, -1].any()
    assert not dark[-1].any()


@pytest.mark.parametrize("shape", [(30, 32, 3), (32, 32), (32, 32, 1), (0, 32, 3)])
def test_a_picture_that_cannot_be_cut_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="divisible by 8"):
        numbered_patches(np.zeros(shape, np.uint8), 8)
