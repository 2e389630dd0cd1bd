"""Forward pass and training step on a GPU against timm, eager and compiled, as a share of what the card can do.

    python benchmarks/gpu.py [--part limits,floor-B/16,forward-B/16,train-B/16] [--rounds 5] [--seconds 480] [--out FOLDER]
    python benchmarks/gpu.py --part ways-B/16 --ways whole,blocks,blocks+cudnn

A part is limits, or floor, forward, train or ways with a model: B/16, L/16 or H/14. *floor*: the matrix products and the
attention of a training step alone. *forward*: inference with weights and images in bf16 on the card. *train*: the whole
step from uint8 images in page-locked memory, bf16 under autocast, fused AdamW, clipping at norm 1, through vitrail's own
training step and through timm's model in a plain loop; and vitrail's with tokens in bf16 between the blocks, as
``precision: bf16-tokens`` has it. *ways*: vitrail's step in several ways, one after the other (the
switches are listed by --list). All sides of a part take turns in every round; speeds are medians over the rounds, ratios are
medians of the rounds' ratios. FLOPs are counted from the configuration, training as three forward passes, the same for all
sides. What does not fit into --seconds is skipped, and said. Every result is printed and written to FOLDER/gpu.json at once.
``gpu_page.py`` makes the page of it. ``--device cpu --tiny`` tries the script out without a GPU.
"""

import argparse
import gc
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gpu_floor import floor
from gpu_profile import kernels
from gpu_variants import SWITCHES, build_model, build_step, compile_network, switches_of
from limits import limits, matmul_speed
from measure import RESULTS, alternate, machine, ratio, synchronize, timed, versions, write_json
from steps import synthetic, timm_model, timm_step
from vitrail.device import named_device
from vitrail.model import ViTConfig, variant
from vitrail.model.cost import Cost, training_bytes, unread_flops

CLASSES = 1000
BATCH = {
    "forward": {"B/16": 256, "L/16": 128, "H/14": 64},
    "train": {"B/16": 512, "L/16": 256, "H/14": 64},
}
# Seconds that a part takes at most, compiling included; it does not begin with less left.
ESTIMATE = {"limits": 10, "floor": 25, "forward": 90, "train": 150, "ways": 75}
TINY = {"image_size": (112, 112), "width": 64, "depth": 2, "heads": 2, "mlp_width": 256}
TIMM_TINY = {"img_size": 112, "embed_dim": 64, "depth": 2, "num_heads": 2}
DEEP = 12
"""Blocks from which on they are compiled one by one, on both sides: the whole graph takes minutes."""


class Bench:
    """The settings of a run, its time, and its results so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, named_device(options.device)
        self.started = time.monotonic()
        self.path = Path(options.out) / "gpu.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.changes: dict[str, Any] = TINY if options.tiny else {}
        self.classes = 10 if options.tiny else CLASSES
        self.results: dict[str, Any] = {
            "machine": machine(self.device),
            "versions": versions("torch", "timm", "triton", "vitrail"),
            "settings": {key: value for key, value in vars(options).items() if key not in ("out", "list")},
            "skipped": [],
            "errors": {},
        }

    def config(self, name: str) -> ViTConfig:
        return variant(name, classes=self.classes, **self.changes)

    def timm(self, name: str) -> nn.Module:
        return timm_model(name, self.classes, self.device, **(TIMM_TINY if self.options.tiny else {}))

    def batch(self, kind: str, name: str) -> int:
        return 4 if self.options.tiny else self.options.batch or BATCH[kind][name]

    def way(self, name: str) -> str:
        return self.options.way or ("whole" if self.config(name).depth <= DEEP else "blocks")

    def timm_way(self, name: str) -> str:
        return self.options.timm or ("blocks" if "blocks" in switches_of(self.way(name)) else "whole")

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.options.seconds - (time.monotonic() - self.started)

    def keep(self, part: str, value: Any) -> None:
        """Write a result down."""
        self.results[part] = value
        write_json(self.path, self.results)

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.started:5.0f} s] {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="limits,floor-B/16,forward-B/16,train-B/16")
    parser.add_argument(
        "--ways", default="whole,blocks,blocks+cudnn,blocks+half-residual", help="for parts called ways"
    )
    parser.add_argument("--way", help="vitrail's way in train (default: whole, or blocks for a deep model)")
    parser.add_argument("--timm", choices=("whole", "blocks"), help="how timm is compiled (default: as vitrail is)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="images a step, instead of each model's own number")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--out", default=str(RESULTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script out")
    parser.add_argument("--list", action="store_true", help="list the switches of ways, and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:15}{text}" for name, text in SWITCHES.items()))
        return
    for way in options.ways.split(",") + [options.way] * (options.way is not None):
        switches_of(way)
    kinds: dict[str, Callable[[Bench, str], None]] = {
        "limits": measure_limits,
        "floor": measure_floor,
        "forward": measure_forward,
        "train": measure_train,
        "ways": measure_ways,
    }
    bench = Bench(options)
    bench.say(str(bench.results["machine"]))
    for part in options.part.split(","):
        kind, _, name = part.partition("-")
        if not options.tiny and bench.left() < ESTIMATE[kind]:
            bench.results["skipped"].append(part)
            bench.say(f"{part}: skipped, {bench.left():.0f} s are left")
            continue
        attempt(bench, part, lambda kind=kind, name=name: kinds[kind](bench, name))
    write_json(bench.path, bench.results)
    bench.say(f"skipped: {bench.results['skipped'] or 'nothing'}; errors: {bench.results['errors'] or 'none'}")


def computed(config: ViTConfig) -> int:
    """FLOPs of a forward pass, without what vitrail leaves out of the last block."""
    return Cost(config).flops - unread_flops(config)


def attempt(bench: Bench, part: str, call: Callable[[], None]) -> None:
    """Do one part; an error is printed and written down, and the next part begins from an empty card."""
    try:
        call()
    except Exception as error:  # whatever fails, the time on the card goes to the other parts
        bench.results["errors"][part] = f"{type(error).__name__}: {str(error)[:300]}"
        with (bench.path.parent / "gpu_errors.txt").open("a", encoding="utf-8") as file:
            file.write(f"{part}\n{traceback.format_exc()}\n")
        bench.say(f"{part} failed: {bench.results['errors'][part].splitlines()[0]}")
    clear(bench.device)


def clear(device: torch.device) -> None:
    """Forget what was compiled, and free the memory of the models before."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure_limits(bench: Bench, _: str) -> None:
    found = limits(bench.device, 256 if bench.options.tiny else None)
    bench.keep("limits", found)
    bench.say("limits: " + ", ".join(f"{name} {value / 1e12:.3g} T/s" for name, value in found.items()))


def peak(bench: Bench) -> float:
    """The measured peak of bf16 products, in operations a second; measured now if it was not before."""
    if "limits" not in bench.results:
        measure_limits(bench, "")
    return bench.results["limits"]["bf16"]


def measure_floor(bench: Bench, name: str) -> None:
    config, batch = bench.config(name), bench.batch("train", name)
    found = floor(config, batch, bench.device, torch.bfloat16)
    bench.keep(f"floor-{name}", {"batch": batch, **found})
    for product, row in found["products"].items():
        bench.say(f"  {product:14} {1e3 * row['seconds']:7.2f} ms, {row['operations_per_second'] / 1e12:6.1f} TFLOP/s")
    for kernel, row in found["attention"].items():
        bench.say(f"  attention by {kernel}, one layer: {row}")
    share = 3 * computed(config) * found["images_per_second"] / peak(bench)
    bench.say(f"floor-{name}: at most {found['images_per_second']:.0f} images/s, {share:.1%} of the bf16 peak")


def measure_forward(bench: Bench, name: str) -> None:
    """Images in bf16 on the card to logits."""
    config, batch, device = bench.config(name), bench.batch("forward", name), bench.device
    images = torch.randn(batch, 3, *config.image_size, device=device).bfloat16()
    compiled = bench.timm_way(name)
    models: dict[str, nn.Module] = {}
    for side in ("vitrail", "vitrail compiled", "timm", "timm compiled"):
        on = switches_of(bench.way(name)) if side == "vitrail compiled" else set()
        ours = side.startswith("vitrail")
        model = (build_model(on, config, device) if ours else bench.timm(name)).bfloat16().eval()
        if side.endswith("compiled"):
            compile_network(model, model, on or {compiled})
        models[side] = model

    def call(model: nn.Module) -> None:
        with torch.inference_mode():
            model(images)

    calls = {side: (lambda model=model: call(model)) for side, model in models.items()}
    row = compare(bench, f"forward-{name}", calls, batch, computed(config))
    bench.keep(f"forward-{name}", {"compiled": {"vitrail": bench.way(name), "timm": compiled}, **row})


def measure_train(bench: Bench, name: str) -> None:
    """The whole step; with a smaller batch where memory is short."""
    batch = bench.batch("train", name)
    while True:
        try:
            return _train(bench, name, batch)
        except torch.OutOfMemoryError:
            batch //= 2
            bench.say(f"train-{name}: out of memory, again with {batch} images")
            if batch < 8:
                raise
        clear(bench.device)


def _train(bench: Bench, name: str, batch: int) -> None:
    config, device, way = bench.config(name), bench.device, bench.way(name)
    compiled = bench.timm_way(name)
    images, targets = synthetic(batch, config.image_size[0], bench.classes, device)

    def timm(switch: str) -> Callable[[], object]:
        model = bench.timm(name)
        compile_network(model, model, {switch})
        return timm_step(model, images, targets, device, "bf16")

    sides = {
        "vitrail": lambda: build_step(way, name, images, targets, device, bench.classes, **bench.changes),
        "timm": lambda: timm("eager"),
        "timm compiled": lambda: timm(compiled),
        "bf16 tokens": lambda: build_step(
            f"{way}+half-residual", name, images, targets, device, bench.classes, **bench.changes
        ),
    }
    calls, memory = {}, {}
    for side, make in sides.items():
        calls[side], memory[side] = prepared(bench, side, make)
    row = compare(bench, f"train-{name}", calls, batch, 3 * computed(config))
    row |= {"compiled": {"vitrail": way, "timm": compiled}, "peak_bytes": memory}
    row["bf16 tokens to timm compiled"] = ratio(row["seconds"]["timm compiled"], row["seconds"]["bf16 tokens"])
    bench.say(f"train-{name}: bf16 tokens to timm compiled {row['bf16 tokens to timm compiled']:.3f}")
    row["estimated_bytes"] = training_bytes(config, batch, activation_bytes=2)
    bench.say(f"  memory in GB: {gigabytes(memory)}; vitrail estimates {row['estimated_bytes'] / 1e9:.1f}")
    bench.keep(f"train-{name}", row)
    row["kernels"] = {side: kernels(call, device) for side, call in calls.items()}
    bench.keep(f"train-{name}", row)
    for side, found in row["kernels"].items():
        bench.say(f"  {side}: {found}")


def prepared(
    bench: Bench, side: str, make: Callable[[], Callable[[], object]]
) -> tuple[Callable[[], object], dict[str, float]]:
    """A step that is built, compiled and warm; what it holds in memory between steps and at most, in bytes."""
    device, started = bench.device, time.monotonic()
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    call = make()
    for _ in range(3):
        call()
    synchronize(device)
    bench.say(f"  {side}: ready in {time.monotonic() - started:.1f} s")
    if device.type != "cuda":
        return call, {}
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    synchronize(device)
    return call, {"held": held - before, "most": torch.cuda.max_memory_allocated() - before}


def measure_ways(bench: Bench, name: str) -> None:
    """vitrail's step in several ways, each with the speed of a plain matrix product just before it."""
    config, batch, device = bench.config(name), bench.batch("train", name), bench.device
    images, targets = synthetic(batch, config.image_size[0], bench.classes, device)
    rows: list[dict[str, Any]] = []
    top = peak(bench)
    for number, way in enumerate(bench.options.ways.split(",")):
        if number and not bench.options.tiny and bench.left() < ESTIMATE["ways"]:
            bench.results["skipped"].append(f"ways-{name} {way}")
            bench.say(f"{way}: skipped, {bench.left():.0f} s are left")
            continue

        def one(way: str = way) -> None:
            pace = matmul_speed(device, torch.bfloat16, 256 if bench.options.tiny else 8192, 0.2)
            call, memory = prepared(
                bench,
                way,
                lambda: build_step(way, name, images, targets, device, bench.classes, **bench.changes),
            )
            times = alternate({way: call}, bench.options.rounds, device, repeats(call, device))[way]
            speed = batch / statistics.median(times)
            share = 3 * computed(config) * speed / top
            row = {"way": way, "images_per_second": speed, "share": share, "seconds": times, "matmul": pace}
            rows.append({**row, "peak_bytes": memory})
            bench.keep(f"ways-{name}", {"batch": batch, "rows": rows})
            held = gigabytes({way: memory})
            bench.say(f"{way}: {speed:.1f} images/s, {share:.1%} of the bf16 peak; memory in GB: {held}")
            rows[-1]["kernels"] = kernels(call, device)
            bench.keep(f"ways-{name}", {"batch": batch, "rows": rows})
            bench.say(f"  {rows[-1]['kernels']}; matrix product before it {pace / 1e12:.0f} TFLOP/s")

        attempt(bench, f"ways-{name} {way}", one)


def compare(
    bench: Bench, part: str, calls: dict[str, Callable[[], object]], batch: int, flops: float
) -> dict[str, Any]:
    """Speeds of all sides, in alternation, their share of the bf16 peak, and vitrail's ratios to timm's."""
    for call in calls.values():
        for _ in range(2):
            call()
    several = max(repeats(call, bench.device) for call in calls.values())
    times = alternate(calls, bench.options.rounds, bench.device, several)
    speed = {side: batch / statistics.median(seconds) for side, seconds in times.items()}
    share = {side: flops * value / peak(bench) for side, value in speed.items()}
    ours = "vitrail compiled" if "vitrail compiled" in times else "vitrail"
    ratios = {side: ratio(times[side], times[ours]) for side in times if side != ours}
    for side in calls:
        bench.say(f"{part} {side}: {speed[side]:.1f} images/s, {share[side]:.1%} of the bf16 peak")
    bench.say(f"{part}: {ours} to " + ", ".join(f"{side} {value:.3f}" for side, value in ratios.items()))
    return {"batch": batch, "images_per_second": speed, "share": share, "ratios": ratios, "seconds": times}


def gigabytes(memory: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {side: {key: round(value / 1e9, 1) for key, value in row.items()} for side, row in memory.items()}


def repeats(call: Callable[[], object], device: torch.device) -> int:
    """Calls in a row that take half a second, between which nothing waits for the device."""
    return max(1, min(20, round(0.5 / timed(call, device)))) if device.type == "cuda" else 1


if __name__ == "__main__":
    main()
