"""The index of the measurements, docs/benchmarks.md: one line for each page, with its headline from its own results.

    python benchmarks/index.py

Each benchmark writes it anew when it has written its page.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from measure import PAGES, RESULTS, ROOT, without_paths, write_json

Results = Mapping[str, Any]
TARGET = ROOT / "docs" / "benchmarks.md"
HEAD = """\
# Benchmarks

How fast vitrail is beside the libraries that people use today, each by one command of `benchmarks/` that anyone can run \
(`pip install -e '.[dev]'` installs all of them). Ratios are of one run in which all sides take turns; the pages say \
on which machine, and what it can do at most. Every line is the latest run of its command.

| page | command | headline |
|---|---|---|"""


def main() -> None:
    write()
    print(TARGET.read_text(encoding="utf-8"))


def write() -> None:
    """Write the page from whatever results are there."""
    TARGET.write_text("\n".join([HEAD, *rows()]) + "\n", encoding="utf-8")


def record(name: str, results: Results, lines: Sequence[str], *, trial: bool) -> None:
    """Write a benchmark's results, its page and the index; of a trial, print the page and write nothing."""
    print("\n".join(lines))
    if trial:
        json.dumps(results)
        return
    write_json(RESULTS / f"{name}.json", without_paths(results))
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write()


def rows() -> list[str]:
    """A line for each page that has results."""
    lines = []
    for name, (title, headline) in PAGES_OF.items():
        file = RESULTS / f"{name}.json"
        if not file.exists() or not (PAGES / f"{name}.md").exists():
            continue
        text = headline(json.loads(file.read_text(encoding="utf-8")))
        lines.append(f"| [{title}](benchmarks/{name}.md) | `python benchmarks/{name}.py` | {text} |")
    return lines


def measured_on(results: Results) -> str:
    """The machine of a run, the versions and the measured limits, as a line of its page."""
    machine, found = results["machine"], results.get("limits", {})
    versions = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    text = f"Measured on {machine['device']}, {machine['cores']} cores, Python {machine['python']}, {versions}."
    if not found:
        return text
    products = [f"{name} {found[name] / 1e9:,.0f}" for name in found if name not in ("copy", "triad")]
    return (
        f"{text} In the same run: matrix products of 2048 x 2048 at {', '.join(products)} G operations/s, a copy of memory at "
        f"{found['copy'] / 1e9:.1f} GB/s, a triad at {found['triad'] / 1e9:.1f} GB/s."
    )


def _file_to_label(results: Results) -> str:
    ratios = [
        (side, row["ratios"]["transformers"], row["ratios"]["timm"])
        for side, row in results["rows"].items()
        if side.startswith("vitrail") and {"transformers", "timm"} <= row["ratios"].keys()
    ]
    return "; ".join(
        f"{side.partition(', ')[2]} {a:.2f} times transformers, {b:.2f} times timm" for side, a, b in ratios
    )


def _forward(results: Results) -> str:
    from forward import AIMS, best_ratio

    parts = []
    for precision, aims in AIMS.items():
        found = [(batch, best_ratio(results, precision == "int8", batch)) for batch in aims]
        words = ", ".join(f"{value:.2f} at batch {batch}" for batch, value in found if value is not None)
        parts += [f"{precision} {words}"] if words else []
    return f"best engine against timm: {'; '.join(parts)}"


def _startup(results: Results) -> str:
    rows = results["rows"]
    words = [
        f"{side.partition(', ')[2]} {row['seconds']:.2f} s" for side, row in rows.items() if side.startswith("vitrail")
    ]
    peers = [f"{side} {rows[side]['seconds']:.2f} s" for side in ("timm", "transformers") if side in rows]
    return f"first label after: {'; '.join([*words, *peers])}"


def _train_step(results: Results) -> str:
    words = [
        f"{row['variant']} {row['ratios'][side]:.2f}{'' if side == 'vitrail' else side.removeprefix('vitrail,')}"
        for row in results["rows"]
        for side in row["ratios"]
    ]
    return f"images/s against timm: {'; '.join(words)}"


def _cheaper_steps(results: Results) -> str:
    return "top-1 in equal epochs: " + "; ".join(
        f"{name} {statistics.mean(row['top1']):.1%}" for name, row in results["rows"].items()
    )


def _data(results: Results) -> str:
    rows = results["rows"]
    plain = ", ".join(
        f"{row['ratio']:.2f} ({row['task']} at {row['longest_side']} px)" for row in rows if "cache" not in row["task"]
    )
    cached = [row["ratio"] for row in rows if "cache" in row["task"]]
    more = f"; from the cache at least {min(cached):.1f}" if cached else ""
    return f"images/s against torchvision on PIL: {plain}{more}"


def _load(results: Results) -> str:
    rows = results["rows"]
    part = rows["vitrail"]["load_seconds"] / rows["timm"]["load_seconds"]
    return f"B/16 in {part:.2f} of timm's time, with {rows['vitrail']['memory']:.2f} of the weights' memory"


def _checkpoint(results: Results) -> str:
    row = results["rows"][0]
    shares = row["shares"]
    every = min(shares["beside"], key=int)
    return (
        f"one every {every} steps takes {shares['beside'][every]:.1%} of the time, written in the loop "
        f"{shares['in the loop'][every]:.1%}"
    )


def _studies(results: Results) -> str:
    seconds = results["seconds"]
    pairs = zip(seconds["loop"], seconds["study"], strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.2f} times the runs of a loop"


def _inspection(results: Results) -> str:
    found = results["ways"]["map"]
    part = statistics.median(a / b for a, b in zip(found["seconds"], found["plain"], strict=True))
    return f"an attention map of 1024 px in {part:.2f} of a plain forward pass, {found['bytes'] / 1e9:.1f} GB"


def _packing(results: Results) -> str:
    return "speed and accuracy of packed, padded and squashed images"  # its page has later speeds than these results


def _pixels(results: Results) -> str:
    checked = [row["ours"] for row in results["rows"]]
    beyond = max(row["beyond_one"] / row["values"] for row in checked)
    return f"{len(checked)} published contracts: at most {1e6 * beyond:.1f} values a million off by more than one level"


def _gpu(results: Results) -> str:
    best = (
        f"{key.partition('-')[2]} on {card} at {row['share']['vitrail']:.0%} of the bf16 peak, "
        f"{row['ratios']['timm compiled']:.2f} times timm compiled"
        for card, found in results.items()
        for key, row in found.items()
        if key.startswith("train-")
    )
    return "training: " + "; ".join(best)


PAGES_OF: Mapping[str, tuple[str, Callable[[Results], str]]] = {
    "file_to_label": ("file to label", _file_to_label),
    "forward": ("forward pass", _forward),
    "startup": ("start to first label", _startup),
    "load": ("loading a model", _load),
    "train_step": ("training step", _train_step),
    "cheaper_steps": ("cheaper training steps", _cheaper_steps),
    "data": ("input pipeline", _data),
    "checkpoint": ("checkpoints", _checkpoint),
    "gpu": ("on a GPU", _gpu),
    "studies": ("studies", _studies),
    "packing": ("own aspect ratios", _packing),
    "inspection": ("looking inside", _inspection),
    "pixels": ("pixels of published contracts", _pixels),
}


if __name__ == "__main__":
    main()
