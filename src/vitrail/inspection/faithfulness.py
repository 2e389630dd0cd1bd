"""Faithfulness: whether a map tells what a model used, by taking patches away, and putting them in, in the map's order.

Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (BMVC 2018):
a good map makes the probability of the class fall early when the patches that it marks are removed (deletion), and rise
early when they alone are there (insertion). Either number means little by itself, as it depends on the picture and on
what stands where a patch was removed; so random maps go through the same.

Shapes: H W height and width, h w grid of the maps, n = h w patches, m maps, s steps, C channels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import UserError, did_you_mean
from vitrail.inspection.inspection import Curve, Faithfulness, Floats
from vitrail.model import Model

Fill = Literal["mean", "blur"]
FILLS = ("mean", "blur")
PIXELS = 32 * 224 * 224
"""Of the pictures that go through the model together: of large pictures a batch has fewer, so that memory stays bounded."""

_ROUNDING = 1e-6
"""Areas nearer to each other than this differ by rounding alone."""


def faithfulness(
    model: Model,
    image: Tensor,
    map: Tensor | Floats,
    target: int,
    *,
    steps: int = 20,
    random: int = 5,
    seed: int = 0,
    batch_size: int = 32,
    fill: Fill | None = None,
) -> Faithfulness:
    """The curves of one map, and those of random maps beside them: see ``faithfulness_of_maps``.

    Args:
        map: (h, w)
        target: the class whose probability is followed.
    """
    return faithfulness_of_maps(
        model, image, [map], [target], steps=steps, random=random, seed=seed, batch_size=batch_size, fill=fill
    )[0]


def faithfulness_of_maps(
    model: Model,
    image: Tensor,
    maps: Sequence[Tensor | Floats],
    targets: Sequence[int],
    *,
    steps: int = 20,
    random: int = 5,
    seed: int = 0,
    batch_size: int = 32,
    fill: Fill | None = None,
) -> list[Faithfulness]:
    """The curves of several maps of one picture. All share the random maps, and so the time that these take.

    Patches change place with the fill in falling order of a map, equal ones in reading order. That takes, for m maps,
    2 (m + random) (steps - 1) + 4 pictures through the model: 232 of one map with these defaults. A map may be finer or
    coarser than the patches of the model, and the model may be a ResNet: the patches here are those of the map.

    Args:
        image: (1, C, H, W), normalised.
        maps: (h, w) each, all of one grid, which divides the image.
        targets: for each map the class whose probability is followed.
        steps: of a curve, in patches as whole as it goes; never more than there are patches.
        random: how many random orders to compare with.
        seed: of the random orders. Give every picture another one: if all pictures are compared with the same few
            orders, the luck of these does not cancel out over the pictures.
        batch_size: pictures that go through the model together; fewer where they have more than ``PIXELS`` pixels.
        fill: what stands where there is no patch: the image's ``mean`` colour, or the image under a ``blur`` so wide that
            no patch is left to see. None for the mean colour in deletion and, as in the paper, the blur in insertion, as
            on a uniform ground the first patches would be judged by their own outlines.

    Raises:
        UserError: a map that is not finite or does not fit the image, a class that the model does not have, numbers
            below 1.
    """
    grid, scores = _checked(model, image, maps, targets)
    for name, number in (("steps", steps), ("random", random), ("batch_size", batch_size)):
        if number < 1:
            raise UserError(f"{name} {number}: 1 or more is needed")
    if fill is not None and fill not in FILLS:
        raise UserError(f"fill {fill!r}: {did_you_mean(fill, FILLS)}")
    image = image.to(next(model.parameters()).device)

    n = grid[0] * grid[1]
    ranks = torch.cat([_ranks(scores), _random_ranks(random, n, seed)])
    counts = torch.linspace(0, n, min(steps, n) + 1, dtype=torch.float64).round().long()
    changed = ranks[:, None, :] < counts[:, None]  # (m + random, s, n): the patches that have had their turn
    batch = min(batch_size, max(1, PIXELS // (image.shape[-2] * image.shape[-1])))
    deletion = _probabilities(model, image, _filled(image, grid, fill or "mean"), ~changed, grid, batch)
    insertion = _probabilities(model, image, _filled(image, grid, fill or "blur"), changed, grid, batch)

    shares = (counts.double() / n).float().numpy()

    def curves(probabilities: Tensor, target: int) -> list[Curve]:
        return [Curve(shares, row.numpy()) for row in probabilities[:, :, target]]

    found, m = [], len(scores)
    for i, target in enumerate(targets):
        away, back = curves(deletion, target), curves(insertion, target)
        found.append(Faithfulness(away[i], back[i], tuple(away[m:]), tuple(back[m:])))
    return found


def _checked(
    model: Model, image: Tensor, maps: Sequence[Tensor | Floats], targets: Sequence[int]
) -> tuple[tuple[int, int], Tensor]:
    """The grid, and the maps (m, n) on the CPU."""
    if image.ndim != 4 or len(image) != 1:
        raise UserError(f"image {tuple(image.shape)}: one picture (1, channels, height, width) is needed")
    if len(maps) != len(targets) or not len(maps):
        raise UserError(
            f"{len(maps)} maps and {len(targets)} targets: each map needs its class, and one map is the least"
        )
    tensors = [torch.as_tensor(values).detach().cpu().double() for values in maps]
    shape, size = tuple(tensors[0].shape), tuple(image.shape[-2:])
    if len(shape) != 2 or any(tuple(values.shape) != shape for values in tensors):
        raise UserError(f"maps {[tuple(values.shape) for values in tensors]}: each needs to be (h, w), all of one grid")
    grid = shape[0], shape[1]
    if 0 in grid or size[0] % grid[0] or size[1] % grid[1]:
        raise UserError(
            f"map of {grid[0]} x {grid[1]} patches: it does not divide the image of {size[0]} x {size[1]} pixels"
        )
    if not all(values.isfinite().all() for values in tensors):
        raise UserError("map: it holds values that are not finite, which have no order")
    classes = model.config.classes
    for target in targets:
        if not 0 <= target < classes:
            have = (
                f"the model's classes go from 0 to {classes - 1}"
                if classes
                else "this model has no head and so no classes"
            )
            raise UserError(f"target {target}: {have}")
    return grid, torch.stack(tensors).flatten(1)


def _ranks(scores: Tensor) -> Tensor:
    """When the turn of each patch comes, from 0, highest first: (m, n) -> (m, n)."""
    return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _random_ranks(count: int, n: int, seed: int) -> Tensor:
    """(count, n): as of maps of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n, generator=generator) for _ in range(count)])


def _filled(image: Tensor, grid: tuple[int, int], fill: Fill) -> Tensor:
    """The picture without its patches: (1, C, H, W)."""
    if fill == "mean":
        return image.mean(dim=(2, 3), keepdim=True).expand_as(image)
    size = image.shape[-2], image.shape[-1]
    sigma = max(size[0] / grid[0], size[1] / grid[1])  # a patch's longer side
    rows, columns = (_gaussian(side, sigma, image) for side in size)
    return rows @ image @ columns.T


def _gaussian(length: int, sigma: float, like: Tensor) -> Tensor:
    """A blur along one side as a matrix (length, length); at the border what is outside does not count."""
    place = torch.arange(length, device=like.device, dtype=like.dtype)
    return (-((place[:, None] - place) ** 2) / (2 * sigma**2)).softmax(dim=1)


def _probabilities(
    model: Model, image: Tensor, ground: Tensor, kept: Tensor, grid: tuple[int, int], batch: int
) -> Tensor:
    """Of every class, for pictures that keep some patches of the image: kept (m, s, n) bool -> (m, s, K) on the CPU."""
    size = image.shape[-2:]
    # the ends of all curves are the same pictures, and so is much of similar maps: each is computed once
    masks, where = kept.flatten(0, 1).unique(dim=0, return_inverse=True)
    found: list[Tensor] = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for part in masks.split(batch):
                pixels = part.to(image.device).unflatten(1, (1, *grid))
                pixels = pixels.repeat_interleave(size[0] // grid[0], 2).repeat_interleave(size[1] // grid[1], 3)
                logits = model(torch.where(pixels, image, ground))
                found.append(logits.float().softmax(dim=1).cpu())
    finally:
        model.train(was_training)
    return torch.cat(found)[where].unflatten(0, kept.shape[:2])


@dataclass(frozen=True)
class Gain:
    """How much better a kind of map does than random maps, over pictures: areas from 0 to 1."""

    pictures: int
    map: float
    """Mean area of the curves of the maps."""
    random: float
    """Mean area of the curves of the random maps."""
    gain: float
    """The difference, above 0 where the maps do better: lower in deletion, higher in insertion."""
    interval: tuple[float, float] | None
    """95 % of ``gain``, by Student's t over pictures, each with its own random maps; None of one picture."""
    beaten: tuple[int, int]
    """How many random curves the maps beat, each on its own picture, and of how many."""

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is on one side of 0, else 0; also 0 of one picture."""
        low, high = self.interval or (0.0, 0.0)
        return (low > _ROUNDING) - (high < -_ROUNDING)


def gains(found: Sequence[Faithfulness]) -> tuple[Gain, Gain]:
    """What deletion and insertion say of one kind of map, over pictures.

    Raises:
        UserError: without pictures.
    """
    if not found:
        raise UserError("there are no curves to compare: at least one picture is needed")
    deletion = _gain([(one.deletion, one.random_deletion) for one in found], better=-1)
    return deletion, _gain([(one.insertion, one.random_insertion) for one in found], better=1)


def _gain(pairs: Sequence[tuple[Curve, tuple[Curve, ...]]], better: int) -> Gain:
    """``better``: 1 where a large area is better than a small one, -1 where it is worse."""
    own = np.array([curve.area for curve, _ in pairs])
    others = [np.array([curve.area for curve in curves]) for _, curves in pairs]
    random = np.array([areas.mean() for areas in others])
    differences, n = better * (own - random), len(pairs)
    mean, interval = float(differences.mean()), None
    if n > 1:
        from scipy.special import stdtrit

        half = float(stdtrit(n - 1, 0.975)) * float(differences.std(ddof=1)) / n**0.5
        interval = mean - half, mean + half
    beaten = sum(
        int((better * (area - areas) > _ROUNDING).sum()) for area, areas in zip(own.tolist(), others, strict=True)
    )
    return Gain(n, float(own.mean()), float(random.mean()), mean, interval, (beaten, sum(map(len, others))))


def verdict(found: Sequence[Faithfulness]) -> str:
    """What the curves of one kind of map say, over pictures, in a few sentences with numbers.

    Better or worse than a random map is said only where the 95 % interval of the difference leaves 0 out. It is a
    Student's t interval, which takes the differences to be spread about normally: with a handful of pictures a hint.

    Raises:
        UserError: without pictures.
    """
    deletion, insertion = gains(found)
    n = deletion.pictures
    start = "In one picture" if n == 1 else f"Over {n} pictures"
    text = (
        f"{start}, with patches taken away in its order, the map is {_judged(deletion)}; "
        f"with patches put in, it is {_judged(insertion)}."
    )
    return f"{text} One picture says nothing of others." if n == 1 else text


def _judged(gain: Gain) -> str:
    """``better than a random map (mean probability 21.3 % against 35.0 %: 13.7 points, 95 % interval 8.1 to 19.3)``."""
    areas = f"mean probability {100 * gain.map:.1f} % against {100 * gain.random:.1f} %"
    if gain.interval is None:
        return f"better than {gain.beaten[0]} of {gain.beaten[1]} random maps ({areas})"
    word = ("no better", "better", "worse")[gain.sign]
    # of what is worse the size is told, without a sign; where it may be either, above 0 is better
    turn = -1 if gain.sign < 0 else 1
    low, high = sorted(100 * turn * end for end in gain.interval)
    points = f"{_number(100 * turn * gain.gain)} points, 95 % interval {_number(low)} to {_number(high)}"
    return f"{word} than a random map ({areas}: {points})"


def _number(value: float) -> str:
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")
