"""A run's length is told before it begins, and a shorter one is found where it is long."""

import pytest
import torch

from vitrail.model import ResNetConfig, ViTConfig, variant
from vitrail.training.forecast import Work, cheaper, seconds_per_image

CONFIG = variant("Ti/16", image_size=(224, 224), classes=3)
WORK = Work(images=1000, epochs=20, val=100, evaluations=20, test=300)


def test_evaluation_counts_a_third_of_training() -> None:
    assert WORK.seconds(0.1) == pytest.approx(0.1 * (20_000 + (2_000 + 300) / 3))


def test_a_plan_that_fits_is_left_as_it_is() -> None:
    assert cheaper(CONFIG, WORK, 0.1, budget=3000) == (20, (224, 224))


def test_epochs_are_given_up_before_pixels_and_pixels_before_the_last_epochs() -> None:
    whole = WORK.seconds(0.1)
    assert cheaper(CONFIG, WORK, 0.1, whole / 2) == (pytest.approx(10, abs=1), (224, 224))
    epochs, size = cheaper(CONFIG, WORK, 0.1, whole / 5)
    assert epochs == 8
    assert 128 <= size[0] < 224
    epochs, size = cheaper(CONFIG, WORK, 0.1, whole / 20)
    assert epochs < 8
    assert size == (128, 128)


def test_what_a_person_named_is_not_shrunk() -> None:
    epochs, size = cheaper(CONFIG, WORK, 0.1, WORK.seconds(0.1) / 10, may_shrink=False)
    assert size == (224, 224)
    assert epochs == 2 or epochs == 1


def test_a_smaller_size_keeps_the_shape_and_the_patches() -> None:
    wide = CONFIG.with_changes(image_size=(224, 448))
    _, (h, w) = cheaper(wide, WORK, 0.1, WORK.seconds(0.1) / 6)
    assert h < 224
    assert w == 2 * h
    assert h % 16 == 0


@pytest.mark.parametrize(
    "config",
    [
        ViTConfig(image_size=(32, 32), patch_size=8, width=32, depth=4, heads=2, mlp_width=64, classes=3),
        ResNetConfig(image_size=(32, 32), layers=(1, 1), classes=3),
    ],
    ids=["vit", "resnet"],
)
def test_measuring_gives_a_time_and_leaves_the_random_numbers_alone(config: object) -> None:
    torch.manual_seed(5)
    expected = torch.randn(1)
    torch.manual_seed(5)
    assert 0 < seconds_per_image(config, torch.device("cpu"), "float32") < 1
    assert torch.equal(torch.randn(1), expected)
