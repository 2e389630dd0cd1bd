"""What the benchmarks share: timing in alternation, medians and ratios, the machine in words, results written at once."""

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "benchmarks"


def synchronize(device: torch.device) -> None:
    """Wait for the device's work; a CPU has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Seconds of one call, the mean of ``repeats`` in a row, its work on the device included."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def alternate(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, repeats: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call, one for each round; all take their turn in every round, the order swapped every round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[:: 1 if number % 2 else -1]:
            times[name].append(timed(calls[name], device, repeats))
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times faster the second is: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def machine(device: torch.device) -> dict[str, str]:
    """Where it was measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": name,
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(*names: str) -> dict[str, str]:
    """The versions of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def without_paths(values: Any) -> Any:
    """Plain values, with the last part alone of every absolute path: results say nothing of a machine's folders."""
    if isinstance(values, dict):
        return {key: without_paths(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [without_paths(value) for value in values]
    if isinstance(values, str):
        return re.sub(r"(?<![\w.:])(?:[A-Za-z]:)?(?:[/\\][\w.+ -]*?)+[/\\]([\w.+-]+)", r"\1", values)
    return values


def write_json(path: Path, values: Any) -> None:
    """Write the results so far, so that a run that is cut off leaves them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
