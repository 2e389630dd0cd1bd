"""Without a recipe one is chosen from the data, and the reasons are said."""

from pathlib import Path

import numpy as np
import pytest

from stripes import write_images
from vitrail.data.open import Dataset, open_data
from vitrail.data.samples import Samples
from vitrail.recipes import files
from vitrail.recipes.choose import PLENTY, choose, epochs_for, give_size


def data_of(tmp_path: Path, size: tuple[int, int]) -> Dataset:
    return open_data(write_images(tmp_path / "d", {"a": 4, "b": 4}, size=size))


def test_little_data_gets_the_small_recipe_with_a_conv_stem(tmp_path: Path) -> None:
    choice = choose(data_of(tmp_path, (100, 120)), source="photos", init=None, named_variant=False)
    assert choice.recipe == files.changed(files.load("small"), {"epochs": choice.recipe.epochs})
    assert choice.recipe.model["stem"] == "conv"
    assert any("convolutional stem" in reason for reason in choice.reasons)


def test_a_start_model_digits_and_a_million_images_have_their_own(tmp_path: Path) -> None:
    data = data_of(tmp_path, (20, 20))
    tuned = choose(data, source="photos", init="model", named_variant=False).recipe
    assert tuned == files.changed(files.load("finetune"), {"epochs": tuned.epochs})
    assert choose(data, source="digits", init=None, named_variant=False).recipe == files.load("digits")
    many = Samples(range(PLENTY), np.zeros(PLENTY, np.int64), ("a", "b"), lambda i: b"")
    large = Dataset("large", ("a", "b"), many, None, None)
    assert choose(large, source="large", init=None, named_variant=False).recipe == (
        files.changed(files.load("imagenet"), {"image_size": None})
    )
    for named in (False, True):  # a ResNet may be what is named
        reasons = choose(large, source="large", init=None, named_variant=named).reasons
        assert any("plain ViT" in reason for reason in reasons) != named


@pytest.mark.parametrize(
    ("size", "image_size", "patch_size"),
    [
        ((500, 375), 64, 8),
        ((56, 56), 56, 8),
        ((100, 100), 64, 8),
        ((32, 32), 32, 4),
        ((28, 28), 28, 4),
        ((50, 40), 32, 4),
        ((8, 8), 8, 2),
    ],
)
def test_images_of_any_size_become_about_64_tokens(
    tmp_path: Path, size: tuple[int, int], image_size: int, patch_size: int
) -> None:
    recipe, reasons = give_size(files.load("small"), data_of(tmp_path, size))
    assert (recipe.image_size, recipe.model["patch_size"]) == ((image_size, image_size), patch_size)
    assert f"{image_size}x{image_size}" in reasons[0]
    recipe.architecture(classes=2)


@pytest.mark.parametrize(("size", "image_size"), [((500, 375), 224), ((100, 120), 96), ((20, 20), 64)])
def test_a_named_variant_takes_224_pixels_or_what_the_images_have(
    tmp_path: Path, size: tuple[int, int], image_size: int
) -> None:
    named = files.changed(files.load("small"), {"model.variant": "S/16"})
    recipe, _ = give_size(named, data_of(tmp_path, size))
    assert recipe.image_size == (image_size, image_size)


def test_fewer_images_are_seen_more_often() -> None:
    assert [epochs_for(n, 100) for n in (20, 375, 1_500, 6_000, 90_000)] == [400, 200, 100, 50, 20]


@pytest.mark.parametrize(
    ("size", "image_size"),
    [((100, 400), (40, 112)), ((300, 150), (88, 48)), ((96, 32), (56, 20)), ((100, 140), (64, 64))],
)
def test_long_images_stay_long(tmp_path: Path, size: tuple[int, int], image_size: tuple[int, int]) -> None:
    recipe, _ = give_size(files.load("small"), data_of(tmp_path, size))
    assert recipe.image_size == image_size
    recipe.architecture(classes=2)


def test_a_given_size_is_kept_and_gets_a_patch_size(tmp_path: Path) -> None:
    data = data_of(tmp_path, (500, 375))
    for size, patch_size in (((40, 80), 4), ((64, 64), 8), ((128, 96), 8), ((12, 12), 2), ((224, 224), 16)):
        recipe, _ = give_size(files.changed(files.load("small"), {"image_size": size}), data)
        assert (recipe.image_size, recipe.model["patch_size"]) == (size, patch_size)
        recipe.architecture(classes=2)
    named = files.changed(files.load("small"), {"image_size": (48, 48), "model.variant": "S/16"})
    assert give_size(named, data)[0] == named


@pytest.mark.parametrize(
    ("size", "image_size", "stem"),
    [
        ((500, 375), 224, None),
        ((100, 120), 100, None),
        ((64, 70), 64, None),
        ((28, 28), 28, "small"),
        ((5, 9), 8, "small"),
    ],
)
def test_a_resnet_takes_the_images_size_and_the_stem_that_suits_it(
    tmp_path: Path, size: tuple[int, int], image_size: int, stem: str | None
) -> None:
    named = files.changed(files.load("small"), {"model.variant": "R50x1"})
    recipe, reasons = give_size(named, data_of(tmp_path, size))
    assert (recipe.image_size, recipe.model.get("stem")) == ((image_size, image_size), stem)
    assert f"image size {image_size}x{image_size}" in reasons[0]
    assert any("stem small" in reason for reason in reasons) == (stem is not None)
    recipe.architecture(classes=2)


def test_what_a_person_says_of_a_resnet_is_kept(tmp_path: Path) -> None:
    data = data_of(tmp_path, (28, 28))
    said = {"model.variant": "R50x1", "model.layers": [1, 1]}
    large, _ = give_size(files.changed(files.load("small"), {**said, "model.stem": "large"}), data)
    assert (large.image_size, large.model["stem"]) == ((28, 28), "large")
    sized, reasons = give_size(files.changed(files.load("small"), {**said, "image_size": (30, 96)}), data)
    assert (sized.image_size, sized.model["stem"], len(reasons)) == ((30, 96), "small", 1)
