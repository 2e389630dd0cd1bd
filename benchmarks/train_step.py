"""Training step: images/s of vitrail against timm's model with the same optimiser, in alternation, in one process.

    python benchmarks/train_step.py [--variants Ti/16,S/16] [--batch 16] [--rounds 9] [--compile]

Both do the whole step: uint8 images to normalised floats, forward pass, cross-entropy with label smoothing, backward
pass, clipping at norm 1, fused AdamW. A round times both, one after the other, with the order swapped every round; the
ratio is the median over the rounds. Writes benchmarks/results/train_step.json and docs/benchmarks/train_step.md.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

from vitrail.data.augment import Augment
from vitrail.data.batches import Batch
from vitrail.data.preprocess import Preprocess
from vitrail.device import best_device
from vitrail.model import ViT, variant
from vitrail.recipes.files import from_dict
from vitrail.training.device import Devices, resolve_precision
from vitrail.training.optimizer import Optimisers
from vitrail.training.step import TrainStep

ROOT = Path(__file__).parent.parent
TIMM = {"Ti/16": "vit_tiny_patch16_224", "S/16": "vit_small_patch16_224", "B/16": "vit_base_patch16_224"}
CLASSES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default="Ti/16,S/16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, both sides")
    arguments = parser.parse_args()
    device = best_device()
    precision = resolve_precision("auto", device)
    rows = [
        measure(name, arguments.batch, arguments.rounds, device, precision, compiled)
        for name in arguments.variants.split(",")
        for compiled in ([False, True] if arguments.compile else [False])
    ]
    write(rows, arguments.batch, arguments.rounds, device, precision)


def measure(
    name: str, batch: int, rounds: int, device: torch.device, precision: str, compiled: bool
) -> dict[str, object]:
    """Images/s of both, and the ratio, for one variant."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (batch,))
    steps = {
        "vitrail": vitrail_step(name, images, targets, device, precision, compiled),
        "timm": timm_step(name, images, targets, device, precision, compiled),
    }
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[float]] = {"vitrail": [], "timm": []}
    for number in range(rounds):
        for side in list(steps)[:: 1 if number % 2 else -1]:
            times[side].append(timed(steps[side], device))
    ratios = [t / v for v, t in zip(times["vitrail"], times["timm"], strict=True)]
    speed = {side: batch / statistics.median(seconds) for side, seconds in times.items()}
    ratio = statistics.median(ratios)
    print(f"{name} compiled={compiled}: {speed['vitrail']:.1f} against {speed['timm']:.1f} images/s, ratio {ratio:.2f}")
    return {"variant": name, "compiled": compiled, "images_per_second": speed, "ratio": ratio, "ratios": ratios}


def vitrail_step(
    name: str, images: torch.Tensor, targets: torch.Tensor, device: torch.device, precision: str, compiled: bool
) -> Callable[[], object]:
    """Our own step, as the training loop calls it."""
    recipe = from_dict({"steps": 1000, "optimizer": {"lr": 1e-4}, "regularization": {"label_smoothing": 0.1}})
    model = ViT(variant(name, classes=CLASSES)).to(device)
    if compiled:
        model.compile()
    half = (0.5,) * 3
    step = TrainStep(
        recipe=recipe,
        model=model,
        network=model,
        optimisers=Optimisers(model, recipe.optimizer),
        ema=None,
        preprocess=Preprocess((224, 224), mean=half, std=half),
        augment=Augment(),
        devices=Devices(0, 1, device),
        precision=precision,
        total=1000,
        warmup=0,
    )
    indices = torch.arange(len(images))
    batch = Batch((images,), targets, torch.zeros_like(indices), indices)
    return lambda: step(1, batch)


def timm_step(
    name: str, images: torch.Tensor, targets: torch.Tensor, device: torch.device, precision: str, compiled: bool
) -> Callable[[], object]:
    """timm's model in the loop that a person would write around it."""
    model = timm.create_model(TIMM[name], num_classes=CLASSES).to(device).train()
    if compiled:
        model.compile()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)

    def step() -> None:
        x = (images.to(device).float() / 255 - 0.5) / 0.5
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        F.cross_entropy(logits.float(), targets.to(device), label_smoothing=0.1).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one step, its work on the device included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def write(rows: list[dict[str, object]], batch: int, rounds: int, device: torch.device, precision: str) -> None:
    """The JSON and the table."""
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    setting = f"{machine} ({platform.machine()}), {precision}, batch {batch}, 224x224, median of {rounds} rounds"
    setting += f"; torch {torch.__version__}, timm {timm.__version__}"
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "train_step.json").write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")
    lines = [
        "# Training step",
        "",
        "Images/s of a whole training step against timm's model with the same optimiser, in alternation, one process:",
        "`python benchmarks/train_step.py`.",
        "",
        f"{setting}.",
        "",
        "| variant | compiled | vitrail | timm | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        speed = row["images_per_second"]
        compiled = "yes" if row["compiled"] else "no"
        lines.append(
            f"| {row['variant']} | {compiled} | {speed['vitrail']:.1f} | {speed['timm']:.1f} | {row['ratio']:.2f} |"
        )
    (ROOT / "docs" / "benchmarks" / "train_step.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
