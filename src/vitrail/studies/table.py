"""Findings as one table, CSV or JSON: a row for every arm, value along the axis and learning rate; another of sizes.

Accuracies and their differences are fractions, not per cent; FLOPs are of one forward pass on one image, or of a whole
training run where the name says so; bytes are those of a training step; seconds are of a training run.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from vitrail.studies.findings import Estimate, Findings, Point, SizePoint, standard_sizes
from vitrail.studies.outcome import Size
from vitrail.weights import replace


def rows(findings: Findings) -> list[dict[str, Any]]:
    """One flat row a point, all with the same columns in the same order.

    ``difference`` is to the arm in ``against``, see ``Point.difference``. The ratios of cost are to the arm that the
    others are matched to, the reference where none is, at the same value along the axis. What is not known is None.
    """
    study = findings.study
    standards = standard_sizes(study, findings.points)
    return [_row(point, study.opponent(point.arm), standards.get(repr(point.along))) for point in findings.points]


def write_csv(findings: Findings, path: str | Path) -> Path:
    """The rows as a CSV file with a header, written whole or not at all; what is not known is an empty field."""
    return _write(rows(findings), Path(path))


def size_rows(findings: Findings) -> list[dict[str, Any]]:
    """One flat row for every arm, size and stage, as ``rows`` has them; () for a study without sizes."""
    return [_size_row(point, findings.study.opponent(point.arm)) for point in findings.sizes]


def write_sizes_csv(findings: Findings, path: str | Path) -> Path:
    """The rows of a study's sizes, as ``write_csv`` writes."""
    return _write(size_rows(findings), Path(path))


def _write(lines: Sequence[dict[str, Any]], path: Path) -> Path:
    with replace.file(path) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]) if lines else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return path


def write_json(findings: Findings, path: str | Path) -> Path:
    """The study, its setting, rows and sentences as a JSON file, written whole or not at all; no NaN, no infinity."""
    path = Path(path)
    values = {
        "name": findings.name,
        "study": findings.study,
        "setting": findings.setting,
        "rows": rows(findings),
        "sizes": size_rows(findings),
        "conclusions": findings.conclusions,
        "advice": findings.advice,
        "cautions": findings.cautions,
        "changes": findings.changes,
    }
    with replace.file(path) as staging:
        text = json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False)
        staging.write_text(text + "\n", encoding="utf-8")
    return path


def _row(point: Point, opponent: str, other: Size | None) -> dict[str, Any]:
    size = point.size
    return {
        "arm": point.arm,
        "along": point.along,
        "lr": point.lr,
        "chosen": point.chosen,
        "seeds": point.seeds,
        "diverged": point.diverged,
        "val_top1": point.val_top1,
        **_interval("top1", point.top1),
        "against": opponent if opponent != point.arm else None,
        **_interval("difference", point.difference),
        "told_apart": point.told_apart if point.difference else None,
        **_interval("difference_at_rate", point.difference_at_rate),
        "nll": point.nll,
        "parameters": size.parameters,
        "parameters_ratio": _ratio(size.parameters, other.parameters if other else None),
        "tokens": size.tokens,
        "flops": size.flops,
        "flops_ratio": _ratio(size.flops, other.flops if other else None),
        "attention_share": size.attention_share,
        "training_flops": size.training_flops,
        "training_flops_ratio": _ratio(size.training_flops, other.training_flops if other else None),
        "steps": size.steps,
        "steps_ratio": _ratio(size.steps, other.steps if other else None),
        "images": size.images,
        "batch_size": size.batch_size,
        "training_bytes": size.training_bytes,
        "seconds": point.seconds,
    }


def _size_row(point: SizePoint, opponent: str) -> dict[str, Any]:
    return {
        "arm": point.arm,
        "height": point.image_size[0],
        "width": point.image_size[1],
        "scale": point.scale,
        "tuned": point.tuned,
        "seeds": point.seeds,
        **_interval("top1", point.top1),
        "against": opponent if opponent != point.arm else None,
        **_interval("difference", point.difference),
        "told_apart": point.told_apart if point.difference else None,
        **_interval("change", point.change),
        "change_told_apart": point.change_told_apart if point.change else None,
        "nll": point.nll,
        "tokens": point.tokens,
        "flops": point.flops,
        "training_flops": point.training_flops,
        "seconds": point.seconds,
    }


def _interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    mean, low, high = (estimate.mean, estimate.low, estimate.high) if estimate else (None, None, None)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _ratio(own: float, other: float | None) -> float | None:
    return own / other if other else None


def _plain(value: Any) -> Any:
    """The value as JSON knows it: nested dataclasses and settings as objects, what is not finite as null."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
