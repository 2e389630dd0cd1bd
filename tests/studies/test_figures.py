"""The figure of a study names every arm, is the same each time, and is drawn whatever the study's size."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from PIL import Image

from study_findings import SMALL_STUDIES, VIEWS, bias, pooling, position, resolution, tokens
from vitrail.model.cost import flops
from vitrail.model.variants import variant
from vitrail.studies import figures
from vitrail.studies.figures import style
from vitrail.studies.figures.cost import quadratic
from vitrail.studies.figures.inline import inline
from vitrail.studies.study import Arm, Study

WIDTHS = ("wide", "narrow")


def words(svg):
    """All text of an SVG, line breaks as spaces."""
    return " ".join(" ".join(ET.fromstring(svg).itertext()).split())


def renamed(findings, names, view=None):
    """The same findings with other names of arms, in another view."""
    study = findings.study
    values = {"arms": {names(arm): {} for arm in study.arms}, "reference": names(study.reference)}
    study = Study(title=study.title, question=study.question, view=view or study.view, lr=study.lr, **values)
    return replace(findings, study=study, points=tuple(replace(p, arm=names(p.arm)) for p in findings.points))


@pytest.mark.parametrize("view", VIEWS)
def test_both_files_are_written_and_are_the_same_each_time(view, tmp_path):
    findings = VIEWS[view]()
    written = figures.save(findings, tmp_path / "one")
    assert [path.name for path in written] == ["figure.svg", "figure.png"]
    for path, again in zip(written, figures.save(findings, tmp_path / "two"), strict=True):
        assert path.read_bytes() == again.read_bytes()
    with Image.open(written[1]) as picture:
        assert picture.width == 1400  # 7 inches at 200 dots an inch
        assert len(set(picture.convert("L").resize((100, 100)).tobytes())) > 20  # something is drawn


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS)
def test_every_arm_is_named(view, width):
    findings = VIEWS[view]()
    said = words(figures.svg(findings, width))
    for arm in findings.study.arms:
        assert arm in said


@pytest.mark.parametrize("view", VIEWS)
def test_the_caption_says_how_many_seeds_and_images_and_what_intervals(view):
    for width in WIDTHS:
        said = " ".join(figures.caption(VIEWS[view](), width))
        assert ("3 seeds" if view == "sizes" else "5 seeds") in said
        assert "the 360 test images" in said
        assert "95 % intervals" in said


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", ["arms", "rates", "cost"])
def test_many_arms_with_long_names_in_any_script_fit(view, width):
    findings = renamed(position(), lambda arm: f"{arm}, and $what$ else there is to say of it 日本 & <b>", view)
    figure = figures.draw(findings, width)
    with style.paper():
        figure.draw_without_rendering()  # a figure too small for its names warns, and warnings are errors
        for ax in figure.axes:
            box = ax.get_window_extent()
            assert box.height > 60
            assert box.width > 60
    assert "and $what$ else" in words(figures.svg(findings, width))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_cut_off(view, width):
    figure = figures.draw(VIEWS[view](), width)
    with style.paper():
        figure.draw_without_rendering()
        box, page = figure.get_tightbbox(), figure.bbox_inches
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= page.x1 + 0.01
    assert box.y1 <= page.y1 + 0.01


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", ["arms", "rates"])
def test_without_any_difference_the_accuracies_are_drawn(view, width):
    findings = VIEWS[view]()
    findings = replace(
        findings, points=tuple(replace(p, difference=None, difference_at_rate=None) for p in findings.points)
    )
    said = words(figures.svg(findings, width))
    assert "top-1 accuracy (%)" in said
    assert "ifference" not in said
    assert "ifference" not in " ".join(figures.caption(findings, width))


def markers(svg, colour):
    """Fills of the markers with edges of that colour, of differences in a figure of the arms."""
    return re.findall(rf'<use [^>]*style="fill: (#\w+); stroke: {colour}; stroke-width: 1.1"', svg)


def test_a_difference_that_is_told_apart_is_filled_and_another_hollow():
    findings = position()
    fills = markers(figures.svg(findings, "narrow"), style.SERIES[0])
    told = [point.told_apart for point in findings.points if point.difference is not None]
    assert [fill == style.SERIES[0] for fill in fills] == told
    assert 0 < sum(told) < len(told)


def test_a_single_rate_is_drawn_beside_the_best_ones():
    figure = figures.draw(pooling(), "wide")
    texts = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert texts == ["1e-4", "3e-4", "1e-3", "3e-3", "0.01", "own best"]
    said = words(figures.svg(pooling(), "wide"))
    assert "+45" in said  # 86 against 41 % at the highest rate: beyond the panel, so written
    assert "A number stands for a difference beyond the panel" in " ".join(figures.caption(pooling()))


def test_a_rate_that_the_reference_did_not_try_has_no_difference_there():
    findings = pooling()
    bare = replace(findings, points=tuple(replace(p, difference_at_rate=None) for p in findings.points))
    full, less = (figures.draw(f, "wide").axes[1] for f in (findings, bare))
    singles = sum(p.difference_at_rate is not None for p in findings.points)
    drawn = len(full.lines) - len(less.lines)
    assert drawn + 2 * (len(full.texts) - len(less.texts)) == 2 * singles  # a line and a marker, or a number
    assert less.lines  # the answer stays


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS)
def test_no_caption_has_a_place_left_open(view, width):
    said = " ".join(figures.caption(VIEWS[view](), width))
    assert not re.search("[{}]|None", said)
    two = replace(tokens(), points=(*tokens().points, replace(tokens().points[0], lr=3e-3, chosen=False)))
    assert "Each arm is at the learning rate that was best for it" in " ".join(figures.caption(two, width))


def test_accuracy_and_cost_of_arms_without_tokens_is_drawn():
    findings = tokens()
    bare = replace(findings.points[0].size, tokens=None, attention_share=0.0)
    figure = figures.draw(replace(findings, points=tuple(replace(p, size=bare) for p in findings.points)))
    assert figure.axes[2].get_xlim()[0] == 10


@pytest.mark.parametrize("view", ["arms", "rates"])
def test_arms_with_another_opponent_are_named_and_the_title_does_not_claim_the_reference(view):
    findings = VIEWS[view]()
    reference, other, third = list(findings.study.arms)[:3]
    if view == "arms":
        reference, other, third = findings.study.reference, "none", "rotary 2-D at every layer"
    arms = {**findings.study.arms, third: Arm(against=other)}
    mixed = replace(findings, study=findings.study.model_copy(update={"arms": arms}))
    sentence = f"Arms are compared with “{reference}”, but “{third}” with “{other}”."
    for width in WIDTHS:
        assert sentence in " ".join(figures.caption(mixed, width))
        assert "Arms are compared" not in " ".join(figures.caption(findings, width))
    assert f"Difference to {reference}" in words(figures.svg(findings))
    assert f"Difference to {reference}" not in words(figures.svg(mixed))


def test_diverged_runs_are_crosses():
    findings = pooling()
    points = tuple(replace(p, diverged=2) if p.lr == 1e-2 else p for p in findings.points)
    crosses = [
        line for line in figures.draw(replace(findings, points=points)).axes[0].lines if line.get_marker() == "x"
    ]
    assert len(crosses) == 3
    assert "diverged" in " ".join(figures.caption(replace(findings, points=points)))
    assert "diverged" not in " ".join(figures.caption(findings))


def test_positive_numbers_over_more_than_a_decade_have_a_logarithmic_axis_and_words_one_place_each():
    ax = figures.draw(bias()).axes[0]
    assert ax.get_xscale() == "log"
    assert ax.get_xticklabels()[0].get_text() == "1 %\n11"
    findings = bias()
    values = dict(zip((0.01, 0.03, 0.1, 0.3, 1.0), ("none", "few", "some", "many", "all"), strict=True))
    along = {"key": "model.pool", "values": list(values.values()), "label": "a word"}
    study = findings.study.model_copy(
        update={"along": type(findings.study.along)(**along)},
    )
    points = tuple(replace(p, along=values[p.along]) for p in findings.points)
    ax = figures.draw(replace(findings, study=study, points=points)).axes[0]
    assert ax.get_xscale() == "linear"
    assert [label.get_text() for label in ax.get_xticklabels()] == list(values.values())


def test_a_variation_of_an_arm_has_its_colour_and_no_two_arms_look_alike():
    shown = style.looks(bias())
    assert shown["ViT, augmented"].colour == shown["ViT"].colour
    assert shown["hybrid, augmented"].colour == shown["hybrid"].colour != shown["ResNet"].colour
    for findings in (bias(), tokens(), position(), pooling()):
        looks = [(look.colour, look.marker) for look in style.looks(findings).values()]
        assert len(set(looks)) == len(looks)


def test_the_quadratic_cost_is_that_of_the_configuration():
    rows = quadratic()
    assert [row.patch_size for row in rows] == [32, 28, 16, 14, 8, 7, 4, 2, 1]
    assert rows[-1].tokens == 224 * 224 + 1
    of_16 = next(row for row in rows if row.patch_size == 16)
    assert of_16.attention + of_16.rest == sum(flops(variant("B/16")).values())
    # by hand: 4 N^2 D a block, twelve blocks of width 768
    assert rows[-1].attention == 12 * 4 * 50_177**2 * 768
    grown = np.log(rows[-1].attention / rows[-2].attention) / np.log(rows[-1].tokens / rows[-2].tokens)
    assert grown == pytest.approx(2)
    said = words(figures.svg(tokens()))
    assert "50,176 tokens" in said
    assert f"{(rows[-1].attention + rows[-1].rest) / 1e12:.0f} TFLOPs" in said


def test_a_persons_own_matplotlib_settings_neither_matter_nor_change():
    before = figures.svg(position())
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert figures.svg(position()) == before
        assert matplotlib.rcParams["font.size"] == 20


def test_an_inline_figure_shares_no_id_follows_the_style_sheet_and_points_nowhere():
    findings = tokens()
    parts = [inline(figures.svg(findings, width), f"{width}-", 'a "label"') for width in WIDTHS]
    ids = [set(re.findall(r'\bid="([^"]+)"', part)) for part in parts]
    assert ids[0]
    assert not ids[0] & ids[1]
    for part, own in zip(parts, ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"', part)) | set(re.findall(r"url\(#([^)]+)\)", part)) == own
        assert "http" not in part
        assert "<style" not in part
        assert "var(--ink)" in part
        assert not re.findall("#[0-9a-f]{6}", part)
        assert 'aria-label="a &quot;label&quot;"' in part


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("kinds", "readings", "scales", "stages"), SMALL_STUDIES)
def test_a_study_of_few_arms_sizes_or_stages_is_drawn(kinds, readings, scales, stages, width):
    findings = resolution(kinds, readings, scales, stages)
    svg = figures.svg(findings, width)
    for arm in findings.study.arms:
        assert arm in words(svg)
    letters = " ".join(figures.caption(findings, width))
    assert ("d and e:" in letters) == bool(readings)


def test_a_study_of_sizes_without_any_is_drawn_as_its_training_runs():
    assert "rotary 2-D" in words(figures.svg(resolution(sizes=())))
    assert figures.caption(resolution(sizes=()))


@pytest.mark.parametrize("width", WIDTHS)
def test_sizes_stand_at_equal_steps_of_scale_and_readings_as_differences_filled_where_told_apart(width):
    findings = resolution()
    trained, tuned, flops, before, after = figures.draw(findings, width).axes
    for ax in (trained, tuned):
        assert [label.get_text() for label in ax.get_xticklabels()] == ["8", "12", "16", "24", "32"]
        ticks = np.log2(ax.get_xticks())
        assert ticks[2] - ticks[0] == pytest.approx(ticks[4] - ticks[2])
        assert [label.get_fontweight() for label in ax.get_xticklabels()].count("bold") == 1
    assert flops.get_xscale() == "log"
    assert before.get_ylim() == after.get_ylim()
    for ax, stage in ((before, False), (after, True)):
        faces = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() not in ("None", "")]
        told = [
            p.told_apart for p in findings.sizes if findings.study.arms[p.arm].of and p.tuned == stage and p.scale != 1
        ]
        assert [face != style.PAPER for face in faces] == told
    assert any(p.told_apart for p in findings.sizes if findings.study.arms[p.arm].of)


def test_sizes_that_are_no_squares_and_runs_that_diverged_are_shown():
    findings = resolution()
    points = tuple(replace(p, diverged=1) if p.arm == "rotary 2-D" else p for p in findings.points)
    sizes = tuple(replace(p, image_size=(p.image_size[0], 2 * p.image_size[1])) for p in findings.sizes)
    ax = figures.draw(replace(findings, points=points, sizes=sizes)).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()][:2] == ["8×\n16", "12×\n24"]
    assert len([line for line in ax.lines if line.get_marker() == "x"]) == 5
    assert "A cross marks arms with runs that diverged" in " ".join(figures.caption(replace(findings, points=points)))
    assert "diverged" not in " ".join(figures.caption(findings))


@pytest.mark.parametrize("accuracies", [(0.02, 0.999), (0.55, 0.62), (0.961, 0.992), (0.4, 0.4)])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_interval_at_a_size_is_in_the_figure_side_by_side_and_on_one_scale(width, accuracies):
    findings = resolution(readings=())
    rows = np.linspace(*accuracies, len(findings.sizes))
    sizes = tuple(
        replace(p, top1=replace(p.top1, mean=mean, low=max(0, mean - 0.02), high=min(1, mean + 0.02)))
        for p, mean in zip(findings.sizes, rows, strict=True)
    )
    axes = figures.draw(replace(findings, sizes=sizes), width).axes
    for ax in axes:
        low, high = ax.get_ylim()
        assert low <= 100 * min(p.top1.low for p in sizes)
        assert high >= 100 * max(p.top1.high for p in sizes)
        ticks = ax.get_yticks()
        assert len(ticks) >= 3
        assert all(low <= tick <= min(high, 100) for tick in ticks)
    assert axes[0].get_ylim() == axes[1].get_ylim() == axes[2].get_ylim()
    places = [line.get_xdata()[0] for line in axes[0].lines if line.get_marker() not in ("None", "")]
    assert len(places) == 7 * 5 == len({round(float(place), 6) for place in places})
    groups = np.sort(places).reshape(5, 7)
    for group, size in zip(groups, (8, 12, 16, 24, 32), strict=True):
        assert np.sqrt(group[0] * group[-1]) == pytest.approx(size)
