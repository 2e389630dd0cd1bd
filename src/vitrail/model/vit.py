"""The Vision Transformer of Dosovitskiy et al. (2021): read top to bottom, it is the paper's equations 1 to 4.

Shapes: B batch, C channels, H W image height and width, h w grid rows and columns, P prefix tokens (class token,
distillation token, registers), N = P + h w tokens, T tokens of a packed sequence, D width. Parameter names are timm's.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import UserError, did_you_mean
from vitrail.model.attention import NOWHERE, Attention, Collected, Place, keep, pack
from vitrail.model.config import ViTConfig
from vitrail.model.drop_path import DropPath
from vitrail.model.init import init_weights
from vitrail.model.patches import STEMS, ConvStem
from vitrail.model.pooling import AttentionPool
from vitrail.model.positions import KINDS

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}

# What ``collect`` gives: name -> the shape of one layer's entry.
COLLECTABLE = {
    "embedded": "(B, N, D), the tokens that enter the first block; one entry",
    "tokens": "(B, N, D), the output of each block, before the final norm",
    "attention": "(B, heads, N, N), the attention weights of each block, after softmax",
    "queries": "(B, heads, N, K), the queries of each block, after their norm and rotation",
    "keys": "(B, heads, N, K), the keys, likewise",
    "values": "(B, heads, N, K), the values",
    "bias": "(B or 1, heads, N, N), what positions add to the scores of each block; nothing where they add nothing",
    "heads": "(B, heads, N, K), what each block's heads give, before they are brought together",
    "attention_output": "(B, N, D), what each block's attention adds to the tokens",
    "mlp_output": "(B, N, D), what each block's MLP adds to the tokens",
    "normed": "(B, N, D), the tokens after the final norm; one entry",
}
# One batch of images, or several of different sizes.
Images = Tensor | Sequence[Tensor]
Shape = tuple[int, tuple[int, int]]
"""A batch of images, and the grid that they are cut into."""


class Mlp(nn.Module):
    """Two dense layers with a non-linearity between: (B, N, D) -> (B, N, D).

    With a gate, the first layer gives two halves, and the non-linearity of the first is multiplied with the second.
    """

    def __init__(self, width: int, hidden: int, activation: str, dropout: float, gated: bool = False) -> None:
        super().__init__()
        self.gated = gated
        self.fc1 = nn.Linear(width, 2 * hidden if gated else hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.act = ACTIVATIONS[activation]
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.gated:
            gate, value = x.chunk(2, dim=-1)
            x = self.act(gate) * value
        else:
            x = self.act(x)
        return self.drop(self.fc2(self.drop(x)))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch (Touvron et al., 2021, "Going deeper ...", equation 8)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention, then MLP, each after a norm and around a residual: equations 2 and 3."""

    def __init__(self, config: ViTConfig, drop_path: float) -> None:
        super().__init__()
        D = config.width
        self.pos_embed = KINDS[config.position].create(config) if config.site == "layers" else None

        def scale() -> nn.Module:
            return nn.Identity() if config.layer_scale is None else LayerScale(D, config.layer_scale)

        self.norm1 = nn.LayerNorm(D, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(D, eps=config.norm_eps)
        self.mlp = Mlp(D, config.mlp_width, config.activation, config.dropout, config.gated_mlp)
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path)

    def forward(self, z: Tensor, place: Place, collected: Collected) -> Tensor:
        if place.added is not None:
            z = z + place.added
        attention = self.attn(self.norm1(z), place, collected)
        lengths = place.lengths
        attention = self.drop_path(self.ls1(attention), lengths)
        z = z + attention
        mlp = self.drop_path(self.ls2(self.mlp(self.norm2(z))), lengths)
        z = z + mlp
        keep(collected, tokens=z, attention_output=attention, mlp_output=mlp)
        return z


class ViT(nn.Module):
    """A Vision Transformer: images (B, C, H, W), normalised as ``preprocess`` says, -> logits (B, classes).

    Any image size that its patch size divides is accepted: at a grid that is not the configuration's own, the position
    embedding is resized, as its kind says. Positions come in once, before the blocks, or in every block
    (``config.site``; Dosovitskiy et al., 2021, appendix D.4).

    Images of several sizes, a batch of each, are packed into one sequence (Dehghani et al., 2023, "Patch n' Pack"): the
    layers that see single tokens see all of them at once, and in attention each image sees itself alone. So there is
    no padding, and the answers are those that each batch would get by itself.

    Attributes:
        config: its ViTConfig.
        preprocess: the pixel contract of its weights (``vitrail.data.preprocess.Preprocess``), None where unknown.
        labels: class names in the order of the logits; empty where unknown.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocess: Any = None
        self.labels: tuple[str, ...] = ()
        D, depth = config.width, config.depth

        def norm(stands_here: bool) -> nn.Module:
            return nn.LayerNorm(D, eps=config.norm_eps) if stands_here else nn.Identity()

        self.patch_embed = STEMS[config.stem](config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, D)) if config.class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, D)) if config.distilled else None
        self.reg_token = nn.Parameter(torch.empty(1, config.registers, D)) if config.registers else None
        pos_embed = KINDS[config.position].create(config) if config.site != "layers" else None
        if isinstance(pos_embed, nn.Parameter):
            self.pos_embed: Tensor | None = pos_embed
        else:
            self.register_buffer("pos_embed", pos_embed)
        self.pos_drop = nn.Dropout(config.dropout)
        self.norm_pre = norm(config.pre_norm)

        rates = [config.drop_path * layer / max(depth - 1, 1) for layer in range(depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = norm(config.final_norm == "tokens")
        self.attn_pool = AttentionPool(config, Mlp) if config.pool == "map" else None
        self.fc_norm = (
            nn.LayerNorm(config.feature_width, eps=config.norm_eps) if config.final_norm == "pooled" else nn.Identity()
        )
        self.pre_logits = nn.Linear(config.feature_width, config.representation) if config.representation else None
        self.head = nn.Linear(config.head_inputs, config.classes) if config.classes else nn.Identity()
        self.head_dist = nn.Linear(D, config.classes) if config.distilled and config.classes else None
        init_weights(self)

    def embed(self, images: Images, *, patch_size: int | None = None) -> Tensor:
        """Equation 1: patches, class token and registers, positions at the stem. (B, C, H, W) -> (B, N, D).

        Several batches become one packed sequence, (1, T, D).
        """
        batches, shapes = self._batches(images, patch_size)
        z = _packed([self._behind_prefix(patches) for patches in self._patches(batches, patch_size)])
        place = self._place(self, shapes, z.device) if self.config.site == "stem" else NOWHERE
        if place.added is not None:
            z = z + place.added
        return self.norm_pre(self.pos_drop(z))

    def _patches(self, batches: Sequence[Tensor], patch_size: int | None) -> list[Tensor]:
        """The tokens of patches of each batch, (B, h w, D)."""
        if patch_size not in (None, self.config.patch_size):
            return [self.patch_embed(images, patch_size) for images in batches]
        if len(batches) > 1 and isinstance(self.patch_embed, ConvStem):
            return self.patch_embed.of_several(batches)
        return [self.patch_embed(images) for images in batches]

    def _behind_prefix(self, z: Tensor) -> Tensor:
        """Class token and registers, then the patches, without positions: (B, h w, D) -> (B, N, D)."""
        tokens = (self.cls_token, self.dist_token, self.reg_token)
        return torch.cat([*(token.expand(len(z), -1, -1) for token in tokens if token is not None), z], dim=1)

    def encode(self, images: Images, collected: Collected | None = None, *, patch_size: int | None = None) -> Tensor:
        """Equations 1 to 3 and the final norm, on every token. (B, C, H, W) -> (B, N, D).

        Several batches become one packed sequence, (1, T, D).
        """
        collected = {} if collected is None else collected
        z = self.embed(images, patch_size=patch_size)
        keep(collected, embedded=z)
        _, shapes = self._batches(images, patch_size)
        for block, place in zip(self.blocks, self._places(shapes, z.device), strict=True):
            z = block(z, place, collected)
        z = self.norm(z)
        keep(collected, normed=z)
        return z

    def pool(self, z: Tensor) -> Tensor:
        """Equation 4, or one of its alternatives: (B, N, D) tokens after the final norm -> (B, feature width)."""
        return self.fc_norm(self._pooled(z))

    def _pooled(self, z: Tensor) -> Tensor:
        patches = z[:, self.config.prefix_tokens :]
        if self.attn_pool is not None:
            return self.attn_pool(patches)
        if self.config.pool == "avg":
            return patches.mean(dim=1)
        if self.config.pool == "token_avg":
            return torch.cat([z[:, 0], patches.mean(dim=1)], dim=1)
        return z[:, :2].flatten(1) if self.config.distilled else z[:, 0]

    def features(self, images: Images, *, patch_size: int | None = None) -> Tensor:
        """Pooled features before the head: (B, C, H, W) -> (B, ``config.feature_width``).

        Of several batches, those of all images, in order.
        """
        z = self.encode(images, patch_size=patch_size)
        _, shapes = self._batches(images, patch_size)
        if len(shapes) == 1:
            return self.pool(z)
        parts = z[0].split([count * self._length(grid) for count, grid in shapes])
        apart = zip(parts, shapes, strict=True)
        return torch.cat([self.pool(part.unflatten(0, (count, self._length(grid)))) for part, (count, grid) in apart])

    def classify(self, features: Tensor) -> Tensor:
        """The head: (B, feature width) -> (B, classes); with a representation layer, dense and tanh come first.

        A distilled model has two heads, one for each of its two tokens, and gives the mean of their logits.
        """
        if self.head_dist is not None:
            of_class, of_distillation = features.chunk(2, dim=1)
            return (self.head(of_class) + self.head_dist(of_distillation)) / 2
        return self.head(features if self.pre_logits is None else torch.tanh(self.pre_logits(features)))

    def forward(self, images: Images, collect: Collection[str] = (), *, patch_size: int | None = None) -> Any:
        """Logits (B, classes); with ``collect``, a dict of ``logits``, ``features`` and the named lists, by layer.

        Args:
            images: (B, C, H, W), normalised; or a sequence of such batches, each of a size of its own, whose logits come
                in order.
            collect: names in ``COLLECTABLE``. Collecting ``attention`` takes the explicit path of the attention.
            patch_size: cut the images into patches of this size instead of the model's own; the linear stem's matrix is
                resized by pseudo-inverse (FlexiViT: Beyer et al., 2023).

        Raises:
            UserError: images of another number of channels, or a size that the patch size does not divide; an unknown
                name in ``collect``, or anything of several batches; another patch size for another stem.
        """
        if not collect:
            return self.classify(self.features(images, patch_size=patch_size))
        for name in collect:
            if name not in COLLECTABLE:
                raise UserError(f"the model does not collect {name!r}: {did_you_mean(name, COLLECTABLE)}")
        if not isinstance(images, Tensor):
            raise UserError("intermediates are collected of one batch of images of one size, not of several")
        collected: Collected = {name: [] for name in collect}
        features = self.pool(self.encode(images, collected, patch_size=patch_size))
        return {"logits": self.classify(features), "features": features, **collected}

    def _places(self, shapes: Sequence[Shape], device: torch.device) -> Iterator[Place]:
        """What each block is told of its tokens' places."""
        if self.config.site == "layers":
            return (self._place(block, shapes, device) for block in self.blocks)
        if self.config.site == "shared":
            return repeat(self._place(self, shapes, device), len(self.blocks))
        return repeat(self._packed_place([NOWHERE] * len(shapes), shapes), len(self.blocks))

    def _place(self, holder: Any, shapes: Sequence[Shape], device: torch.device) -> Place:
        """What the table that the model or a block holds tells of the places in images with these grids."""
        kind = KINDS[self.config.position]
        places = []
        for _, grid in shapes:
            table = None if holder.pos_embed is None else kind.resized(holder.pos_embed, self.config, grid)
            places.append(kind.place(table, self.config, grid, device))
        return self._packed_place(places, shapes)

    def _packed_place(self, places: Sequence[Place], shapes: Sequence[Shape]) -> Place:
        if len(places) == 1:
            return places[0]
        return pack([(place, count, self._length(grid)) for place, (count, grid) in zip(places, shapes, strict=True)])

    def _length(self, grid: tuple[int, int]) -> int:
        """Tokens of an image with this grid."""
        return self.config.prefix_tokens + grid[0] * grid[1]

    def _batches(self, images: Images, patch_size: int | None) -> tuple[Sequence[Tensor], list[Shape]]:
        """The batches, one or several, and their shapes; refuses what cannot be cut into patches."""
        c, p = self.config.channels, self.config.patch_size if patch_size is None else patch_size
        if p < 1:
            raise UserError(f"patches of {p} pixels: give a positive number")
        if p != self.config.patch_size and (self.config.stem != "linear" or self.config.patch_norm):
            what = f"the {self.config.stem} one" if self.config.stem != "linear" else "one that normalises its pixels"
            raise UserError(f"patches of {p} pixels: only a linear stem can be cut otherwise, not {what}")
        batches = [images] if isinstance(images, Tensor) else images
        for batch in batches:
            if (
                batch.dim() != 4
                or batch.shape[1] != c
                or batch.shape[2] % p
                or batch.shape[3] % p
                or 0 in batch.shape[2:]
            ):
                raise UserError(
                    f"the model takes images of shape (B, {c}, H, W), H and W divisible by {p}; got {tuple(batch.shape)}"
                )
        if not batches:
            raise UserError("the model takes at least one batch of images; got none")
        return batches, [(len(batch), (batch.shape[2] // p, batch.shape[3] // p)) for batch in batches]


def _packed(tokens: Sequence[Tensor]) -> Tensor:
    """Batches of tokens (B, N, D) as one sequence, (1, T, D); one batch stays as it is."""
    return tokens[0] if len(tokens) == 1 else torch.cat([z.flatten(0, 1) for z in tokens])[None]
