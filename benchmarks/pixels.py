"""The pixels that a model gets: vitrail's evaluation preprocessing against timm's transform and transformers' processors.

    python benchmarks/pixels.py photos

Every photograph of the folder (or ``--images`` of them, evenly spread) goes from its file to the tensor that a model
takes, here and in the other library, for contracts of published checkpoints. Differences are in grey levels of the image
before mean and deviation (0 to 255), so that one is 1/255 of the range of values.
Writes benchmarks/results/pixels.json and docs/benchmarks/pixels.md.
"""

import argparse
import io
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config

from vitrail.data.decode import SUFFIXES, decode
from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.weights.formats.pixels import from_processor, from_timm

ROOT = Path(__file__).parent.parent
ENLARGED, ENLARGED_IMAGES = 4, 60

TIMM = [  # their pixels stand in timm itself
    "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_base_patch16_384.augreg_in21k_ft_in1k",
    "deit_base_patch16_224.fb_in1k",
    "deit3_base_patch16_224.fb_in22k_ft_in1k",
    "vit_base_patch16_clip_224.openai",
    "vit_base_patch16_clip_384.openai_ft_in12k_in1k",
    "vit_large_patch14_clip_336.laion2b_ft_in12k_in1k",
    "vit_base_patch16_siglip_224.webli",
    "vit_small_patch14_dinov2.lvd142m",
]
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
SQUARE = {"height": 224, "width": 224}
CROP = {"do_center_crop": True, "crop_size": 224}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {  # the processors and values of the checkpoints' own files
    "google/vit-base-patch16-224": ("ViTImageProcessor", {"resample": 2, "size": SQUARE, **HALF}),
    "facebook/deit-base-patch16-224": ("DeiTImageProcessor", {"resample": 3, "size": 256, **CROP, **IMAGENET}),
    "openai/clip-vit-base-patch16": ("CLIPImageProcessor", {"resample": 3, "size": 224, **CROP}),
    "google/siglip-base-patch16-224": ("SiglipImageProcessor", {"resample": 3, "size": SQUARE, **HALF}),
    "facebook/dinov2-base": (
        "BitImageProcessor",
        {"resample": 3, "size": {"shortest_edge": 256}, **CROP, **IMAGENET},
    ),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": (
        "DINOv3ViTImageProcessor",
        {"resample": 2, "size": SQUARE, **IMAGENET},
    ),
}

Pixels = Callable[[Image.Image], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A checkpoint's contract, and the other library's way to the same pixels."""

    checkpoint: str
    library: str
    preprocess: Preprocess
    theirs: Pixels
    pillow: Pixels | None = None
    """The same library with its other way of resizing, by Pillow; None where it has one alone."""


@dataclass
class Difference:
    """Of many images, in grey levels."""

    largest: float = 0.0
    total: float = 0.0
    beyond_one: int = 0
    values: int = 0

    def add(self, found: torch.Tensor, expected: torch.Tensor, std: Iterable[float]) -> None:
        """Two normalised images (C, H, W)."""
        levels = (found - expected).abs() * 255 * torch.tensor(tuple(std))[:, None, None]
        self.largest = max(self.largest, float(levels.max()))
        self.total += float(levels.double().sum())
        self.beyond_one += int((levels > 1.01).sum())
        self.values += levels.numel()

    @property
    def cells(self) -> str:
        """largest | mean | values of a million that differ by more than one level."""
        count = max(1, self.values)
        return f"{self.largest:.0f} | {self.total / count:.4f} | {1e6 * self.beyond_one / count:.1f}"


@dataclass(frozen=True)
class Row:
    """One contract: ours against theirs, and what they differ by among themselves."""

    case: Case
    ours: Difference
    theirs: Difference | None


@dataclass(frozen=True)
class LargeRow:
    """One contract on large JPEGs: ours against theirs, and against our own whole decoding; seconds of either."""

    case: Case
    reduced: int
    ours: Difference
    whole: Difference
    seconds: tuple[float, float]


def timm_case(name: str) -> Case:
    """The evaluation transform of a timm checkpoint."""
    found = timm.get_pretrained_cfg(name)
    if found is None:
        raise SystemExit(f"this timm does not know {name}")
    cfg = found.to_dict()
    height, width = cfg["input_size"][1:]
    transform = create_transform(**resolve_data_config(pretrained_cfg=cfg))
    return Case(name, "timm", from_timm(cfg, (height, width), 3), transform)


def transformers_case(name: str, kind: str, values: dict[str, Any]) -> Case:
    """The processor of a transformers checkpoint; torchvision's resizing is its default."""

    def pixels(processor: Any) -> Pixels:
        return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]

    other = getattr(transformers, f"{kind}Pil", None)
    return Case(
        name,
        "transformers",
        from_processor(values, 3, kind),
        pixels(getattr(transformers, kind)(**values)),
        None if other is None else pixels(other(**values)),
    )


def measure(case: Case, files: list[bytes]) -> Row:
    """Every photograph by ours and by theirs."""
    ours, among = Difference(), Difference()
    for data in files:
        image = upright(data)
        expected = case.theirs(image)
        ours.add(load(case.preprocess, data), expected, case.preprocess.std)
        if case.pillow is not None:
            among.add(torch.as_tensor(case.pillow(image)), expected, case.preprocess.std)
    return Row(case, ours, among if case.pillow is not None else None)


def measure_large(case: Case, files: list[bytes]) -> LargeRow:
    """Large JPEGs, which are decoded at a reduced scale here."""
    ours, whole, reduced = Difference(), Difference(), 0
    seconds = [0.0, 0.0]
    for data in files:
        start = time.process_time()
        found = case.preprocess.load(data)
        middle = time.process_time()
        exact = case.preprocess.resize(decode(data))
        end = time.process_time()
        if torch.equal(found, exact):
            continue
        reduced += 1
        seconds = [seconds[0] + middle - start, seconds[1] + end - middle]
        normal = case.preprocess.normalize(torch.stack([found, exact]))
        expected = case.theirs(upright(data))
        ours.add(normal[0], expected, case.preprocess.std)
        whole.add(normal[1], expected, case.preprocess.std)
    return LargeRow(case, reduced, ours, whole, (seconds[0] / max(1, reduced), seconds[1] / max(1, reduced)))


def load(preprocess: Preprocess, data: bytes) -> torch.Tensor:
    """File to tensor, as evaluation and prediction do it."""
    return preprocess.normalize(preprocess.load(data)[None])[0]


def upright(data: bytes) -> Image.Image:
    """The picture for the other library, which does not turn it by EXIF itself."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def enlarged(data: bytes) -> bytes:
    """A photograph as a large camera would have written it, but for its finest detail."""
    image = upright(data)
    file = io.BytesIO()
    size = (image.width * ENLARGED + 1, image.height * ENLARGED + 3)  # not whole blocks of 8, as real ones may be
    image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=92)
    return file.getvalue()


def photographs(folder: Path, count: int) -> list[bytes]:
    """The files of so many images, evenly spread over the folder's names in order."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder}: no images")
    count = min(count, len(paths))
    return [paths[i * len(paths) // count].read_bytes() for i in range(count)]


def says(preprocess: Preprocess) -> str:
    """A contract in a few words."""
    height, width = preprocess.image_size
    return f"{height} x {width}, {preprocess.mode} {preprocess.crop_fraction:.3g}, {preprocess.interpolation}"


def markdown(rows: list[Row], large: list[LargeRow], images: int) -> str:
    """The page under docs/."""
    lines = [
        "# Pixels: vitrail against timm and transformers",
        "",
        "`python benchmarks/pixels.py photos` measures it on the photographs of a folder; this page is its output.",
        "",
        "Each photograph goes from its file to the tensor that a model takes: here by `Preprocess`, as `evaluate` and "
        "`predict` do it, and in the other library by the transform or processor that a published checkpoint describes "
        "(timm: Pillow; transformers: its default, torchvision). Differences are in grey levels of 0 to 255, before "
        "mean and deviation: 1 is 1/255 of the range of values.",
        "",
        f"## {images} photographs",
        "",
        "| checkpoint | library | contract | largest | mean | beyond 1, per million | "
        "their torchvision and Pillow: largest | mean | beyond 1, per million |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        among = row.theirs.cells if row.theirs is not None else "| |"
        lines.append(
            f"| {row.case.checkpoint} | {row.case.library} | {says(row.case.preprocess)} | {row.ours.cells} | {among} |"
        )
    lines += [
        "",
        "A difference of 2 is a matter of rounding: an image is resized along one side, rounded to whole levels, and "
        "then along the other. Pillow and torch weigh the pixels in fixed point, torch with fewer bits, so that a value "
        "near a half is now and then rounded up by one and down by the other; where that happens in both passes, it "
        "adds up. The last columns, transformers' own two ways of resizing, show the same, so that no way of resizing "
        "agrees with both. vitrail resizes as torch does, several times as fast as Pillow.",
        "",
        "They show more where an image is squashed: Pillow 13 resizes the height first if that is less work, torch "
        "always the width. Bicubic resizing overshoots at sharp edges, and what is below 0 or above 255 is cut off "
        "after either pass, so the order shows in a few values. A timm checkpoint that squashes differs from ours in "
        "the same way, on images where Pillow begins with the height.",
        "",
        "DINOv3's processor resizes fractions, and does not round them to levels at all: that is its mean of about a "
        "quarter.",
        "",
        "A centre crop that begins between two pixels begins at the even one in timm and at the first in transformers; "
        "`crop_rounding` of a contract says which, so both agree.",
        "",
        f"## Large JPEGs: {ENLARGED} times enlarged",
        "",
        "A JPEG much larger than the model's images is decoded at 1/2, 1/4 or 1/8 of its scale, never below twice the "
        "size that it is resized to; here, those of the enlarged photographs that are large enough. That is not what "
        "the other libraries do, so pixels differ at sharp edges, by what the columns *reduced* say; *whole* is the "
        "same image decoded whole. Times are processor time an image, from "
        "file to bytes of the model's size.",
        "",
        "| checkpoint | reduced images | reduced: largest | mean | beyond 1, per million | whole: largest | mean | "
        "beyond 1, per million | reduced, ms | whole, ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.case.checkpoint} | {row.reduced} of {min(images, ENLARGED_IMAGES)} | {row.ours.cells} "
        f"| {row.whole.cells} | {1000 * row.seconds[0]:.1f} | {1000 * row.seconds[1]:.1f} |"
        for row in large
    ]
    return "\n".join([*lines, "", f"Measured on {machine()}.", ""])


def machine() -> str:
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0] if models else cpu
    installed = {package.name.lower(): package.version for package in metadata.distributions()}
    names = ("torch", "torchvision", "pillow", "simplejpeg", "timm", "transformers")
    libraries = [f"{name} {installed.get(name, '(not installed)')}" for name in names]
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(libraries)}"


def record(case: Case, **measured: Any) -> dict[str, Any]:
    """A row for JSON."""
    return {"checkpoint": case.checkpoint, "library": case.library, **case.preprocess.to_dict(), **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="photographs, also in folders below")
    parser.add_argument("--images", type=int, default=300, help="at most so many of them (default 300)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = photographs(arguments.folder, arguments.images)
    cases = [
        *(timm_case(name) for name in TIMM),
        *(transformers_case(name, kind, values) for name, (kind, values) in TRANSFORMERS.items()),
    ]
    rows = [measure(case, files) for case in cases]
    big = [enlarged(data) for data in files[:: max(1, len(files) // ENLARGED_IMAGES)][:ENLARGED_IMAGES]]
    large = [measure_large(case, big) for case in cases if case.preprocess.image_size == (224, 224)]
    results = ROOT / "benchmarks" / "results"
    results.mkdir(parents=True, exist_ok=True)
    saved = {
        "machine": machine(),
        "images": len(files),
        "rows": [
            record(row.case, ours=asdict(row.ours), theirs=None if row.theirs is None else asdict(row.theirs))
            for row in rows
        ],
        "large": [
            record(row.case, reduced=row.reduced, ours=asdict(row.ours), whole=asdict(row.whole), seconds=row.seconds)
            for row in large
        ],
    }
    (results / "pixels.json").write_text(json.dumps(saved, indent=2) + "\n")
    page = ROOT / "docs" / "benchmarks" / "pixels.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(markdown(rows, large, len(files)))
    print(markdown(rows, large, len(files)))


if __name__ == "__main__":
    main()
