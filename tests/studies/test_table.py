"""The table holds every number of the findings, with costs beside those of the arm to compare with, in strict files."""

import csv
import json
import math

import pytest
from made_up import World, setting, size, sizes, study

from vitrail.studies.findings import Findings
from vitrail.studies.summary import summarise
from vitrail.studies.table import rows, write_csv, write_json

ARMS = ("ViT", "ResNet, wide")
VALUES = (0.1, 1.0)


def findings(match=None, **of_setting):
    outcomes = World().outcomes(lambda arm, value, lr: 0.8 + lr * 10, ARMS, (0.001, 0.002), VALUES)
    costs = {
        ("ViT", 0.1): size(steps=100),
        ("ViT", 1.0): size(steps=300),
        ("ResNet, wide", 0.1): size(parameters=15_000, tokens=None, flops=1_500_000, steps=200),
        ("ResNet, wide", 1.0): size(parameters=20_000, tokens=None, flops=800_000, steps=300),
    }
    own = study(ARMS, along={"key": "data.fraction", "values": VALUES}, match=match)
    points = summarise(own, sizes(outcomes, costs), outcomes)
    return Findings("bias", own, setting(**of_setting), points, ("It says “this”.",), ("Not that.",))


def test_every_point_is_a_row_with_its_numbers():
    found = findings()
    table = rows(found)
    assert [(r["arm"], r["along"], r["lr"]) for r in table] == [(p.arm, p.along, p.lr) for p in found.points]
    assert all(list(row) == list(table[0]) for row in table)
    row, point = table[-1], found.points[-1]
    assert row["chosen"]
    assert (row["top1"], row["top1_low"], row["top1_high"]) == (point.top1.mean, point.top1.low, point.top1.high)
    assert (row["difference"], row["difference_high"]) == (point.difference.mean, point.difference.high)
    assert row["difference_at_rate"] == point.difference.mean  # both chose this rate
    assert (row["seeds"], row["val_top1"], row["nll"]) == (3, point.val_top1, point.nll)
    assert row["training_flops"] == 3 * 800_000 * 300 * 64
    assert row["against"] == "ViT"
    assert table[0]["against"] is None
    assert table[0]["difference"] is None
    assert table[0]["told_apart"] is None


def test_costs_are_shown_as_parts_of_those_of_the_reference_at_the_same_value():
    chosen = {(r["arm"], r["along"]): r for r in rows(findings()) if r["chosen"]}
    row = chosen["ResNet, wide", 0.1]
    assert (row["parameters_ratio"], row["flops_ratio"], row["steps_ratio"]) == (1.5, 1.5, 2)
    assert row["training_flops_ratio"] == 3
    row = chosen["ResNet, wide", 1.0]
    assert (row["parameters_ratio"], row["flops_ratio"], row["steps_ratio"]) == (2, 0.8, 1)
    assert chosen["ViT", 0.1]["steps_ratio"] == 1


def test_costs_are_beside_those_of_the_matched_arm_if_there_is_one():
    chosen = {(r["arm"], r["along"]): r for r in rows(findings({"to": "ResNet, wide"})) if r["chosen"]}
    assert chosen["ViT", 1.0]["flops_ratio"] == 1.25


def test_csv_reads_back_as_the_rows(tmp_path):
    found = findings()
    with write_csv(found, tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        back = list(csv.DictReader(file))
    for line, row in zip(back, rows(found), strict=True):
        assert list(line) == list(row)
        assert line == {key: "" if value is None else str(value) for key, value in row.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_json_is_strict_and_holds_all_that_the_page_says(tmp_path):
    found = findings({"to": "ViT"}, seconds=math.inf, recipe={"model": {"stem": "linear", "scale": math.nan}})
    text = write_json(found, tmp_path / "results.json").read_text(encoding="utf-8")

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    read = json.loads(text, parse_constant=refuse)
    assert read["rows"] == rows(found)
    assert read["conclusions"] == ["It says “this”."]
    assert read["cautions"] == ["Not that."]
    assert read["setting"]["seconds"] is None
    assert read["setting"]["recipe"] == {"model": {"stem": "linear", "scale": None}}
    assert read["setting"]["image_size"] == [8, 8]
    assert read["study"]["match"] == {"to": "ViT", "by": "flops"}
    assert (read["study"]["reference"], read["study"]["along"]["values"]) == ("ViT", [0.1, 1.0])
    assert read["changes"] == {}


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text("old")
    monkeypatch.setattr("vitrail.studies.table._plain", lambda values: {"bad": {1, 2}})
    with pytest.raises(TypeError):
        write_json(findings(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_a_chosen_difference_is_not_passed_off_as_one_at_a_single_rate():
    """Of an arm with a rate that the reference did not try."""
    world = World()
    outcomes = world.outcomes(lambda arm, value, lr: 0.9, ("ViT",), (0.001,))
    outcomes += world.outcomes(lambda arm, value, lr: 0.8, ("ResNet",), (0.004,))
    own = study(("ViT", "ResNet"))
    row = rows(Findings("t", own, setting(), summarise(own, sizes(outcomes), outcomes)))[1]
    assert row["difference"] < -0.05
    assert row["difference_at_rate"] is None
