"""Training step on a CPU: images/s of vitrail against timm's model in the loop that a person would write around it.

    python benchmarks/train_step.py [--variants S/16,Ti/16] [--batch 16] [--rounds 7] [--seconds 150]

All do the whole step: uint8 images to normalised floats, forward pass, cross-entropy with label smoothing, backward pass,
clipping at norm 1, AdamW; vitrail through its own training step, timm with ``torch.optim.AdamW`` as a person writes it. Every
side is a process of its own, so that how vitrail keeps memory counts for vitrail alone; all take turns in every round, whose
order is swapped every round, and ratios are medians of the rounds'. *patches dropped*: the recipe's regularization.patch_drop;
*rising resolution*: its resolution.sizes in rising order, a mean over the run, in which every size has an equal share of the
steps. Both see less of an image at a step: what that costs in accuracy, benchmarks/cheaper_steps.py measures. FLOPs are counted
from the configuration, a step as three forward passes. Writes benchmarks/results/train_step.json and
docs/benchmarks/train_step.md; ``--tiny`` tries it out.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import torch

import exports
import index
from limits import limits
from measure import machine, ratio, versions, without_paths
from turns import Sides
from vitrail.model import ViTConfig, variant
from vitrail.model.cost import flops
from vitrail.model.reduction import kept_patches

CLASSES = 100
PLAIN = "vitrail"
AIMS = {PLAIN: 1.15}
CHEAPER = 1.8  # the aim of what sees less of an image
TURN = 0.5  # seconds of a turn, at least


def main() -> None:
    options = parsed()
    results: dict[str, Any] = {
        "settings": vars(options),
        "machine": machine(torch.device("cpu")),
        "versions": versions("torch", "timm", "vitrail"),
        "limits": limits(torch.device("cpu")),
        "rows": [],
        "errors": {},
    }
    names = options.variants.split(",")
    for name in names:
        results["rows"].append(measured(name, options, options.seconds / len(names), results))
    index.record("train_step", results, page(without_paths(results)), trial=options.tiny)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default="S/16,Ti/16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--drop", default="0.5", help="shares of the patches to drop, with commas between")
    parser.add_argument("--sizes", default="112,144,192,224", help="of the rising resolution, the last as the model's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=150, help="of the rounds, without what comes before")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script out")
    return parser.parse_args()


def measured(name: str, options: argparse.Namespace, seconds: float, results: dict[str, Any]) -> dict[str, Any]:
    """Images/s of all sides, ratios, FLOPs and memory, for one variant."""
    config = variant(name, classes=CLASSES, **(exports.TINY if options.tiny else {}))
    batch = 4 if options.tiny else options.batch
    sizes = [int(side) for side in options.sizes.split(",")]
    own = [config.image_size[0]]
    ways: dict[str, tuple[str, list[int], float]] = {"timm": ("timm", own, 0.0), PLAIN: ("vitrail", own, 0.0)}
    for text in options.drop.split(","):
        ways[f"{PLAIN}, {float(text):.0%} of the patches dropped"] = ("vitrail", own, float(text))
    ways[f"{PLAIN}, rising resolution"] = ("vitrail", sizes, 0.0)
    with Sides() as running:
        for side, (library, own_sizes, drop) in ways.items():
            settings = {
                "library": library,
                "config": config.to_dict(),
                "sizes": own_sizes,
                "batch": batch,
                "patch_drop": drop,
            }
            running.start(side, "train_step_side.py", settings)
            if library == "vitrail" and side in running.by_name:
                check_tokens(config, own_sizes, drop, running.by_name[side].about["tokens"], side)
        repeats: dict[str, int] = {}
        memory: dict[str, int | None] = {}

        def take(side: str) -> float | None:
            if side not in repeats:
                first = running.turn(side, repeats=1)
                if first is None:
                    return None
                repeats[side] = max(1, round(TURN / first["seconds"] / len(ways[side][1])))
            answer = running.turn(side, repeats=repeats[side])
            if answer is None:
                return None
            memory[side] = answer["peak_bytes"]
            return float(answer["seconds"])

        times = running.rounds(options.rounds, seconds, take)
        results["errors"] |= running.errors
    cost = {side: forward_flops(config, own_sizes, drop) for side, (_, own_sizes, drop) in ways.items()}
    speeds = {side: batch / statistics.median(taken) for side, taken in times.items()}
    peak = results["limits"]["float32"]
    row = {
        "variant": name,
        "batch": batch,
        "images_per_second": speeds,
        "ratios": {
            side: ratio(times["timm"], taken) for side, taken in times.items() if side != "timm" and "timm" in times
        },
        "flops": {side: cost[side] / cost["timm"] for side in times},
        "share": {side: 3 * cost[side] * speed / peak for side, speed in speeds.items()},
        "peak_bytes": memory,
        "seconds": times,
    }
    for side, value in row["ratios"].items():
        print(
            f"{name}: {side}: {speeds[side]:.1f} against {speeds['timm']:.1f} images/s, ratio {value:.2f}", flush=True
        )
    return row


def forward_flops(config: ViTConfig, sizes: Sequence[int], drop: float) -> float:
    """Of one forward pass on one image, the mean over the sizes."""
    found = [sum(flops(config.with_changes(image_size=(side, side)), dropped=drop).values()) for side in sizes]
    return statistics.mean(found)


def check_tokens(config: ViTConfig, sizes: Sequence[int], drop: float, seen: Sequence[int], side: str) -> None:
    """Whether the blocks have seen as many tokens as the side's name says; else its speed would be that of another step."""
    expected = [config.prefix_tokens + kept_patches((length // config.patch_size) ** 2, drop) for length in sizes]
    if list(seen) != expected:
        raise SystemExit(f"{side}: its first block sees {list(seen)} tokens, and {expected} are meant")


def page(results: dict[str, Any]) -> list[str]:
    """The lines of the page."""
    settings = results["settings"]
    rounds = min(len(taken) for row in results["rows"] for taken in row["seconds"].values())
    lines = [
        "# Training step",
        "",
        "`python benchmarks/train_step.py` measures it; this page is its output.",
        "",
        f"The whole step on a CPU, float32, 224 px, batches of {results['rows'][0]['batch']}: from uint8 images to moved "
        "weights. vitrail through its own training step, timm's model in a plain loop with `torch.optim.AdamW` as a person "
        "writes it. "
        f"Every side is a process of its own; medians of {rounds} or more rounds in which all take turns. *Patches dropped* is "
        f"`regularization.patch_drop`, *rising resolution* is `resolution.sizes={settings['sizes']}` in rising order, the mean "
        "over a run. FLOPs are those of a step beside those of the plain one; the share is of the machine's measured float32 "
        "matrix products, a step counted as three forward passes. What seeing less of each image costs in accuracy, "
        "`benchmarks/cheaper_steps.py` measures.",
        "",
        "| variant | side | images/s | to timm | aim | FLOPs | share of the limit | memory, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        for side, speed in row["images_per_second"].items():
            ratios, memory = row["ratios"], row["peak_bytes"][side]
            cells = [
                row["variant"],
                side,
                f"{speed:.1f}",
                f"{ratios[side]:.2f}" if side in ratios else "",
                "" if side == "timm" else f"{AIMS.get(side, CHEAPER)}",
                f"{row['flops'][side]:.2f}",
                f"{row['share'][side]:.0%}",
                "" if memory is None else f"{memory / 1e9:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    for side, error in results["errors"].items():
        lines.append(f"\n{side} is not there: {error}")
    return [*lines, "", index.measured_on(results)]


if __name__ == "__main__":
    main()
