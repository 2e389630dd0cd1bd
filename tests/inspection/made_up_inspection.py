"""A made-up inspection: random arrays with the structure that real ones have, so that a page of them can be looked at."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vitrail.inspection.inspection import (
    Attention,
    Curve,
    Faithfulness,
    Filters,
    Floats,
    Inspection,
    Map,
    Picture,
    Positions,
)
from vitrail.model import ViTConfig

LABELS = ("cat", "dog", "fox", "goldfish", "a label of many words that goes on, and on, and does not want to end")
PREFIX = 3


def config(**changes: Any) -> ViTConfig:
    """Six layers, three heads, a class token and two registers."""
    return ViTConfig(
        **{
            "image_size": (224, 224),
            "width": 48,
            "depth": 6,
            "heads": 3,
            "mlp_width": 96,
            "classes": len(LABELS),
            "registers": 2,
            **changes,
        }
    )


def places(grid: tuple[int, int]) -> Floats:
    """Rows and columns of the patches, from 0 to 1, (n, 2)."""
    axes = [np.linspace(0, 1, side) for side in grid]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def blob(grid: tuple[int, int], at: tuple[float, float], size: float = 0.2) -> Floats:
    """A bump over the grid, (h, w)."""
    return np.exp(-((places(grid) - np.array(at)) ** 2).sum(-1) / (2 * size**2)).reshape(grid).astype(np.float32)


def faithfulness(rng: np.random.Generator, skill: float) -> Faithfulness:
    shares = np.linspace(0, 1, 9, dtype=np.float32)

    def curve(power: float, falling: bool) -> Curve:
        heights = 0.9 * ((1 - shares) if falling else shares) ** power + rng.uniform(0, 0.04, 9)
        return Curve(shares, heights.astype(np.float32))

    return Faithfulness(
        curve(skill, True),
        curve(1 / skill, False),
        tuple(curve(rng.uniform(0.8, 1.3), True) for _ in range(5)),
        tuple(curve(rng.uniform(0.8, 1.3), False) for _ in range(5)),
    )


def attention(
    rng: np.random.Generator, grid: tuple[int, int], prefix: int, layers: int = 6, heads: int = 3, width: int = 16
) -> Attention:
    """Near patches attend to each other, less so in deeper layers; keys share a large offset, as real ones often do."""
    where = places(grid)
    waves = np.concatenate([np.sin(2 * np.pi * where * f) for f in (0.5, 1, 2)], axis=1)
    waves = np.concatenate([waves, np.cos(2 * np.pi * where * 1.0)], axis=1)
    found = []
    for layer in range(layers):
        sharp = 2.5 - 1.8 * layer / max(1, layers - 1)
        kept = rng.normal(0, 0.6, (2, heads, prefix + len(where), width))
        kept[:, :, prefix:, : waves.shape[1]] += sharp * waves
        kept[1] += rng.normal(0, 3, (heads, 1, width))
        found.append(kept)
    stacked = np.stack(found, axis=1).astype(np.float32)
    return Attention(stacked[0], stacked[1])


def picture(seed: int, grid: tuple[int, int] = (14, 14), patch: int = 16, **changes: Any) -> Picture:
    """An animal-coloured bump on a lawn."""
    rng = np.random.default_rng(seed)
    size = grid[0] * patch, grid[1] * patch
    at = (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.25, 0.75)))
    body = blob(size, at, 0.16)[..., None]
    lawn = np.array([70, 130, 60]) + rng.normal(0, 18, (*size, 1)) + 40 * places(size)[:, :1].reshape(*size, 1)
    pixels = np.clip(lawn * (1 - body) + body * np.array([205, 140, 60]), 0, 255).astype(np.uint8)
    near = blob(grid, at, 0.17)
    features = rng.normal(0, 0.4, (*grid, 48)) + near[..., None] * rng.normal(0, 2, 48) + rng.normal(0, 0.8, 48)
    norms = np.linspace(12, 30, 6)[:, None] + rng.normal(0, 1.5, (6, PREFIX + grid[0] * grid[1]))
    norms[3:, PREFIX + 5 :: 37] *= 5
    signed = near - blob(grid, (1 - at[0], 1 - at[1]), 0.2) + rng.normal(0, 0.03, grid)
    made = Picture(
        name=f"pictures/animal {seed}.jpg",
        image=pixels,
        grid=grid,
        patch_size=patch,
        prefix=PREFIX,
        top=((LABELS[0], 0.713), (LABELS[1], 0.181), (LABELS[4], 0.052)),
        maps=(
            Map("rollout", (near**0.3 + rng.uniform(0, 0.15, grid)).astype(np.float32), False, faithfulness(rng, 1.3)),
            Map("for cat", (near + rng.uniform(0, 0.1, grid)).astype(np.float32), False, faithfulness(rng, 3.5)),
            Map("for cat against dog", signed.astype(np.float32), True, faithfulness(rng, 0.9)),
        ),
        attention=attention(rng, grid, PREFIX),
        norms=norms.astype(np.float32),
        features=features.astype(np.float32),
        colours=np.stack([near, 1 - near, rng.uniform(0, 0.4, grid)], axis=-1).astype(np.float32),
        label="cat",
    )
    return replace(made, **changes)


def positions(grid: tuple[int, int]) -> Positions:
    """Alike where row or column are near."""
    y, x = (np.abs(side[:, None] - side[None]) for side in places(grid).T)
    alike = 0.5 * np.exp(-y * 5) + 0.5 * np.exp(-x * 5) - 0.2 * (y + x)
    return Positions(grid, alike.reshape(*grid, *grid).astype(np.float32), "the cosine of the learned vectors")


def filters(channels: int = 3, count: int = 28, side: int = 16) -> Filters:
    """Waves of all directions."""
    rng = np.random.default_rng(3)
    where = places((side, side))
    waves = [np.sin(where @ rng.normal(0, 3 + i / 3, 2) + rng.uniform(0, 6)) for i in range(count)]
    tint = rng.uniform(0.4, 1, (count, 1, 1, channels))
    pictures = 0.5 + 0.5 * tint * np.stack(waves).reshape(count, side, side, 1)
    shares = 0.3 * 0.8 ** np.arange(count)
    return Filters(pictures.astype(np.float32), shares.astype(np.float32), "28 main directions of the patch kernels")


def inspection(pictures: Sequence[Picture] | None = None, **changes: Any) -> Inspection:
    """Two pictures, one of them wide, and all that a Vision Transformer shows of itself."""
    rng = np.random.default_rng(5)
    reach = np.linspace(40, 105, 6)[:, None] + rng.normal(0, 1, (6, 3)) * np.linspace(30, 6, 6)[:, None]
    made = Inspection(
        model="a made-up model",
        config=config(),
        labels=LABELS,
        pictures=tuple(pictures if pictures is not None else (picture(0), picture(1, (16, 20)))),
        distances=np.abs(reach).astype(np.float32),
        positions=(positions((14, 14)), positions((16, 20))),
        filters=filters(),
        notes=("A sentence about what was left out.",),
    )
    return replace(made, **changes)
