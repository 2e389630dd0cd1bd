"""Recipes from and to files and the command line: ``load``, ``changed`` (for ``--set``), ``save``.

The shipped recipes are the YAML files beside this module; a person's own is the same kind of file.
"""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vitrail.errors import UserError, did_you_mean
from vitrail.model import is_resnet
from vitrail.recipes.recipe import MODEL_KEYS, Recipe, kept_with, known_keys


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in files("vitrail.recipes").iterdir() if f.name.endswith(".yaml"))


def text(name: str | Path) -> str:
    """The YAML text of a recipe, by its shipped name or the path of a file."""
    if str(name) in shipped():
        return files("vitrail.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or os.sep in str(name):
        if not path.is_file():
            raise UserError(f"no such recipe file: {path}")
        return path.read_text(encoding="utf-8")
    raise UserError(f"unknown recipe {str(name)!r}: {did_you_mean(str(name), shipped())}, or a path ending in .yaml")


def load(name: str | Path) -> Recipe:
    """Read a recipe by its shipped name or the path of a YAML file; values that it leaves out have their defaults."""
    try:
        values = yaml.safe_load(text(name))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"recipe {name} must be a mapping of keys to values, such as 'epochs: 10'")
    return from_dict(values, where=f"recipe {name}")


def from_dict(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from nested plain values; what is wrong is a UserError that names the key and what would be accepted."""
    try:
        return Recipe(**values)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_error(error)}") from error


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A copy with values changed by their paths: ``{"optimizer.lr": 3e-4, "model.pool": "avg"}``.

    Giving ``epochs`` takes ``steps`` away, and the reverse; so do the two lengths of the warm-up, and the sizes and scales
    of ``resolution``. Naming a variant takes away the recipe's own sizes and stem, and what a model of that kind does not
    have (pooling and positions, and dropout, of a ResNet), but not its other choices.
    """
    values = recipe.model_dump()
    if "model.variant" in changes:
        named = str(changes["model.variant"])
        values["model"] = {key: value for key, value in values["model"].items() if kept_with(named, key)}
        if is_resnet(named):
            # the recipe's own; a person's comes below, and is refused
            values["regularization"] |= {"dropout": 0.0, "attention_dropout": 0.0}
    for path, value in changes.items():
        group, keys = values, path.split(".")
        for depth, key in enumerate(keys):
            valid = MODEL_KEYS if keys[:depth] == ["model"] else list(group) if isinstance(group, dict) else []
            if key not in valid:
                where = ".".join(keys[:depth])
                hint = did_you_mean(path, known_keys()) if not where else did_you_mean(key, valid)
                raise UserError(f"unknown key {path!r}: {hint}")
            if depth < len(keys) - 1:
                group = group[key]
        example = next(iter(group[keys[-1]]), "variant") if isinstance(group.get(keys[-1]), dict) else None
        if example and not isinstance(value, dict):
            raise UserError(f"{path} is a group: set one of its keys, such as {path}.{example}")
        group[keys[-1]] = value
        for one, other in (("epochs", "steps"), ("warmup_epochs", "warmup_steps"), ("sizes", "scales")):
            if keys[-1] in (one, other) and value is not None:
                group[other if keys[-1] == one else one] = None
    return from_dict(values)


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """The ``key=value`` strings of ``--set``, values read as YAML: ``1e-3``, ``true``, ``[0.1, 1]``."""
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting}: write it as key=value, such as optimizer.lr=3e-4")
        parsed[key.strip()] = _scalar(value)
    return parsed


def paths(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their paths: ``{"optimizer": {"lr": 1}}`` -> ``{"optimizer.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= paths(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def save(recipe: Recipe, path: Path, comments: Sequence[str] = ()) -> None:
    """Write every value as YAML, below ``comments``, one a line."""
    values = yaml.safe_dump(recipe.to_dict(), sort_keys=False, default_flow_style=None)
    path.write_text("".join(f"# {' '.join(line.split())}\n" for line in comments) + values, encoding="utf-8")


def comments(path: Path) -> list[str]:
    """The comments that ``save`` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in itertools.takewhile(lambda line: line.startswith("# "), lines)]


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string, for want of a dot
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {path!r}: {did_you_mean(path, known_keys())}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
    return f"{path}: {message}{got}" if path else message
