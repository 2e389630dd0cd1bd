"""Forward pass on a CPU: images/s of vitrail's engines against timm, transformers, torchvision and vit-pytorch.

    python benchmarks/forward.py [--variant S/16] [--batch 1,8,32] [--rounds 5] [--seconds 240] [--sides NAME,...]

Every side is a process of its own, and they take turns in every round, whose order is swapped every round; speeds are medians
over the rounds, ratios medians of the rounds' ratios to timm's. Weights are random. The libraries get normalised float32
images and give logits, in inference mode; exported models get uint8 images, which they normalise themselves. ``timm
compiled`` is torch.compile with frozen weights, for each batch size; compiling it takes minutes, and is not counted.
--prepare makes the exports (minutes, for int8) and the compiled model, which are kept in --work, and measures nothing.
Writes benchmarks/results/forward.json and docs/benchmarks/forward.md; ``--tiny`` tries it out.
"""

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import exports
import index
from limits import limits
from measure import machine, ratio, versions, without_paths
from photographs import photographs
from turns import Sides
from vitrail.model import ViTConfig, variant
from vitrail.model.cost import Cost

EXPORTS = {  # side -> form, whether int8, engine
    "openvino float32": ("openvino", False, "openvino"),
    "openvino int8": ("openvino", True, "openvino"),
    "onnxruntime float32": ("onnx", False, "onnxruntime"),
    "onnxruntime int8": ("onnx", True, "onnxruntime"),
}
TORCH = ("timm", "timm compiled", "transformers", "torchvision", "vit-pytorch", "vitrail")
ALL = (*TORCH, *EXPORTS)
BASE = "timm"
CALIBRATION = 64
AIMS = {"float32": {1: 1.4, 8: 1.2, 32: 1.4}, "int8": {1: 3.0, 32: 3.4}}
TURN = 0.4  # seconds of a turn, at least; a forward pass is repeated as often as fits


def main() -> None:
    options = parsed()
    work = Path(options.work)
    sides = options.sides.split(",")
    model = exports.random_model(work, options.variant, tiny=options.tiny)
    folders, errors = made(work, model, sides, options)
    config = variant_config(options.variant, options.tiny)
    batches = [int(number) for number in options.batch.split(",")]
    results: dict[str, Any] = {"settings": vars(options)}
    with Sides() as running:
        running.errors.update(errors)
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}
        for name in sides:
            if name in errors:
                continue
            form = {"folder": str(folders[name]), "engine": EXPORTS[name][2]} if name in EXPORTS else {}
            settings = {"side": name, "config": config.to_dict(), "batches": batches, **form}
            running.start(name, "forward_side.py", settings, environment)
        if options.prepare:
            return
        results |= measured(running, config, batches, options)
        results["ready"] = {name: side.about for name, side in running.by_name.items()}
        results["errors"] = running.errors
    results |= about()
    results["exports"] = {name: exports.said(folder) for name, folder in folders.items()}
    index.record("forward", results, page(without_paths(results)), trial=options.tiny)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=240, help="of the rounds, without what comes before")
    parser.add_argument("--sides", default=",".join(ALL), help=f"of {', '.join(ALL)}")
    parser.add_argument("--work", default=str(exports.WORK), help="where models and exports are kept")
    parser.add_argument("--fresh", action="store_true", help="write the exports anew")
    parser.add_argument("--prepare", action="store_true", help="only make what is kept")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script out")
    options = parser.parse_args()
    for name in options.sides.split(","):
        if name not in ALL:
            parser.error(f"--sides {name}: one of {', '.join(ALL)}")
    return options


def made(
    work: Path, model: Path, sides: list[str], options: argparse.Namespace
) -> tuple[dict[str, Path], dict[str, str]]:
    """The exports that the sides need, and why some cannot be had. Random weights may lose all labels to int8."""
    folders: dict[str, Path] = {}
    errors: dict[str, str] = {}
    pictures = Path(photographs(work, None, 8 if options.tiny else CALIBRATION, 300, part=1).folder)
    for name in sides:
        if name in EXPORTS:
            form, int8, _ = EXPORTS[name]
            how: dict[str, Any] = {"calibrate": pictures, "max_loss": 100} if int8 else {}
            exports.attempt(folders, errors, name, work, model, form, fresh=options.fresh, **how)
    return folders, errors


def measured(running: Sides, config: ViTConfig, batches: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """Images/s, ratios and the limits of the machine, by batch size."""
    found: dict[str, Any] = {"limits": limits(torch.device("cpu")), "rows": []}
    flops = found["flops"] = Cost(config).flops
    share_of_time = options.seconds / len(batches)
    for batch in batches:
        repeats: dict[str, int] = {}

        def take(name: str, batch: int = batch, repeats: dict[str, int] = repeats) -> float | None:
            if name not in repeats:  # once, before its first turn
                first = running.turn(name, batch=batch, repeats=1)
                if first is None:
                    return None
                repeats[name] = max(1, round(TURN / first["seconds"]))
            answer = running.turn(name, batch=batch, repeats=repeats[name])
            return None if answer is None else answer["seconds"]

        times = running.rounds(options.rounds, share_of_time, take)
        for name, seconds in times.items():
            speed = batch / statistics.median(seconds)
            peak = peak_of(name, found["limits"])
            row = {
                "side": name,
                "batch": batch,
                "images_per_second": speed,
                "ratio": ratio(times[BASE], seconds) if BASE in times else None,
                "share": flops * speed / found["limits"][peak] if peak in found["limits"] else None,
                "seconds": seconds,
            }
            found["rows"].append(row)
            against = "" if row["ratio"] is None else f", {row['ratio']:.2f} times {BASE}"
            print(f"batch {batch}: {name}: {speed:.1f} images/s{against}", flush=True)
    found["peak_bytes"] = {
        name: answer["peak_bytes"]
        for name in list(running.by_name)
        if (answer := running.turn(name, batch=1, repeats=1))
    }
    return found


def peak_of(side: str, limits: Mapping[str, float]) -> str:
    """The name of the limit of a side: the fastest product in int8 for what computes in int8, or else in float32."""
    kind = "int8" if side.endswith("int8") else "float32"
    return max((name for name in limits if name.startswith(kind)), key=lambda name: limits[name], default=kind)


def variant_config(name: str, tiny: bool) -> ViTConfig:
    return variant(name, classes=exports.CLASSES, **(exports.TINY if tiny else {}))


def about() -> dict[str, Any]:
    names = (
        "torch",
        "timm",
        "transformers",
        "torchvision",
        "vit-pytorch",
        "openvino",
        "onnxruntime",
        "nncf",
        "vitrail",
    )
    return {"machine": machine(torch.device("cpu")), "versions": versions(*names)}


def page(results: dict[str, Any]) -> list[str]:
    """The lines of the page."""
    rows, settings = results["rows"], results["settings"]
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    by_place = {(row["side"], row["batch"]): row for row in rows}
    fewest = min((len(row["seconds"]) for row in rows), default=0)
    lines = [
        "# Forward pass",
        "",
        "`python benchmarks/forward.py` measures it; this page is its output.",
        "",
        f"{settings['variant']} at 224 px with random weights, on a CPU; images/s and, in brackets, the ratio to timm's and "
        "the share of the machine's measured limit: the fastest matrix product in float32, or in int8 for what computes in int8. "
        "Ratios are medians of those of each round, in which timm's turn is a minute away at most; speeds are medians by "
        "themselves, and the machine's own pace changes from round to round. "
        f"Every side is a process of its own; medians of {fewest} or more rounds in which all take turns. Libraries get "
        "normalised float32 images; exported models get uint8 images and normalise them. *timm compiled* has frozen weights, and "
        "was compiled for each batch size.",
        "",
        f"| side | {' | '.join(f'batch {batch}' for batch in batches)} | memory, GB | seconds to be ready |",
        "|---|" + "---|" * (len(batches) + 2),
    ]
    for side in dict.fromkeys(row["side"] for row in rows):
        cells = [cell(by_place.get((side, batch))) for batch in batches]
        memory = results["peak_bytes"].get(side)
        ready = results["ready"].get(side, {}).get("seconds_until_ready")
        cells += ["" if memory is None else f"{memory / 1e9:.2f}", "" if ready is None else f"{ready:.1f}"]
        lines.append(f"| {side} | {' | '.join(cells)} |")
    for side, error in results["errors"].items():
        lines.append(f"\n{side} is not there: {error}")
    lines += ["", *best(results), "", index.measured_on(results)]
    return lines


def cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    marks = [
        *([] if row["ratio"] is None else [f"{row['ratio']:.2f}"]),
        *([] if row["share"] is None else [f"{row['share']:.0%}"]),
    ]
    return f"{row['images_per_second']:.1f} ({', '.join(marks)})"


def best_ratio(results: dict[str, Any], int8: bool, batch: int) -> float | None:
    """The highest ratio of vitrail's engines."""
    found = [
        row["ratio"]
        for row in results["rows"]
        if row["batch"] == batch
        and (row["side"] in EXPORTS or row["side"] == "vitrail")
        and row["side"].endswith("int8") == int8
        and row["ratio"] is not None
    ]
    return max(found, default=None)


def best(results: dict[str, Any]) -> list[str]:
    """The best engine against the aims."""
    parts = []
    for precision, aims in AIMS.items():
        for batch, aim in aims.items():
            found = best_ratio(results, precision == "int8", batch)
            if found is not None:
                parts.append(f"{precision} at batch {batch}: {found:.2f} (aim {aim})")
    return [f"The best of vitrail's engines against timm: {'; '.join(parts)}."] if parts else []


if __name__ == "__main__":
    main()
