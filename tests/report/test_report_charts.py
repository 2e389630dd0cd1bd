"""Charts place their points where the numbers say, between round ticks."""

import math
import re
from itertools import pairwise

import pytest
import torch

from vitrail.evaluation.calibration import reliability
from vitrail.evaluation.metrics import evaluate_logits
from vitrail.report.charts import MAX_POINTS, Series, line_chart, short_number, ticks
from vitrail.report.diagrams import heat_map, reliability_chart


def points(curve):
    return [tuple(map(float, pair.split(","))) for pair in curve.path.removeprefix("M").split()]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.123, 0.131), (-3, 1800), (1e-6, 3e-3), (2.29, 2.31), (0, 7e8)])
def test_ticks_are_few_round_and_cover_the_range(low, high):
    marks = ticks(low, high)
    steps = {round((b - a) / (marks[1] - marks[0]), 6) for a, b in pairwise(marks)}
    assert steps == {1.0}
    assert marks[0] <= low + 1e-12
    assert marks[-1] >= high - 1e-12
    assert 3 <= len(marks) <= 8
    step = (marks[1] - marks[0]) / 10 ** math.floor(math.log10(marks[1] - marks[0]) + 1e-9)
    assert round(step, 6) in (1, 2, 5)


def test_points_lie_where_their_numbers_say():
    xs, ys = [0, 25, 100], [0.2, 1.0, 0.6]
    chart = line_chart("Accuracy", "", [Series("validation", "val", xs, ys)], percent=True)
    (x0, y0), (x1, y1), (x2, y2) = points(chart.curves[0])
    assert (x0, x2) == (chart.left, chart.right)
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=1e-3)
    assert (y0 - y2) / (y0 - y1) == pytest.approx(0.5, abs=1e-2)
    marks = {tick.text: tick.at for tick in chart.y_ticks}
    assert marks["100 %"] == y1 == chart.top
    assert marks["20 %"] == y0 == chart.bottom
    assert {tick.text: tick.at for tick in chart.x_ticks}["100"] == x2


def test_long_curves_are_thinned_to_means_that_keep_their_course():
    xs = list(range(10_001))
    ys = [1 / (1 + x) + (0.5 if x % 2 else -0.5) for x in xs]
    curve = line_chart("Loss", "", [Series("training", "train", xs, ys)]).curves[0]
    found = points(curve)
    assert len(found) <= MAX_POINTS
    heights = [y for _, y in found[5:-1]]
    assert max(heights) - min(heights) < 6  # of 174: the noise is averaged away


def test_values_that_are_not_finite_are_left_out():
    series = Series("training", "train", [1, 2, 3, 4], [0.5, math.nan, math.inf, 0.25])
    assert len(points(line_chart("Loss", "", [series]).curves[0])) == 2
    assert line_chart("Loss", "", [Series("training", "train", [1, 2], [math.nan, 1])]) is None


def test_a_constant_curve_has_an_axis():
    chart = line_chart("Learning rate", "", [Series("training", "train", [1, 2, 3], [0.001] * 3)])
    assert len({y for _, y in points(chart.curves[0])}) == 1
    assert len(chart.y_ticks) >= 3


def test_reliability_columns_stand_for_accuracy_and_dots_for_the_calibrated_model():
    confidence = torch.tensor([0.95] * 60 + [0.35] * 4)
    correct = torch.tensor([True] * 45 + [False] * 15 + [True] * 3 + [False])
    calibrated = reliability(torch.full((64,), 0.75), correct)
    chart = reliability_chart(reliability(confidence, correct), calibrated)
    low, high = chart.bars
    full = chart.bottom - chart.top
    assert (low.height / full, high.height / full) == pytest.approx((0.75, 0.75), abs=1e-2)
    assert high.opacity == 1
    assert low.opacity < 0.3  # four images say little
    assert high.share_height > 10 * low.share_height
    (dot,) = chart.calibrated
    assert dot.y == pytest.approx(chart.bottom - 0.75 * full, abs=0.2)
    assert dot.x == pytest.approx(chart.left + 0.75 * (chart.right - chart.left), abs=0.2)
    assert "60 images, 95.0 % sure, 75.0 % right" in high.tip


def test_heat_map_cells_are_in_the_row_of_the_truth():
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 1, 1, 2, 0])] * 9
    targets = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    chart = heat_map(evaluate_logits(logits, targets, ["ant", "bee", "cat"]))
    cells = {
        (round((cell.y - chart.top) / chart.side), round((cell.x - chart.left) / chart.side)): cell
        for cell in chart.cells
    }
    assert {place: cell.text for place, cell in cells.items()} == {
        (0, 0): "2", (0, 1): "1", (1, 1): "2", (2, 0): "1", (2, 2): "1",
    }  # fmt: skip
    assert [place for place, cell in cells.items() if cell.right] == [(0, 0), (1, 1), (2, 2)]
    assert cells[1, 1].opacity > cells[0, 0].opacity > cells[2, 2].opacity > cells[0, 1].opacity
    assert cells[2, 0].tip == "1 image of cat taken for ant (50.0 %)"


def test_long_class_names_are_cut_in_the_map_but_not_in_its_tips():
    long = "an unusually long name of a class"
    chart = heat_map(evaluate_logits(torch.eye(2) * 3, torch.tensor([0, 1]), [long, "b"]))
    assert chart.rows[0].text == "an unusually lo…"
    assert long in chart.cells[0].tip


def test_numbers_are_short():
    values = {0: "0", 0.0003: "3e-4", 0.05: "0.05", 2.30258: "2.303", 1500: "1500", 25_000: "25k", 2.5e6: "2.5M"}
    assert {value: short_number(value) for value in values} == values
    assert all(re.fullmatch(r"[-0-9.ekMG]+", short_number(10.0**k)) for k in range(-9, 12))
