"""What the groups of a recipe share: frozen, closed to unknown keys; and the kinds of numbers in them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Size = tuple[Count, Count]


class Group(BaseModel):
    """A group of a recipe's keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
