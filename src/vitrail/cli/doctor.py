"""``vitrail doctor``: what is wrong with a model, or between it and data, before it costs a day."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std

if TYPE_CHECKING:
    from rich.table import Table

    from vitrail.doctor import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a file of weights, hf:owner/name or timm:NAME.")],
    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder of class folders, CSV, JSON lines, Parquet, tar shards, IDX, hf:NAME, or digits; "
            "without it the model alone is examined."
        ),
    ] = None,
    look_at: Annotated[int, typer.Option(min=1, help="Most images to look at, evenly spread.")] = 500,
    try_on: Annotated[
        int, typer.Option(min=0, help="Most labelled images to try the model on; 0 leaves the trial out.")
    ] = 200,
    mean: Mean = None,
    std: Std = None,
    mode: Mode = None,
    crop_fraction: CropFraction = None,
    interpolation: Interpolation = None,
    set_: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is wrong with a model, or between it and data, and what to do. Exit code 1 if there is a problem."""
    from vitrail.cli.console import console
    from vitrail.cli.models import describe
    from vitrail.cli.pixels import pixels
    from vitrail.cli.progress import progress
    from vitrail.doctor.examine import examine

    said = pixels(mean, std, mode, crop_fraction, interpolation)
    description = describe(model, set_)
    with progress("examining") as tell:
        findings = examine(
            description,
            data,
            preprocess=said.of(description, model) if said.changes else None,
            look_at=look_at,
            try_on=try_on,
            watch=lambda what, done, total: tell(done, total),
        )
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        found = [finding.to_dict() for finding in findings]
        print(json.dumps({"model": model, "data": data, "problems": problems, "findings": found}, indent=2))
    else:
        console().print(_table(findings))
    if problems:
        raise typer.Exit(1)


def _table(findings: "list[Finding]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for column in ("", "about", "what", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        level = Text(finding.level, style=_COLOURS[finding.level])
        table.add_row(level, Text(finding.about), Text(finding.what), Text(finding.advice))
    return table
