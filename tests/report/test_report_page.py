"""The page is one file that needs nothing else, shows the numbers it was given, and runs no one's text as HTML."""

import base64
import io
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data.decode import ImageError
from vitrail.evaluation.metrics import evaluate_logits
from vitrail.report.page import ReportData, flat, render, training_charts, write_report
from vitrail.report.thumbnails import data_uri

VOID = {"meta", "img", "br", "link", "input", "hr", "source"}
SELF_CLOSED = {"line", "rect", "path", "circle"}


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

    def values(self, attribute):
        return [value for name, value in self.attributes if name == attribute]


def evaluation(n=300, classes=10, seed=0, labels=None, names=None, boost=2.0, **options):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), targets] += boost
    return evaluate_logits(logits, targets, labels or [f"class {c}" for c in range(classes)], names, **options)


def photograph(index):
    pixels = np.random.default_rng(index).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def records():
    lines = []
    for step in range(1, 1001):
        lines.append({"step": step, "epoch": step / 100, "split": "train", "loss": 2 / step, "lr": 1e-3 * step})
        if step % 100 == 0:
            lines.append({"step": step, "epoch": step / 100, "split": "val", "loss": 1 / step, "top1": step / 1001})
    return lines


def test_the_page_needs_nothing_from_outside_and_runs_nothing():
    html = render(ReportData("A run", evaluation=evaluation(), metrics=records(), thumbnails=photograph))
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not page.values("href")
    assert len(page.values("src")) == 24
    assert all(source.startswith("data:image/") for source in page.values("src"))
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_every_text_is_escaped():
    bad = "<script>alert('x')</script>&\"<b>"
    labels = [f"{bad}{c}" for c in range(8)]
    for classes in (8, 70):
        result = evaluation(
            classes=classes, labels=labels + [str(c) for c in range(classes - 8)], names=[f"{bad}.png"] * 300
        )
        data = ReportData(
            bad,
            bad,
            notes=[bad],
            evaluation=result,
            split=bad,
            metrics=records(),
            recipe={bad: {"a": bad}},
            cost={bad: bad},
            command=bad,
            thumbnails=photograph,
        )
        page = Page(render(data))
        assert not {"script", "b"} & set(page.tags)
        assert page.text.count(bad) > 30


@pytest.mark.parametrize(("classes", "limit"), [(10, 500_000), (60, 1_000_000), (1000, 1_000_000)])
def test_the_page_stays_small(classes, limit):
    result = evaluation(n=5 * classes, classes=classes, boost=1.0)
    html = render(ReportData("A run", evaluation=result, metrics=records(), thumbnails=photograph))
    assert len(html.encode()) < limit


def test_the_headline_is_the_accuracy_with_its_interval():
    result = evaluation()
    text = Page(render(ReportData("A run", evaluation=result, split="val"))).text
    low, high = result.top1_ci95
    assert f"Top-1 accuracy val {100 * result.top1:.1f} %" in text
    assert f"95 % interval {100 * low:.1f} % to {100 * high:.1f} %" in text
    commonest = max(score.n for score in result.per_class) / 300
    assert f"guessing the commonest class: {100 * commonest:.1f} %" in text


def test_classes_are_listed_worst_first_and_absent_ones_counted():
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(0, 4, (200,), generator=generator)
    logits = torch.randn(200, 6, generator=generator)
    result = evaluate_logits(logits, targets, list("abcdef"))
    html = render(ReportData("A run", evaluation=result))
    shown = [
        html.index(f'<tr><td>{score.label}</td><td class="number">{score.n}</td>') for score in result.worst_first()
    ]
    assert shown == sorted(shown)
    assert len(shown) == 4
    assert "2 more classes have no image here" in Page(html).text


def test_sixty_classes_are_a_heat_map_and_more_are_pairs():
    few, many = evaluation(classes=60), evaluation(classes=61)
    html = render(ReportData("A run", evaluation=few))
    assert html.count("taken for class") == len(few.pairs)
    html = render(ReportData("A run", evaluation=many))
    assert "confusion matrix" not in html
    worst = many.most_confused()[0]
    assert f'<td>class {worst.target}</td><td>class {worst.predicted}</td><td class="number">{worst.n}</td>' in html


def test_only_what_is_known_has_a_section():
    page = Page(render(ReportData("Only a title")))
    assert "section" not in page.tags
    page = Page(render(ReportData("A run", metrics=records(), recipe={"epochs": 3}, cost={"time": "3 s"})))
    assert page.tags.count("section") == 3
    assert "Calibration" not in page.text
    assert "Training" not in Page(render(ReportData("A model", evaluation=evaluation()))).text


def test_it_says_which_images_the_temperature_was_fitted_on():
    assert "slightly optimistic" in render(ReportData("", evaluation=evaluation()))
    logits, targets = torch.randn(50, 10), torch.arange(50) % 10
    other = evaluation(calibration=(logits, targets), calibration_name="val")
    html = render(ReportData("", evaluation=other))
    assert "slightly optimistic" not in html
    assert "fitted on other images (val)" in html


def test_a_perfect_model_has_no_mistakes_to_show():
    text = Page(render(ReportData("", evaluation=evaluation(boost=50.0)))).text
    assert "Not one mistake in 300 images" in text


def test_a_picture_that_is_gone_leaves_the_mistake():
    result = evaluation()
    first, second, third = (mistake.index for mistake in result.mistakes[:3])

    def picture(index):
        if index == first:
            raise ImageError("0.png: cannot be read")
        return b"not an image" if index == second else photograph(index) if index == third else None

    html = render(ReportData("", evaluation=result, thumbnails=picture))
    assert html.count("<img ") == 1
    assert html.count("no picture") == 23
    assert render(ReportData("", evaluation=result, thumbnails={third: photograph(third)})) == html
    assert "no picture" not in render(ReportData("", evaluation=result))


def test_small_pictures_keep_their_pixels_and_large_ones_are_reduced():
    pixels = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    uri, tiny = data_uri(pixels)
    assert tiny
    assert np.array_equal(np.asarray(decoded(uri)), pixels[0].numpy())
    uri, tiny = data_uri(photograph(1))
    assert not tiny
    assert decoded(uri).size == (128, 96)


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_charts_are_those_that_the_records_have():
    titles = [chart.title for chart in training_charts(records())]
    assert titles == ["Loss", "Top-1 accuracy", "Learning rate"]
    assert [chart.title for chart in training_charts([r for r in records() if r["split"] == "val"])] == titles[:2]
    assert training_charts(records()[:1]) == []
    assert training_charts([]) == []
    loss, accuracy, _ = training_charts(records())
    assert loss.summary == "lowest 1e-3 at step 1000 (validation)"
    assert accuracy.summary == "best 99.9 % at step 1000 (validation)"


def test_a_diverged_run_still_has_a_page():
    broken = [{**record, "loss": math.nan if record["step"] > 500 else record["loss"]} for record in records()]
    html = render(ReportData("A run", metrics=broken))
    assert "nan" not in html
    assert len(training_charts(broken)) == 3


def test_a_recipe_becomes_paths_and_values():
    recipe = {"epochs": 30.0, "optimizer": {"lr": 0.0003, "betas": [0.9, 0.999]}, "compile": None, "skip": False}
    assert flat(recipe) == [
        ("epochs", "30"),
        ("optimizer.lr", "0.0003"),
        ("optimizer.betas", "0.9, 0.999"),
        ("compile", "–"),
        ("skip", "no"),
    ]


def test_the_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = write_report(tmp_path / "report.html", ReportData("First"))
    write_report(path, ReportData("Second"))
    assert "Second" in path.read_text()
    with pytest.raises(AttributeError):
        write_report(path, ReportData("Third", evaluation="not an evaluation"))
    assert "Second" in path.read_text()
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]
