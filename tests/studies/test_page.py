"""The page of a study tells question, answer, figure and numbers, needs nothing from outside, and runs no one's text."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from study_findings import SMALL_STUDIES, VIEWS, bias, pooling, position, resolution, tokens
from vitrail.studies import figures
from vitrail.studies.page import render, write_page
from vitrail.studies.study import Arm, Study

VOID = {"meta", "br"}
BAD = "<script>alert('x')</script>&\"<b>"


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def no_figure(monkeypatch):
    """Numbers are tested without the time that drawing takes."""
    monkeypatch.setattr("vitrail.studies.page._figure", lambda *_: "")


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_needs_nothing_from_outside_and_runs_nothing(view):
    html = render(VIEWS[view]())
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "img", "image", "foreignobject"} & set(page.tags)
    assert "http" not in html
    assert "@import" not in html
    assert "src=" not in html
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    own = {value for name, value in page.attributes if name == "id"}
    assert {value.removeprefix("#") for name, value in page.attributes if name == "href"} <= own
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in own}
    assert len([value for name, value in page.attributes if name == "id"]) == len(own)
    assert len(html) < (400_000 if view == "sizes" else 250_000)


@pytest.mark.parametrize("view", VIEWS)
def test_a_reader_finds_question_answer_figure_limits_table_method_and_setting_in_this_order(view):
    findings = VIEWS[view]()
    html = render(findings)
    text = Page(html).text
    setting = findings.setting
    parts = [
        findings.study.question,
        findings.conclusions[0],
        figures.caption(findings)[0],
        "What the numbers say",
        *findings.conclusions[1:],
        *findings.advice,
        "What the numbers do not say",
        *findings.cautions,
        "Training runs" if findings.sizes else "Table",
        "Method",
        "What all arms share",
        "Setting",
        setting.machine,
        *setting.notes,
        setting.command,
    ]
    place = 0
    for part in parts:
        place = text.index(part, place)


@pytest.mark.usefixtures("no_figure")
def test_the_table_has_every_arm_with_its_numbers():
    findings = position()
    table = render(findings).split('<table class="answers">')[1].split("</table>")[0]
    rows = [Page(f"<table>{row}</tr></table>").text for row in re.findall(r"(<tr.*?)</tr>", table, re.DOTALL)[1:]]
    assert len(rows) == 13
    for row, point in zip(rows, findings.answer, strict=True):
        assert row.startswith(point.arm)
        assert f"{100 * point.top1.mean:.1f} % {100 * point.top1.low:.1f} to {100 * point.top1.high:.1f}" in row
        assert ("reference" in row) == (point.difference is None)
        assert ("●" in row) == point.told_apart
        assert "812 k 65 50.0 MFLOPs 1.00× 8.0 % 1,500 14.4 TFLOPs 1.00× 212 MB 1 min 14 s" in row


@pytest.mark.usefixtures("no_figure")
def test_every_learning_rate_is_a_row_with_the_difference_at_that_rate():
    text = Page(render(pooling())).text
    assert "Every learning rate (15 rows)" in text
    rows = text[text.index("difference at this rate") :]
    # the average's best rate is 3e-3: 93.9 % against 90.0 % there, and against 93.6 % at the class token's own best
    assert re.search(r"average of the tokens 3e-3 ✓ 93.5 % 93.9 % 92.7 to 95.1 \+3.9 ", rows)
    assert "○ +0.3 −0.7 to +1.3 3e-3" in text
    assert "Every learning rate" not in Page(render(position())).text


@pytest.mark.usefixtures("no_figure")
def test_a_chosen_difference_is_not_passed_off_as_one_at_a_single_rate():
    findings = pooling()
    points = tuple(replace(p, difference_at_rate=None) if p.lr == 3e-3 else p for p in findings.points)
    rows = Page(render(replace(findings, points=points))).text.partition("difference at this rate")[2]
    assert "average of the tokens 3e-3 ✓ 93.5 % 93.9 % 92.7 to 95.1 – 0.400" in rows  # unknown there
    assert re.search(r"attention pooling \(MAP\) 1e-3 ✓ 92.7 % 93.1 % 91.9 to 94.3 −0.5 ", rows)  # the reference's too


@pytest.mark.usefixtures("no_figure")
def test_rows_along_an_axis_go_value_by_value():
    text = Page(render(bias())).text
    table = text[text.index("fraction of the training images top-1 accuracy") :]
    assert table.index("ViT 1 %") < table.index("ResNet, augmented 1 %") < table.index("ViT 3 %")
    assert table.index("ViT 30 %") < table.index("ResNet 100 %")
    assert "1.10×" in table  # the hybrid's FLOPs


@pytest.mark.usefixtures("no_figure")
def test_an_arm_that_is_compared_with_another_than_the_reference_says_so():
    findings = bias()
    arms = {**findings.study.arms, "ResNet, augmented": Arm(against="ViT, augmented")}
    text = Page(render(replace(findings, study=findings.study.model_copy(update={"arms": arms})))).text
    assert text.count("to “ViT, augmented”") == 5
    assert "Differences are to “ViT”, or to the arm named below them, in percentage points" in text
    assert "or to the arm" not in Page(render(findings)).text


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize("view", VIEWS)
def test_no_text_has_a_place_left_open(view):
    body = render(VIEWS[view]()).partition("</style>")[2]
    assert not re.search(r"[{}]|\bNone\b", body)


@pytest.mark.usefixtures("no_figure")
def test_diverged_runs_are_told():
    findings = tokens()
    points = (replace(findings.points[0], diverged=2, nll=None), *findings.points[1:])
    assert "2 of 5 diverged" in Page(render(replace(findings, points=points))).text


@pytest.mark.usefixtures("no_figure")
def test_changes_starts_left_out_arms_and_the_reported_part_are_said():
    findings = pooling()
    arms = {**findings.study.arms, "average of the tokens": Arm(changes={"init": "the/model/folder"})}
    started = findings.study.model_copy(update={"arms": arms})
    changes = {name: arm.changes for name, arm in arms.items()}
    left_out = ("pixels: 50,176 tokens are more than 1,024",)
    setting = replace(findings.setting, left_out=left_out, reported_split="every fifth image")
    text = Page(render(replace(findings, setting=setting, study=started, changes=changes))).text
    assert "class token nothing" in text
    assert "average of the tokens init = the/model/folder" in text
    assert "Not trained from scratch but from a model: “average of the tokens”." in text
    assert f"Left out {left_out[0]}" in text
    assert "reported (every fifth image) images, which give the accuracy 360" in text
    assert "the 360 reported images" in text
    text = Page(render(findings)).text
    assert "Left out" not in text
    assert "from scratch" not in text


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize("view", VIEWS)
def test_without_any_difference_no_column_is_empty(view):
    findings = VIEWS[view]()
    points = tuple(replace(p, difference=None, difference_at_rate=None) for p in findings.points)
    text = Page(render(replace(findings, points=points, conclusions=(), cautions=()))).text
    assert "difference, points" not in text
    assert "Answer" not in text


def test_no_text_is_run():
    findings = bias()
    study = findings.study
    names = {arm: f"{arm} {BAD}" for arm in study.arms}
    hostile = Study(
        title=BAD,
        question=BAD,
        method=BAD,
        view="along",
        arms={name: {} for name in names.values()},
        reference=names["ViT"],
        lr=study.lr,
        along={"key": "data.fraction", "values": study.along.values, "label": BAD},
    )
    setting = replace(
        findings.setting,
        data=BAD,
        recipe={BAD: {"a": BAD}},
        machine=BAD,
        command=BAD,
        left_out=[BAD],
        notes=[BAD],
        reported_split=BAD,
    )
    page = Page(
        render(
            replace(
                findings,
                name=BAD,
                study=hostile,
                setting=setting,
                points=tuple(replace(p, arm=names[p.arm]) for p in findings.points),
                conclusions=(BAD, BAD),
                cautions=(BAD,),
                changes={name: {BAD: BAD} for name in names.values()},
            )
        )
    )
    assert not {"script", "img"} & set(page.tags)
    assert page.tags.count("b") == 30 + 25  # the numbers of the table: accuracies, and differences to the reference
    assert page.text.count(BAD) > 60


@pytest.mark.usefixtures("no_figure")
def test_accuracy_stands_by_arm_and_size_for_both_stages_and_in_full_below():
    findings = resolution()
    html = render(findings)
    tables = [table.split("</table>")[0] for table in html.split('<table class="answers sizes">')[1:]]
    for tuned, table in enumerate(tables):
        rows = [Page(f"<table>{row}</tr></table>").text for row in re.findall(r"(<tr.*?)</tr>", table, re.DOTALL)]
        assert [row.count(" × ") for row in rows] == [5] + [0] * 12
        assert rows[0].count("trained here") == 1
        for arm, row in zip(findings.study.arms, rows[1:], strict=True):
            own = [p for p in findings.sizes if p.arm == arm and p.tuned == tuned]
            place = row.index(arm)
            for point in own:
                place = row.index(f"{100 * point.top1.mean:.1f} % {100 * point.top1.low:.1f} to", place)
            assert row.count("●") == sum(p.change_told_apart for p in own)
            assert row.count("○") == sum(p.change is not None and not p.change_told_apart for p in own)
    assert len(tables) == 2
    text = Page(html).text
    assert "Every number at every size (120 rows)" in text
    assert (
        "rotary 2-D 32 × 32 fine-tuned 96.6 % 95.3 to 97.9 ● +2.2 +1.2 to +3.2 ○ −0.1 −1.3 to +1.1 0.300 3 256" in text
    )
    assert "What to do To use such a model at half its size, fine-tune it there." in text
    assert "of the trained models of “learned 1-D, bicubic antialiased”" in text


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize(("kinds", "readings", "scales", "stages"), SMALL_STUDIES)
def test_a_study_of_few_arms_sizes_or_stages_has_a_page(kinds, readings, scales, stages):
    text = Page(render(resolution(kinds, readings, scales, stages))).text
    assert f"Every number at every size ({(len(kinds) + len(readings)) * len(scales) * len(stages)} rows)" in text
    assert ("After a brief fine-tuning" in text) == (True in stages)
    assert ("As trained" in text) == (False in stages)


@pytest.mark.usefixtures("no_figure")
def test_a_study_of_sizes_that_has_tried_none_is_shown_as_its_training_runs():
    text = Page(render(resolution(sizes=(), advice=()))).text
    assert "Accuracy by size" not in text
    assert "What to do" not in text
    assert "rotary 2-D" in text


@pytest.mark.usefixtures("no_figure")
def test_the_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = write_page(tokens(), tmp_path / "study")
    assert path == tmp_path / "study" / "index.html"
    before = path.read_text(encoding="utf-8")
    with pytest.raises(AttributeError):
        write_page(replace(tokens(), setting="no setting"), tmp_path / "study")
    assert path.read_text(encoding="utf-8") == before
    assert [found.name for found in path.parent.iterdir()] == ["index.html"]
