"""Position embeddings: how a token learns where in the image its patch lies.

To add one: write a subclass of ``Position`` and give it a name in ``KINDS`` (and in ``config.POSITIONS``). It is a table
added to the tokens, or a rotation of queries and keys in every block.

Shapes: P prefix tokens (class token, distillation token, registers), h w grid rows and columns, D width, K width per head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.model.attention import Rotation
from vitrail.model.config import ViTConfig
from vitrail.model.resize import resize_positions


class Position:
    """One kind of position embedding, and the kind "none". It holds no state: its tensor is the model's ``pos_embed``."""

    def create(self, config: ViTConfig) -> nn.Parameter | Tensor | None:
        """The model's ``pos_embed``: a parameter if it is learned, a tensor if it is fixed, None if there is none."""
        return None

    def table(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int]) -> Tensor | None:
        """What is added to the tokens of an image with this grid, or None for nothing.

        (1, P + h w, D), or (1, h w, D) for the patches alone where ``config.prefix_positions`` is false.
        """
        return None

    def rotation(self, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Rotation | None:
        """By what each block turns queries and keys: cosines and sines, (P + h w, K) each, or None for nothing."""
        return None


class Learned1D(Position):
    """One learned vector for every token in raster order, the class token included; equation 1's E_pos.

    At another grid the table is interpolated, in the way of ``config.position_interpolation``.
    """

    def create(self, config: ViTConfig) -> nn.Parameter:
        return nn.Parameter(torch.empty(1, config.position_rows, config.width))

    def table(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
        assert pos_embed is not None
        prefix = config.prefix_tokens if config.prefix_positions else 0
        return resize_positions(pos_embed, config.grid, grid, prefix=prefix, method=config.position_interpolation)


class SinCos2D(Position):
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
        prefix = torch.zeros(config.position_rows - config.grid[0] * config.grid[1], config.width, device=device)
        return torch.cat([prefix, sincos_2d(grid, config.width, device)])[None]


class Rotary2D(Position):
    """Queries and keys of a patch are turned by angles of its row and column (DINOv3: Simeoni et al., 2025).

    The centre of a patch lies in [-1, 1] both ways whatever the grid, so another grid is another sampling of the same
    plane, and nothing is interpolated. The prefix is not turned.
    """

    def rotation(self, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Rotation:
        angles = rotary_2d(grid, config.attention_width // config.heads, config.rotary_base, device)
        angles = F.pad(angles, (0, 0, config.prefix_tokens, 0))
        return angles.cos(), angles.sin()


def rotary_2d(grid: tuple[int, int], head_width: int, base: float, device: torch.device | None = None) -> Tensor:
    """(h w, K): the angles of the row at K / 4 frequencies, then of the column, and both again for the other halves.

    The periods rise from 1 (half the image) to nearly ``base``.
    """
    h, w = grid
    rows = 2 * torch.arange(0.5, h, device=device) / h - 1
    columns = 2 * torch.arange(0.5, w, device=device) / w - 1
    frequencies = 1 / base ** torch.arange(0, 1, 4 / head_width, device=device)
    centres = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(h * w, 2, 1)
    return (2 * math.pi * centres * frequencies).flatten(1).tile(2)


def sincos_2d(grid: tuple[int, int], width: int, device: torch.device | None = None) -> Tensor:
    """(h w, D): sine and cosine of the column, then of the row, at D / 4 frequencies from 1 down to 1 / 10,000."""
    h, w = grid
    quarter = width // 4
    omega = torch.exp(torch.arange(quarter, device=device) * (-math.log(10_000) / max(quarter - 1, 1)))
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    y, x = rows.flatten()[:, None] * omega, columns.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


KINDS: dict[str, Position] = {
    "none": Position(),
    "learned": Learned1D(),
    "sincos2d": SinCos2D(),
    "rotary2d": Rotary2D(),
}
