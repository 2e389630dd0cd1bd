"""Position embeddings: how a token learns where in the image its patch lies.

To add one: write a subclass of ``Position`` and give it a name in ``KINDS`` (and in ``config.POSITION_SITES``). It adds
to the tokens, turns queries and keys, or adds to the scores of attention; ``ViT`` does so at ``config.site``.

Shapes: P prefix tokens (class token, distillation token, registers), h w grid rows and columns, n = h w patches,
N = P + n tokens, D width, H heads, K width per head, A = H K.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.model.attention import NOWHERE, Place
from vitrail.model.config import ViTConfig
from vitrail.model.resize import resize_axes, resize_offsets, resize_positions, resize_raster_offsets


class Position:
    """One kind of position embedding, and the kind "none". The model or its blocks hold its table."""

    def create(self, config: ViTConfig) -> nn.Parameter | Tensor | None:
        """The table ``pos_embed``: a parameter if it is learned, a tensor if it is fixed, None if there is none."""
        return None

    def resized(self, pos_embed: Tensor, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
        """The table of the configuration's own grid as one of another grid; itself where the two are equal."""
        return pos_embed

    def place(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Place:
        """What is told of the tokens of an image with this grid; ``pos_embed`` is the table of this grid."""
        return NOWHERE


class _Learned(Position):
    def create(self, config: ViTConfig) -> nn.Parameter:
        return nn.Parameter(torch.empty(config.position_shape))


class Learned1D(_Learned):
    """One learned vector for every token in raster order, the class token included; equation 1's E_pos.

    At another grid the table is interpolated, in the way of ``config.position_interpolation``.
    """

    def resized(self, pos_embed: Tensor, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
        prefix = config.prefix_tokens if config.prefix_positions else 0
        return resize_positions(pos_embed, config.grid, grid, prefix=prefix, method=config.position_interpolation)

    def place(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Place:
        assert pos_embed is not None
        return Place(added=_behind_zeros(pos_embed, 0 if config.prefix_positions else config.prefix_tokens))


class Learned2D(_Learned):
    """One learned vector for every row and every column, of D / 2 each: (1, h + w, D / 2), the rows first.

    A patch gets its row's and its column's, concatenated (Dosovitskiy et al., 2021, appendix D.4); the prefix gets
    zeros. At another grid rows and columns are interpolated, each by themselves.
    """

    def resized(self, pos_embed: Tensor, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
        return resize_axes(pos_embed, config.grid, grid, method=config.position_interpolation)

    def place(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Place:
        assert pos_embed is not None
        h, w = grid
        rows, columns = pos_embed[0].split(grid)
        table = torch.cat([rows[:, None].expand(h, w, -1), columns.expand(h, w, -1)], dim=-1)
        return Place(added=_behind_zeros(table.reshape(1, h * w, -1), config.prefix_tokens))


class SinCos2D(Position):
    """Fixed sines and cosines of row and column (Beyer et al., 2022, "Better plain ViT baselines").

    The prefix gets zeros. The table is saved with the weights, so that libraries which know only learned tables open
    the model. At another grid it is computed anew, at the same places of the image: counted in the rows and columns of
    ``config.position_grid``, between which the sines go on. Were they counted in those of the new grid, as some code does,
    the model would find itself at places that it has never seen.
    """

    def create(self, config: ViTConfig) -> Tensor:
        return self._table(config, config.grid, torch.device("cpu"))

    def resized(self, pos_embed: Tensor, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
        return pos_embed if grid == config.grid else self._table(config, grid, pos_embed.device).to(pos_embed.dtype)

    def place(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Place:
        assert pos_embed is not None
        return Place(added=_behind_zeros(pos_embed, 0 if config.prefix_positions else config.prefix_tokens))

    def _table(self, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Tensor:
        rows = sincos_2d(grid, config.width, device, counted_in=config.position_grid or config.grid)[None]
        return _behind_zeros(rows, config.prefix_tokens if config.prefix_positions else 0)


class Rotary2D(Position):
    """Queries and keys of a patch are turned by angles of its row and column (DINOv3: Simeoni et al., 2025).

    The centre of a patch lies in [-1, 1] both ways whatever the grid, so another grid is another sampling of the same
    plane, and nothing is interpolated. The prefix is not turned.
    """

    def place(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Place:
        angles = rotary_2d(grid, config.attention_width // config.heads, config.rotary_base, device)
        angles = F.pad(angles, (0, 0, config.prefix_tokens, 0))
        return Place(rotation=(angles.cos(), angles.sin()))


class Relative1D(_Learned):
    """Attention of the queries to embeddings of offsets, added to the scores: (q_i k_j + q_i r_(i - j)) / sqrt(K).

    i - j is the query's place in raster order minus the key's, from 1 - n to n - 1, so the table is (2 n - 1, A), each
    row split among the heads (Dosovitskiy et al., 2021, appendix D.4, after Shaw et al., 2018). Pairs with a prefix
    token get nothing. At another grid something is lost: see ``resize_raster_offsets``.
    """

    def resized(self, pos_embed: Tensor, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
        return resize_raster_offsets(pos_embed, config.grid, grid, method=config.position_interpolation)

    def place(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Place:
        assert pos_embed is not None
        P, K = config.prefix_tokens, config.attention_width // config.heads
        falling = pos_embed.flip(0).unflatten(1, (config.heads, K))  # from offset n - 1 down to 1 - n

        def bias(q: Tensor) -> Tensor:
            scores = torch.einsum("bhik,ohk->bhio", q[:, :, P:] * K**-0.5, falling.to(q.dtype))
            return F.pad(by_pair(scores), (P, 0, P, 0))

        return Place(bias=bias)


class RelativeBias2D(_Learned):
    """A learned number for each head and each offset in rows and columns, added to the scores (Swin: Liu et al., 2021).

    The offset is the query's place minus the key's: ((2 h - 1) (2 w - 1), H), row-major from (1 - h, 1 - w). With a
    prefix, three rows more are for pairs from prefix to patch, from patch to prefix, and within the prefix (BEiT: Bao
    et al., 2022). At another grid the offsets are interpolated, as an image.
    """

    def resized(self, pos_embed: Tensor, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
        return resize_offsets(pos_embed, config.grid, grid, method=config.position_interpolation)

    def place(self, pos_embed: Tensor | None, config: ViTConfig, grid: tuple[int, int], device: torch.device) -> Place:
        assert pos_embed is not None
        (h, w), P, n = grid, config.prefix_tokens, grid[0] * grid[1]
        image, of_prefix = pos_embed.T.tensor_split([(2 * h - 1) * (2 * w - 1)], dim=1)
        # a window from (r, c) on has the offsets of query (r, c), its last place that of key (0, 0)
        windows = image.unflatten(1, (2 * h - 1, 2 * w - 1)).unfold(1, h, 1).unfold(2, w, 1)
        bias = windows.flip(3, 4).reshape(1, -1, n, n)
        if of_prefix.shape[1]:
            to_patch, to_prefix, within = of_prefix[None, :, :, None, None].unbind(2)
            above = torch.cat([within.expand(-1, -1, P, P), to_patch.expand(-1, -1, P, n)], dim=3)
            bias = torch.cat([above, torch.cat([to_prefix.expand(-1, -1, n, P), bias], dim=3)], dim=2)
        elif P:
            bias = F.pad(bias, (P, 0, P, 0))
        return Place(bias=lambda q: bias)


def by_pair(of_offsets: Tensor) -> Tensor:
    """(..., n, 2 n - 1), for each query i the offsets i - j from n - 1 down to 1 - n -> (..., n, n), for i every key j.

    Row i of the result begins n - 1 - i columns in, each row one column earlier: so it is a view of the same memory.
    """
    n = of_offsets.shape[-2]
    if n == 1:
        return of_offsets
    return of_offsets.flatten(-2)[..., n - 1 : -1].unflatten(-1, (n, 2 * n - 2))[..., :n]


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


def sincos_2d(
    grid: tuple[int, int],
    width: int,
    device: torch.device | None = None,
    counted_in: tuple[int, int] | None = None,
) -> Tensor:
    """(h w, D): sine and cosine of the column, then of the row, at D / 4 frequencies from 1 down to 1 / 10,000.

    ``counted_in`` is another grid over the same image, in whose rows and columns the centres of the patches are counted.
    """
    h, w = grid
    high, wide = counted_in or grid
    quarter = width // 4
    omega = torch.exp(torch.arange(quarter, device=device) * (-math.log(10_000) / max(quarter - 1, 1)))
    along = ((torch.arange(0.5, side, device=device) * (other / side) - 0.5) for side, other in ((h, high), (w, wide)))
    rows, columns = torch.meshgrid(*along, indexing="ij")
    y, x = rows.flatten()[:, None] * omega, columns.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


def _behind_zeros(patches: Tensor, prefix: int) -> Tensor:
    """(1, n, D) -> (1, prefix + n, D), zeros for the prefix."""
    return F.pad(patches, (0, 0, prefix, 0)) if prefix else patches


KINDS: dict[str, Position] = {
    "none": Position(),
    "learned": Learned1D(),
    "learned2d": Learned2D(),
    "sincos2d": SinCos2D(),
    "relative": Relative1D(),
    "relative_bias": RelativeBias2D(),
    "rotary2d": Rotary2D(),
}
