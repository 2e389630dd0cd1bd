"""Does everything run on a GPU, and give what the CPU gives? Each part by itself, in a minute and a half together.

    python benchmarks/gpu_smoke.py [--part logits,positions,...] [--device auto] [--out FOLDER]

Random weights, the built-in digits, and a few hundred made-up photographs. A part that fails prints its error, and the next
one goes on; the exit code is 1 then. Writes FOLDER/gpu_smoke.json. tf32 is off where results are compared.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import vitrail
from measure import RESULTS, write_json
from vitrail.device import named_device
from vitrail.inspection.attention import attention_map
from vitrail.inspection.look import look
from vitrail.inspection.relevance import relevance
from vitrail.model import ViT, variant
from vitrail.training.metrics import read

LOGITS = 2e-3
"""Largest difference between the logits of GPU and CPU, in float32, for logits of about 1."""
TINY = {"image_size": (32, 32), "patch_size": 8, "width": 64, "depth": 3, "heads": 2, "mlp_width": 128, "classes": 10}
PHOTOS = {
    "steps": 6,
    "batch_size": 32,
    "image_size": (32, 32),
    "model": {key: value for key, value in TINY.items() if key not in ("image_size", "classes")},
    "optimizer.lr": 1e-3,
    "data.val_fraction": 0.2,
    "evaluate.every": 6,
}
SHORT = {
    "epochs": None,
    "steps": 60,
    "schedule.warmup_epochs": None,
    "schedule.warmup_steps": 10,
    "evaluate.every": 30,
}
"""A training on the digits."""
Part = Callable[["Place"], object]


class Place:
    """The device, a folder for runs, and the data of the parts."""

    def __init__(self, device: torch.device, folder: Path, compiled: bool) -> None:
        self.device, self.folder, self.compiled = device, folder, compiled
        self.photos = photos(folder / "photos")

    def train(self, name: str, data: str | Path, changes: dict[str, Any], **others: Any) -> Any:
        return vitrail.train(None, data, changes=changes, out=self.folder / name, quiet=True, **others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default=str(RESULTS))
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    device = named_device(options.device)
    os.environ["VITRAIL_DEVICE"] = str(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    results: dict[str, Any] = {"device": str(device), "torch": torch.__version__, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device, Path(folder), not options.no_compile)
        for name in options.part.split(","):
            start = time.perf_counter()
            try:
                row = {"passed": True, "result": PARTS[name](place)}
            except Exception as error:  # the other parts are to be tried all the same
                traceback.print_exc()
                row = {"passed": False, "error": f"{type(error).__name__}: {str(error)[:500]}"}
            row["seconds"] = round(time.perf_counter() - start, 1)
            results["parts"][name] = row
            print(f"{'ok  ' if row['passed'] else 'FAIL'} {name}: {json.dumps(row)}", flush=True)
            write_json(Path(options.out) / "gpu_smoke.json", results)
    failed = [name for name, row in results["parts"].items() if not row["passed"]]
    print(f"failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


def photos(folder: Path) -> Path:
    """Class folders of 240 JPEGs: a bright stripe at a place that depends on the class, on noise."""
    rng = np.random.default_rng(0)
    for label in range(4):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(0, 120, (40, 40 + number % 3 * 8, 3), dtype=np.uint8)
            pixels[4 + 9 * label : 9 + 9 * label] += 130
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.jpg")
    return folder


def model_of(name: str = "", **changes: Any) -> ViT:
    """A model whose head is random too: it begins as zeros, and all answers would agree."""
    torch.manual_seed(0)
    model = ViT(variant(name, **changes) if name else vitrail.ViTConfig(**{**TINY, **changes}))
    torch.nn.init.normal_(model.head.weight, std=model.config.width**-0.5)
    return model.eval()


def difference(model: ViT, device: torch.device, images: Any, **options: Any) -> float:
    """The largest difference of logits between CPU and device, for the model and its gradients' forward pass alike."""
    with torch.no_grad():
        expected = model(images, **options)
        there = [group.to(device) for group in images] if isinstance(images, list) else images.to(device)
        found = model.to(device)(there, **options).cpu()
    model.cpu()
    assert expected.std() > 0.05, "all logits are alike"
    return (found - expected).abs().max().item()


def close(name: str, value: float, most: float = LOGITS) -> float:
    assert value <= most, f"{name}: off by {value:.2g}, at most {most:g}"
    return value


def logits(place: Place) -> object:
    """B/16 and H/14's head width in float32, against the CPU."""
    images = torch.randn(4, 3, 224, 224)
    found = {}
    for name, changes in (("B/16", {}), ("H/14", {"depth": 2}), ("S/32", {})):
        model = model_of(name, classes=100, **changes)
        found[name] = close(name, difference(model, place.device, images))
    return found


def kinds(place: Place) -> object:
    """Every kind of position, stem, pooling; other sizes, other patches, several sizes packed."""
    images, found = torch.randn(3, 3, 32, 32), {}
    for position in ("learned", "learned2d", "sincos2d", "rotary2d", "relative", "relative_bias", "none"):
        found[position] = difference(model_of(position=position), place.device, images)
    found["map"] = difference(model_of(pool="map"), place.device, images)
    found["conv"] = difference(model_of(stem="conv"), place.device, images)
    found["norms"] = difference(model_of(qk_norm=True, layer_scale=0.5, gated_mlp=True), place.device, images)
    plain = model_of()
    found["larger"] = difference(plain, place.device, torch.randn(3, 3, 48, 64))
    found["patches"] = difference(plain, place.device, images, patch_size=16)
    found["packed"] = difference(plain, place.device, [images, torch.randn(2, 3, 48, 40)])
    for name, value in found.items():
        close(name, value)
    return found


def gradients(place: Place) -> object:
    """Gradients in float32 against the CPU's, and finite in bf16."""
    images, found = torch.randn(8, 3, 32, 32), {}
    for name, changes in (("plain", {}), ("rotary", {"position": "rotary2d"}), ("bias", {"position": "relative_bias"})):
        model = model_of(**changes)
        expected = gradient_of(model, images)
        model.to(place.device)
        got = gradient_of(model, images.to(place.device)).cpu()
        found[name] = close(name, ((got - expected).norm() / expected.norm()).item(), 1e-4)
        with torch.autocast(place.device.type, torch.bfloat16):
            half = gradient_of(model, images.to(place.device)).cpu()
        found[f"{name}, bf16"] = close(name, ((half - expected).norm() / expected.norm()).item(), 0.1)
    return found


def gradient_of(model: ViT, images: Tensor) -> Tensor:
    model.zero_grad()
    model(images).float().square().mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def digits(place: Place) -> object:
    """The digits in bf16, compiled, with average and mixup; going on from a checkpoint; evaluated; predicted."""
    changes = SHORT | {"checkpoint.every": 20, "checkpoint.keep": 3, "precision": "bf16", "compile": place.compiled}
    started = time.perf_counter()
    run = place.train("digits", "digits", changes)
    seconds = time.perf_counter() - started
    before = losses(run.folder)
    assert before[-1] < 0.95 * before[0], f"the loss does not fall: {before[0]:.3f} to {before[-1]:.3f}"
    last = sorted((run.folder / "checkpoints").iterdir())[-1]
    shutil.rmtree(last)
    again = place.train("digits", "digits", {}, resume=True)
    after = losses(again.folder)
    assert len(after) == len(before), "steps are missing after going on"
    apart = max(abs(a - b) for a, b in zip(before, after, strict=True))
    close("losses of the resumed run", apart, 0.05)
    model = vitrail.load(run.model).to(place.device)
    top1 = vitrail.evaluate(model, "digits").top1
    return {"loss": [before[0], before[-1]], "resumed apart": apart, "top-1": top1, "seconds": round(seconds, 1)}


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read(run / "metrics.jsonl") if record["split"] == "train"]


def same_as_cpu(place: Place) -> object:
    """Six steps in float32 from files, with workers and page-locked memory, augmentation, mixup and an average: the CPU's."""
    changes = PHOTOS | {"precision": "float32", "compile": False, "data.workers": 2, "ema.decay": 0.9}
    changes |= {"augment.rotate": 10, "augment.color_jitter": 0.3, "augment.erase": 0.3, "mixup.cutmix": 1.0}
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # torch's own setting lets convolutions round to ten bits
    try:
        there = losses(place.train("there", place.photos, changes).folder)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    with environment("VITRAIL_DEVICE", "cpu"):
        here = losses(place.train("here", place.photos, changes).folder)
    assert len(set(here)) > 1, "the loss does not move"
    # Adam's first steps are as long for gradients that are nothing but rounding: 5e-3 apart on an H200
    return close("losses", max(abs(a - b) for a, b in zip(there, here, strict=True)), 2e-2)


def settings(place: Place) -> object:
    """What else a recipe can say, for a few steps each: optimisers, accumulation, dropout, sizes, own aspect ratios."""
    found = {}
    for name, changes in {
        "accumulate": {"optimizer.accumulate": 4},
        "sgd": {"optimizer.name": "sgd", "optimizer.lr": 1e-2},
        "muon": {"optimizer.name": "muon"},
        "dropout": {
            "regularization.dropout": 0.1,
            "regularization.drop_path": 0.2,
            "regularization.attention_dropout": 0.1,
        },
        "random crops": {"augment.crop": "random_resized", "augment.policy": "randaugment", "data.workers": 2},
        "sizes": {"resolution.sizes": (24, 32, 48)},
        "native": {"data.mode": "native"},
        "conv stem": {"model": {**PHOTOS["model"], "stem": "conv"}},
        "sigmoid, no clip": {"loss": "sigmoid", "optimizer.clip": 0.0},
    }.items():
        run = place.train(f"setting {name}", place.photos, PHOTOS | {"precision": "bf16", "compile": False} | changes)
        assert np.isfinite(losses(run.folder)).all(), f"{name}: a loss is not finite"
        found[name] = losses(run.folder)[-1]
    return found


def compiled(place: Place) -> object:
    """What goes through the compiler with the model: tokens in bf16, dropped patches, skipped blocks; the loss falls."""
    found = {}
    for name, changes in {
        "bf16 tokens": {"precision": "bf16-tokens"},
        "patch drop": {"precision": "bf16", "regularization.patch_drop": 0.5},
        "skipped blocks": {
            "precision": "bf16",
            "regularization.drop_path": 0.3,
            "regularization.drop_path_mode": "skip",
        },
    }.items():
        run = place.train(f"compiled {name}", "digits", SHORT | {"compile": place.compiled} | changes)
        before, after = losses(run.folder)[0], losses(run.folder)[-1]
        assert after < before - 0.05, f"{name}: the loss does not fall: {before:.3f} to {after:.3f}"
        found[name] = [before, after]
    return found


def predict(place: Place) -> object:
    """The command and the Predictor: the same labels on both devices."""
    run = place.train("predicted", place.photos, PHOTOS | {"steps": 30, "evaluate.every": 30, "compile": False})
    files = sorted(map(str, place.photos.rglob("*.jpg")))[::4]
    there = vitrail.Predictor(run.model, device=str(place.device), batch_size=16)
    here = vitrail.Predictor(run.model, device="cpu", batch_size=16)
    pairs = list(zip(there(files), here(files), strict=True))
    close("probabilities", max(abs(a.probability - b.probability) for a, b in pairs))
    features = [predictor.features(files[:8]) for predictor in (there, here)]
    close("features", float(np.abs(features[0] - features[1]).max()))
    command = [sys.executable, "-m", "vitrail", "predict", str(run.model), *files[:4], "--format", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-400:]
    told = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    assert told == [a.label for a, _ in pairs[:4]], f"the command says {told}"
    return {"images": len(files), "agree": sum(a.label == b.label for a, b in pairs)}


def inspect(place: Place) -> object:
    """Attention and relevance against the CPU's."""
    model, images, found = model_of(), torch.randn(2, 3, 32, 32), {}
    for name, way in (("map", lambda m, x: attention_map(look(m, x))), ("relevance", lambda m, x: relevance(m, x, 1))):
        expected = way(model, images)
        got = way(model.to(place.device), images.to(place.device)).cpu()
        model.cpu()
        found[name] = close(name, (got - expected).abs().max().item(), 1e-4)
    return found


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


PARTS: dict[str, Part] = {
    "logits": logits,
    "kinds": kinds,
    "gradients": gradients,
    "inspect": inspect,
    "same_as_cpu": same_as_cpu,
    "settings": settings,
    "compiled": compiled,
    "predict": predict,
    "digits": digits,
}

if __name__ == "__main__":
    main()
