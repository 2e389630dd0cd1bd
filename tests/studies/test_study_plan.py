"""A study's plan: arms differ in what they compare and in nothing else, and their costs are those of the models."""

from pathlib import Path
from typing import Any

import pytest
import torch

import vitrail
from tiny_study import tiny
from vitrail.errors import UserError
from vitrail.model import build
from vitrail.recipes.files import paths
from vitrail.studies import files
from vitrail.studies.plan import StudyPlan, make_plan, shortened
from vitrail.studies.study import Study


def cell(plan: StudyPlan, arm: str, along: Any = None) -> Any:
    return next(c for c in plan.cells if (c.arm, c.along) == (arm, along))


def test_arms_differ_in_what_they_compare_alone() -> None:
    plan = make_plan(tiny(), "digits")
    one, other = (paths(cell(plan, arm).recipe.to_dict()) for arm in ("with", "without"))
    assert {key: other[key] for key in other if one.get(key) != other[key]} == {"model.position": "none"}
    assert one.keys() | {"model.position"} == other.keys()


@pytest.mark.parametrize("name", files.shipped())
def test_costs_are_those_of_the_models_that_are_trained(name: str) -> None:
    plan = make_plan(files.load(name), "digits")
    for planned in plan.cells:
        model = build(planned.config)
        assert planned.size.parameters == sum(p.numel() for p in model.parameters())
        assert planned.config == planned.recipe.architecture(classes=10)


def test_every_arm_takes_the_same_steps() -> None:
    plan = make_plan(files.load("position"), "digits")
    assert len({(c.size.steps, c.size.images, c.recipe.batch_size) for c in plan.cells}) == 1


def test_a_share_of_the_images_takes_more_epochs_as_its_root_falls() -> None:
    plan = make_plan(files.load("bias"), "digits")
    whole, tenth = cell(plan, "ViT", 1.0), cell(plan, "ViT", 0.1)
    assert tenth.size.images == round(0.1 * whole.size.images)
    assert tenth.size.steps / whole.size.steps == pytest.approx(0.1**0.5, rel=0.02)


def test_the_alternative_nearest_in_cost_is_taken() -> None:
    arms = {
        "with": {},
        "deep": {"choose": [{"model.depth": 9}, {"model.depth": 2}, {"model.depth": 1, "model.patch_size": 3}]},
    }
    plan = make_plan(tiny(arms=arms, match={"to": "with", "by": "parameters"}), "digits")
    assert cell(plan, "deep").changes == {"model.depth": 2}  # 3 pixels do not divide 8
    first = make_plan(tiny(arms=arms), "digits")
    assert cell(first, "deep").changes == {"model.depth": 9}  # without a match the first that can be built


@pytest.mark.parametrize("by", ["flops", "parameters"])
def test_the_networks_of_study_bias_are_matched(by: str) -> None:
    study = files.load("bias")
    assert study.match is not None
    plan = make_plan(study.model_copy(update={"match": study.match.model_copy(update={"by": by})}), "digits")
    wanted = getattr(cell(plan, "ViT", 1.0).size, by)
    for planned in plan.cells:
        assert 0.6 < getattr(planned.size, by) / wanted < 1.6, planned.arm


def test_arms_that_cannot_be_built_are_left_out_with_the_reason() -> None:
    arms = {
        "with": {},
        "without": {"model.position": "none"},
        "uneven": {"model.patch_size": 3},
        "long": {"model.patch_size": 1},
        "again": {"model.depth": 1},
    }
    plan = make_plan(tiny(arms=arms, most_tokens=60), "digits")
    assert list(plan.study.arms) == ["with", "without"]
    text = "\n".join(plan.left_out)
    assert "uneven: image size 8x8 is not divisible by patch size 3" in text
    assert "long: 65 tokens, and the study goes up to 60" in text or "long: 64 tokens" in text
    assert "again: the same as with" in text


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({"with": {"model.patch_size": 3}, "without": {}}, "the arm that the others are compared with cannot be built"),
        ({"with": {}, "without": {"model.patch_size": 3}}, "only one arm can be built"),
    ],
)
def test_a_study_with_nothing_to_compare_is_refused(arms: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_plan(tiny(arms=arms), "digits")


def test_what_a_person_sets_holds_for_all_arms() -> None:
    plan = make_plan(tiny(), "digits", changes={"model.width": 32, "epochs": 2})
    assert {c.recipe.model["width"] for c in plan.cells} == {32}
    assert {c.size.steps for c in plan.cells} == {-(-2 * c.size.images // 32) for c in plan.cells}


def test_wrong_keys_for_all_arms_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.widht"):
        make_plan(tiny(), "digits", changes={"model.widht": 32})


def test_a_start_model_becomes_an_arm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = vitrail.ViT(vitrail.variant("Ti/4", image_size=(16, 16), width=32, depth=1, heads=2, classes=3))
    model.preprocess = vitrail.Preprocess((16, 16), 3, crop_fraction=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    model.labels = ("a", "b", "c")
    vitrail.save(model, tmp_path / "start")
    study = tiny(start={"lr": [1e-4], "optimizer.head_lr_scale": 5})
    plan = make_plan(study, "digits", init=[str(tmp_path / "start")])
    started = cell(plan, "from start")
    assert started.rates == (1e-4,)
    assert started.recipe.image_size == (8, 8)
    assert started.config.width == 32
    assert started.config.classes == 10
    with pytest.raises(UserError, match="leave --init out"):
        make_plan(tiny(), "digits", init=[str(tmp_path / "start")])


def test_shortened_runs_keep_their_proportions() -> None:
    plan = make_plan(files.load("bias"), "digits")
    half = shortened(plan, 0.5)
    for whole, part in zip(plan.cells, half.cells, strict=True):
        assert part.size.steps == part.recipe.steps == round(0.5 * whole.size.steps)
    assert half.training_flops == pytest.approx(plan.training_flops / 2, rel=0.02)


def test_photographs_bring_their_own_size(image_folder: Path) -> None:
    study = Study(**{**tiny().model_dump(), "recipe": {"model.depth": 1, "data.test_fraction": 0.4}})
    plan = make_plan(study, image_folder)
    assert plan.base.image_size is not None
    assert plan.base.epochs != 75  # as many as suit the number of images


def test_data_without_test_images_give_up_a_share_of_the_training_images(image_folder: Path) -> None:
    plan = make_plan(tiny(), image_folder, changes={"data.test_fraction": 0.4})
    parts = plan.data.train, plan.data.val, plan.data.test
    names = [set(part.names) for part in parts if part is not None]
    assert len(names) == 3
    assert len(set.union(*names)) == sum(map(len, names)) == 36
    assert {cell.recipe.data.test_fraction for cell in plan.cells} == {0.4}
    assert plan.notes[0] == "the data have no test images: 40% of the training images are held out and reported"


def test_too_few_images_to_report_are_refused(image_folder: Path) -> None:
    with pytest.raises(UserError, match="test images tell nothing"):
        make_plan(tiny(), image_folder, changes={"data.test_fraction": 0.01})


def test_a_mistake_in_an_arm_is_no_reason_to_leave_it_out() -> None:
    arms = {"with": {}, "without": {"model.pool": "averge"}}
    with pytest.raises(UserError, match="arm without: .*averge"):
        make_plan(tiny(arms=arms), "digits")
    with pytest.raises(UserError, match="nowhere"):
        make_plan(tiny(start={}), "digits", init=["nowhere/model"])


def test_of_twins_the_reference_stays() -> None:
    plan = make_plan(tiny(arms={"first": {}, "with": {}, "without": {"model.position": "none"}}), "digits")
    assert list(plan.study.arms) == ["with", "without"]
    assert plan.left_out == ("first: the same as with",)


def test_an_arm_whose_opponent_is_left_out_is_compared_with_the_reference() -> None:
    arms = {"with": {}, "uneven": {"model.patch_size": 3}, "without": {"model.position": "none", "against": "uneven"}}
    plan = make_plan(tiny(arms=arms), "digits")
    assert plan.study.opponent("without") == "with"


def test_a_later_length_takes_an_earlier_ones_place() -> None:
    own = tiny(recipe={"epochs": 7}, digits={"steps": 9})
    assert {c.size.steps for c in make_plan(own, "digits").cells} == {9}
    assert {c.size.steps for c in make_plan(own, "digits", changes={"epochs": 1}).cells} == {21}


@pytest.mark.parametrize("key", ["optimizer.lr", "seed", "data.source"])
def test_what_is_the_studys_to_say_is_refused_for_all_arms(key: str) -> None:
    with pytest.raises(UserError, match=key):
        make_plan(tiny(), "digits", changes={key: 1})
