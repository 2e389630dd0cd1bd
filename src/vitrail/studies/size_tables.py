"""The tables of a study of sizes on its page: accuracy by arm and size, a table a stage; and every number, a row a point."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.model.cost import readable
from vitrail.report.page import percent
from vitrail.studies.conclusions.at_sizes import AtSizes, Pixels, text
from vitrail.studies.conclusions.words import signed
from vitrail.studies.findings import Estimate, Findings, SizePoint
from vitrail.training.progress import clock


@dataclass(frozen=True)
class Mark:
    """A difference as text, and whether it is told apart from none."""

    mean: str
    interval: str
    told_apart: bool


@dataclass(frozen=True)
class Entry:
    """One arm at one size."""

    top1: str
    interval: str
    change: Mark | None


@dataclass(frozen=True)
class Column:
    """One size, with what an image of it costs the reference."""

    size: str
    base: bool
    tokens: str
    flops: str


@dataclass(frozen=True)
class Stage:
    """The table of one stage: a row an arm, an entry a column, None where nothing was run."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Entry | None]]]


@dataclass(frozen=True)
class Row:
    """One point with all its numbers, ready to be shown."""

    arm: str
    size: str
    stage: str
    top1: str
    interval: str
    difference: Mark | None
    change: Mark | None
    nll: str
    seeds: int
    tokens: str
    flops: str
    training: str
    time: str


def stages(findings: Findings) -> list[Stage]:
    """As trained, then fine-tuned, of those that were run; none without sizes."""
    if not findings.sizes:
        return []
    found = AtSizes(findings.study, findings.points, findings.sizes)
    made = []
    for title, tuned in (("As trained", False), ("After a brief fine-tuning at each size", True)):
        if any(point.tuned is tuned for point in findings.sizes):
            rows = [(arm, [_entry(found.at(arm, size, tuned)) for size in found.sizes]) for arm in found.arms]
            made.append(Stage(title, [_column(found, size) for size in found.sizes], rows))
    return made


def rows(findings: Findings) -> list[Row]:
    """Every point, in the order of the findings."""
    return [_row(point) for point in findings.sizes]


def _column(found: AtSizes, size: Pixels) -> Column:
    point = next(point for point in _reference_first(found) if point.image_size == size)
    return Column(text(size), size == found.base, _tokens(point), readable(point.flops, "FLOPs"))


def _reference_first(found: AtSizes) -> list[SizePoint]:
    return sorted(found.points, key=lambda point: point.arm != found.study.reference)


def _tokens(point: SizePoint) -> str:
    return "–" if point.tokens is None else f"{point.tokens:,}"


def _entry(point: SizePoint | None) -> Entry | None:
    if point is None:
        return None
    return Entry(percent(point.top1.mean), _ends(point.top1), _mark(point.change, point.change_told_apart))


def _row(point: SizePoint) -> Row:
    return Row(
        arm=point.arm,
        size=text(point.image_size),
        stage="fine-tuned" if point.tuned else "as trained",
        top1=percent(point.top1.mean),
        interval=_ends(point.top1),
        difference=_mark(point.difference, point.told_apart),
        change=_mark(point.change, point.change_told_apart),
        nll="–" if point.nll is None else f"{point.nll:.3f}",
        seeds=point.seeds,
        tokens=_tokens(point),
        flops=readable(point.flops, "FLOPs"),
        training=readable(round(point.training_flops), "FLOPs"),
        time=clock(point.seconds) if point.seconds >= 10 else f"{point.seconds:.1f} s",
    )


def _mark(estimate: Estimate | None, told_apart: bool) -> Mark | None:
    if estimate is None:
        return None
    return Mark(signed(estimate.mean), f"{signed(estimate.low)} to {signed(estimate.high)}", told_apart)


def _ends(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
