"""Decoding, cropping and resizing JPEG photographs: vitrail against the usual torchvision-on-PIL pipeline, per core.

    python benchmarks/data.py

One process, one thread, in seconds of processor time. The two ways take turns on the same photographs, and the ratio
is that of their medians. The photographs are synthetic noise with the spectrum of natural ones, at JPEG quality 90.
Writes benchmarks/results/data.json and docs/benchmarks/data.md.
"""

import argparse
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from vitrail.data.augment import Augment, augment_batch
from vitrail.data.decode import open_image
from vitrail.data.policies import crop_box, train_view
from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.data.randomness import stream

SIZE = 224
PHOTOGRAPHS = {500: 16, 1600: 8}  # longest side -> how many
TARGETS = {("train", 500): 1.6, ("train", 1600): 2.0, ("evaluate", 500): 1.9, ("evaluate", 1600): 3.0}
PREPROCESS = Preprocess((SIZE, SIZE), interpolation="bilinear")  # the peer's default
AUGMENT = Augment(crop="random_resized", flip=0.5)
ROOT = Path(__file__).parent.parent

Pipeline = Callable[[list[bytes]], torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    task: str
    longest_side: int
    bits_per_pixel: float
    peer_images_per_second: float
    vitrail_images_per_second: float
    ratio: float
    target: float
    mean_difference: float
    """Mean absolute difference of the pixels in grey levels (0 to 255), where both ways cut out the same part."""


def photograph(side: int, seed: int) -> bytes:
    """A JPEG of side x 3/4 side pixels: noise of amplitude f^-1.5, in luminance and two weaker colour differences.

    At this slope and 300 pixels it takes 2.8 bits a pixel; the photographs of Caltech-101, 300 pixels wide, take 2.5 at
    the same quality (median; 1.6 to 3.4 for the middle 80 %).
    """
    height, width = side * 3 // 4, side
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    planes = []
    for strength in (55, 10, 10):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**1.5
        noise = np.fft.irfft2(spectrum, s=(height, width))
        planes.append(128 + strength * noise / noise.std())
    channels = [Image.fromarray(plane.clip(0, 255).astype(np.uint8)) for plane in planes]
    file = io.BytesIO()
    Image.merge("YCbCr", channels).save(file, "JPEG", quality=90)
    return file.getvalue()


def peer(*changes: torch.nn.Module) -> Pipeline:
    """PIL and torchvision's transforms of PIL images, image by image."""
    to_tensor = (v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD))
    change = v2.Compose([*changes, *to_tensor])

    def run(files: list[bytes]) -> torch.Tensor:
        return torch.stack([change(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])

    return run


def train(files: list[bytes]) -> torch.Tensor:
    """Decode, random resized crop, flip, normalise, as the training loop does."""
    views = [train_view(d, "", PREPROCESS, AUGMENT, seed=0, epoch=0, index=i) for i, d in enumerate(files)]
    images = augment_batch(torch.stack(views), AUGMENT, 0, np.zeros(len(files), dtype=int), np.arange(len(files)))
    return PREPROCESS.normalize(images)


def evaluate(files: list[bytes]) -> torch.Tensor:
    """Decode, resize, crop, normalise, as evaluation and prediction do."""
    return PREPROCESS.normalize(torch.stack([PREPROCESS.load(data) for data in files]))


def train_difference(files: list[bytes]) -> float:
    """Against torchvision's resized crop of the same boxes, in grey levels."""
    unflipped = Augment(crop="random_resized")
    differences = []
    for index, data in enumerate(files):
        draws = stream(0, "crop", 0, index)
        box = crop_box(open_image(data).size, AUGMENT.scale, AUGMENT.ratio, draws)
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        reference = v2.functional.pil_to_tensor(v2.functional.resized_crop(whole, *box, [SIZE, SIZE]))
        view = train_view(data, "", PREPROCESS, unflipped, seed=0, epoch=0, index=index)
        differences.append((view.float() - reference.float()).abs().mean().item())
    return statistics.mean(differences)


def evaluate_difference(files: list[bytes]) -> float:
    """Against torchvision's resize and centre crop, in grey levels."""
    reference = v2.Compose([v2.Resize(256), v2.CenterCrop(SIZE), v2.PILToTensor()])
    differences = [
        (PREPROCESS.load(data).float() - reference(Image.open(io.BytesIO(data)).convert("RGB")).float()).abs().mean()
        for data in files
    ]
    return torch.stack(differences).mean().item()


def alternate(peer_way: Pipeline, our_way: Pipeline, files: list[bytes], rounds: int) -> tuple[float, float]:
    """Median seconds of processor time an image, of each way; they take turns, after one round that does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for way, taken in zip((peer_way, our_way), seconds, strict=True):
            start = time.process_time()
            way(files)
            if number:
                taken.append((time.process_time() - start) / len(files))
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def measure(rounds: int) -> list[Row]:
    """All rows of the table."""
    tasks = {
        "train": (peer(v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()), train, train_difference),
        "evaluate": (peer(v2.Resize(256), v2.CenterCrop(SIZE)), evaluate, evaluate_difference),
    }
    rows = []
    for side, count in PHOTOGRAPHS.items():
        files = [photograph(side, seed) for seed in range(count)]
        bits = 8 * statistics.mean(map(len, files)) / (side * (side * 3 // 4))
        for task, (peer_way, our_way, difference) in tasks.items():
            theirs, ours = alternate(peer_way, our_way, files, rounds)
            row = Row(task, side, bits, 1 / theirs, 1 / ours, theirs / ours, TARGETS[task, side], difference(files))
            rows.append(row)
    return rows


def markdown(rows: list[Row], rounds: int) -> str:
    """The page under docs/."""
    lines = [
        "# Data: images a second, per core",
        "",
        "`python benchmarks/data.py` measures it; this page is its output.",
        "",
        f"From JPEG bytes to normalised {SIZE} px tensors, one thread, processor time, median of {rounds} alternating "
        "rounds. The peer opens with PIL, converts to RGB and runs torchvision's transforms on PIL images. *train* is a "
        "random resized crop and a flip, *evaluate* is a resize of the shorter side to 256 and a centre crop; both "
        "bilinear. The difference is the mean over pixels in grey levels (0 to 255), where both cut out the same part: "
        "photographs much larger than needed are decoded at a reduced scale.",
        "",
        "| task | longest side | bits/pixel | torchvision on PIL, images/s | vitrail, images/s | ratio | aim | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.task} | {row.longest_side} px | {row.bits_per_pixel:.2f} | {row.peer_images_per_second:.0f} "
        f"| {row.vitrail_images_per_second:.0f} | {row.ratio:.2f} | {row.target} | {row.mean_difference:.3f} |"
        for row in rows
    ]
    lines += ["", f"Measured on {machine()}.", ""]
    return "\n".join(lines)


def machine() -> str:
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    installed = {package.name.lower(): package.version for package in metadata.distributions()}
    names = ("torch", "torchvision", "pillow", "simplejpeg")
    libraries = [f"{name} {installed.get(name, '(not installed)')}" for name in names]
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(libraries)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows = measure(rounds)
    results = ROOT / "benchmarks" / "results"
    results.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "rounds": rounds, "rows": [asdict(row) for row in rows]}
    (results / "data.json").write_text(json.dumps(record, indent=2) + "\n")
    page = ROOT / "docs" / "benchmarks" / "data.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(markdown(rows, rounds))
    print(markdown(rows, rounds))


if __name__ == "__main__":
    main()
