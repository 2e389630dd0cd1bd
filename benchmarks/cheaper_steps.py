"""What cheaper training steps cost in accuracy: patches dropped, and a rising resolution, against whole images, in equal epochs.

    python benchmarks/cheaper_steps.py DATA [--epochs 10] [--seeds 1]

Trains a small model by the recipe ``small`` in every way, one after the other, with as many epochs, and tests each on whole
images of the full size. DATA is anything that vitrail trains on, with a test part or without. How much faster the steps of a
larger model are, benchmarks/train_step.py measures. Takes some minutes for each way and seed on a few thousand photographs;
every result is written at once. Writes benchmarks/results/cheaper_steps.json and docs/benchmarks/cheaper_steps.md; ``--tiny``
tries it out on the built-in digits.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import index
import vitrail
from measure import RESULTS, machine, versions, without_paths
from vitrail.evaluation.metrics import wilson_interval
from vitrail.recipes.files import load as recipe

PLAIN = "whole images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="of the images; the patches have an eighth of it")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--ways", help="numbers of the ways with commas between, from 0 on; by default all")
    parser.add_argument("--tiny", action="store_true", help="very short runs, to try the script out")
    options = parser.parse_args()
    ways = of_size(16 if options.tiny else options.size)
    if options.ways is not None:
        ways = {name: ways[name] for name in (list(ways)[int(number)] for number in options.ways.split(","))}
    results: dict[str, Any] = {
        "settings": {**vars(options), "data": Path(options.data).name},
        "machine": machine(torch.device("cpu")),
        "versions": versions("torch", "vitrail"),
        "recipe": recipe(options.recipe).to_dict(),
        "rows": {name: {"changes": changes, "top1": [], "seconds": [], "images": 0} for name, changes in ways.items()},
    }
    for seed in range(options.seeds):
        for name, changes in ways.items():
            one(results["rows"][name], options, {**changes, "seed": seed})
            print(f"{name}, seed {seed}: {results['rows'][name]['top1'][-1]:.3f}", flush=True)
            done = {key: row for key, row in results["rows"].items() if row["top1"]}
            if not options.tiny:
                RESULTS.mkdir(exist_ok=True)
                text = json.dumps(without_paths({**results, "rows": done}), indent=1)
                (RESULTS / "cheaper_steps.json").write_text(text + "\n", encoding="utf-8")
    index.record("cheaper_steps", results, page(without_paths(results)), trial=options.tiny)


def of_size(side: int) -> dict[str, dict[str, Any]]:
    """Name of a way -> what it changes in the recipe; patches have an eighth of the side."""
    common = {"image_size": side, "model.patch_size": side // 8, "model.stem": "linear"}
    rising = [side * part // 8 for part in (4, 5, 7, 8)]
    return {
        PLAIN: common,
        "half of the patches dropped": {**common, "regularization.patch_drop": 0.5},
        "half of the patches dropped until 80 % of the run": {
            **common,
            "regularization.patch_drop": 0.5,
            "regularization.patch_drop_until": 0.8,
        },
        f"rising resolution, {', '.join(map(str, rising))} px": {
            **common,
            "resolution.sizes": rising,
            "resolution.order": "rising",
        },
    }


def one(row: dict[str, Any], options: argparse.Namespace, changes: dict[str, Any]) -> None:
    """A run of a way, and its test."""
    length = {"steps": 12, "epochs": None} if options.tiny else {"epochs": options.epochs}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = vitrail.train(
            options.recipe, options.data, changes={**changes, **length}, out=Path(folder) / "run", quiet=True
        )
        row["seconds"].append(time.perf_counter() - start)
    assert run.evaluation is not None
    row["top1"].append(run.evaluation.top1)
    row["images"] = run.evaluation.n


def page(results: dict[str, Any]) -> list[str]:
    """The lines of the page."""
    settings, rows = results["settings"], results["rows"]
    count = next(iter(rows.values()))["images"]
    whole = rows.get(PLAIN)
    lines = [
        "# What cheaper training steps cost",
        "",
        "`python benchmarks/cheaper_steps.py DATA` measures it; this page is its output.",
        "",
        f"A small model of {settings['size']} px with 8 x 8 patches, trained by the recipe `{settings['recipe']}` with a linear "
        f"stem for {settings['epochs']:g} epochs in every way, with {settings['seeds']} seed(s), and tested on {count:,} whole "
        "images of the full size. The interval is Wilson's at 95 %, of the images of the first seed. Time is of the whole run, "
        "loading and evaluation included; the gain grows with the model, as "
        "[the training step](train_step.md) of larger ones shows.",
        "",
        "| way | top-1 | interval | time against whole images |",
        "|---|---|---|---|",
    ]
    for name, row in rows.items():
        low, high = wilson_interval(round(row["top1"][0] * row["images"]), row["images"])
        against = ""
        if whole is not None:
            pairs = zip(row["seconds"], whole["seconds"], strict=True)
            against = f"{statistics.median(a / b for a, b in pairs):.2f}"
        lines.append(f"| {name} | {statistics.mean(row['top1']):.1%} | {low:.1%} to {high:.1%} | {against} |")
    return [*lines, "", index.measured_on(results)]


if __name__ == "__main__":
    main()
