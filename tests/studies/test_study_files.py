"""Studies as they stand in files: the shipped ones, and what is wrong in a person's own, told in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tiny_study import TINY
from vitrail.errors import UserError
from vitrail.studies import files

SIZES: dict[str, Any] = {"view": "sizes", "sizes": {}}
READ: dict[str, Any] = {"of": "with", "model.position_interpolation": "area"}


@pytest.mark.parametrize("name", files.shipped())
def test_a_shipped_study_can_be_planned_on_the_built_in_digits(name: str) -> None:
    from vitrail.studies.plan import make_plan

    plan = make_plan(files.load(name), "digits")
    assert plan.study.seeds >= 3
    assert len({planned.arm for planned in plan.cells}) >= 3
    assert plan.data.test is not None
    assert len(plan.data.test) == 359


def test_the_studies_of_the_paper_are_there() -> None:
    assert {"tokens", "position", "bias", "pooling", "resolution"} <= set(files.shipped())


def test_a_study_of_ones_own_is_a_file_of_about_twenty_lines(tmp_path: Path) -> None:
    path = tmp_path / "heads.yaml"
    path.write_text(
        "title: How many heads?\n"
        "question: Does the number of heads matter at equal width?\n"
        "reference: four heads\n"
        "lr: [1.0e-3, 3.0e-3]\n"
        "seeds: 3\n"
        "recipe:\n"
        "  model: {width: 64}\n"
        "arms:\n"
        "  one head: {model.heads: 1}\n"
        "  four heads: {model.heads: 4}\n"
    )
    study = files.load(path)
    assert study.recipe == {"model.width": 64}
    assert study.arms["one head"].changes == {"model.heads": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arm": {}}, "unknown key 'arm': did you mean arms?"),
        ({"reference": "wit"}, "reference 'wit' is none of the arms: did you mean with"),
        ({"arms": {"with": {"model.positon": "none"}, "b": {}}}, "unknown recipe key 'model.positon': did you mean"),
        ({"recipe": {"optimizer": {"rate": 1}}}, "unknown recipe key 'optimizer.rate'"),
        ({"lr": [-1e-3]}, "lr.0"),
        ({"seeds": 1}, "seeds"),
        ({"view": "along"}, "view along needs along"),
        ({"arms": {"with": {}}}, "arms"),
        ({"match": {"to": "b"}}, "match.to 'b' is none of the arms"),
        ({"sweep_seeds": 3}, "sweep_seeds 3 is more than the 2 seeds"),
        ({"lr": [1e-3, 1e-3]}, "0.001 is there twice"),
        ({"lr": [1e-3, 1.0000001e-3]}, "0.001 is there twice"),
        ({"arms": {"with": {"optimizer.lr": 0.1}, "b": {}}}, "optimizer.lr: write lr, of the study or of the arm"),
        ({"arms": {"with": {"data.val_fraction": 0.5}, "b": {}}}, "data.val_fraction is the same for all arms"),
        ({"recipe": {"seed": 3}}, "seed: write seeds"),
        ({"arms": {"with": {}, "b": {"against": "c"}}}, "arms.b.against 'c' is none of the arms"),
        ({"along": {"key": "optimizer.lr", "values": [0.1, 1]}}, "optimizer.lr: write lr"),
        ({"along": {"key": "epochs", "values": [1, 1.0]}}, "1 is there twice"),
        ({"along": {"key": "epochs", "values": [1, {"a": 2}]}}, "a number, a word or a list of these, not {'a': 2}"),
        ({"view": "sizes"}, "view sizes and sizes belong together"),
        ({"sizes": {}}, "view sizes and sizes belong together"),
        ({**SIZES, "sizes": {"scales": [0.5, 2]}}, "scales must have 1 among them"),
        ({**SIZES, "sizes": {"scales": [1, 0.5]}}, "scales must rise"),
        ({**SIZES, "sizes": {"scales": [1, 2, 2]}}, "2 is there twice"),
        ({**SIZES, "sizes": {"scales": [0, 1]}}, "sizes.scales.0"),
        ({**SIZES, "sizes": {"tune": 1}}, "sizes.tune"),
        ({**SIZES, "along": {"key": "epochs", "values": [1, 2]}}, "sizes and along are two axes"),
        ({"arms": {"with": {}, "b": READ}}, "arms.b.of: only a study of sizes"),
        (
            {**SIZES, "arms": {"with": {}, "b": {**READ, "of": "c"}}},
            "arms.b.of 'c' is none of the arms that are trained",
        ),
        (
            {**SIZES, "arms": {"with": {}, "b": READ, "c": {**READ, "of": "b"}}},
            "arms.c.of 'b' is none of the arms that",
        ),
        ({**SIZES, "arms": {"with": READ, "b": {}}}, "arms.with.of 'with' is none of the arms that are trained"),
        (
            {**SIZES, "arms": {"with": {**READ, "of": "b"}, "b": {}}},
            "arms.with.of: the reference and match.to are arms",
        ),
        (
            {**SIZES, "arms": {"with": {}, "b": {"of": "with"}}},
            "changes model.position_interpolation, and nothing else",
        ),
        ({**SIZES, "arms": {"with": {}, "b": {**READ, "model.depth": 2}}}, "position_interpolation, and nothing else"),
        ({**SIZES, "arms": {"with": {}, "b": {**READ, "lr": [1e-3]}}}, "has no lr and no alternatives of its own"),
        ({"along": {"key": "data.fractoin", "values": [0.1, 1]}}, "unknown recipe key 'data.fractoin'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    with pytest.raises(UserError, match="own.yaml") as error:
        files.load(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [b"a: [", b"- 1", b"", b"title: \xe9", b"arms: {a: {}, b: {}, a: {}}", b"8: 1"])
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match="own.yaml"):
        files.load(path)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean position"):
        files.load("positions")
    with pytest.raises(UserError, match="no such study file"):
        files.load("nowhere/x.yaml")


def test_numbers_and_empty_arms_may_be_written_as_yaml_has_them(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "title: a\nquestion: b\nreference: 8\nlr: [1e-3, 3e-3]\narms: {8: , 16: {model.patch_size: 2}}\n"
        "along: {key: optimizer.weight_decay, values: [1e-3, 1e-2]}\n"
    )
    study = files.load(path)
    assert study.lr == (1e-3, 3e-3)
    assert study.arms["8"].changes == {}
    assert study.along is not None
    assert study.along.values == (1e-3, 1e-2)
