"""Decoding, cropping and resizing JPEG photographs: vitrail against the usual torchvision-on-PIL pipeline, per core.

    python benchmarks/data.py [--rounds 25] [--seconds 120]

One process, one thread, in seconds of processor time. The two ways take turns on the same photographs, and the ratio
is that of their medians. The photographs are synthetic noise with the spectrum of natural ones, at JPEG quality 90.
Rows *from the cache* take images that vitrail has kept decoded and resized, as it does of data that fit in memory, or, for
random crops, decoded and reduced in a file that is mapped into memory (``data.cache=file``); the other library decodes.
Beside the speeds stands a limit: decoding at 1/8 of the scale and in grey, where a decoder has to undo the JPEG's Huffman
code in full but computes one value a block of 8 x 8 pixels, a stand-in for entropy decoding alone.
Writes benchmarks/results/data.json and docs/benchmarks/data.md.
"""

import argparse
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

import index
from limits import limits
from measure import machine, versions
from vitrail.data.augment import Augment, augment_batch
from vitrail.data.batches import TrainBatches, eval_batches
from vitrail.data.cache import check_images
from vitrail.data.decode import open_image
from vitrail.data.kept import Form, Kept
from vitrail.data.open import open_data
from vitrail.data.policies import crop_box, kept_view, train_view
from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.data.randomness import stream
from vitrail.data.samples import Samples
from vitrail.data.store import keep_in_file
from vitrail.device import keep_freed_memory

SIZE = 224
PHOTOGRAPHS = {500: 16, 1600: 8}  # longest side -> how many
TARGETS = {("train", 500): 1.9, ("train", 1600): 2.4, ("evaluate", 500): 2.1, ("evaluate", 1600): 3.2}
CACHED_TARGET = 8.0
PREPROCESS = Preprocess((SIZE, SIZE), interpolation="bilinear")  # the peer's default
AUGMENT = Augment(crop="random_resized", flip=0.5)
KEPT_AUGMENT = Augment(flip=0.5)  # a resized crop of its own for each epoch cannot be kept
FORM = Form(3, "bilinear", 2 * SIZE)  # what data.cache keeps for crops of a quarter of the area and more

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
    limit_images_per_second: float | None
    """Entropy decoding alone, by its stand-in; None for what is not decoded."""


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


def train_difference(files: list[bytes], kept: Kept | None = None) -> float:
    """Against torchvision's resized crop of the same boxes, in grey levels; of kept images, or of the files."""
    unflipped = Augment(crop="random_resized")
    differences = []
    for place, data in enumerate(files):
        draws = stream(0, "crop", 0, place)
        box = crop_box(open_image(data).size, AUGMENT.scale, AUGMENT.ratio, draws)
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        reference = v2.functional.pil_to_tensor(v2.functional.resized_crop(whole, *box, [SIZE, SIZE]))
        where = {"seed": 0, "epoch": 0, "index": place}
        view = (
            train_view(data, "", PREPROCESS, unflipped, **where)
            if kept is None
            else kept_view(kept, PREPROCESS, unflipped, **where)
        )
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


def grey_eighth(files: list[bytes]) -> None:
    """Decode at 1/8 of the scale and in grey: all of the Huffman code, and next to nothing else."""
    try:
        from simplejpeg import decode_jpeg, decode_jpeg_header
    except ImportError:  # by Pillow, with the same library
        for data in files:
            image = Image.open(io.BytesIO(data))
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
        return
    for data in files:
        height, width, *_ = decode_jpeg_header(data)
        decode_jpeg(data, "GRAY", min_height=-(-height // 8), min_width=-(-width // 8))


def from_the_cache(files: list[bytes], folder: Path) -> Mapping[str, Pipeline]:
    """Batches of images that are kept: task -> what gives one."""
    (folder / "photographs").mkdir(parents=True)
    for number, data in enumerate(files):
        (folder / "photographs" / f"{number:03d}.jpg").write_bytes(data)
    samples = open_data(folder, val_fraction=0.0, need_labels=False).train
    kept = check_images(samples, PREPROCESS, keep=True).cached
    assert kept is not None
    training = TrainBatches(samples, PREPROCESS, KEPT_AUGMENT, len(files), 0, cached={PREPROCESS.image_size: kept})

    def train_batch(files: list[bytes]) -> torch.Tensor:
        batch = training[0]
        images = augment_batch(batch.images, KEPT_AUGMENT, 0, batch.epochs, batch.indices)
        return PREPROCESS.normalize(images)

    def evaluate_batch(files: list[bytes]) -> torch.Tensor:
        (batch,) = eval_batches(samples, PREPROCESS, len(files), cached=kept)
        return PREPROCESS.normalize(batch.images)

    random = TrainBatches(kept_crops(folder), PREPROCESS, AUGMENT, len(files), 0)
    steps = itertools.count()

    def random_batch(files: list[bytes]) -> torch.Tensor:
        batch = random[next(steps)]
        images = augment_batch(batch.images, AUGMENT, 0, batch.epochs, batch.indices)
        return PREPROCESS.normalize(images)

    return {"random crops": random_batch, "fixed crops": train_batch, "evaluate": evaluate_batch}


def kept_crops(folder: Path) -> Samples:
    """The photographs that ``from_the_cache`` has put into a folder, kept for random crops."""
    samples = open_data(folder, val_fraction=0.0, need_labels=False).train
    return keep_in_file(samples, FORM, folder, "photographs").samples


def alternate(
    ways: list[Callable[[list[bytes]], object]], files: list[bytes], rounds: int, seconds: float
) -> list[float]:
    """Median seconds of processor time an image, of each way; they take turns, after one round that does not count."""
    taken: list[list[float]] = [[] for _ in ways]
    begun = time.monotonic()
    for number in range(rounds + 1):
        if number > 2 and time.monotonic() - begun > seconds:
            break
        for way, own in zip(ways, taken, strict=True):
            start = time.process_time()
            way(files)
            if number:
                own.append((time.process_time() - start) / len(files))
    return [statistics.median(own) for own in taken]


def measure(rounds: int, seconds: float) -> list[Row]:
    """All rows of the table."""
    to_size = (v2.Resize(256), v2.CenterCrop(SIZE))
    tasks = {
        "train": (peer(v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()), train, train_difference),
        "evaluate": (peer(*to_size), evaluate, evaluate_difference),
    }
    rows = []
    for side, count in PHOTOGRAPHS.items():
        files = [photograph(side, seed) for seed in range(count)]
        bits = 8 * statistics.mean(map(len, files)) / (side * (side * 3 // 4))
        each = seconds / len(PHOTOGRAPHS) / 4
        for task, (peer_way, our_way, difference) in tasks.items():
            theirs, ours, least = alternate([peer_way, our_way, grey_eighth], files, rounds, each)
            target, differing = TARGETS[task, side], difference(files)
            rows.append(Row(task, side, bits, 1 / theirs, 1 / ours, theirs / ours, target, differing, 1 / least))
        with tempfile.TemporaryDirectory() as folder:
            kept = from_the_cache(files, Path(folder))
            flip = v2.RandomHorizontalFlip()
            peers = {
                "random crops": peer(v2.RandomResizedCrop(SIZE), flip),
                "fixed crops": peer(*to_size, flip),
                "evaluate": peer(*to_size),
            }
            for task, our_way in kept.items():
                theirs, ours = alternate([peers[task], our_way], files, rounds, each)
                name = f"{task}, from the cache"
                random = task == "random crops"
                differing = (
                    train_difference(files, kept_crops(Path(folder)).kept) if random else evaluate_difference(files)
                )
                rows.append(Row(name, side, bits, 1 / theirs, 1 / ours, theirs / ours, CACHED_TARGET, differing, None))
    return rows


def page(results: Mapping[str, object], rows: list[Row]) -> list[str]:
    """The lines of the page."""
    lines = [
        "# Data: images a second, per core",
        "",
        "`python benchmarks/data.py` measures it; this page is its output.",
        "",
        f"From JPEG bytes to normalised {SIZE} px tensors, one thread, processor time, median of {results['rounds']} alternating "
        "rounds at most. The other library opens with PIL, converts to RGB and runs torchvision's transforms on PIL images. "
        "*train* is a random resized crop and a flip, *evaluate* is a resize of the shorter side to 256 and a centre crop; "
        "both bilinear. *From the cache*: images that vitrail has kept decoded; *random crops* are resized crops and flips of "
        f"images reduced to {FORM.side} px in a mapped file, *fixed crops* are kept at their final size and flipped. The "
        "difference is the mean over pixels in grey levels (0 to 255), where both cut out the same part: photographs much "
        "larger than needed are decoded at a reduced scale. *Entropy decoding* is the limit of whatever begins with a JPEG: "
        "it is measured by decoding at 1/8 of the scale in grey, which undoes the whole Huffman code and computes one value for "
        "64 pixels, so it is a little slower than the entropy decoding alone.",
        "",
        "| task | longest side | bits/pixel | torchvision on PIL, images/s | vitrail, images/s | ratio | aim | difference | "
        "entropy decoding, images/s | vitrail's share of it |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        limit = row.limit_images_per_second
        end = ["", ""] if limit is None else [f"{limit:.0f}", f"{row.vitrail_images_per_second / limit:.0%}"]
        lines.append(
            f"| {row.task} | {row.longest_side} px | {row.bits_per_pixel:.2f} | {row.peer_images_per_second:.0f} "
            f"| {row.vitrail_images_per_second:.0f} | {row.ratio:.2f} | {row.target} | {row.mean_difference:.3f} "
            f"| {' | '.join(end)} |"
        )
    return [*lines, "", index.measured_on(results)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--tiny", action="store_true", help="two rounds, to try the script out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as training and evaluation do
    rounds = 2 if options.tiny else options.rounds
    rows = measure(rounds, options.seconds)
    results = {
        "rounds": rounds,
        "rows": [asdict(row) for row in rows],
        "machine": machine(torch.device("cpu")),
        "versions": versions("torch", "torchvision", "pillow", "simplejpeg", "vitrail"),
        "limits": limits(torch.device("cpu")),
    }
    index.record("data", results, page(results, rows), trial=options.tiny)


if __name__ == "__main__":
    main()
