"""What the run that a model comes from says about its data."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitrail.recipes.recipe import Recipe


def run_recipe(model: str) -> "Recipe | None":
    """The recipe of the run that ``model`` names, itself or by its model folder; None where it is no run."""
    from vitrail.recipes.files import load

    folder = Path(model).expanduser()
    for recipe in (folder / "recipe.yaml", folder.parent / "recipe.yaml"):
        if recipe.is_file():
            return load(recipe)
    return None


def trained_on(recipe: "Recipe | None", data: str) -> bool:
    """Whether the run was trained on these very data."""
    source = recipe.data.source if recipe else None
    return source is not None and (source == data or Path(source).resolve() == Path(data).expanduser().resolve())


def val_fraction(recipe: "Recipe | None") -> float:
    """The share that training split off as val: that of the model's own run, else the usual share."""
    from vitrail.recipes.recipe import Data

    return (recipe.data if recipe else Data()).val_fraction
