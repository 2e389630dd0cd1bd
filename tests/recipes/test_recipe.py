"""Recipes say every hyper-parameter, and refuse what they do not know."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from vitrail.data.augment import Augment
from vitrail.errors import UserError
from vitrail.model import ResNetConfig
from vitrail.recipes import files
from vitrail.recipes.recipe import Recipe, documented_keys, known_keys
from vitrail.recipes.resolution import Resolution


@pytest.mark.parametrize("name", files.shipped())
def test_every_shipped_recipe_is_valid_and_opens_with_its_command(name: str) -> None:
    files.load(name)
    comment = [line for line in files.text(name).splitlines() if line.startswith("#")]
    assert comment[0].startswith(f"# {name}: ")
    assert any("vitrail" in line for line in comment)


def test_the_promised_recipes_are_there() -> None:
    promised = {"small", "imagenet", "paper-pretrain", "paper-finetune", "finetune", "deit3", "digits"}
    assert promised <= set(files.shipped())


def test_every_key_is_documented() -> None:
    for key, (_, meaning) in documented_keys().items():
        assert len(meaning) > 8, key
    for key in ("optimizer.lr", "schedule.warmup_steps", "model.pool", "data.val_fraction", "checkpoint.keep", "seed"):
        assert key in known_keys()


def test_augmentation_has_the_same_keys_in_a_recipe_and_on_the_batch() -> None:
    """Each is the other's argument list; their defaults differ, as those of the batch change nothing."""
    keys = [key.removeprefix("augment.") for key in known_keys() if key.startswith("augment.")]
    assert sorted(keys) == sorted(field.name for field in dataclasses.fields(Augment))


def test_set_changes_one_value_by_its_path() -> None:
    recipe = files.load("small")
    settings = files.parse_settings(["optimizer.lr=3e-4", "model.pool=map", "augment.scale=[0.1, 1]", "ema.decay=0"])
    changed = files.changed(recipe, settings)
    assert changed.optimizer.lr == 3e-4
    assert changed.model["pool"] == "map"
    assert changed.augment.scale == (0.1, 1.0)
    assert changed.ema.decay == 0
    assert recipe.optimizer.lr != 3e-4


def test_steps_take_the_place_of_epochs() -> None:
    changed = files.changed(files.load("small"), {"steps": 100, "schedule.warmup_steps": 7})
    assert (changed.steps, changed.epochs) == (100, None)
    assert (changed.schedule.warmup_steps, changed.schedule.warmup_epochs) == (7, None)


def test_naming_a_variant_takes_away_the_recipes_own_sizes() -> None:
    recipe = files.changed(files.load("small"), {"model.variant": "S/16", "model.depth": 3})
    config = recipe.architecture(classes=10, image_size=(32, 32))
    assert (config.width, config.depth, config.stem, config.patch_size) == (384, 3, "linear", 16)
    assert config.pool == files.load("small").model["pool"]


def test_naming_a_model_of_the_other_kind_takes_away_what_it_does_not_have() -> None:
    recipe = files.changed(files.load("digits"), {"model.variant": "R50x1", "model.layers": [1, 2]})
    config = recipe.architecture(classes=10)
    assert config == ResNetConfig(image_size=(8, 8), channels=1, classes=10, layers=(1, 2), stem="large")
    back = files.changed(recipe, {"model.variant": "Ti/4"})
    assert back.model == {"variant": "Ti/4", "channels": 1}
    assert files.load("digits").architecture(classes=10).channels == 1


@pytest.mark.parametrize("name", files.shipped())
def test_every_shipped_recipe_trains_a_resnet_that_is_named(name: str) -> None:
    """A recipe's own dropout goes with the Vision Transformer that it was meant for; a person's is refused."""
    own = files.load(name)
    recipe = files.changed(own, {"model.variant": "R50x1"})
    assert recipe.architecture(classes=3, image_size=(64, 64)).layers == (3, 4, 6, 3)
    assert recipe.regularization.drop_path == own.regularization.drop_path
    for key in ("dropout", "attention_dropout"):
        asked = files.changed(own, {"model.variant": "R50x1", f"regularization.{key}": 0.1})
        with pytest.raises(UserError, match=f"regularization.{key}: R50x1 is a ResNet"):
            asked.architecture(classes=3, image_size=(64, 64))
    vit = files.changed(own, {"model.variant": "S/16"})
    assert vit.regularization == own.regularization


def test_keys_that_two_kinds_of_model_share_say_what_they_mean_to_each() -> None:
    keys = documented_keys()
    assert "hybrid (a ResNet-v2 first); of a ResNet: large (7x7" in keys["model.stem"][1]
    assert keys["model.layers"][1].startswith("of a ResNet: residual units of each stage")
    assert "of a ResNet" not in keys["model.channels"][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.layers": [1]},
            "model.layers: a choice of ResNets, and none is named: name --model R50x1, or leave it out",
        ),
        (
            {"model.variant": "Ti/16", "model.layers": [1]},
            "model.layers: Ti/16 is a Vision Transformer, which has no such choice; R50x1, a ResNet",
        ),
        ({"model.stem": "small"}, "model.stem=small: a choice of ResNets, and none is named: name --model R50x1"),
        ({"model.variant": "B/16", "model.stem": "large"}, "model.stem=large: B/16 is a Vision Transformer"),
        ({"model.variant": "R50x1", "model.pool": "map"}, "model.pool: R50x1 is a ResNet, which has no such choice"),
        ({"model.variant": "R50x1", "model.layer": [1]}, "did you mean layers"),
        ({"optimizer.lrr": 1}, "unknown key 'optimizer.lrr': did you mean lr?"),
        ({"optimiser.lr": 1}, "unknown key 'optimiser.lr': did you mean optimizer.lr"),
        ({"optimizer": 1}, "optimizer is a group: set one of its keys, such as optimizer.name"),
        ({"optimizer.lr": -1}, "optimizer.lr: Input should be greater than 0, not -1"),
        ({"optimizer.name": "adm"}, "'adamw', 'adam', 'sgd' or 'muon', not 'adm'"),
        ({"model.pol": "avg"}, "did you mean pool"),
        ({"model.dropout": 0.1}, "unknown key 'model.dropout'"),
        (
            {"resolution.sizes": "336-112"},
            "resolution.sizes: a range is written from its smaller end to its larger one",
        ),
        ({"resolution.sizes": []}, "resolution.sizes: name at least one, or leave the key out, not []"),
        ({"resolution.sizes": [224, 0]}, "resolution.sizes: a side has 1 to 16384 pixels, not [224, 0]"),
        ({"resolution.sizes": [-16]}, "resolution.sizes: a side has 1 to 16384 pixels"),
        ({"resolution.sizes": "112-99999"}, "resolution.sizes: a side has 1 to 16384 pixels"),
        ({"resolution.sizes": [[1, 2, 3]]}, "resolution.sizes: write a list such as [160, 224, [384, 256]] or a range"),
        ({"resolution.sizes": [1.5]}, "resolution.sizes: write a list such as"),
        ({"resolution.sizes": True}, "resolution.sizes: write a list such as"),
        ({"resolution.sizes": [16, [16, 16]]}, "resolution.sizes: each is written once, and 16 is there twice"),
        ({"resolution.scales": [0]}, "resolution.scales.0: Input should be greater than 0, not 0"),
        ({"resolution.scales": [float("nan")]}, "resolution.scales.0: Input should be greater than 0"),
        (
            {"resolution.scales": [float("inf")]},
            "resolution.scales: factors of image_size such as [0.5, 1, 2] are meant",
        ),
        ({"resolution.patch_sizes": [8, 8]}, "resolution.patch_sizes: each is written once, and 8 is there twice"),
        ({"resolution.patch_sizes": [8.5]}, "resolution.patch_sizes.0: Input should be a valid integer"),
        ({"resolution.order": "risin"}, "resolution.order: Input should be 'random' or 'rising', not 'risin'"),
        (
            {"resolution": {"sizes": [8], "scales": [1]}},
            "resolution: give resolution.sizes or resolution.scales, not both",
        ),
        ({"optimizer.accumulate": 7}, "batch_size must be divisible by optimizer.accumulate"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        files.changed(files.load("small"), changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("written", "sizes"),
    [
        ("112-336", "112-336"),
        ("[160, 224, [384, 256]]", (160, 224, (384, 256))),
        ("160,224,384x256", (160, 224, (384, 256))),
        ("224", (224,)),
        ("null", None),
    ],
)
def test_sizes_are_written_as_a_list_or_a_range_and_stay_so(tmp_path: Path, written: str, sizes: object) -> None:
    recipe = files.changed(files.load("small"), files.parse_settings([f"resolution.sizes={written}"]))
    assert recipe.resolution.sizes == sizes
    assert recipe.resolution.varies == (sizes is not None)
    files.save(recipe, tmp_path / "recipe.yaml")
    assert files.load(tmp_path / "recipe.yaml") == recipe


def test_sizes_take_the_place_of_scales() -> None:
    recipe = files.changed(files.load("small"), {"resolution.scales": [0.5, 1], "resolution.patch_sizes": "8,16"})
    assert (recipe.resolution.scales, recipe.resolution.patch_sizes) == ((0.5, 1.0), (8, 16))
    sized = files.changed(recipe, {"resolution.sizes": [32]}).resolution
    assert (sized.sizes, sized.scales, sized.patch_sizes) == ((32,), None, (8, 16))


def test_the_middle_of_the_sizes_is_in_whole_patches() -> None:
    assert Resolution(sizes="112-336").middle(16) == (224, 224)
    assert Resolution(sizes="100-330").middle(14) == (210, 210)
    assert Resolution(sizes="10-17").middle(16) == (16, 16)
    assert Resolution(sizes=(336, (200, 100), 112)).middle(16) == (200, 100)
    assert Resolution(scales=(0.5, 1)).middle(16) is None


def test_a_persons_own_recipe_is_the_same_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 3\noptimizer: {lr: 1.0e-4}\nimage_size: 64\n")
    assert files.load(path).image_size == (64, 64)
    path.write_text("epochs: 3\noptimizer: {learning_rate: 1}\n")
    with pytest.raises(UserError, match=r"mine.yaml: unknown key 'optimizer.learning_rate'"):
        files.load(path)
    path.write_text("epochs: [\n")
    with pytest.raises(UserError, match="is not YAML"):
        files.load(path)
    with pytest.raises(UserError, match="no such recipe file"):
        files.load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="unknown recipe 'smal': did you mean small"):
        files.load("smal")


def test_a_saved_recipe_has_every_value_and_loads_as_itself(tmp_path: Path) -> None:
    recipe = files.changed(files.load("finetune"), {"seed": 5, "image_size": (32, 48)})
    files.save(recipe, tmp_path / "recipe.yaml")
    assert files.load(tmp_path / "recipe.yaml") == recipe
    saved = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert saved.keys() == Recipe.model_fields.keys()
    assert saved["optimizer"].keys() == type(recipe.optimizer).model_fields.keys()
