"""The page of ``gpu.py``: what was measured on a GPU, as a table.

    python benchmarks/gpu_page.py FOLDER/gpu.json [...]

Each card has its part of the page, of all the files that were measured on one; of a table's row that is in several, the
last counts. Writes benchmarks/results/gpu.json and docs/benchmarks/gpu.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from measure import PAGES, RESULTS, write_json

SIDES = ("vitrail", "vitrail compiled", "timm", "timm compiled", "bf16 tokens")


AIMS = (
    "Aims for a training step on an H100: B/16 at 50 % of the bf16 peak, L/16 at 55 %, both met; 1.3 times timm compiled, "
    "missed. Both sides call the same library for matrix products and attention, which take 58 % of a B/16's step and 63 % of "
    "an L/16's, and compile the rest with the same compiler. What is left to gain is passes over memory: tokens in bf16 "
    "between the blocks save a quarter of them.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    cards: dict[str, dict[str, Any]] = {}
    for file in parser.parse_args().files:
        found = json.loads(file.read_text(encoding="utf-8"))
        cards.setdefault(found["machine"]["device"], {}).update(found)
    write_json(RESULTS / "gpu.json", cards)
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / "gpu.md").write_text("\n".join(page(cards)) + "\n", encoding="utf-8")


def page(cards: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the page."""
    lines = [
        "# On a GPU",
        "",
        "`python benchmarks/gpu.py` measures it, `python benchmarks/gpu_page.py` makes this page of it.",
        "",
        "Images of 224 px, random weights, medians of rounds in which all sides take turns. In brackets: the share of the bf16 "
        "peak measured in the same run, FLOPs counted from the configuration as vitrail computes it, a training step as three "
        "forward passes. (timm also computes what nothing reads in the last block: 7 % of a B/16, 3 % of an L/16.)",
    ]
    lines += ["", *AIMS]
    for name, results in cards.items():
        lines += ["", f"## {name}", "", *of_card(results)]
    return lines


def of_card(results: dict[str, Any]) -> list[str]:
    """What was measured on one card."""
    limits = results["limits"]
    peaks = ", ".join(
        f"{name} {limits[name] / 1e12:.0f}" for name in ("float32", "tf32", "bf16", "int8") if name in limits
    )
    lines = [
        f"{words(results['versions'])}; {results['settings']['rounds']} rounds. Measured in the same run: matrix products of "
        f"8192 x 8192 at {peaks} T operations/s, a copy at {limits['copy'] / 1e12:.2f} TB/s.",
    ]
    for kind, title, text in (
        (
            "train",
            "Training step",
            "From uint8 images in page-locked memory to moved weights: bf16 under autocast, label smoothing, clipping, fused "
            "AdamW. vitrail through its own training step, timm's model in a plain loop; bf16 tokens: vitrail with "
            "`precision: bf16-tokens`.",
        ),
        ("forward", "Forward pass", "Inference on images on the card, weights and images in bf16."),
    ):
        rows = {key: value for key, value in results.items() if key.startswith(f"{kind}-")}
        if rows:
            lines += ["", f"### {title}", "", text, "", *table(rows)]
    return lines + ways(results)


def table(rows: dict[str, Any]) -> list[str]:
    """Images a second of every side, its share of the peak, and the ratios."""
    sides = [side for side in SIDES if any(side in row["images_per_second"] for row in rows.values())]
    others = [side for side in sides if side.startswith("timm")]
    memory = any(row.get("peak_bytes", {}).get("vitrail") for row in rows.values())
    head = ["model", "batch", "compiled", *(f"{side}, images/s" for side in sides), *(f"to {side}" for side in others)]
    tokens = any("bf16 tokens" in row["images_per_second"] for row in rows.values())
    head += ["bf16 tokens to timm compiled"] * tokens
    head += ["memory, GB: vitrail, timm compiled"] * memory
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        compiled = row["compiled"]
        cells = [name.partition("-")[2], str(row["batch"]), f"{compiled['vitrail']}; timm {compiled['timm']}"]
        cells += [speed(row, side) for side in sides]
        cells += [f"{row['ratios'][side]:.2f}" for side in others]
        if tokens:
            value = row.get("bf16 tokens to timm compiled")
            cells.append("" if value is None else f"{value:.2f}")
        if memory:
            peaks = row["peak_bytes"]
            cells.append(", ".join(f"{peaks[side]['most'] / 1e9:.1f}" for side in ("vitrail", "timm compiled")))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def speed(row: dict[str, Any], side: str) -> str:
    """Images a second, and the share of the peak; nothing for a side that the model was not measured with."""
    if side not in row["images_per_second"]:
        return ""
    return f"{row['images_per_second'][side]:,.0f} ({row['share'][side]:.0%})"


def ways(results: dict[str, Any]) -> list[str]:
    """vitrail's step in several ways, with where its time goes."""
    lines: list[str] = []
    for key, found in results.items():
        if not key.startswith("ways-"):
            continue
        kinds = list(dict.fromkeys(kind for row in found["rows"] for kind in row.get("kernels", {})))
        lines += ["", f"### Ways to compute the step: {key.partition('-')[2]}", ""]
        lines += [f"Batch of {found['batch']}, one way after the other; kernels in milliseconds a step.", ""]
        lines.append("| " + " | ".join(["way", "images/s", "of the peak", *kinds]) + " |")
        lines.append("|---" * (3 + len(kinds)) + "|")
        for row in found["rows"]:
            cells = [row["way"], f"{row['images_per_second']:,.0f}", f"{row['share']:.1%}"]
            cells += [f"{row.get('kernels', {}).get(kind, 0):.1f}" for kind in kinds]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def words(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


if __name__ == "__main__":
    main()
