"""Augmentation of a batch: each sample's change is its own, and each kind of change does what its name says."""

import numpy as np
import pytest
import torch
from pictures import smooth

from vitrail.data.augment import Augment, affine_matrices, augment_batch
from vitrail.errors import UserError

EVERYTHING = Augment(flip=0.5, rotate=15, translate=0.1, zoom=0.2, shear=5, color_jitter=0.4, erase=0.5)


def batch(count: int, height: int = 24, width: int = 32, channels: int = 3) -> torch.Tensor:
    images = [smooth(height, width, channels, seed=seed) for seed in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def test_change_of_a_sample_does_not_depend_on_its_batch() -> None:
    images, epochs, indices = batch(6), np.array([0, 0, 1, 1, 2, 2]), np.array([4, 9, 4, 9, 4, 9])
    together = augment_batch(images, EVERYTHING, 3, epochs, indices)
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert together.max() <= 1
    order = np.array([5, 1, 3])
    apart = augment_batch(images[order], EVERYTHING, 3, epochs[order], indices[order])
    assert torch.equal(apart, together[order])


def test_epoch_sample_and_seed_each_change_the_picture() -> None:
    image = batch(1).expand(4, -1, -1, -1)
    changed = augment_batch(image, EVERYTHING, 0, np.array([0, 1, 0, 0]), np.array([0, 0, 1, 0]))
    other_seed = augment_batch(image[:1], EVERYTHING, 1, np.array([0]), np.array([0]))
    pictures = [changed[0], changed[1], changed[2], other_seed[0]]
    for i, first in enumerate(pictures):
        for second in pictures[:i]:
            assert (first - second).abs().max() > 0.02
    assert torch.equal(changed[0], changed[3])


def test_nothing_asked_for_changes_nothing() -> None:
    images = batch(3)
    assert torch.equal(augment_batch(images, Augment(), 0, np.zeros(3, int), np.arange(3)), images)


def test_given_images_are_left_as_they_were() -> None:
    images = batch(4)
    kept = images.clone()
    augment_batch(images, EVERYTHING, 0, np.zeros(4, int), np.arange(4))
    augment_batch(images, Augment(flip=1.0), 0, np.zeros(4, int), np.arange(4))
    assert torch.equal(images, kept)


def test_flip_mirrors_the_asked_share_exactly() -> None:
    images = batch(1, 4, 6).expand(2000, -1, -1, -1)
    flipped = augment_batch(images, Augment(flip=0.3), 0, np.zeros(2000, int), np.arange(2000))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    untouched = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ untouched).all()
    assert abs(mirrored.float().mean().item() - 0.3) < 0.04  # 4 standard errors


def test_flip_combines_with_the_affine_change() -> None:
    images, epochs, indices = batch(1, 24, 32), np.array([0]), np.array([3])
    plain = augment_batch(images, Augment(rotate=10, zoom=0.1), 0, epochs, indices)
    mirrored = augment_batch(images, Augment(rotate=10, zoom=0.1, flip=1.0), 0, epochs, indices)
    assert (mirrored - plain.flip(-1)).abs().max() < 1e-4


def test_quarter_turn_keeps_angles_in_an_image_that_is_not_square() -> None:
    draws = np.array([[1.0, 0.5, 0.5, 0.5, 0.5]])  # the largest rotation, nothing else
    matrix = affine_matrices(draws, np.array([False]), Augment(rotate=90), (20, 40))[0]
    # the point 5 pixels right of the centre comes from 5 pixels below or above it
    x, y = matrix[:, :2] @ np.array([5 / 20, 0.0])
    assert abs(x * 20) < 1e-9
    assert abs(abs(y * 10) - 5) < 1e-9


def test_translation_and_zoom_stay_within_their_ranges() -> None:
    draws = np.random.default_rng(0).random((500, 5))
    flipped = np.zeros(500, bool)
    shift = affine_matrices(draws, flipped, Augment(translate=0.2), (16, 48))[:, :, 2] / 2
    assert 0.19 < np.abs(shift).max() <= 0.2
    scale = 1 / affine_matrices(draws, flipped, Augment(zoom=0.3), (16, 48))[:, 0, 0]
    assert 0.7 <= scale.min() < 0.71
    assert 1.29 < scale.max() <= 1.3


def test_beyond_the_edge_there_is_no_black() -> None:
    images = torch.full((8, 3, 20, 20), 200, dtype=torch.uint8)
    moved = augment_batch(images, Augment(rotate=45, translate=0.3, zoom=0.3), 0, np.zeros(8, int), np.arange(8))
    assert (moved - 200 / 255).abs().max() < 1e-5


def test_colour_jitter_is_brightness_contrast_and_saturation_in_turn() -> None:
    from torchvision.transforms.v2 import functional as tvf

    from vitrail.data.augment import _jitter

    image = torch.rand(1, 3, 9, 9) * 0.4 + 0.3  # nothing reaches the limits, where torchvision clamps in between
    factors = torch.tensor([[1.1, 0.7, 1.3]])
    expected = tvf.adjust_saturation(tvf.adjust_contrast(tvf.adjust_brightness(image, 1.1), 0.7), 1.3)
    assert (_jitter(image, factors) - expected).abs().max() < 2e-3  # torchvision's grey weights have three digits


def test_grey_images_are_jittered_too() -> None:
    images = batch(4, channels=1)
    jittered = augment_batch(images, Augment(color_jitter=0.4), 0, np.zeros(4, int), np.arange(4))
    assert jittered.shape == images.shape
    assert (jittered - images / 255).abs().max() > 0.05


def test_erasing_takes_one_rectangle_of_a_third_at_most() -> None:
    images = batch(300, 30, 30)
    erased = augment_batch(images, Augment(erase=0.5), 0, np.zeros(300, int), np.arange(300))
    gone = ((erased - images / 255).abs() > 1e-6).any(1)
    share = gone.flatten(1).float().mean(1)
    assert 0.4 < (share > 0).float().mean() < 0.6
    assert share.max() < 0.4
    for mask in gone[share > 0][:20]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.float().mean() > 0.9  # pixels that had the mean colour anyway do not show


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flip", 1.5),
        ("rotate", -1),
        ("zoom", 1.0),
        ("crop", "random"),
        ("policy", "randaug"),
        ("scale", (0.5, 0.2)),
        ("ratio", (0.0, 1.0)),
        ("randaugment_magnitude", 31),
    ],
)
def test_nonsense_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"augment\.{field}"):
        Augment(**{field: value})
