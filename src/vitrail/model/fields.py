"""What the configurations share: documented fields, values as the types they are annotated with, errors by name.

Nothing here imports torch.
"""

from collections.abc import Collection, Mapping
from dataclasses import field, fields
from math import isfinite
from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args, get_type_hints

from vitrail.errors import UserError, did_you_mean

_LARGEST = 10**15  # of whole numbers: beyond, a file has been damaged or means harm


def doc(text: str, **kwargs: Any) -> Any:
    """A dataclass field with its description, which the command line and the docs show."""
    return field(metadata={"doc": text}, **kwargs)


def descriptions(config: type) -> dict[str, str]:
    """Field name -> its description, in the order of the class."""
    return {f.name: f.metadata["doc"] for f in fields(config)}


def settle(config: Any) -> None:
    """Give every field of a frozen configuration the plain Python type that it is annotated with, or refuse it by name."""
    for name, hint in get_type_hints(type(config)).items():
        object.__setattr__(config, name, as_type(name, getattr(config, name), hint))


def refuse_unknown(config: type, values: Mapping[str, Any]) -> None:
    """A UserError with the nearest valid name for the first value that is no field."""
    valid = [f.name for f in fields(config)]
    for name in values:
        if name not in valid:
            raise UserError(f"unknown model field {name!r}: {did_you_mean(name, valid)}")


def require(condition: bool, name: str, value: object, accepted: str) -> None:
    """Refuse a field's value by name, with what is accepted, unless the condition holds."""
    if not condition:
        raise UserError(f"model.{name} is {value}: it must be {accepted}")


def require_choice(name: str, value: object, valid: Collection[str]) -> None:
    """Refuse a value that is none of a few names."""
    if value not in valid:
        raise UserError(f"model.{name} is {value!r}: {did_you_mean(str(value), valid)}")


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values ready for JSON: tuples as lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def as_type(name: str, value: Any, hint: Any) -> Any:
    """A value as the plain Python type of its field; NumPy's integers are whole numbers, and those are numbers."""
    if name == "image_size":
        return _pair(value)
    if hint == tuple[int, ...]:
        return _whole_numbers(name, value)
    if hint == tuple[int, int] | None:
        return None if value is None else _two_numbers(name, value)
    kind, *others = get_args(hint) or (hint,)
    if kind is str or (value is None and NoneType in others):
        return value  # every string is one of a few choices, which ``require_choice`` checks and lists
    accepted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
    fits = {int: _is_whole, float: _is_number, bool: lambda v: isinstance(v, bool)}[kind](value)
    if not fits:
        raise UserError(f"model.{name} is {_short(value)}: it must be {accepted}{', or null' if others else ''}")
    return kind(value)


def _short(value: object) -> str:
    """A value for an error, which a stranger's file may have made very long."""
    text = "a very large number" if isinstance(value, int) and abs(value) >= _LARGEST else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def size_text(size: tuple[int, ...]) -> str:
    """Height x width as a person writes it."""
    return f"{size[0]}x{size[1]}"


def _whole_numbers(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not all(map(_is_whole, value)):
        raise UserError(f"model.{name} is {_short(value)}: it must be a list of whole numbers")
    return tuple(int(number) for number in value)


def _two_numbers(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(_is_whole, value)):
        raise UserError(f"model.{name} is {_short(value)}: it must be two whole numbers, or null")
    return tuple(int(number) for number in value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < _LARGEST


def _is_number(value: Any) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return isfinite(float(value))
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _pair(size: Any) -> tuple[int, int]:
    sides = (size, size) if _is_whole(size) else size
    if not isinstance(sides, tuple | list) or len(sides) != 2 or not all(map(_is_whole, sides)):
        raise UserError(f"image size {_short(size)}: it must be one whole number, or height and width")
    return int(sides[0]), int(sides[1])
