"""The recipe's group ``resolution``: several image sizes and patch sizes in one run, as a person writes them."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vitrail.data.preprocess import LARGEST_SIDE
from vitrail.recipes.fields import Count, Group, Positive, Size

_RANGE = re.compile(r"\s*(\d+)\s*-\s*(\d+)\s*")
_PAIR = re.compile(r"(\d+)(?:\s*[xX×]\s*(\d+))?")
_SIZES = "write a list such as [160, 224, [384, 256]] or a range such as 112-336"


class Resolution(Group):
    """The sizes and patch sizes that training goes through; by default the model's own alone.

    What is here stands as the person wrote it; which sizes and patch sizes go together, the model decides
    (``training.resolution``).
    """

    sizes: tuple[int | Size, ...] | str | None = Field(
        None, description="image sizes in training: a list such as [160, 224, [384, 256]], or a range such as 112-336"
    )
    scales: tuple[Positive, ...] | None = Field(
        None, description="the same as factors of image_size, such as [0.5, 1, 2], rounded to whole patches"
    )
    patch_sizes: tuple[Count, ...] | None = Field(
        None, description="patch sizes in training, such as [8, 16, 32]; the linear stem's matrix is resized to each"
    )
    order: Literal["random", "rising"] = Field(
        "random", description="random: drawn anew for each step; rising: from the fewest tokens to the most"
    )

    @field_validator("sizes", mode="before")
    @classmethod
    def _parse_sizes(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str) and (ends := _RANGE.fullmatch(value)):
            low, high = int(ends[1]), int(ends[2])
            _check_side(low, high)
            if low >= high:
                raise ValueError("a range is written from its smaller end to its larger one, such as 112-336")
            return f"{low}-{high}"
        return _distinct([_size(part) for part in _listed(value, _SIZES)])

    @field_validator("scales", "patch_sizes", mode="before")
    @classmethod
    def _parse_numbers(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            words = _listed(value, "")
            value = [float(word) if re.fullmatch(r"\d*\.\d+", word) else word for word in words]
        return _distinct(_listed(value, "write a list, such as [1, 2]"))

    @field_validator("scales")
    @classmethod
    def _possible(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and max(value) > LARGEST_SIDE:
            raise ValueError("factors of image_size such as [0.5, 1, 2] are meant")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> "Resolution":
        if self.sizes is not None and self.scales is not None:
            raise ValueError("give resolution.sizes or resolution.scales, not both")
        if self.order == "rising" and not self.varies:
            raise ValueError("resolution.order rising has nothing to order: give sizes, scales or patch_sizes too")
        return self

    @property
    def varies(self) -> bool:
        """Whether a run has more than the model's own size and patch size."""
        return (self.sizes, self.scales, self.patch_sizes) != (None, None, None)

    @property
    def ends(self) -> tuple[int, int] | None:
        """Of a range of sizes, the ends; else None."""
        if not isinstance(self.sizes, str):
            return None
        low, high = self.sizes.split("-")
        return int(low), int(high)

    def middle(self, step: int) -> Size | None:
        """The size in the middle of those listed, or of a range to whole steps of pixels; None where there are none.

        A model that is trained for these sizes has its own grid of positions there, unless a person names one.
        """
        if self.sizes is None:
            return None
        if self.ends is not None:
            low, high = self.ends
            side = max(-(-low // step), min(high // step, round((low + high) / 2 / step))) * step
            return max(side, step), max(side, step)
        assert not isinstance(self.sizes, str)
        pairs = sorted(map(as_pair, self.sizes), key=lambda size: size[0] * size[1])
        return pairs[len(pairs) // 2]


def as_pair(size: int | Size) -> Size:
    """Height and width of a size as a recipe has it: one number is a square."""
    return (size, size) if isinstance(size, int) else size


def _listed(value: Any, hint: str) -> list[Any]:
    """The members of a list, or of a text with commas between them, as options and ``--set`` give it."""
    if isinstance(value, str):
        value = [part.strip() for part in value.strip().strip("[]").split(",")]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, Sequence):
        raise ValueError(hint)
    if not len(value):
        raise ValueError("name at least one, or leave the key out")
    return list(value)


def _size(value: Any) -> int | Size:
    """One size, 224, [384, 256] or 384x256 (height, then width)."""
    if isinstance(value, str) and (match := _PAIR.fullmatch(value)):
        value = [int(side) for side in match.groups() if side is not None]
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if not 1 <= len(sides) <= 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise ValueError(_SIZES)
    _check_side(*sides)
    return sides[0] if len(set(sides)) == 1 else (sides[0], sides[1])


def _check_side(*sides: int) -> None:
    for side in sides:
        if not 1 <= side <= LARGEST_SIDE:
            raise ValueError(f"a side has 1 to {LARGEST_SIDE} pixels")


def _distinct(values: list[Any]) -> tuple[Any, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"each is written once, and {value} is there twice")
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)
