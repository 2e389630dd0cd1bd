"""Position embeddings: how a token learns where in the image its patch lies.

To add one that is a table added to the tokens: write a class with the two methods of ``Position`` and give it a name in
``KINDS`` (and in ``config.POSITIONS``). One that acts on queries, keys or attention logits (relative, rotary) needs a third
method, which ``attention.Attention`` calls with q, k and the grid.

Shapes: P prefix tokens (class token, registers), h w grid rows and columns, D width.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from vitrail.model.config import ViTConfig
from vitrail.model.resize import resize_positions


class Position(Protocol):
    """One kind of position embedding. It holds no state: its tensor is the model's ``pos_embed``."""

    def create(self, config: ViTConfig) -> nn.Parameter | Tensor | None:
        """The model's ``pos_embed``: a parameter if it is learned, a tensor if it is fixed, None if there is none."""

    def table(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int]) -> Tensor | None:
        """What is added to the tokens of an image with this grid: (1, P + h w, D), or None for nothing."""


class NoPosition:
    """No position embedding: the image is a bag of patches."""

    def create(self, config: ViTConfig) -> None:
        return None

    def table(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int]) -> None:
        return None


class Learned1D:
    """One learned vector for every token in raster order, the class token included; equation 1's E_pos.

    At another grid the table is interpolated with antialiased bicubic weights.
    """

    def create(self, config: ViTConfig) -> nn.Parameter:
        return nn.Parameter(torch.empty(1, config.tokens, config.width))

    def table(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
        assert pos_embed is not None
        return resize_positions(pos_embed, config.grid, grid, prefix=config.prefix_tokens)


class SinCos2D:
    """Fixed sines and cosines of row and column (Beyer et al., 2022, "Better plain ViT baselines").

    The prefix gets zeros. The table is saved with the weights, so that libraries which know only learned tables open
    the model.
    """

    def create(self, config: ViTConfig) -> Tensor:
        return self._with_prefix(config, config.grid, torch.device("cpu"))

    def table(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
        assert pos_embed is not None
        return pos_embed if grid == config.grid else self._with_prefix(config, grid, pos_embed.device)

    def _with_prefix(self, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Tensor:
        prefix = torch.zeros(config.prefix_tokens, config.width, device=device)
        return torch.cat([prefix, sincos_2d(grid, config.width, device)])[None]


def sincos_2d(grid: tuple[int, int], width: int, device: torch.device | None = None) -> Tensor:
    """(h w, D): sine and cosine of the column, then of the row, at D / 4 frequencies from 1 down to 1 / 10,000."""
    h, w = grid
    quarter = width // 4
    omega = torch.exp(torch.arange(quarter, device=device) * (-math.log(10_000) / max(quarter - 1, 1)))
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    y, x = rows.flatten()[:, None] * omega, columns.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


KINDS: dict[str, Position] = {"none": NoPosition(), "learned": Learned1D(), "sincos2d": SinCos2D()}
