"""The card of an exported model: what it is, what it takes and gives, how it was checked, and how to run it."""

from collections.abc import Mapping, Sequence
from typing import Any

from vitrail.model import ViTConfig
from vitrail.runtimes.check import Check
from vitrail.runtimes.exported import FORMS, Exported
from vitrail.weights.card import architecture

_LABELS_SHOWN = 100
_RUNS = {"onnx": "ONNX", "openvino": "OpenVINO", "pt2": "torch.export"}


def export_card(exported: Exported, checks: Sequence[Check], *, name: str) -> str:
    """README.md of an exported folder."""
    channels, height, width = exported.image_shape
    details = exported.details
    tokens = f", merging {details['merge']} tokens a block" if details.get("merge") else ""
    batch = "any number of" if exported.batch is None else f"{exported.batch}"
    parts = [
        f"# {name}\n\n{architecture(exported.config)}; exported to {_RUNS[exported.form]} in {exported.precision}{tokens}.",
        f"## What it takes and gives\n\n`{FORMS[exported.form].files[0]}` takes `images`, uint8 ({batch} images, "
        f"{channels}, {height}, {width}), pixels from 0 to 255 as they are: the normalisation is inside. It gives "
        f"{' and '.join(f'`{output}`' for output in exported.outputs)}, float32. How an image file becomes such pixels stands "
        "in `config.json` under `vitrail.preprocess`.",
        _labels(exported.labels),
        _precision(exported),
        *(_check(check) for check in checks),
        _merging(details),
        "## Use\n\n```\nvitrail predict FOLDER image.jpg\n```",
        "## Made with\n\n" + _made_with(details),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _labels(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    shown = ", ".join(f"`{label}`" for label in labels[:_LABELS_SHOWN])
    more = f" and {len(labels) - _LABELS_SHOWN} more (in config.json)" if len(labels) > _LABELS_SHOWN else ""
    return f"## Classes\n\n{len(labels)}, in the order of the logits: {shown}{more}."


def _precision(exported: Exported) -> str:
    details = exported.details
    if "calibration" not in details:
        return ""
    always = (
        "Attention's own products and those of single tokens stay in float32, as they take little time. "
        if isinstance(exported.config, ViTConfig)
        else ""
    )
    kept = details["in_float32"]
    rest = f"So that no more was lost, {', '.join(kept)} stayed in float32 too. " if kept else ""
    return (
        f"## Int8\n\nWeights by channel, activations in ranges from {details['calibration']}. {always}{rest}At most "
        f"{details['max_loss']:g} points of accuracy were to be lost, and {2 * details['max_loss']:g} points of first labels."
    )


def _check(check: Check) -> str:
    rows = [
        ("images", check.source),
        ("largest difference", f"{check.largest:.2g} (values reach {check.scale:.3g})"),
        ("mean difference", f"{check.mean:.2g}"),
        ("mean cosine of the features", f"{check.changed.similarity:.6f}"),
    ]
    if check.changed.agreement is not None:
        rows.append(("same first label", f"{100 * check.changed.agreement:.2f} %"))
    if check.confidence is not None:
        rows.append(("mean confidence", f"{check.confidence[0]:.4f}, exported {check.confidence[1]:.4f}"))
    before, after = check.changed.before, check.changed.after
    if before is not None and after is not None:
        for title, key in (
            ("top-1 accuracy", "top1"),
            ("negative log-likelihood", "nll"),
            ("calibration error", "ece"),
        ):
            rows.append((title, f"{getattr(before, key):.4f}, exported {getattr(after, key):.4f}"))
    lost, interval = check.changed.lost, check.changed.lost_ci95
    if lost is not None and interval is not None:
        low, high = (100 * end for end in interval)
        rows.append(("points of accuracy lost", f"{100 * lost:.2f} (95 % interval {low:.2f} to {high:.2f})"))
    for count, (ours, theirs) in check.speed.items():
        many = "1 image" if count == "1" else f"{count} images"
        rows.append((f"images/s, {many} at a time", f"{ours:g} in torch, exported {theirs:g}"))
    table = "\n".join(f"| {title} | {value} |" for title, value in rows)
    head = f"## Checked with {check.engine}\n\nBeside its model in torch, on the machine that wrote it:"
    return f"{head}\n\n| | |\n|---|---|\n{table}"


def _merging(details: Mapping[str, Any]) -> str:
    lost = details.get("merging")
    if not lost:
        return ""
    text = (
        f"{100 * lost['agreement']:.2f} % of first labels are"
        if lost["agreement"] is not None
        else (f"the mean cosine of the features is {lost['similarity']:.4f} to")
    )
    accuracy = ""
    if lost["before"] is not None:
        accuracy = f"; accuracy is {lost['after']['top1']:.4f}, and {lost['before']['top1']:.4f} without"
    return f"## Merged tokens\n\nBeside the model that merges no tokens, {text} the same{accuracy}."


def _made_with(details: Mapping[str, Any]) -> str:
    versions = [f"{package} {number}" for package, number in details["versions"].items()]
    return ", ".join([*versions, *([f"opset {details['opset']}"] if details["opset"] else [])]) + "."
