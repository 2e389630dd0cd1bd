"""An Evaluation as tables for people at a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from vitrail.evaluation.metrics import Evaluation

ROWS = 10
_NUMBERS = ("images", "recall", "precision", "F1", "probability")


def show(evaluation: "Evaluation", what: str) -> None:
    """The result for people, on standard output."""
    from rich.text import Text

    from vitrail.cli.console import console

    out = console()
    out.print(Text(what, style="bold"))
    out.print(_headline(evaluation))
    if evaluation.top1 < 1:
        out.print(_classes(evaluation))
        out.print(_confused(evaluation))
        out.print(_mistakes(evaluation))


def _headline(evaluation: "Evaluation") -> "Table":
    from rich.table import Table

    low, high = evaluation.top1_ci95
    fitted = "the same images" if evaluation.temperature_from == "same" else evaluation.temperature_from
    table = Table.grid(padding=(0, 2))
    table.add_row("images", f"{evaluation.n:,}", f"{len(evaluation.labels):,} classes")
    table.add_row("top-1", f"{evaluation.top1:.2%}", f"95 % interval {low:.1%} to {high:.1%}")
    if evaluation.top5 is not None:
        table.add_row("top-5", f"{evaluation.top5:.2%}", "")
    table.add_row("loss", f"{evaluation.nll:.4f}", "mean negative log-likelihood")
    table.add_row(
        "calibration error",
        f"{evaluation.ece:.2%}",
        f"{evaluation.ece_calibrated:.2%} with temperature {evaluation.temperature:.3f}, fitted on {fitted}",
    )
    return table


def _table(title: str, *columns: str) -> "Table":
    """An empty table; columns of numbers are aligned to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left")
    return table


def _classes(evaluation: "Evaluation") -> "Table":
    from rich.text import Text

    scores = evaluation.worst_first()
    table = _table(
        f"the {min(ROWS, len(scores))} hardest of {len(scores)} classes", "class", "images", "recall", "precision", "F1"
    )
    for score in scores[:ROWS]:
        numbers = ("–" if value is None else f"{value:.1%}" for value in (score.recall, score.precision, score.f1))
        table.add_row(Text(score.label), f"{score.n:,}", *numbers)
    return table


def _confused(evaluation: "Evaluation") -> "Table":
    from rich.text import Text

    table = _table("most often confused", "true class", "predicted", "images")
    for pair in evaluation.most_confused(ROWS // 2):
        table.add_row(Text(evaluation.labels[pair.target]), Text(evaluation.labels[pair.predicted]), f"{pair.n:,}")
    return table


def _mistakes(evaluation: "Evaluation") -> "Table":
    from rich.text import Text

    table = _table("most confident mistakes", "image", "true class", "predicted", "probability")
    for mistake in evaluation.mistakes[: ROWS // 2]:
        table.add_row(Text(mistake.name), Text(mistake.target), Text(mistake.predicted), f"{mistake.probability:.1%}")
    return table
