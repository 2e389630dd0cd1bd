"""Study: a question, the arms that answer it, and how they are compared. Each arm is a change of the recipe.

Nothing here imports torch.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vitrail.errors import did_you_mean
from vitrail.recipes.files import paths
from vitrail.recipes.recipe import Count, Group, Positive, known_keys

Changes = dict[str, Any]
"""Recipe values by their paths, such as ``{"model.pool": "avg"}``; nested groups are flattened when they are read."""
# What an arm may say beside recipe keys.
_OF_ARM = ("choose", "lr")


def _flat(values: Any) -> Any:
    return paths(values) if isinstance(values, dict) else values


def _known(changes: Changes) -> Changes:
    valid = known_keys()
    for key in changes:
        if key not in valid:
            raise ValueError(f"unknown recipe key {key!r}: {did_you_mean(key, valid)}")
    return changes


class Arm(Group):
    """One of the things compared: the recipe with a change."""

    changes: Changes = Field(default_factory=dict, description="what this arm changes, by recipe keys")
    choose: tuple[Changes, ...] = Field(
        (),
        description="alternatives: the nearest in cost to the arm that match.to names, else the first that can be built",
    )
    lr: tuple[Positive, ...] | None = Field(None, description="learning rates of this arm; null for the study's")

    @model_validator(mode="before")
    @classmethod
    def _from_mapping(cls, values: Any) -> Any:
        """``{"model.pool": "avg", "lr": [1e-3]}`` as it stands in a file: what is not said of the arm changes the recipe."""
        if not isinstance(values, dict) or "changes" in values:
            return values
        own = {key: value for key, value in values.items() if key in _OF_ARM}
        return {**own, "changes": {key: value for key, value in values.items() if key not in own}}

    @field_validator("changes", mode="before")
    @classmethod
    def _flat_changes(cls, values: Any) -> Any:
        return _flat(values)

    @field_validator("choose", mode="before")
    @classmethod
    def _flat_choices(cls, values: Any) -> Any:
        return [_flat(value) for value in values] if isinstance(values, list | tuple) else values

    @model_validator(mode="after")
    def _check(self) -> "Arm":
        for changes in (self.changes, *self.choose):
            _known(changes)
        return self


class Along(Group):
    """The quantity on the horizontal axis: every arm is trained at each value of one recipe key."""

    key: str = Field(description="a recipe key, such as data.fraction")
    values: Annotated[tuple[Any, ...], Field(min_length=2)] = Field(description="its values, in order")
    label: str = Field("", description="what the axis is called")

    @field_validator("values", mode="before")
    @classmethod
    def _hashable(cls, values: Any) -> Any:
        return tuple(tuple(v) if isinstance(v, list) else v for v in values) if isinstance(values, list) else values

    @field_validator("key")
    @classmethod
    def _known_key(cls, key: str) -> str:
        _known({key: None})
        return key


class Match(Group):
    """Arms that are to cost the same as one of them."""

    to: str = Field(description="name of the arm that the others are matched to")
    by: Literal["flops", "parameters"] = Field("flops", description="flops of one image, or parameters")


class Study(Group):
    """All that decides what a study trains and how it is read. Refuses unknown keys and impossible values, by name."""

    title: str = Field(description="a few words")
    question: str = Field(description="what the study asks, in a sentence or two")
    method: str = Field("", description="what is compared with what and what is held equal, for the reader of the page")
    view: Literal["arms", "rates", "along", "cost"] = Field(
        "arms",
        description="what the figure shows: the arms side by side, accuracy against the learning rate, against the "
        "values of along, or against FLOPs",
    )
    arms: Annotated[dict[str, Arm], Field(min_length=2)] = Field(description="name -> change of the recipe")
    reference: str = Field(description="the arm that the others are compared with, pair by pair")
    lr: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        description="learning rates: each arm is judged at the one that is best for it on the validation images"
    )
    seeds: Annotated[int, Field(ge=2)] = Field(3, description="runs of each arm, each with its own seed")
    sweep_seeds: Count | None = Field(
        None, description="seeds that try every learning rate; the others take the chosen one alone. null: all"
    )
    along: Along | None = Field(None, description="the quantity on the horizontal axis, if there is one")
    match: Match | None = Field(None, description="which arms are to cost the same")
    recipe: Changes = Field(default_factory=dict, description="what all arms change in the recipe that suits the data")
    digits: Changes = Field(default_factory=dict, description="what they change besides on the built-in digits")
    start: Arm | None = Field(None, description="the arm that every --init MODEL adds; null: the study takes no --init")
    most_tokens: Count | None = Field(None, description="arms with longer sequences are left out, which is said")

    @field_validator("recipe", "digits", mode="before")
    @classmethod
    def _flat_changes(cls, values: Any) -> Any:
        return _flat(values)

    @model_validator(mode="after")
    def _check(self) -> "Study":
        _known(self.recipe)
        _known(self.digits)
        for what, name in (("reference", self.reference), ("match.to", self.match.to if self.match else None)):
            if name is not None and name not in self.arms:
                raise ValueError(f"{what} {name!r} is none of the arms: {did_you_mean(name, list(self.arms))}")
        if self.view == "along" and self.along is None:
            raise ValueError("view along needs along: a recipe key and its values")
        if self.sweep_seeds is not None and self.sweep_seeds > self.seeds:
            raise ValueError(f"sweep_seeds {self.sweep_seeds} is more than the {self.seeds} seeds")
        return self
