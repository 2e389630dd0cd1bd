"""Several image sizes and patch sizes in one run: which of them go together, what they cost, how a batch is cut up.

A step has as many images at every size, so that epochs, learning rate and schedule mean what they always mean. What a
large size costs more is time alone: such a batch goes through the model in parts, none larger than one at the model's own
size, and the gradients add up (Beyer et al., 2023, "FlexiViT"; Dehghani et al., 2023, "Patch n' Pack").
"""

from collections.abc import Sequence
from functools import lru_cache

from vitrail.data.preprocess import LARGEST_SIDE
from vitrail.data.resolutions import Pair, Resolutions, different_sizes, whole_patches
from vitrail.errors import UserError
from vitrail.model import ModelConfig, ViTConfig
from vitrail.model.cost import flops, training_activation_bytes
from vitrail.model.fields import size_text
from vitrail.recipes.recipe import Recipe
from vitrail.recipes.resolution import Resolution, as_pair

Part = list[tuple[int, slice]]
"""Images of a batch that go through the model together: of which group, and which of it."""


def pairs_of(resolution: Resolution, config: ModelConfig) -> tuple[Pair, ...]:
    """Every image size with every patch size that divides it; the model's own for what is not named.

    Listed sizes are exact. Of a range, all squares of whole patches between its ends are meant; factors of the image size
    are rounded to whole patches. A ResNet takes any size, and its stride stands in for the patch there.

    Raises:
        UserError: a listed size that no patch size divides, a patch size that divides none of the sizes, patch sizes for a
            model that has one alone.
    """
    if resolution.patch_sizes is not None:
        _require_linear(config)
    own = [step_of(config)]
    pairs: list[Pair] = []
    for side in resolution.patch_sizes or own:
        sizes = [size for size in _sizes(resolution, config, side) if _fits(size, side, config)]
        if not sizes:
            raise UserError(_no_size(resolution, config, side))
        pairs += [(size, side if isinstance(config, ViTConfig) else 1) for size in sizes]
    for size in map(as_pair, resolution.sizes if isinstance(resolution.sizes, tuple) else ()):
        if size not in different_sizes(pairs):
            raise UserError(_not_divisible(size, resolution.patch_sizes or own, config))
    for size in different_sizes(pairs):
        if max(size) > LARGEST_SIDE:
            raise UserError(f"resolution.scales: {size_text(size)} is too large: at most {LARGEST_SIDE} pixels a side")
    return tuple(dict.fromkeys(pairs))


def step_of(config: ModelConfig) -> int:
    """The pixels by which image sizes are counted: a patch, or a ResNet's stride."""
    return config.patch_size if isinstance(config, ViTConfig) else config.stride


def at_pair(config: ModelConfig, pair: Pair) -> ModelConfig:
    """The configuration of a model with this image size and patch size, to count its cost."""
    size, side = pair
    if isinstance(config, ViTConfig):
        return config.with_changes(image_size=size, patch_size=side)
    return config.with_changes(image_size=size)


def mean_flops(recipe: Recipe, config: ModelConfig) -> float:
    """FLOPs of one forward pass on one training image, the mean over a run's resolutions and shares of dropped patches.

    Raises:
        UserError: as ``pairs_of``.
    """
    drops = recipe.regularization

    def of_image(config: ModelConfig) -> float:
        whole, reduced = (sum(flops(config, dropped=dropped).values()) for dropped in (0.0, drops.patch_drop))
        return whole + drops.patch_drop_until * (reduced - whole)

    if not recipe.resolution.varies:
        return of_image(config)
    pairs = pairs_of(recipe.resolution, config)
    return sum(of_image(at_pair(config, pair)) for pair in pairs) / len(pairs)


@lru_cache(maxsize=4096)
def load(config: ModelConfig, size: tuple[int, int], patch_size: int) -> int:
    """What an image of this size takes in a training step: the bytes of its activations, in float32."""
    return training_activation_bytes(at_pair(config, (size, patch_size)), 1)


def images_a_part(recipe: Recipe, config: ModelConfig, pair: Pair, world: int = 1) -> int:
    """Images of a step that go through the model at once at this size; at least one, however large."""
    share = recipe.batch_size // world
    most = share // recipe.optimizer.accumulate * load(config, config.image_size, step_of(config))
    return min(share, max(1, most // load(config, *pair)))


def parts(groups: Sequence[tuple[int, int]], most: int) -> list[Part]:
    """Cut a batch into parts of at most so much load each, in order; an image that alone is larger is a part of its own.

    Args:
        groups: how many images each group of one size has, and the load of each of these.
        most: the largest sum of loads in a part.
    """
    found: list[Part] = [[]]
    room = most
    for number, (count, each) in enumerate(groups):
        start = 0
        while start < count:
            if room < each and found[-1]:
                found.append([])
                room = most
            stop = min(count, start + max(1, room // each))
            found[-1].append((number, slice(start, stop)))
            room -= (stop - start) * each
            start = stop
    return found


def sentence(resolutions: Resolutions) -> str:
    """The sizes of a run, for the person."""
    sides = {side for _, side in resolutions.pairs}
    names = [size_text(size) + (f"/{side}" if len(sides) > 1 else "") for size, side in resolutions.pairs]
    if len(names) > 8:
        names = [*names[:4], "...", *names[-2:]]
    how = "drawn for each step" if resolutions.order == "random" else "from the fewest tokens to the most"
    patch = " (image size/patch size)" if len(sides) > 1 else ""
    return f"resolutions: {len(resolutions.pairs)}, {how}: {', '.join(names)}{patch}"


def _require_linear(config: ModelConfig) -> None:
    if not isinstance(config, ViTConfig):
        raise UserError("resolution.patch_sizes: a ResNet has no patches; leave it out, and name sizes or scales alone")
    if config.stem != "linear" or config.patch_norm:
        what = f"the {config.stem} stem" if config.stem != "linear" else "model.patch_norm"
        raise UserError(
            f"resolution.patch_sizes: patches of another size need the linear stem without patch_norm, and this model has "
            f"{what}; leave it out, or set model.stem=linear"
        )


def _sizes(resolution: Resolution, config: ModelConfig, side: int) -> list[tuple[int, int]]:
    """The image sizes that are asked for, for a patch of this side."""
    if resolution.ends is not None:
        low, high = resolution.ends
        return [(length, length) for length in range(-(-low // side) * side, high + 1, side)]
    if resolution.scales is not None:
        height, width = config.image_size
        return [
            (whole_patches(height * scale, side), whole_patches(width * scale, side)) for scale in resolution.scales
        ]
    if isinstance(resolution.sizes, tuple):
        return [as_pair(size) for size in resolution.sizes]
    return [config.image_size]


def _fits(size: tuple[int, int], side: int, config: ModelConfig) -> bool:
    if isinstance(config, ViTConfig):
        return size[0] % side == 0 and size[1] % side == 0
    return min(size) >= side


def _no_size(resolution: Resolution, config: ModelConfig, side: int) -> str:
    if resolution.ends is not None:
        low, high = resolution.ends
        return f"resolution.sizes {low}-{high}: no multiple of {side} pixels, which images are counted in, lies between"
    if resolution.patch_sizes is not None:
        asked = ", ".join(size_text(size) for size in _sizes(resolution, config, side))
        return f"resolution.patch_sizes: {side} divides none of the image sizes ({asked}): leave it out, or add a size"
    return _not_divisible(_sizes(resolution, config, side)[0], [side], config)


def _not_divisible(size: tuple[int, int], sides: Sequence[int], config: ModelConfig) -> str:
    """Words for a listed size that the model cannot have, with those nearest to it that it can."""
    name = f"resolution.sizes: {size_text(size)}"
    if not isinstance(config, ViTConfig):
        return f"{name} is below {sides[0]} pixels, the stride of the network"
    near = {tuple(max(side, length // side * side) for length in size) for side in sides}
    near |= {tuple(-(-length // side) * side for length in size) for side in sides}
    nearest = sorted(near, key=lambda other: sum(abs(a - b) for a, b in zip(size, other, strict=True)))[:2]
    patches = "patch size " + " or ".join(map(str, sides))
    return f"{name} is not divisible by {patches}: nearest to it: {' and '.join(map(size_text, sorted(nearest)))}"
