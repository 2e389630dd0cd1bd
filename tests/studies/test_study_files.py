"""Studies as they stand in files: the shipped ones, and what is wrong in a person's own, told in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tiny_study import TINY
from vitrail.errors import UserError
from vitrail.studies import files


@pytest.mark.parametrize("name", files.shipped())
def test_a_shipped_study_can_be_planned_on_the_built_in_digits(name: str) -> None:
    from vitrail.studies.plan import make_plan

    plan = make_plan(files.load(name), "digits")
    assert plan.study.seeds >= 3
    assert len({planned.arm for planned in plan.cells}) >= 3
    assert plan.reported == (359, "test")


def test_the_studies_of_the_paper_are_there() -> None:
    assert {"tokens", "position", "bias", "pooling"} <= set(files.shipped())


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


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="own.yaml"):
        files.load(path)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean position"):
        files.load("positions")
    with pytest.raises(UserError, match="no such study file"):
        files.load("nowhere/x.yaml")
