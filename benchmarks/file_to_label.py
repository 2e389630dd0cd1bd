"""From files to labels: photographs/s of vitrail's ways against transformers' pipeline and timm's inference loop.

    python benchmarks/file_to_label.py [--model FOLDER] [--images FOLDER] [--photographs 500] [--rounds 2] [--seconds 300]

S/16 on a CPU, every side with its defaults and a process of its own, the model opened before; they take turns on the same
photographs of 500 px. Beside the speed stands how many of the first labels are those of the pipeline, and where --images has
class folders the accuracy. Without --model the weights are random, so that labels and losses mean little: benchmarks/probed.py
makes a trained one. Without --images the photographs are parts of scikit-learn's two; int8 is calibrated on others than those
that are measured. --prepare makes the exports (minutes, for int8), which are kept in --work, and measures nothing. Writes
benchmarks/results/file_to_label.json and docs/benchmarks/file_to_label.md; ``--tiny`` tries it out.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import exports
import index
from limits import limits
from measure import machine, ratio, versions, without_paths
from photographs import Photographs, photographs
from turns import Answer, Sides

SIDE = 500  # pixels, of the longer side
PEERS = ("transformers", "timm")
INT8 = "vitrail, openvino int8"
CALIBRATION = 300
AIMS = {"vitrail, openvino float32": 1.4, INT8: 3.3}
MERGED_AIM = 5.0
NAMES = (
    "torch",
    "timm",
    "transformers",
    "torchvision",
    "openvino",
    "onnxruntime",
    "nncf",
    "simplejpeg",
    "pillow",
    "vitrail",
)


def main() -> None:
    options = parsed()
    work = Path(options.work)
    source = None if options.images is None else Path(options.images)
    count = 12 if options.tiny else options.photographs
    taken = photographs(work, source, count, SIDE)
    model = Path(options.model) if options.model else exports.random_model(work, options.variant, tiny=options.tiny)
    settings, folders, errors = sides(work, model, source, options)
    results: dict[str, Any] = {
        "settings": vars(options),
        "model": options.model or "random weights",
        "photographs": {"source": taken.source, "count": len(taken.names), "side": SIDE},
        "exports": {name: exports.said(folder) for name, folder in folders.items()},
        "machine": machine(torch.device("cpu")),
        "versions": versions(*NAMES),
    }
    if options.prepare:
        return
    with Sides() as running:
        running.errors.update(errors)
        for name, values in settings.items():
            running.start(name, "file_to_label_side.py", values)
        results["limits"] = limits(torch.device("cpu"))
        results["ready"] = {name: side.about["seconds_until_ready"] for name, side in running.by_name.items()}
        times, answers = measured(running, taken, options)
        results["errors"] = running.errors
    known = set(labels_of(model))
    truth = list(taken.labels) if taken.labels and set(taken.labels) <= known else None
    results["rows"] = {name: row(name, times, answers, truth, count) for name in times}
    index.record("file_to_label", results, page(without_paths(results)), trial=options.tiny)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder that vitrail wrote; else random weights")
    parser.add_argument("--images", help="a folder of photographs; else parts of scikit-learn's sample photographs")
    parser.add_argument("--variant", default="S/16", help="of the random weights")
    parser.add_argument("--photographs", type=int, default=500)
    parser.add_argument(
        "--merge",
        nargs="+",
        default=["8", "13"],
        help="as for vitrail export, a side each: patches that each block merges",
    )
    parser.add_argument("--max-loss", type=float, default=0.5, help="of int8, as for vitrail export")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=300, help="of the rounds, without what comes before")
    parser.add_argument("--work", default=str(exports.WORK), help="where models and exports are kept")
    parser.add_argument("--fresh", action="store_true", help="write the exports anew")
    parser.add_argument("--prepare", action="store_true", help="only make what is kept")
    parser.add_argument("--tiny", action="store_true", help="few photographs and a tiny model, to try the script out")
    return parser.parse_args()


def merged(amount: str) -> str:
    """The name of the side that merges so many patches."""
    return f"{INT8}, merge {amount}"


def labels_of(model: Path) -> list[str]:
    return list(json.loads((model / "config.json").read_bytes()).get("label_names") or ())


def sides(
    work: Path, model: Path, source: Path | None, options: argparse.Namespace
) -> tuple[dict[str, dict[str, Any]], dict[str, Path], dict[str, str]]:
    """Name of a side -> its settings; the exported folders; why some cannot be had."""
    calibration = 12 if options.tiny else CALIBRATION
    others = calibration_pictures(work, source, options, calibration)
    # random weights may lose all labels to int8
    loss = options.max_loss if options.model else 100.0
    folders: dict[str, Path] = {}
    errors: dict[str, str] = {}
    how: dict[str, dict[str, Any]] = {
        "vitrail, openvino float32": {},
        INT8: {"calibrate": others, "max_loss": loss},
    }
    how |= {merged(amount): {"calibrate": others, "max_loss": loss, "merge": amount} for amount in options.merge}
    for name, values in how.items():
        exports.attempt(folders, errors, name, work, model, "openvino", fresh=options.fresh, **values)
    found: dict[str, dict[str, Any]] = {
        "transformers": {"kind": "transformers", "model": str(exports.for_transformers(work, model))},
        "timm": {"kind": "timm", "model": str(model), "labels": labels_of(model)},
        "vitrail, torch": {"kind": "vitrail", "model": str(model)},
    }
    found |= {name: {"kind": "vitrail", "model": str(folder), "engine": "openvino"} for name, folder in folders.items()}
    return found, folders, errors


def calibration_pictures(work: Path, source: Path | None, options: argparse.Namespace, count: int) -> Path:
    """Photographs that are not those that are measured: of a folder, the ones behind them in its shuffled order."""
    measured = 12 if options.tiny else options.photographs
    if source is None:
        return Path(photographs(work, None, count, SIDE, part=1).folder)
    return Path(photographs(work, source, measured, SIDE, part=1).folder)


def measured(
    running: Sides, taken: Photographs, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, Answer]]:
    """Seconds of every round, and the last answer, of each side."""
    answers: dict[str, Answer] = {}
    warm = Path(taken.folder).with_name(f"{Path(taken.folder).name}-first")
    warm.mkdir(exist_ok=True)
    first = taken.names[:32]
    for name in first:
        if not (warm / name).exists():
            (warm / name).write_bytes((Path(taken.folder) / name).read_bytes())
    for name in list(running.by_name):
        running.turn(name, folder=str(warm), names=first)

    def take(name: str) -> float | None:
        answer = running.turn(name, folder=taken.folder, names=taken.names)
        if answer is None:
            return None
        answers[name] = answer
        print(f"{name}: {len(taken.names) / answer['seconds']:.1f} photographs/s", flush=True)
        return float(answer["seconds"])

    return running.rounds(options.rounds, options.seconds, take), answers


def row(
    name: str, times: dict[str, list[float]], answers: dict[str, Answer], truth: list[str] | None, count: int
) -> dict[str, Any]:
    """What is said of a side: its speed, its ratios, how often its labels are those of others, and right."""

    def same(labels: list[str], others: list[str]) -> float:
        return sum(a == b for a, b in zip(labels, others, strict=True)) / len(others)

    labels = answers[name]["labels"]
    against = [other for other in ("transformers", "timm", "vitrail, torch") if other in times]
    return {
        "photographs_per_second": len(labels) / statistics.median(times[name]),
        "seconds": times[name],
        "ratios": {other: ratio(times[other], times[name]) for other in against},
        "agreement": {other: same(labels, answers[other]["labels"]) for other in against},
        "accuracy": None if truth is None else same(labels, truth),
        "peak_bytes": answers[name]["peak_bytes"],
    }


def page(results: dict[str, Any]) -> list[str]:
    """The lines of the page."""
    settings, rows, taken = results["settings"], results["rows"], results["photographs"]
    rounds = min((len(found["seconds"]) for found in rows.values()), default=0)
    weights = (
        f"with random weights ({settings['variant']}), so that agreement says little"
        if not settings["model"]
        else "a trained S/16, given with `--model`"
    )
    lines = [
        "# From files to labels",
        "",
        "`python benchmarks/file_to_label.py` measures it; this page is its output.",
        "",
        f"The model: {weights}. {taken['count']} JPEG photographs, the longer side {taken['side']} px "
        f"({'given with `--images`' if settings['images'] else taken['source']}), from the disk to first labels, on a CPU; the "
        f"model is open before. Every side with its defaults, in a process of its own; medians of {rounds} rounds in which all "
        'take turns. *transformers* is `pipeline("image-classification")`, *timm* the loop of its inference script (batches of '
        "256, two loading processes). Agreement: the share of first labels that are the same.",
        "",
        "| side | photographs/s | to transformers | to timm | aim | agreement with transformers | with timm | "
        "with vitrail in torch | top-1 | memory, GB |",
        "|---" * 10 + "|",
    ]
    aims = AIMS | {merged(amount): MERGED_AIM for amount in settings["merge"]}
    for name, found in rows.items():
        ratios, agreement, memory = found["ratios"], found["agreement"], found["peak_bytes"]
        cells = [
            name,
            f"{found['photographs_per_second']:.1f}",
            *(f"{ratios[peer]:.2f}" if peer in ratios else "" for peer in PEERS),
            f"{aims[name]}" if name in aims else "",
            *(f"{agreement[other]:.1%}" if other in agreement else "" for other in (*PEERS, "vitrail, torch")),
            "" if found["accuracy"] is None else f"{found['accuracy']:.1%}",
            "" if memory is None else f"{memory / 1e9:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for side, error in results["errors"].items():
        lines.append(f"\n{side} is not there: {error}")
    lines += ["", "Merging: as `--merge` of `vitrail export` says. Memory is the most that the side's process had."]
    return [*lines, "", index.measured_on(results)]


if __name__ == "__main__":
    main()
