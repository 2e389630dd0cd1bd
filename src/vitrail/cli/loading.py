"""The loading report: every tensor of a model's files and where it goes, as a table and as JSON."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from vitrail.weights.fit import Fit


def report_table(fit: "Fit") -> "Table":
    """What does not fit first, then what was placed, then what is not needed."""
    from rich.table import Table
    from rich.text import Text

    report = fit.report
    table = Table(header_style="bold")
    for column in ("in the files", "shape", "in the model"):
        table.add_column(column, overflow="fold")
    for ours, looked_for in report.missing.items():
        near = _nearest(fit, ours)
        hint = f"missing; nearest is {near}" if near else "missing"
        table.add_row(Text(" + ".join(looked_for) or "-"), _shape(fit.wanted[ours]), Text(f"{ours}: {hint}", "red"))
    for theirs in report.leftover:
        table.add_row(Text(theirs), _shape(fit.found[theirs]), Text("left over: the model has no place for it", "red"))
    for names, ours in report.placed:
        text = Text(ours)
        if ours in report.reshaped:
            found, wanted = report.reshaped[ours]
            text = Text(f"{ours}: {_shape(found)} instead of {_shape(wanted)}", "red")
        shapes = " + ".join(_shape(fit.found[name]) for name in names)
        table.add_row(Text(" + ".join(names) or "-"), shapes, text)
    for theirs, reason in report.excused.items():
        table.add_row(Text(theirs), _shape(fit.found[theirs]), Text(f"not needed: {reason}", "dim"))
    return table


def report_values(fit: "Fit") -> dict[str, Any]:
    """The same for JSON."""
    report = fit.report
    return {
        "fits": report.problem is None,
        "placed": [
            {
                "theirs": list(names),
                "shapes": [list(fit.found[name]) for name in names],
                "ours": ours,
                "shape": list(fit.wanted[ours]),
            }
            for names, ours in report.placed
        ],
        "not_needed": [
            {"theirs": name, "shape": list(fit.found[name]), "reason": reason}
            for name, reason in report.excused.items()
        ],
        "missing": [
            {
                "ours": ours,
                "shape": list(fit.wanted[ours]),
                "looked_for": list(names),
                "nearest": _nearest(fit, ours),
            }
            for ours, names in report.missing.items()
        ],
        "left_over": [{"theirs": name, "shape": list(fit.found[name])} for name in report.leftover],
        "reshaped": [
            {"ours": ours, "found": list(found), "wanted": list(wanted)}
            for ours, (found, wanted) in report.reshaped.items()
        ],
    }


def _nearest(fit: "Fit", ours: str) -> str | None:
    looked_for = fit.report.missing[ours]
    return fit.report.nearest(looked_for[0] if looked_for else ours)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
