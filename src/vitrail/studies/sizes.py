"""The sizes of a study of sizes: at which every trained model is tested and fine-tuned, how, and what that costs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.data.preprocess import LARGEST_SIDE
from vitrail.data.resolutions import whole_patches
from vitrail.errors import UserError
from vitrail.model import ModelConfig, ViTConfig
from vitrail.model.cost import Cost
from vitrail.recipes import files
from vitrail.recipes.recipe import Recipe
from vitrail.studies.study import Study

if TYPE_CHECKING:
    from vitrail.studies.plan import Planned

_FEWEST_STEPS = 4
"""Of a fine-tuning."""


@dataclass(frozen=True)
class Resized:
    """An arm at one size: what is done with each of its trained models there."""

    arm: str
    of: str
    """The arm whose trained models these are; mostly the arm itself."""
    image_size: tuple[int, int]
    scale: float
    """The factor of the base size that was asked for; 1 is exact, the others are in whole patches."""
    method: str | None
    """How learned positions reach this size; None for the model's own way."""
    recipe: Recipe
    """Of the fine-tuning, but for its start, its learning rate and its seed."""
    flops: int
    """Of one forward pass on one image of this size."""
    tokens: int | None
    training_bytes: int
    steps: int
    batch_size: int

    @property
    def tuning_flops(self) -> int:
        """Of the fine-tuning of one model: three forward passes an image seen."""
        return 3 * self.flops * self.steps * self.batch_size

    @property
    def repeated(self) -> bool:
        """Whether this is another arm's, number by number: at the base size nothing is interpolated."""
        return self.arm != self.of and self.scale == 1

    def identity(self) -> dict[str, Any]:
        """All that decides its numbers, plain, beside the training of its models."""
        return {
            "arm": self.arm,
            "of": self.of,
            "image_size": list(self.image_size),
            "method": self.method,
            "recipe": self.recipe.to_dict(),
        }


def resized_arms(study: Study, cells: Iterable["Planned"]) -> tuple[Resized, ...]:
    """Every arm of a study of sizes at every size, in the study's order, sizes rising; () for another study.

    Args:
        study: its arms are those that can be built.
        cells: the arms that are trained.

    Raises:
        UserError: arms that are trained at different sizes; a size or an interpolation that an arm cannot have.
    """
    if study.sizes is None:
        return ()
    trained = {planned.arm: planned for planned in cells}
    sizes = image_sizes(study.sizes.scales, [planned.config for planned in trained.values()])
    found = []
    for name, arm in study.arms.items():
        planned = trained[arm.of or name]
        for scale, size in sizes.items():
            try:
                found.append(_resized(study, planned, name, scale, size, method_of(arm.changes) if arm.of else None))
            except UserError as error:
                raise UserError(f"arm {name} at {size[0]}x{size[1]} pixels: {error}") from error
    return tuple(found)


def image_sizes(scales: Sequence[float], configs: Sequence[ModelConfig]) -> dict[float, tuple[int, int]]:
    """Factor -> the base size times that, in whole patches of every model, rising; a size that is there already is left out.

    Raises:
        UserError: the models do not share their image size.
    """
    base = configs[0].image_size
    for config in configs:
        if config.image_size != base:
            raise UserError(
                f"a study of sizes trains all arms at one size, not at {base[0]}x{base[1]} and "
                f"{config.image_size[0]}x{config.image_size[1]}: leave image_size to the recipe"
            )
    step = math.lcm(*(config.patch_size for config in configs if isinstance(config, ViTConfig)))
    found = {1.0: base}
    for scale in scales:
        height, width = (whole_patches(side * scale, step) for side in base)
        if max(height, width) > LARGEST_SIDE:
            raise UserError(
                f"sizes.scales {scale:g}: {height}x{width} is too large, at most {LARGEST_SIDE} pixels a side"
            )
        if (height, width) not in found.values():
            found[scale] = height, width
    return dict(sorted(found.items()))


def method_of(changes: Mapping[str, Any]) -> str:
    """The interpolation that an arm without training of its own reads another's models with."""
    return str(changes["model.position_interpolation"])


def _resized(
    study: Study, planned: "Planned", name: str, scale: float, size: tuple[int, int], method: str | None
) -> Resized:
    assert study.sizes is not None
    config = planned.config.with_changes(image_size=size)
    if method is not None:
        config.with_changes(position_interpolation=method)  # refuses what is none
    steps = max(_FEWEST_STEPS, round(study.sizes.tune * planned.size.steps))
    one_size: dict[str, Any] = {"image_size": size, "resolution": {}}  # however the model was trained
    recipe = files.changed(planned.recipe, {**one_size, "steps": steps, "evaluate.every": steps})
    cost = Cost(config, batch_size=recipe.batch_size // recipe.optimizer.accumulate)
    return Resized(
        arm=name,
        of=planned.arm,
        image_size=size,
        scale=scale,
        method=method,
        recipe=recipe,
        flops=cost.flops,
        tokens=config.tokens if isinstance(config, ViTConfig) else None,
        training_bytes=cost.memory["training"],
        steps=steps,
        batch_size=recipe.batch_size,
    )
