"""How much saving stalls training: checkpoints written beside the training, as vitrail does it, or in the loop.

    python benchmarks/checkpoint.py [--variant S/16] [--batch 16] [--rounds 7] [--seconds 120]

A training step of vitrail's own with AdamW, and the state of its run, on a CPU. A round is: a few plain steps; a checkpoint by
``Saver``, and steps until it is on the disk; a few plain steps; a checkpoint written, hashed and synced in the loop. The cost
of *beside* is what the loop waits for the copy, and what the steps take longer than plain ones of the same round while
the thread writes; of *in the loop*, all of the writing. Their shares of the time follow at one checkpoint every so many steps.
The folder decides much: --folder names one on the disk that a run would be on. Writes benchmarks/results/checkpoint.json and
docs/benchmarks/checkpoint.md; ``--tiny`` tries it out.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import exports
import index
from limits import limits
from measure import machine, versions, without_paths
from steps import random_head, synthetic, train_step
from vitrail.data.batches import Batch
from vitrail.device import keep_freed_memory
from vitrail.model import ViT, variant
from vitrail.training import checkpoint
from vitrail.training.saver import Saver
from vitrail.training.state import RunState

CLASSES = 100
PLAIN_STEPS = 3
EVERY = (50, 100, 500)
AIM = 0.03
KEEP = 2


def main() -> None:
    options = parsed()
    results: dict[str, Any] = {
        "settings": vars(options),
        "machine": machine(torch.device("cpu")),
        "versions": versions("torch", "safetensors", "vitrail"),
        "limits": limits(torch.device("cpu")),
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results["rows"] = [measured(Path(folder), options)]
    index.record("checkpoint", results, page(without_paths(results)), trial=options.tiny)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument(
        "--folder", default=str(Path(__file__).parent), help="where checkpoints go, below which one is made"
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script out")
    return parser.parse_args()


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of everything in each round, and the shares."""
    keep_freed_memory()  # as vitrail.train does on a CPU
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = random_head(ViT(variant(options.variant, classes=CLASSES, **(exports.TINY if options.tiny else {}))))
    step = train_step(model, device, "float32")
    images, targets = synthetic(4 if options.tiny else options.batch, 224, CLASSES, device)
    indices = torch.arange(len(images))
    batch = Batch((images,), targets, torch.zeros_like(indices), indices)
    state = RunState(model, step.optimisers, None, "benchmark", step.recipe.to_dict())
    saver = Saver(folder / "beside", KEEP)

    def train() -> None:
        step(1, batch)
        state.step += 1

    for _ in range(2):
        train()
    bytes_ = sum(tensor.nbytes for named in state.checkpoint().tensors.values() for tensor in named.values())
    rounds: list[dict[str, float]] = []
    begun = time.monotonic()
    for number in range(options.rounds):
        if number > 1 and time.monotonic() - begun > options.seconds * number / (number + 1):
            print(f"{number} of {options.rounds} rounds fit into {options.seconds:.0f} s")
            break
        kinds = (beside, in_the_loop)[:: -1 if number % 2 else 1]
        found: dict[str, float] = {}
        for kind in kinds:
            plain = statistics.median(seconds(train) for _ in range(PLAIN_STEPS))
            found |= kind(plain, train, state, saver, folder)
        rounds.append(found)
        print(", ".join(f"{name} {value:.2f}" for name, value in sorted(found.items())), flush=True)
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    extra = {"beside": middle["beside, all"], "in the loop": middle["in the loop, all"]}
    return {
        "variant": options.variant,
        "batch": len(images),
        "bytes": bytes_,
        "seconds": middle,
        "rounds": rounds,
        "shares": {
            kind: {every: share(cost, every, middle["plain step"]) for every in EVERY} for kind, cost in extra.items()
        },
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def beside(plain: float, train: Callable[[], None], state: RunState, saver: Saver, folder: Path) -> dict[str, float]:
    """A checkpoint as vitrail writes it: the copy, then steps until it is there; what it costs in all."""
    start = time.perf_counter()
    held = seconds(lambda: saver.save(state.checkpoint(), None))
    steps = []
    while saver._thread is not None and saver._thread.is_alive():
        steps.append(seconds(train))
    whole = time.perf_counter() - start
    waited = seconds(saver.wait)
    slower = sum(steps) - plain * len(steps) + waited
    return {
        "plain step": plain,
        "beside, held": held,
        "beside, until written": whole,
        "beside, steps": float(len(steps)),
        "beside, steps longer by": slower,
        "beside, all": held + slower,
    }


def in_the_loop(
    plain: float, train: Callable[[], None], state: RunState, saver: Saver, folder: Path
) -> dict[str, float]:
    """The same checkpoint, written while the loop waits."""
    taken = seconds(lambda: checkpoint.save(folder / "in the loop", state.checkpoint(), keep=KEEP))
    return {"in the loop, all": taken}


def share(cost: float, every: int, plain: float) -> float:
    """Of the time of a run, what a checkpoint every so many steps costs."""
    return max(0.0, cost) / (max(0.0, cost) + every * plain)


def page(results: dict[str, Any]) -> list[str]:
    """The lines of the page."""
    row = results["rows"][0]
    taken, shares = row["seconds"], row["shares"]
    lines = [
        "# Checkpoints",
        "",
        "`python benchmarks/checkpoint.py` measures it; this page is its output.",
        "",
        f"{row['variant']} with AdamW on a CPU, float32, batches of {row['batch']}, a step of {taken['plain step']:.2f} s; a "
        f"checkpoint has {row['bytes'] / 1e6:,.0f} MB, is hashed and synced. *Beside*: as vitrail does it, a copy is taken and a "
        "thread writes it while training goes on. *In the loop*: the same checkpoint, while the loop waits. Medians of "
        f"{len(row['rounds'])} rounds in which both take turns.",
        "",
        "| | beside | in the loop |",
        "|---|---|---|",
        f"| the loop waits, s | {taken['beside, held']:.2f} | {taken['in the loop, all']:.2f} |",
        f"| steps meanwhile take longer by, s | {taken['beside, steps longer by']:.2f} (in {taken['beside, steps']:.0f}) | |",
        f"| until it is on the disk, s | {taken['beside, until written']:.2f} | {taken['in the loop, all']:.2f} |",
    ]
    for every in shares["beside"]:
        lines.append(
            f"| of the time, at one every {every} steps | {shares['beside'][every]:.1%} | {shares['in the loop'][every]:.1%} |"
        )
    first = min(shares["beside"], key=int)
    met = "met" if shares["beside"][first] <= AIM else "missed"
    lines += ["", f"The aim: at most {AIM:.0%} at one every {first} steps: {met}.", "", index.measured_on(results)]
    return lines


if __name__ == "__main__":
    main()
