"""The recipe and the image size where a person named none, and the reasons, which the program says."""

import math
from dataclasses import dataclass

from vitrail.data.open import Dataset, typical_size
from vitrail.data.samples import Samples
from vitrail.model import ModelConfig, ResNetConfig, ViTConfig, is_resnet, variant
from vitrail.recipes import files
from vitrail.recipes.recipe import Recipe

# Below this many training images a plain ViT from scratch is starved of examples (Dosovitskiy et al., 2021, figure 4).
PLENTY = 100_000
# The number of training images for which the epochs of the recipes small and finetune were found.
SMALL_IMAGES = 1_500
# Below this many pixels a side a ResNet gets the stem for small images: the large one would leave a last map of one or
# two positions (He et al., 2016, section 4.2, train on 32x32 pixels with a 3x3 convolution at stride 1 and no pooling).
SMALL_SIDE = 64
# From this ratio of the longer side to the shorter on, images are not made square.
LONG = 1.5


@dataclass(frozen=True)
class Choice:
    """A recipe, and why it."""

    recipe: Recipe
    reasons: tuple[str, ...]


def choose(
    data: Dataset,
    *,
    source: str,
    init: str | None,
    named_variant: bool,
    named_length: bool = False,
    named_stem: bool = False,
) -> Choice:
    """A recipe from whether there is a start model, and from the number of images.

    Args:
        data, source: the images, and how they were named.
        init: the start model, if there is one.
        named_variant: whether the person named a variant of the model.
        named_length: whether the person named epochs or steps.
        named_stem: whether the person named the model's stem.
    """
    n = len(data.train) if data.train is not None else 0
    if init:
        return _with_epochs("finetune", n, [f"recipe finetune: the run starts from {init}"], named_length)
    if source == "digits" and not named_variant:
        return Choice(files.load("digits"), ("recipe digits: made for the built-in 8x8 images",))
    if n >= PLENTY:
        model = "to train" if named_variant else "for a plain ViT"
        reason = f"recipe imagenet: {n:,} images are enough {model} from scratch"
        # its 224 pixels suit photographs; what suits these images is for give_size to say
        return Choice(files.changed(files.load("imagenet"), {"image_size": None}), (reason,))
    reasons = [f"recipe small: {n:,} images and no start model (--init would do better, if there is one)"]
    if not named_variant and not named_stem:
        reasons.append(
            "model: a small ViT with a convolutional stem, whose built-in locality is worth more than size on little data; "
            "name a --model to have it otherwise"
        )
    return _with_epochs("small", n, reasons, named_length)


def _with_epochs(name: str, n: int, reasons: list[str], named_length: bool) -> Choice:
    """A recipe with as many epochs as suit the number of images, said unless the person names their own."""
    recipe = files.load(name)
    epochs = epochs_for(n, recipe.epochs or 1)
    if not named_length:
        reasons.append(f"epochs: {epochs}, as {n:,} images are {'few' if n < SMALL_IMAGES else 'many'}")
    return Choice(files.changed(recipe, {"epochs": epochs}), tuple(reasons))


def patch_for(side: int) -> int:
    """The patch size that cuts a square image with this side into some 25 to 200 patches."""
    return 2 if side < 16 else 4 if side < 48 else 8 if side < 112 else 16


def epochs_for(n: int, epochs: float) -> int:
    """Epochs for ``n`` images, given those for ``SMALL_IMAGES``: they fall with the root of n, from 4 times to a fifth.

    So four times the images take twice the time, and a few hundred are still seen often enough.
    """
    return round(epochs * min(4.0, max(0.2, math.sqrt(SMALL_IMAGES / max(n, 1)))))


def give_size(recipe: Recipe, data: Dataset) -> tuple[Recipe, list[str]]:
    """Fill in the image size, and the patch size or a ResNet's stem where the recipe leaves it open, from the images.

    A start model brings its own size (see ``start_size``); a named variant gets 224, or less where the images are smaller.
    Without either, images are brought to about 64 tokens: little data does not teach more, and attention stays cheap.
    Where training has several sizes that the recipe lists, the model has the middle one.
    """
    if recipe.init or data.train is None:
        return recipe, []
    if recipe.image_size is None and recipe.resolution.sizes is not None:
        middle, of_middle = give_middle_size(recipe, _counted_in(recipe))
        sized, reasons = give_size(middle, data)
        return sized, [*of_middle, *reasons]
    if is_resnet(recipe.variant):
        return _give_resnet_size(recipe, data.train)
    open_patch = "variant" not in recipe.model and "patch_size" not in recipe.model
    if recipe.image_size is not None:
        if not open_patch:
            return recipe, []
        p = patch_for(min(recipe.image_size))
        return files.changed(recipe, {"model.patch_size": p}), [f"patches of {p}x{p} pixels"]
    h, w = typical_size(data.train)
    side = min(h, w)
    if not open_patch:
        p = patch_size(recipe)
        size = max(p * 4, min(224, side) // p * p)
        return files.changed(recipe, {"image_size": (size, size)}), [
            f"image size {size}x{size}: the images are about {h}x{w}"
        ]
    p = min(8, patch_for(side))
    height, width = grid_for(h, w, max(4, min(8, side // p)))
    reason = f"image size {height * p}x{width * p} in patches of {p}: the images are about {h}x{w}"
    return files.changed(recipe, {"image_size": (height * p, width * p), "model.patch_size": p}), [reason]


def give_middle_size(recipe: Recipe, step: int) -> tuple[Recipe, list[str]]:
    """The image size in the middle of those that training goes through, in whole ``step`` pixels."""
    size = recipe.resolution.middle(step)
    assert size is not None
    return files.changed(recipe, {"image_size": size}), [
        f"image size {size[0]}x{size[1]}: the middle of resolution.sizes, for evaluation and for the positions"
    ]


def _counted_in(recipe: Recipe) -> int:
    """The pixels by which sizes are counted: the patch, as it is given or as it will suit them; one for a ResNet."""
    if is_resnet(recipe.variant):
        return 1
    if "variant" in recipe.model or "patch_size" in recipe.model:
        return patch_size(recipe)
    middle = recipe.resolution.middle(1)
    assert middle is not None
    return patch_for(min(middle))


def _give_resnet_size(recipe: Recipe, samples: Samples) -> tuple[Recipe, list[str]]:
    """The images' size, up to 224 pixels and from the ResNet's stride on; and the small stem for small images."""
    h, w = recipe.image_size or typical_size(samples)
    reasons = []
    if "stem" not in recipe.model and min(h, w) < SMALL_SIDE:
        recipe = files.changed(recipe, {"model.stem": "small"})
        reasons.append(f"stem small: a 3x3 convolution and no pooling, as the images are below {SMALL_SIDE} pixels")
    if recipe.image_size is None:
        config = recipe.architecture(classes=len(samples.labels), image_size=(224, 224))
        assert isinstance(config, ResNetConfig)
        side = max(config.stride, min(224, h, w))
        recipe = files.changed(recipe, {"image_size": (side, side)})
        reasons.insert(0, f"image size {side}x{side}: the images are about {h}x{w}")
    return recipe, reasons


def start_size(config: ModelConfig, own: tuple[int, int], data: Dataset) -> tuple[tuple[int, int], str]:
    """The image size of a run that starts from a model, and why: the model's own, or less where the images are smaller.

    To enlarge the images costs time and shows nothing that is not in them. ``own`` is the size at which the model is
    used, by its pixel contract; its positions may be of another.
    """
    if data.train is None:
        return own, "the start model's own"
    step = config.patch_size if isinstance(config, ViTConfig) else config.stride
    h, w = typical_size(data.train)
    side = max(min(h, w), 8 * step)
    if side >= min(own):
        return own, "the start model's own"
    scale = side / min(own)
    smaller = tuple(max(1, round(length * scale / step)) * step for length in own)
    return (smaller[0], smaller[1]), f"the images are about {h}x{w}, the start model's size is {own[0]}x{own[1]}"


def grid_for(h: int, w: int, side: int) -> tuple[int, int]:
    """Rows and columns of about ``side`` x ``side`` patches: square, unless most images are clearly longer one way.

    From an aspect ratio of 3 to 2 on, a square crop would lose a third of the picture and more. Beyond 3 to 1 the ends
    are cut off.
    """
    ratio = min(3.0, max(1 / 3, w / h))
    if 1 / LONG < ratio < LONG:
        return side, side
    return max(2, round(side / math.sqrt(ratio))), max(2, round(side * math.sqrt(ratio)))


def patch_size(recipe: Recipe) -> int:
    """The patch size that the recipe's Vision Transformer has."""
    own = recipe.model.get("patch_size")
    return own if own is not None else variant(recipe.model["variant"]).patch_size
