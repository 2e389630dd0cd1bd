"""Loading ViT-B/16 from safetensors: time and memory of vitrail against timm and transformers, a fresh process each.

    python benchmarks/load.py [--rounds 9]

The same random weights in float32 lie in a model folder that vitrail wrote, which timm opens as it is, and in one that
transformers wrote. Each library loads with its own ordinary call. Importing it (and torch) is timed apart. A round is one
process a library, with the order swapped every round; the files are in the system's cache. As a library may only map
the file and leave the reading to the first use, a second time ends when every weight has been added up once. Memory is
the highest that the process held up to then, above what it held before, divided by the bytes of the weights.
Writes benchmarks/results/load.json and docs/benchmarks/load.md.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
STATUS = Path("/proc/self/status")
MEMORY_AIM = 1.2
CALLS = {
    "vitrail": "vitrail.load(FOLDER)",
    "timm": 'timm.create_model("local-dir:FOLDER", pretrained=True)',
    "transformers": "ViTForImageClassification.from_pretrained(FOLDER)",
}


@dataclass(frozen=True)
class Measurement:
    """One process."""

    import_seconds: float
    load_seconds: float
    read_seconds: float
    """Until every weight has been added up once."""
    peak_bytes: int
    """The highest that the process held until then, above what it held before loading."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "FOLDER"), help=argparse.SUPPRESS)  # a round's process
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asdict(measure(*arguments.one))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folders = write_models(Path(temporary))
        sizes = {library: weights_bytes(folder) for library, folder in folders.items()}
        measured: dict[str, list[Measurement]] = {library: [] for library in folders}
        for number in range(-1, arguments.rounds):  # the first fills the caches and is not counted
            for library in list(folders)[:: 1 if number % 2 else -1]:
                one = in_a_process(library, folders[library])
                print(f"{library}: {one.load_seconds:.2f} s, {one.peak_bytes / sizes[library]:.2f} times the weights")
                if number >= 0:
                    measured[library].append(one)
    write(measured, sizes)


def write_models(folder: Path) -> dict[str, Path]:
    """Library -> a folder that it opens, all with random weights."""
    import torch

    import vitrail

    torch.manual_seed(0)
    model = vitrail.ViT(vitrail.variant("B/16", classes=1000))
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor, std=0.02)
    model.labels = tuple(f"class {number}" for number in range(1000))
    vitrail.save(model, folder / "vitrail")
    folders = {"vitrail": folder / "vitrail", "timm": folder / "vitrail"}
    if find_spec("transformers"):
        from transformers import ViTConfig, ViTForImageClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(folder / "transformers")
        folders["transformers"] = folder / "transformers"
    return folders


def weights_bytes(folder: Path) -> int:
    """Bytes of a folder's weights."""
    return (folder / "model.safetensors").stat().st_size


def in_a_process(library: str, folder: Path) -> Measurement:
    command = [sys.executable, __file__, "--one", library, str(folder)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def measure(library: str, folder: str) -> Measurement:
    """Import the library and load the folder's model, in this process, which has done nothing else."""
    start = time.perf_counter()
    load = _imported(library, folder)
    imported = time.perf_counter()
    before = memory("VmRSS")
    model = load()
    loaded = time.perf_counter()
    for parameter in model.parameters():
        parameter.sum()
    read = time.perf_counter()
    return Measurement(imported - start, loaded - imported, read - imported, memory("VmHWM") - before)


def _imported(library: str, folder: str) -> Callable:
    """The library's ordinary call, of which nothing remains to be done but the call."""
    import torch  # noqa: F401

    if library == "vitrail":
        import vitrail

        vitrail.load  # noqa: B018  # public names are imported on first use
        return lambda: vitrail.load(folder)
    if library == "timm":
        import timm

        return lambda: timm.create_model(f"local-dir:{folder}", pretrained=True)
    from transformers import ViTForImageClassification

    return lambda: ViTForImageClassification.from_pretrained(folder)


def memory(key: str) -> int:
    """Bytes that this process holds (VmRSS) or has held at most (VmHWM)."""
    if STATUS.exists():
        return int(STATUS.read_text().split(f"{key}:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write(measured: Mapping[str, list[Measurement]], sizes: Mapping[str, int]) -> None:
    """The JSON and the table."""
    rounds = len(measured["vitrail"])
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "safetensors", *measured))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    rows = {library: summary(ones, sizes[library]) for library, ones in measured.items()}
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    raw = {library: [asdict(one) for one in ones] for library, ones in measured.items()}
    (results / "load.json").write_text(json.dumps({"machine": machine, "rows": rows, "rounds": raw}, indent=1) + "\n")
    lines = [
        "# Loading a model",
        "",
        "`python benchmarks/load.py` measures it; this page is its output.",
        "",
        f"ViT-B/16 in float32 from safetensors ({sizes['vitrail'] / 1e6:.0f} MB, random weights, in the system's cache), "
        f"each time in a fresh process; median of {rounds} alternating rounds, and the range. timm opens the folder that vitrail "
        "wrote. transformers only maps the file, and reads it at the first use: hence the time until every weight has been "
        "added up once. Memory is the highest until then, above what the process held before loading, divided by the size "
        "of the weights. In vitrail's time the file is compared with the SHA-256 that its folder records, and every weight "
        "is looked at for NaN.",
        "",
        "| library | call | load, s | against timm's | every weight read, s | memory | import, s |",
        "|---|---|---|---|---|---|---|",
    ]
    timm = rows["timm"]["load_seconds"]
    for library, row in rows.items():
        lines.append(
            f"| {library} | `{CALLS[library]}` | {row['load_seconds']:.2f} "
            f"({row['load_least']:.2f} to {row['load_most']:.2f}) | {row['load_seconds'] / timm:.2f} | "
            f"{row['read_seconds']:.2f} | {row['memory']:.2f} | {row['import_seconds']:.1f} |"
        )
    lines += [
        "",
        f"The aims: vitrail loads with at most {MEMORY_AIM} times the memory of the weights, and takes no longer than "
        f"timm: {'met' if rows['vitrail']['memory'] <= MEMORY_AIM else 'missed'} and "
        f"{'met' if rows['vitrail']['load_seconds'] <= timm else 'missed'}.",
        "",
        f"Measured on {machine}.",
    ]
    (ROOT / "docs" / "benchmarks" / "load.md").write_text("\n".join(lines) + "\n")


def summary(ones: list[Measurement], size: int) -> dict[str, float]:
    loads = [one.load_seconds for one in ones]
    return {
        "load_seconds": statistics.median(loads),
        "load_least": min(loads),
        "load_most": max(loads),
        "read_seconds": statistics.median(one.read_seconds for one in ones),
        "memory": statistics.median(one.peak_bytes / size for one in ones),
        "import_seconds": statistics.median(one.import_seconds for one in ones),
    }


if __name__ == "__main__":
    main()
