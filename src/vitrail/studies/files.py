"""Studies from files: the shipped ones are the YAML files beside this module, a person's own is the same kind of file."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vitrail.errors import UserError, did_you_mean
from vitrail.studies.study import Study


def shipped() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in files("vitrail.studies").iterdir() if f.name.endswith(".yaml"))


def load(name: str | Path) -> Study:
    """A study by its shipped name or the path of a YAML file.

    Raises:
        UserError: there is no such study, or something in it is wrong, named by its key.
    """
    try:
        values = yaml.load(_text(name), _Loader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"study {name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"study {name} must be a mapping of keys to values")
    try:
        return Study.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise UserError(f"study {name}: {_first_error(error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML without a key that stands twice, of which the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _text(name: str | Path) -> str:
    if str(name) in shipped():
        return files("vitrail.studies").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or os.sep in str(name):
        if not path.is_file():
            raise UserError(f"no such study file: {path}")
        return path.read_text(encoding="utf-8")
    raise UserError(f"unknown study {str(name)!r}: {did_you_mean(str(name), shipped())}, or a path ending in .yaml")


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {path!r}: {did_you_mean(path, list(Study.model_fields))}"
    message = first["msg"].removeprefix("Value error, ")
    value: Any = first["input"]
    got = "" if isinstance(value, dict | list | Study) else f", not {value!r}"
    return f"{path}: {message}{got}" if path else message
