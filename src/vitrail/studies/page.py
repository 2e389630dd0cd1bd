"""Findings -> index.html: one self-contained page that tells a stranger a study's question, answer and limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from vitrail.model.cost import readable
from vitrail.report.charts import short_number
from vitrail.report.page import flat, percent
from vitrail.studies import figures, size_tables
from vitrail.studies.conclusions.losses import SMALL
from vitrail.studies.conclusions.words import joined, named, signed, sizes_of_images, started, value
from vitrail.studies.figures import style
from vitrail.studies.figures.inline import inline
from vitrail.studies.findings import Estimate, Findings, Point, standard, standard_sizes
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
    against: str
    """The arm that it is compared with, where that is not the reference."""
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
    against: str
    nll: str


@dataclass(frozen=True)
class Change:
    """What an arm changes: (key, value) pairs."""

    arm: str
    values: Sequence[tuple[str, str]]
    of: str
    """The arm whose trained models it reads, if it does."""


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
        standard=standard(study),
        compared=any(answer.difference for answer in answers),
        otherwise=any(answer.against for answer in answers),
        started=joined([f"“{arm}”" for arm in started(study)]) if started(study) else "",
        along=(study.along.label or study.along.key) if study.along else "",
        trials=_trials(findings) if len(findings.points) > len(findings.answer) else [],
        changes=_changes(findings),
        recipe=flat(setting.recipe),
        stages=size_tables.stages(findings),
        otherwise_sizes=any(study.opponent(point.arm) != study.reference for point in findings.sizes),
        size_rows=size_tables.rows(findings),
        small=f"{SMALL:g}",
        facts=_facts(findings),
    )


def _figure(findings: Findings, width: style.Width) -> Markup:
    """The figure for the page; all text in it is escaped already."""
    return Markup(inline(figures.svg(findings, width), f"{width}-", f"Figure: {findings.study.title}"))


def _answers(findings: Findings) -> list[Answer]:
    """In the study's order; with an axis, value by value."""
    study = findings.study
    standards = standard_sizes(study, findings.answer)
    return [_answer(findings, point, standards.get(repr(point.along))) for point in _ordered(findings, findings.answer)]


def _against(study: Study, point: Point) -> str:
    """The arm that a point is compared with, where that is not the reference."""
    opponent = study.opponent(point.arm)
    return opponent if point.difference and opponent != study.reference else ""


def _answer(findings: Findings, point: Point, other: Size | None) -> Answer:
    study, size = findings.study, point.size
    return Answer(
        arm=point.arm,
        along=value(study, point.along) if study.along else "",
        lr=short_number(point.lr),
        top1=percent(point.top1.mean),
        top1_interval=_interval(point.top1),
        difference=_signed(point.difference),
        difference_interval=_signed_interval(point.difference),
        told_apart=point.told_apart,
        against=_against(study, point),
        reference=point.arm == study.reference,
        diverged=f"{point.diverged} of {point.seeds} diverged" if point.diverged else "",
        parameters=readable(size.parameters, "").strip(),
        tokens="–" if size.tokens is None else f"{size.tokens:,}",
        flops=readable(size.flops, "FLOPs"),
        flops_ratio=_ratio(size.flops, other.flops if other else None),
        attention="–" if size.tokens is None else percent(size.attention_share),
        steps=f"{size.steps:,}",
        training=readable(size.training_flops, "FLOPs"),
        training_ratio=_ratio(size.training_flops, other.training_flops if other else None),
        memory=readable(size.training_bytes, "B"),
        time=clock(point.seconds) if point.seconds >= 10 else f"{point.seconds:.1f} s",
    )


def _trials(findings: Findings) -> list[Trial]:
    study = findings.study
    rows = []
    for point in _ordered(findings, findings.points):
        difference = point.difference_at_rate
        rows.append(
            Trial(
                arm=point.arm,
                along=value(study, point.along) if study.along else "",
                lr=short_number(point.lr),
                chosen=point.chosen,
                seeds=point.seeds,
                diverged=point.diverged,
                val_top1=percent(point.val_top1),
                top1=percent(point.top1.mean),
                top1_interval=_interval(point.top1),
                difference=_signed(difference),
                difference_interval=_signed_interval(difference),
                against=_against(study, point),
                nll="–" if point.nll is None else f"{point.nll:.3f}",
            )
        )
    return rows


def _ordered(findings: Findings, points: Sequence[Point]) -> list[Point]:
    """By the value along the axis, the arm in the study's order, the learning rate."""
    arms = style.arms(findings)
    values = [repr(each) for each in findings.study.along.values] if findings.study.along else []

    def place(point: Point) -> tuple[int, int, float]:
        along = repr(point.along)
        return (values.index(along) if along in values else len(values), arms.index(point.arm), point.lr)

    return sorted(points, key=place)


def _changes(findings: Findings) -> list[Change]:
    """Of the arms that were run, in order; the reference's too, where it changes something."""
    given = {name: arm.of for name, arm in findings.study.arms.items()}
    return [
        Change(arm, flat(findings.changes.get(arm, {})), named(of) if (of := given.get(arm)) else "")
        for arm in style.arms(findings)
    ]


def _facts(findings: Findings) -> Mapping[str, str]:
    """The setting as name -> text."""
    setting, size = findings.setting, sizes_of_images(findings.study, findings.setting)
    runs = sum(point.seeds for point in findings.points)
    reported = "test" if setting.reported_split == "test" else f"reported ({setting.reported_split})"
    beside = "one after the other" if setting.jobs == 1 else f"{setting.jobs} side by side"
    return {
        "data": f"{setting.data}: {setting.classes:,} classes, images of {size}",
        "training images": f"{setting.train:,}",
        "validation images, which choose the learning rate": f"{setting.val:,}",
        f"{reported} images, which give the accuracy": f"{setting.reported:,}",
        "training runs": f"{runs:,}, {beside}",
        "seeds": style.seeds(findings.answer),
        "time of all runs": clock(setting.seconds),
        "machine": setting.machine,
    }


def _signed(difference: Estimate | None) -> str:
    return "" if difference is None else signed(difference.mean)


def _signed_interval(difference: Estimate | None) -> str:
    return "" if difference is None else f"{signed(difference.low)} to {signed(difference.high)}"


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _ratio(own: int, other: int | None) -> str:
    """How many times as much."""
    return f"{own / other:.2f}×" if other else ""
