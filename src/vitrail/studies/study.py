"""Study: a question, the arms that answer it, and how they are compared. Each arm is a change of the recipe.

Nothing here imports torch.
"""

from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vitrail.errors import did_you_mean
from vitrail.recipes.files import paths
from vitrail.recipes.recipe import Count, Group, Positive, known_keys

Changes = dict[str, Any]
"""Recipe values by their paths, such as ``{"model.pool": "avg"}``; nested groups are flattened when they are read."""
# What an arm may say beside recipe keys.
_OF_ARM = ("choose", "lr", "against", "of")
# What an arm that is read from another's runs may change: how the trained model is brought to another size.
_OF_READING = ("model.position_interpolation",)


def _flat(values: Any) -> Any:
    return paths(values) if isinstance(values, dict) else values


# Keys that are the study's business, and where they are said instead.
_OF_STUDY = {
    "optimizer.lr": "write lr, of the study or of the arm",
    "seed": "write seeds",
    "evaluate.every": "a study evaluates a few times in every run",
    "checkpoint.keep": "the checkpoints of a finished run are deleted",
    "data.source": "name it with --data",
}
# Keys that decide which images are reported, so that no arm may have its own.
_OF_ALL_ARMS = ("data.val_fraction", "data.test_fraction", "data.skip_bad")


def check_keys(changes: Changes, *, of_arm: bool = False) -> None:
    """Refuse what is no recipe key, or one that is not for a study's recipe or one of its arms to say (ValueError)."""
    valid = known_keys()
    for key in changes:
        if key in _OF_STUDY:
            raise ValueError(f"{key}: {_OF_STUDY[key]}")
        if of_arm and key in _OF_ALL_ARMS:
            raise ValueError(f"{key} is the same for all arms: write it below recipe")
        if key not in valid and key not in ("model", "init"):
            raise ValueError(f"unknown recipe key {key!r}: {did_you_mean(key, valid)}")


def _different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, or a ValueError where two are alike in a folder's name."""
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"{name} is there twice")
    return values


def _plain_value(value: Any) -> Any:
    """A number for ``1e-3``, which YAML 1.1 reads as a word; a tuple for a list."""
    if isinstance(value, list | tuple):
        return tuple(_plain_value(part) for part in value)
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    if value is None or not isinstance(value, bool | int | float | str):
        raise ValueError(f"a number, a word or a list of these, not {value!r}")
    return value


class Arm(Group):
    """One of the things compared: the recipe with a change."""

    changes: Changes = Field(default_factory=dict, description="what this arm changes, by recipe keys")
    choose: tuple[Changes, ...] = Field(
        (),
        description="alternatives: the nearest in cost to the arm that match.to names, else the first that can be built",
    )
    lr: tuple[Positive, ...] | None = Field(None, description="learning rates of this arm; null for the study's")
    against: str | None = Field(None, description="the arm that it is compared with; null for the study's reference")
    of: str | None = Field(
        None,
        description="of a study of sizes: the arm whose trained models this one reads in another way, with no runs of its own",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_mapping(cls, values: Any) -> Any:
        """``{"model.pool": "avg", "lr": [1e-3]}`` as it stands in a file: what is not said of the arm changes the recipe."""
        if values is None:  # a name with nothing behind it
            return {}
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
            check_keys(changes, of_arm=True)
        _different(self.lr or ())
        if self.of is not None:
            self._check_reading()
        return self

    def _check_reading(self) -> None:
        """Refuse what an arm without training of its own cannot change."""
        if self.choose or self.lr:
            raise ValueError("of: an arm that reads the models of another has no lr and no alternatives of its own")
        if not self.changes or set(self.changes) - set(_OF_READING):
            raise ValueError(f"of: an arm that reads the models of another changes {_OF_READING[0]}, and nothing else")


class Along(Group):
    """The quantity on the horizontal axis: every arm is trained at each value of one recipe key."""

    key: str = Field(description="a recipe key, such as data.fraction")
    values: Annotated[tuple[Any, ...], Field(min_length=2)] = Field(description="its values, in order")
    label: str = Field("", description="what the axis is called")

    @field_validator("values", mode="before")
    @classmethod
    def _plain_values(cls, values: Any) -> Any:
        return tuple(_plain_value(value) for value in values) if isinstance(values, list | tuple) else values

    @model_validator(mode="after")
    def _check(self) -> "Along":
        check_keys({self.key: None}, of_arm=True)
        _different(self.values)
        return self


class Match(Group):
    """Arms that are to cost the same as one of them."""

    to: str = Field(description="name of the arm that the others are matched to")
    by: Literal["flops", "parameters"] = Field("flops", description="flops of one image, or parameters")


class Sizes(Group):
    """The image sizes at which trained models are tested: as they are, and after a brief fine-tuning at that size."""

    scales: Annotated[tuple[Positive, ...], Field(min_length=2)] = Field(
        (0.5, 0.75, 1.0, 1.5, 2.0), description="factors of the image size of the training, in order; 1 is among them"
    )
    tune: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="steps of the fine-tuning, as a share of those of the training"
    )
    tune_lr: Positive = Field(0.3, description="its learning rate, as a factor of the arm's chosen one")

    @model_validator(mode="after")
    def _check(self) -> "Sizes":
        _different(self.scales)
        if list(self.scales) != sorted(self.scales):
            raise ValueError("scales must rise")
        if 1 not in self.scales:
            raise ValueError("scales must have 1 among them, the size of the training")
        return self


class Study(Group):
    """All that decides what a study trains and how it is read. Refuses unknown keys and impossible values, by name."""

    title: str = Field(description="a few words")
    question: str = Field(description="what the study asks, in a sentence or two")
    method: str = Field("", description="what is compared with what and what is held equal, for the reader of the page")
    view: Literal["arms", "rates", "along", "cost", "sizes"] = Field(
        "arms",
        description="what the figure shows: the arms side by side, accuracy against the learning rate, against the "
        "values of along, against FLOPs, or against the size of the images",
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
    sizes: Sizes | None = Field(None, description="the sizes at which trained models are tested, for view sizes")
    match: Match | None = Field(None, description="which arms are to cost the same")
    recipe: Changes = Field(default_factory=dict, description="what all arms change in the recipe that suits the data")
    digits: Changes = Field(default_factory=dict, description="what they change besides on the built-in digits")
    start: Arm | None = Field(None, description="the arm that every --init MODEL adds; null: the study takes no --init")
    most_tokens: Count | None = Field(None, description="arms with longer sequences are left out, which is said")

    @field_validator("arms", mode="before")
    @classmethod
    def _names(cls, arms: Any) -> Any:
        return {str(name): arm for name, arm in arms.items()} if isinstance(arms, dict) else arms

    @field_validator("reference", mode="before")
    @classmethod
    def _name(cls, name: Any) -> Any:
        return str(name) if isinstance(name, int | float) else name

    @field_validator("recipe", "digits", mode="before")
    @classmethod
    def _flat_changes(cls, values: Any) -> Any:
        return _flat(values)

    def opponent(self, arm: str) -> str:
        """The arm that this one is compared with; itself for the reference."""
        return self.arms[arm].against or self.reference

    @model_validator(mode="after")
    def _check(self) -> "Study":
        check_keys(self.recipe)
        check_keys(self.digits)
        _different(self.lr)
        named = {"reference": self.reference, "match.to": self.match.to if self.match else None}
        named |= {f"arms.{arm}.against": values.against for arm, values in self.arms.items()}
        for what, name in named.items():
            if name is not None and name not in self.arms:
                raise ValueError(f"{what} {name!r} is none of the arms: {did_you_mean(name, list(self.arms))}")
        if self.arms[self.reference].against:
            raise ValueError(f"arms.{self.reference}.against: the reference is compared with no other arm")
        if self.match is not None and self.arms[self.match.to].choose:
            raise ValueError(f"match.to {self.match.to!r} has alternatives of its own: match to an arm without choose")
        if self.view == "along" and self.along is None:
            raise ValueError("view along needs along: a recipe key and its values")
        self._check_sizes()
        if self.sweep_seeds is not None and self.sweep_seeds > self.seeds:
            raise ValueError(f"sweep_seeds {self.sweep_seeds} is more than the {self.seeds} seeds")
        return self

    def _check_sizes(self) -> None:
        if (self.view == "sizes") != (self.sizes is not None):
            raise ValueError("view sizes and sizes belong together: give both, or neither")
        if self.sizes is not None and self.along is not None:
            raise ValueError("sizes and along are two axes: give one of them")
        for name, arm in self.arms.items():
            if arm.of is None:
                continue
            if self.sizes is None:
                raise ValueError(f"arms.{name}.of: only a study of sizes reads the models of one arm in several ways")
            if arm.of not in self.arms or self.arms[arm.of].of:
                raise ValueError(f"arms.{name}.of {arm.of!r} is none of the arms that are trained")
            if name in (self.reference, self.match.to if self.match else None):
                raise ValueError(f"arms.{name}.of: the reference and match.to are arms that are trained")
