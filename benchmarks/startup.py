"""From the start of a process to the first label: vitrail against timm, transformers and torchvision.

    python benchmarks/startup.py [--variant B/16] [--rounds 5] [--seconds 180]

A process is started, opens the model, labels one photograph and prints the label; the time ends when that line has come.
Sides take turns, in an order that is swapped every round; a round before the first fills the system's cache of files and is
not counted. *vitrail, predict* is the command. Of an exported model the compiled form that OpenVINO keeps is there already
(*warm*) or not. Weights are random. --prepare makes the models and exports (minutes, for int8), which are kept in --work, and
measures nothing. Writes benchmarks/results/startup.json and docs/benchmarks/startup.md; ``--tiny`` tries it out.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import exports
import index
from limits import limits
from measure import machine, versions, without_paths
from photographs import photographs

SIDE = Path(__file__).with_name("startup_side.py")
CALIBRATION = 64
NAMES = ("torch", "timm", "transformers", "torchvision", "openvino", "onnxruntime", "nncf", "vitrail")
AIMS = {  # of seconds, or of timm's time
    "vitrail, openvino float32, warm": "1.2 s",
    "vitrail, openvino int8, warm": "0.8 s",
    "vitrail, torch": "0.6 of timm",
}


@dataclass
class Way:
    """A command, and what it has taken."""

    command: list[str]
    cold: bool = False
    """Whether no compiled model is to be there."""
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    label: str = ""


def main() -> None:
    options = parsed()
    work = Path(options.work)
    ways, folders, errors = made(work, options)
    if options.prepare:
        return
    begun, longest = time.monotonic(), 0.0
    for number in range(-1, options.rounds):
        start = time.monotonic()
        if number > 0 and start - begun + longest > options.seconds:
            print(f"{number} of {options.rounds} rounds fit into {options.seconds:.0f} s")
            break
        for name in list(ways)[:: -1 if number % 2 else 1]:
            try:
                once(ways[name], work, count=number >= 0)
            except RuntimeError as error:
                errors[name] = str(error)
                print(f"{name}: left out: {error}")
                del ways[name]
                continue
            if ways[name].seconds:
                print(f"{name}: {ways[name].seconds[-1]:.2f} s", flush=True)
        longest = max(longest, time.monotonic() - start)
    results = {
        "settings": vars(options),
        "rows": {
            name: {
                "seconds": statistics.median(way.seconds),
                "against_timm": None if "timm" not in ways else against(way, ways["timm"]),
                "rounds": way.seconds,
                "peak_bytes": way.peak_bytes,
            }
            for name, way in ways.items()
        },
        "errors": errors,
        "exports": {name: exports.said(folder) for name, folder in folders.items()},
        "machine": machine(torch.device("cpu")),
        "versions": versions(*NAMES),
        "limits": limits(torch.device("cpu")),
    }
    index.record("startup", results, page(without_paths(results)), trial=options.tiny)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="B/16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--work", default=str(exports.WORK), help="where models and exports are kept")
    parser.add_argument("--fresh", action="store_true", help="write the exports anew")
    parser.add_argument("--prepare", action="store_true", help="only make what is kept")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script out")
    return parser.parse_args()


def made(work: Path, options: argparse.Namespace) -> tuple[dict[str, Way], dict[str, Path], dict[str, str]]:
    """The commands, with the models that they open."""
    model = exports.random_model(work, options.variant, tiny=options.tiny)
    theirs = exports.for_transformers(work, model)
    photograph = photographs(work, None, 1, 500).paths[0]
    pictures = Path(photographs(work, None, 8 if options.tiny else CALIBRATION, 300, part=1).folder)
    folders: dict[str, Path] = {}
    errors: dict[str, str] = {}
    for name, form, calibrate in (
        ("openvino float32", "openvino", None),
        ("openvino int8", "openvino", pictures),
        ("onnxruntime float32", "onnx", None),
    ):
        how: dict[str, Any] = {} if calibrate is None else {"calibrate": calibrate, "max_loss": 100}
        exports.attempt(folders, errors, name, work, model, form, fresh=options.fresh, **how)

    def side(kind: str, folder: Path, *more: str) -> list[str]:
        return [sys.executable, str(SIDE), kind, str(folder), photograph, *more]

    ways = {
        "timm": Way(side("timm", model)),
        "transformers": Way(side("transformers", theirs)),
        "vitrail, torch": Way(side("vitrail", model)),
        "vitrail, predict": Way(
            [sys.executable, "-m", "vitrail", "predict", str(model), photograph, "--format", "jsonl"]
        ),
    }
    if options.variant == "B/16" and not options.tiny:
        ways["torchvision"] = Way(side("torchvision", for_torchvision(work, model)))
    for name, folder in folders.items():
        runtime, precision = name.split()
        if runtime == "openvino":
            ways[f"vitrail, {name}, cold"] = Way(side("vitrail", folder, runtime), cold=True)
        warm = ", warm" if runtime == "openvino" else ""
        ways[f"vitrail, {name}{warm}"] = Way(side("vitrail", folder, runtime))
        if (runtime, precision) == ("openvino", "int8"):
            command = [sys.executable, "-m", "vitrail", "predict", str(folder), photograph, "--format", "jsonl"]
            ways[f"vitrail, predict, {name}, warm"] = Way(command)
    return ways, folders, errors


def for_torchvision(work: Path, model: Path) -> Path:
    """The model's weights under torchvision's names."""
    from vitrail.weights.convert import convert
    from vitrail.weights.load import load

    file = work / f"torchvision-{exports.digest(model)}.safetensors"
    if not file.exists():
        convert(load(model), "torchvision", file)
    return file


def once(way: Way, work: Path, *, count: bool) -> None:
    """Start the process, and wait for its label.

    Raises:
        RuntimeError: it gives none; with its last words.
    """
    cache = work / "runtime-cache" / ("cold" if way.cold else "warm")
    if way.cold:
        shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(cache)}
    time.sleep(0.2)
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            way.command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
            rest = process.stdout.read()
        errors.seek(0)
        words = errors.read().decode(errors="replace").strip().splitlines()
    if process.returncode or not line:
        raise RuntimeError(words[-1] if words else f"status {process.returncode}")
    way.label = line
    if rest.startswith("memory: "):
        way.peak_bytes = max(way.peak_bytes, int(rest.split()[1]))
    if count:
        way.seconds.append(seconds)


def against(way: Way, timm: Way) -> float:
    """The part of timm's time that it takes: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(way.seconds, timm.seconds, strict=True))


def page(results: dict[str, Any]) -> list[str]:
    """The lines of the page."""
    rows = results["rows"]
    rounds = min((len(row["rounds"]) for row in rows.values()), default=0)
    lines = [
        "# From the start to the first label",
        "",
        "`python benchmarks/startup.py` measures it; this page is its output.",
        "",
        f"{results['settings']['variant']} with random weights and one photograph of 500 px, on a CPU: seconds from the start "
        f"of a process until its first label has come, median of {rounds} rounds in which all take turns, and the range; files "
        "are in the system's cache. *predict* is the command `vitrail predict`, the others of vitrail are `Predictor` in "
        "Python. *warm*: the compiled form that OpenVINO keeps in the user's cache is there.",
        "",
        "| side | seconds | of timm's time | aim | memory, GB |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        least, most, part = min(row["rounds"]), max(row["rounds"]), row["against_timm"]
        memory = f"{row['peak_bytes'] / 1e9:.2f}" if row["peak_bytes"] else ""
        lines.append(
            f"| {name} | {row['seconds']:.2f} ({least:.2f} to {most:.2f}) | {'' if part is None else f'{part:.2f}'} "
            f"| {AIMS.get(name, '')} | {memory} |"
        )
    for side, error in results["errors"].items():
        lines.append(f"\n{side} is not there: {error}")
    return [*lines, "", index.measured_on(results)]


if __name__ == "__main__":
    main()
