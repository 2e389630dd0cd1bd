"""Looking inside a model: time and memory of every map, against the plain forward pass, on one large image.

    python benchmarks/inspection.py [--variant B/16] [--size 1024] [--rounds 3]

Random weights, one image, float32 on the CPU. Each way runs in a fresh process: in every round the plain forward pass and the
way are timed one after the other, the order swapped every round, and the ratio is the median over the rounds. A way is
timed whole, the forward pass in it included. Memory is the most that the process had resident: torch, the weights and all.
Writes benchmarks/results/inspection.json and docs/benchmarks/inspection.md.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.inspection.attention import attention_map, distances, rollout
from vitrail.inspection.look import look
from vitrail.inspection.relevance import relevance
from vitrail.model import ViT, variant

ROOT = Path(__file__).parent.parent
Way = Callable[[ViT, Tensor], object]
WAYS: dict[str, tuple[str, Way]] = {
    "forward": ("the plain forward pass", lambda model, images: forward(model, images)),
    "look": ("`look`: queries and keys of all layers", lambda model, images: look(model, images)),
    "map": ("attention map, last layer, class token", lambda model, images: attention_map(look(model, images))),
    "mean": (
        "attention map, last layer, mean of patches",
        lambda model, images: attention_map(look(model, images), -1, "mean"),
    ),
    "rollout": ("rollout", lambda model, images: rollout(look(model, images))),
    "relevance": ("relevance of one class", lambda model, images: relevance(model, images, 0)),
    "against": ("relevance of one class against another", lambda model, images: relevance(model, images, 0, 1)),
    "distances": ("attention distance of all heads", lambda model, images: distances(look(model, images))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="B/16")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="measure this one in this process, and print it as JSON")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.variant, arguments.size, arguments.rounds)))
        return
    options = ["--variant", arguments.variant, "--size", str(arguments.size), "--rounds", str(arguments.rounds)]
    results = {}
    for way in WAYS:
        command = [sys.executable, __file__, *options, "--way", way]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[way] = json.loads(done.stdout)
        print(f"{way}: {statistics.median(results[way]['seconds']):.2f} s, {results[way]['bytes'] / 2**30:.2f} GB")
    write(results, arguments)


def measure(way: str, variant_name: str, size: int, rounds: int) -> dict[str, Any]:
    """Seconds of the way and of the plain forward pass, by round, and the most bytes resident in this process."""
    torch.manual_seed(0)
    model = ViT(variant(variant_name, image_size=(size, size))).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)  # it begins as zeros, and no gradient would come through
    images = torch.randn(1, 3, size, size)
    sides: dict[str, Way] = {"plain": forward, "seconds": WAYS[way][1]}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(-1, rounds):  # the first fills the caches and is not counted
        for side in list(sides)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            sides[side](model, images)
            if number >= 0:
                times[side].append(time.perf_counter() - start)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return {**times, "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def forward(model: ViT, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def write(results: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    settings = {"variant": arguments.variant, "size": arguments.size, "rounds": arguments.rounds}
    (folder / "inspection.json").write_text(json.dumps({"settings": settings, "ways": results}, indent=1))
    config = variant(arguments.variant, image_size=(arguments.size, arguments.size))
    whole = config.depth * config.heads * config.tokens**2 * 4
    lines = [
        "# Looking inside a model",
        "",
        "`python benchmarks/inspection.py` measures it; this page is its output.",
        "",
        f"{arguments.variant} with random weights and one image of {arguments.size}x{arguments.size} pixels, which is "
        f"{config.tokens:,} tokens, float32. Time is of the whole, the forward pass in it included; it and its ratio to the "
        f"plain forward pass are medians of {arguments.rounds} alternating rounds. Memory is the most that a process had "
        "resident which did nothing else: Python, torch, the weights and all. The attention matrices of all layers alone, "
        f"were they kept, would take {whole / 2**30:.1f} GB.",
        "",
        "| what | seconds an image | against the forward pass | memory, GB |",
        "|---|---|---|---|",
    ]
    for way, (text, _) in WAYS.items():
        found = results[way]
        ratio = statistics.median(a / b for a, b in zip(found["seconds"], found["plain"], strict=True))
        seconds = statistics.median(found["seconds"])
        lines.append(f"| {text} | {seconds:.2f} | {ratio:.2f} | {found['bytes'] / 2**30:.2f} |")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "vitrail"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines += ["", f"Measured on {machine}, {versions}.", ""]
    (ROOT / "docs" / "benchmarks" / "inspection.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
