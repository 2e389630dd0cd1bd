"""ReportData -> report.html: one self-contained page of a training run or an evaluation, for people, on any screen."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vitrail.data.decode import ImageError
from vitrail.evaluation.metrics import Evaluation, Mistake
from vitrail.report.charts import LineChart, Series, line_chart, short_number
from vitrail.report.diagrams import heat_map, reliability_chart
from vitrail.report.thumbnails import Picture, data_uri
from vitrail.weights import replace

CONFUSED_PAIRS = 30


@dataclass(frozen=True)
class ReportData:
    """What the page shows. Sections without data are left out."""

    title: str
    subtitle: str = ""
    notes: Sequence[str] = ()
    """Sentences that belong at the top, such as why the recipe was chosen."""
    evaluation: Evaluation | None = None
    split: str = ""
    """Name of the evaluated images, such as ``val``."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """The lines of metrics.jsonl."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Nested, as ``recipe.to_dict()`` gives it."""
    cost: Mapping[str, str] = field(default_factory=dict)
    """What was computed, on what, how fast: name -> text."""
    thumbnails: Mapping[int, Picture] | Callable[[int], Picture | None] | None = None
    """Pictures of the mistakes by ``Mistake.index``."""
    command: str = ""
    """The command that makes this page again."""


@dataclass(frozen=True)
class Card:
    """A mistake with its picture as a data URI, or none."""

    mistake: Mistake
    picture: str
    pixelated: bool


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the page to ``path``, whole or not at all, and return the path."""
    path = Path(path)
    page = render(data)
    with replace.file(path) as staging:
        staging.write_text(page, encoding="utf-8")
    return path


def render(data: ReportData) -> str:
    """The page as HTML. Every text in ``data`` is escaped."""
    environment = Environment(
        loader=PackageLoader("vitrail", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "short": short_number}
    evaluation = data.evaluation
    cards = _cards(evaluation, data.thumbnails) if evaluation else []
    return environment.get_template("page.html").render(
        data=data,
        evaluation=evaluation,
        charts=training_charts(data.metrics),
        cards=cards,
        pictured=any(card.picture for card in cards),
        heat_map=heat_map(evaluation) if evaluation else None,
        confused=evaluation.most_confused(CONFUSED_PAIRS) if evaluation else [],
        classes=evaluation.worst_first() if evaluation else [],
        absent=sum(score.n == 0 for score in evaluation.per_class) if evaluation else 0,
        commonest=max(score.n for score in evaluation.per_class) / evaluation.n if evaluation else 0,
        reliability=reliability_chart(evaluation.reliability, evaluation.reliability_calibrated)
        if evaluation
        else None,
        recipe=flat(data.recipe),
    )


def training_charts(metrics: Sequence[Mapping[str, Any]]) -> list[LineChart]:
    """Loss, accuracy and learning rate over the steps, as far as the records have them, on one range of steps."""
    steps = [float(record["step"]) for record in metrics]
    # a run's first record comes after a few steps: its curves still begin at 0
    x_range = (0.0 if min(steps) <= 0.05 * max(steps) else min(steps), max(steps)) if steps else None
    loss = _series(metrics, "loss", ("train", "val", "test"))
    top1 = _series(metrics, "top1", ("train", "val", "test"))
    lr = _series(metrics, "lr", ("train",))
    charts = [
        line_chart("Loss", "cross-entropy", loss, x_range=x_range, summary=_best(loss, min, "lowest", short_number)),
        line_chart(
            "Top-1 accuracy",
            "share of images",
            top1,
            x_range=x_range,
            percent=True,
            summary=_best(top1, max, "best", percent),
        ),
        line_chart("Learning rate", "", lr, x_range=x_range, summary=_best(lr, max, "highest", short_number)),
    ]
    return [chart for chart in charts if chart is not None]


def flat(recipe: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested recipe -> (path, value as text) in its own order: ``optimizer.lr``, ``0.001``."""
    rows: list[tuple[str, str]] = []
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _text(value)))
    return rows


def percent(fraction: float | None, digits: int = 1) -> str:
    """0.9876 -> ``98.8 %``; a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"


SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


def _series(metrics: Sequence[Mapping[str, Any]], key: str, splits: Sequence[str]) -> list[Series]:
    series = []
    for split in splits:
        records = [r for r in metrics if r.get("split") == split and r.get(key) is not None]
        if records:
            xs, ys = [float(r["step"]) for r in records], [float(r[key]) for r in records]
            series.append(Series(SPLIT_NAMES[split], split, xs, ys))
    return series


def _best(series: Sequence[Series], choose: Callable[..., int], word: str, text: Callable[[float], str]) -> str:
    """Such as ``best 98.9 % at step 1200 (validation)``, of validation where there is one."""
    if not series:
        return ""
    s = next((s for s in series if s.role == "val"), series[-1])
    finite = [i for i, y in enumerate(s.ys) if math.isfinite(y)]
    if not finite:
        return f"never finite ({s.name})"
    at = choose(finite, key=lambda i: s.ys[i])
    return f"{word} {text(s.ys[at])} at step {s.xs[at]:g} ({s.name})"


def _cards(
    evaluation: Evaluation, thumbnails: Mapping[int, Picture] | Callable[[int], Picture | None] | None
) -> list[Card]:
    get = thumbnails if callable(thumbnails) else (thumbnails or {}).get
    cards = []
    for mistake in evaluation.mistakes:
        try:
            picture = get(mistake.index)
            uri, pixelated = ("", False) if picture is None else data_uri(picture)
        except ImageError:  # the file changed since it was evaluated: the mistake stands without its picture
            uri, pixelated = "", False
        cards.append(Card(mistake, uri, pixelated))
    return cards


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
