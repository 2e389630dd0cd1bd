"""Packed prediction of images of mixed sizes against squashing them, at the same number of tokens.

    python benchmarks/packing.py DATA [--size 96] [--epochs 60] [--seeds 1] [--variant S/16] [--rounds 5]

DATA is a folder of labelled photographs with a train and a test part. For accuracy, two small models are trained by the
same recipe, steps and seeds, one on images squashed to a square (mode squash), one on images at their own aspect ratio (mode
native), and each is evaluated on the test part in both modes. For speed, a larger model with random weights goes over
test images in four ways, which take turns in every round:

  squash      every image squashed to a square: all sequences have the same length
  packed      each image at its own aspect ratio, those of a batch packed into one sequence
  padded      the same images, each sequence padded to the longest of its batch, padding masked in attention, as in NaFlex
  one by one  the same images in batches of one: no padding, and no batches

Time is that of the model alone (pixels in memory), and of `Predictor` from the files on. The last three ways give the same
answers, which is checked. Writes benchmarks/results/packing.json and docs/benchmarks/packing.md.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import vitrail
from vitrail.data.groups import by_size
from vitrail.data.open import open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.device import named_device
from vitrail.evaluation.run import choose_split
from vitrail.model import ViT, ViTConfig
from vitrail.model.attention import Place
from vitrail.prediction import Predictor, Source

ROOT = Path(__file__).parent.parent
MODES = ("squash", "native")
WAYS = {
    "squash": "squashed to a square",
    "packed": "own aspect ratio, packed",
    "padded": "own aspect ratio, padded to the longest of the batch",
    "one by one": "own aspect ratio, one by one",
}


class PaddedViT(ViT):
    """Sequences of different lengths as one batch: each padded to the longest, and no token attends to padding."""

    def features(self, images: Any, *, patch_size: int | None = None) -> Tensor:
        if isinstance(images, Tensor):
            return super().features(images, patch_size=patch_size)
        embedded = [self.embed(batch) for batch in images]
        z = pad_sequence([row for batch in embedded for row in batch], batch_first=True)
        lengths = torch.tensor([batch.shape[1] for batch in embedded for _ in batch], device=z.device)
        padding = torch.arange(z.shape[1], device=z.device) >= lengths[:, None]
        mask = torch.zeros(padding.shape, device=z.device).masked_fill(padding, -torch.inf)[:, None, None]
        for block in self.blocks:
            z = block(z, Place(bias=lambda q: mask), {})
        parts = self.norm(z).split([len(batch) for batch in embedded])
        return torch.cat([self.pool(z[:, : batch.shape[1]]) for z, batch in zip(parts, embedded, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of labelled photographs with train and test")
    parser.add_argument("--size", type=int, default=96, help="side of the square that small models are trained on")
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--variant", default="S/16", help="the model whose speed is measured")
    parser.add_argument("--variant-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=128, help="test images that it goes over")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results = {
        "settings": {key: value.name if isinstance(value, Path) else value for key, value in vars(arguments).items()},
        "speed": speed(arguments),
        "accuracy": accuracy(arguments),
    }
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    (folder / "packing.json").write_text(json.dumps(results, indent=1))
    (ROOT / "docs" / "benchmarks" / "packing.md").write_text("\n".join(page(results)))


def accuracy(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the models were trained, and their top-1 accuracy, by the mode of training, then of testing; one a seed."""
    top1: dict[str, dict[str, list[float]]] = {trained: {tested: [] for tested in MODES} for trained in MODES}
    seconds: dict[str, list[float]] = {trained: [] for trained in MODES}
    images = 0
    for seed in range(arguments.seeds):
        for trained in MODES[:: 1 if seed % 2 == 0 else -1]:
            changes = {
                "image_size": arguments.size,
                "model.patch_size": arguments.patch,
                "model.width": arguments.width,
                "model.mlp_width": 4 * arguments.width,
                "model.depth": arguments.depth,
                "data.mode": trained,
                "epochs": arguments.epochs,
                "seed": seed,
            }
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                run = vitrail.train("small", arguments.data, changes=changes, out=Path(folder) / "run", quiet=True)
                seconds[trained].append(time.perf_counter() - start)
                model = vitrail.load(run.model)
            model.to(named_device("auto"))
            for tested in MODES:
                contract = replace(model.preprocess, mode=tested, crop_fraction=1.0, patch_size=arguments.patch)
                found = vitrail.evaluate(model, arguments.data, split="test", preprocess=contract)
                top1[trained][tested].append(found.top1)
                images = found.n
                print(f"trained {trained}, tested {tested}, seed {seed}: {found.top1:.3f}")
    return {"top1": top1, "train_seconds": seconds, "test_images": images}


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each way and round, of the model alone and from the files on, and the tokens that it computes."""
    size = (arguments.variant_size,) * 2
    torch.manual_seed(0)
    packed = ViT(vitrail.variant(arguments.variant, image_size=size, classes=1000)).eval()
    torch.nn.init.normal_(packed.head.weight, std=0.02)  # it begins as zeros, and all answers would agree
    padded = PaddedViT(packed.config).eval()
    padded.load_state_dict(packed.state_dict())
    samples = choose_split(open_data(arguments.data, val_fraction=0.0), "test")[1]
    step = max(1, len(samples) // arguments.images)
    chosen = list(range(0, len(samples), step))[: arguments.images]
    contracts = {mode: Preprocess(size, mode=mode, patch_size=packed.config.patch_size) for mode in MODES}
    pixels = {mode: [contract.load(samples.encoded(i)) for i in chosen] for mode, contract in contracts.items()}
    batch = {way: 1 if way == "one by one" else arguments.batch for way in WAYS}
    predictors = {}
    for way in WAYS:
        model = padded if way == "padded" else packed
        model.preprocess = contracts["squash" if way == "squash" else "native"]
        predictors[way] = Predictor(model, batch_size=batch[way])
    alone: dict[str, list[float]] = {way: [] for way in WAYS}
    whole: dict[str, list[float]] = {way: [] for way in WAYS}
    answers: dict[str, Tensor] = {}
    for number in range(-1, arguments.rounds):  # the first fills the caches and is not counted
        for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
            mode = "squash" if way == "squash" else "native"
            start = time.perf_counter()
            answers[way] = forward(predictors[way], pixels[mode])
            middle = time.perf_counter()
            predictors[way](sources(samples, chosen))
            if number >= 0:
                alone[way].append(middle - start)
                whole[way].append(time.perf_counter() - middle)
                print(
                    f"{way}: {len(chosen) / alone[way][-1]:.1f} images/s, {len(chosen) / whole[way][-1]:.1f} from files"
                )
    spread = max((answers[way] - answers["packed"]).abs().max().item() for way in ("padded", "one by one"))
    scale = answers["packed"].abs().max().item()
    if not spread <= 1e-4 * max(1.0, scale):
        raise SystemExit(f"the ways of mode native answer otherwise: {spread:.2g} of {scale:.2g}")
    counted = {
        way: tokens(packed.config, pixels["squash" if way == "squash" else "native"], way, batch[way]) for way in WAYS
    }
    sizes = len({image.shape for image in pixels["native"]})
    return {
        "images": len(chosen),
        "sizes": sizes,
        "model_seconds": alone,
        "whole_seconds": whole,
        "tokens": counted,
        "largest_difference": spread,
    }


def forward(predictor: Predictor, pixels: Sequence[Tensor]) -> Tensor:
    """The logits of images in memory, in their order, as `Predictor` computes them: (n, classes)."""
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pixels), predictor.batch_size):
            groups, order = by_size(pixels[start : start + predictor.batch_size])
            inputs = [predictor.preprocess.normalize(group.to(predictor.device)) for group in groups]
            logits = predictor.model(inputs[0] if len(inputs) == 1 else inputs).cpu()
            rows.append(logits[torch.tensor(order).argsort()])
    return torch.cat(rows)


def sources(samples: Samples, chosen: Sequence[int]) -> list[Source]:
    """The encoded images."""
    return [Source(samples.names[i], lambda i=i: samples.encoded(i)) for i in chosen]


def tokens(config: ViTConfig, pixels: Sequence[Tensor], way: str, batch: int) -> dict[str, float]:
    """Tokens that an image costs on average, and how many of them are padding."""
    own = [config.prefix_tokens + image.shape[1] * image.shape[2] // config.patch_size**2 for image in pixels]
    parts = [own[start : start + batch] for start in range(0, len(own), batch)]
    computed = sum(len(part) * max(part) for part in parts) if way == "padded" else sum(own)
    return {"computed": computed / len(own), "padding": (computed - sum(own)) / len(own)}


def page(results: dict[str, Any]) -> list[str]:
    """The lines of the page."""
    settings, measured, trained = results["settings"], results["speed"], results["accuracy"]
    side, size = settings["variant_size"], settings["size"]
    lines = [
        "# Images at their own aspect ratio",
        "",
        "`python benchmarks/packing.py DATA` measures it; this page is its output.",
        "",
        "## Speed",
        "",
        f"{settings['variant']} with random weights, {side}x{side} pixels or as many patches at the image's own aspect ratio, "
        f"over {measured['images']} photographs of {measured['sizes']} different sizes in batches of {settings['batch']}: images "
        f"a second, median of {settings['rounds']} alternating rounds. From files: `Predictor`, with reading, decoding and "
        "resizing. The three ways of the own aspect ratio give the same answers, to "
        f"{measured['largest_difference']:.1g}.",
        "",
        "| way | model alone | against squash | from files | against squash | tokens an image | of them padding |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, text in WAYS.items():
        cells = []
        for kind in ("model_seconds", "whole_seconds"):
            own, base = measured[kind][way], measured[kind]["squash"]
            ratio = statistics.median(b / a for a, b in zip(own, base, strict=True))
            cells += [f"{measured['images'] / statistics.median(own):.1f}", f"{ratio:.2f}"]
        count = measured["tokens"][way]
        share = count["padding"] / count["computed"]
        lines.append(f"| {text} | {' | '.join(cells)} | {count['computed']:.1f} | {share:.1%} |")
    seeds = settings["seeds"]
    lines += [
        "",
        "## Accuracy",
        "",
        f"Two models of width {settings['width']}, depth {settings['depth']} and patches of {settings['patch']}x"
        f"{settings['patch']}, trained by the recipe `small` for {settings['epochs']} epochs, {size}x{size} pixels or as many "
        f"patches; top-1 accuracy on {trained['test_images']:,} test images"
        + (f", mean and range of {seeds} seeds." if seeds > 1 else ", one seed.")
        + " One image more or less right is "
        f"{100 / trained['test_images']:.2f} %; by chance alone, two results differ by "
        f"{100 * deviation(trained):.1f} % (one standard error of a difference, images taken as independent).",
        "",
        "| trained | tested squashed | tested at the own aspect ratio | training, minutes |",
        "|---|---|---|---|",
    ]
    for mode, tested in trained["top1"].items():
        name = "squashed" if mode == "squash" else "at the own aspect ratio"
        minutes = statistics.mean(trained["train_seconds"][mode]) / 60
        lines.append(f"| {name} | {score(tested['squash'])} | {score(tested['native'])} | {minutes:.1f} |")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "vitrail"))
    device = named_device("auto")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    return [*lines, "", f"Measured on {where}, Python {platform.python_version()}, {versions}.", ""]


def deviation(trained: dict[str, Any]) -> float:
    """The standard error of the difference of two accuracies, at their mean."""
    every = [value for tested in trained["top1"].values() for values in tested.values() for value in values]
    mean = statistics.mean(every)
    runs = len(next(iter(trained["train_seconds"].values())))
    return (2 * mean * (1 - mean) / (trained["test_images"] * runs)) ** 0.5


def score(values: list[float]) -> str:
    """Accuracy in per cent, with its range over several seeds."""
    mean = f"{100 * statistics.mean(values):.1f} %"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


if __name__ == "__main__":
    main()
