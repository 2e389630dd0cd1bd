"""The layout's arrows point down: a module imports only from its own layer or from lower ones."""

import ast
import sys
from pathlib import Path

import pytest

import vitrail

ROOT = Path(vitrail.__file__).parent
# What each part may import from the rest of the package. ``errors`` may be imported by all.
ALLOWED = {
    "errors": set(),
    "device": set(),
    "model": set(),
    "data": set(),
    "weights": {"model", "data"},
    "evaluation": {"model", "data", "weights"},
    "report": {"model", "data", "weights", "evaluation"},
    "recipes": {"model", "data"},
    "doctor": {"model", "data", "weights", "runtimes"},
    "inputs": {"data"},
    "batch": {"data", "weights", "inputs"},
    "runtimes": {"model", "data", "weights", "evaluation", "inputs"},
    "prediction": {"device", "model", "data", "inputs", "weights", "runtimes"},
    "inspection": {"device", "model", "data", "weights", "evaluation", "prediction", "studies"},
    "training": {"device", "model", "data", "weights", "evaluation", "report", "recipes"},
    "studies": {"device", "model", "data", "weights", "evaluation", "report", "recipes", "training"},
    "cli": {
        *("device", "model", "data", "inputs", "batch", "weights", "doctor", "runtimes"),
        *("evaluation", "report", "recipes", "training", "prediction", "studies", "inspection"),
    },
    "__init__": {
        "model",
        "data",
        "weights",
        "evaluation",
        "recipes",
        "training",
        "prediction",
        "studies",
        "inspection",
    },
    "__main__": {"cli"},
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_arrow_points_up(path: Path) -> None:
    own = part(path)
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("vitrail.")}
    parts = {p for p in parts if p in ALLOWED}
    assert parts - {own, "errors"} <= ALLOWED[own], f"{own} must not import {parts - {own, 'errors'} - ALLOWED[own]}"


@pytest.mark.parametrize("path", sorted((ROOT / "model").rglob("*.py")), ids=lambda p: p.name)
def test_the_model_imports_torch_alone(path: Path) -> None:
    outside = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names) - {"vitrail", "torch"}
    assert outside == set()


def test_the_packages_parts_are_all_known() -> None:
    assert {part(path) for path in modules()} == set(ALLOWED)
