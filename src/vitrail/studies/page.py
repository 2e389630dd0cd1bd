"""Findings -> index.html: one self-contained page that tells a stranger a study's question, answer and limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from vitrail.model.cost import readable
from vitrail.report.charts import short_number
from vitrail.report.page import flat, percent
from vitrail.studies import figures
from vitrail.studies.figures import style
from vitrail.studies.figures.inline import inline
from vitrail.studies.findings import Estimate, Findings, Point
from vitrail.studies.outcome import Size
from vitrail.studies.study import Study
from vitrail.training.progress import clock
from vitrail.weights import replace

NAME = "index.html"


@dataclass(frozen=True)
class Answer:
    """A row of the table of answers: texts, ready to be shown."""

    arm: str
    along: str
    lr: str
    top1: str
    top1_interval: str
    difference: str
    difference_interval: str
    told_apart: bool
    reference: bool
    diverged: str
    parameters: str
    tokens: str
    flops: str
    flops_ratio: str
    attention: str
    steps: str
    training: str
    training_ratio: str
    memory: str
    time: str


@dataclass(frozen=True)
class Trial:
    """A row of the table of every learning rate."""

    arm: str
    along: str
    lr: str
    chosen: bool
    seeds: int
    diverged: int
    val_top1: str
    top1: str
    top1_interval: str
    difference: str
    difference_interval: str
    nll: str


@dataclass(frozen=True)
class Change:
    """What an arm changes: (key, value) pairs, and the model it starts from if any."""

    arm: str
    values: Sequence[tuple[str, str]]
    start: str


def write_page(findings: Findings, folder: Path) -> Path:
    """Write ``folder/index.html``, whole or not at all, and return its path."""
    page = render(findings)
    folder.mkdir(parents=True, exist_ok=True)
    with replace.file(folder / NAME) as staging:
        staging.write_text(page, encoding="utf-8")
    return folder / NAME


def render(findings: Findings) -> str:
    """The page as HTML. Every text in the findings is escaped."""
    loader = PrefixLoader(
        {"report": PackageLoader("vitrail", "report"), "studies": PackageLoader("vitrail", "studies")}
    )
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    study, setting = findings.study, findings.setting
    answers = _answers(findings)
    return environment.get_template("studies/page.html").render(
        findings=findings,
        study=study,
        setting=setting,
        wide=_figure(findings, "wide"),
        narrow=_figure(findings, "narrow"),
        captions=(figures.caption(findings, "wide"), figures.caption(findings, "narrow")),
        answers=answers,
        standard=_standard(study),
        compared=any(answer.difference for answer in answers),
        along=(study.along.label or study.along.key) if study.along else "",
        trials=_trials(findings) if len(findings.points) > len(findings.answer) else [],
        changes=_changes(findings),
        recipe=flat(setting.recipe),
        facts=_facts(findings),
    )


def _figure(findings: Findings, width: style.Width) -> Markup:
    """The figure for the page; all text in it is escaped already."""
    return Markup(inline(figures.svg(findings, width), f"{width}-", f"Figure: {findings.study.title}"))


def _answers(findings: Findings) -> list[Answer]:
    """In the study's order; with an axis, value by value."""
    study = findings.study
    standards = {repr(point.along): point.size for point in findings.answer if point.arm == _standard(study)}
    return [_answer(findings, point, standards.get(repr(point.along))) for point in _ordered(findings, findings.answer)]


def _standard(study: Study) -> str:
    """The arm whose cost the others are measured by."""
    return study.match.to if study.match else study.reference


def _answer(findings: Findings, point: Point, standard: Size | None) -> Answer:
    study, size = findings.study, point.size
    return Answer(
        arm=point.arm,
        along=style.value_text(study.along.key, point.along) if study.along else "",
        lr=short_number(point.lr),
        top1=percent(point.top1.mean),
        top1_interval=_interval(point.top1),
        difference=signed(point.difference),
        difference_interval=_signed_interval(point.difference),
        told_apart=point.told_apart,
        reference=point.arm == study.reference,
        diverged=f"{point.diverged} of {point.seeds} diverged" if point.diverged else "",
        parameters=readable(size.parameters, "").strip(),
        tokens="–" if size.tokens is None else f"{size.tokens:,}",
        flops=readable(size.flops, "FLOPs"),
        flops_ratio=_ratio(size.flops, standard.flops if standard else None),
        attention="–" if size.tokens is None else percent(size.attention_share),
        steps=f"{size.steps:,}",
        training=readable(size.training_flops, "FLOPs"),
        training_ratio=_ratio(size.training_flops, standard.training_flops if standard else None),
        memory=readable(size.training_bytes, "B"),
        time=clock(point.seconds) if point.seconds >= 10 else f"{point.seconds:.1f} s",
    )


def _trials(findings: Findings) -> list[Trial]:
    study = findings.study
    rows = []
    for point in _ordered(findings, findings.points):
        difference = point.difference_at_rate or (
            None if point.chosen and not _same(findings, point) else point.difference
        )
        rows.append(
            Trial(
                arm=point.arm,
                along=style.value_text(study.along.key, point.along) if study.along else "",
                lr=short_number(point.lr),
                chosen=point.chosen,
                seeds=point.seeds,
                diverged=point.diverged,
                val_top1=percent(point.val_top1),
                top1=percent(point.top1.mean),
                top1_interval=_interval(point.top1),
                difference=signed(difference),
                difference_interval=_signed_interval(difference),
                nll="–" if point.nll is None else f"{point.nll:.3f}",
            )
        )
    return rows


def _same(findings: Findings, point: Point) -> bool:
    """Whether the reference's own rate is this one too, so that a chosen point's difference is at one rate."""
    return any(
        other.chosen and other.lr == point.lr and repr(other.along) == repr(point.along)
        for other in findings.points
        if other.arm == findings.study.reference
    )


def _ordered(findings: Findings, points: Sequence[Point]) -> list[Point]:
    """By the value along the axis, the arm in the study's order, the learning rate."""
    arms = style.arms(findings)
    values = [repr(value) for value in findings.study.along.values] if findings.study.along else []

    def place(point: Point) -> tuple[int, int, float]:
        along = repr(point.along)
        return (values.index(along) if along in values else len(values), arms.index(point.arm), point.lr)

    return sorted(points, key=place)


def _changes(findings: Findings) -> list[Change]:
    """Of the arms that were run, in order; the reference's too, where it changes something."""
    return [
        Change(arm, flat(findings.changes.get(arm, {})), findings.initial.get(arm, "")) for arm in style.arms(findings)
    ]


def _facts(findings: Findings) -> Mapping[str, str]:
    """The setting as name -> text."""
    setting, (h, w) = findings.setting, findings.setting.image_size
    runs = sum(point.seeds for point in findings.points)
    reported = "test" if setting.reported_split == "test" else f"reported ({setting.reported_split})"
    beside = "one after the other" if setting.jobs == 1 else f"{setting.jobs} side by side"
    return {
        "data": f"{setting.data}: {setting.classes:,} classes, images of {h} × {w} pixels",
        "training images": f"{setting.train:,}",
        "validation images, which choose the learning rate": f"{setting.val:,}",
        f"{reported} images, which give the accuracy": f"{setting.reported:,}",
        "training runs": f"{runs:,}, {beside}",
        "seeds": style.seeds(findings.answer),
        "time of all runs": clock(setting.seconds),
        "machine": setting.machine,
    }


def signed(difference: Estimate | None) -> str:
    """In percentage points: 0.0123 -> ``+1.2``; nothing for None."""
    return "" if difference is None else _points(difference.mean)


def _signed_interval(difference: Estimate | None) -> str:
    return "" if difference is None else f"{_points(difference.low)} to {_points(difference.high)}"


def _points(fraction: float) -> str:
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _ratio(value: int, standard: int | None) -> str:
    """How many times as much."""
    return f"{value / standard:.2f}×" if standard else ""
