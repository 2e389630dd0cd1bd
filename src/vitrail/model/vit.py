"""The Vision Transformer of Dosovitskiy et al. (2021): equations 1 and 4 of the paper; 2 and 3 are `block.py`.

Shapes: B batch, C channels, H W image height and width, h w grid rows and columns, P prefix tokens (class token,
distillation token, registers), N = P + h w tokens, T tokens of a packed sequence, D width. Parameter names are timm's.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail.errors import UserError, did_you_mean
from vitrail.model.attention import NOWHERE, Collected, Place, keep, pack
from vitrail.model.block import Block, Mlp
from vitrail.model.config import ViTConfig
from vitrail.model.dropping import Kept, draw
from vitrail.model.init import init_weights
from vitrail.model.merging import Merged, log_sizes
from vitrail.model.patches import STEMS, ConvStem
from vitrail.model.pooling import AttentionPool
from vitrail.model.positions import KINDS
from vitrail.model.reduction import Merging, followed, read_tokens, require_reducible

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
    "merges": "(B, N), for each token that enters the first block, the one of the last block that holds it; one entry",
}
# One batch of images, or several of different sizes.
Images = Tensor | Sequence[Tensor]
Shape = tuple[int, tuple[int, int]]
"""A batch of images, and the grid that they are cut into."""


class Encoded(NamedTuple):
    """Tokens behind the final norm, and what pooling must know of them."""

    z: Tensor
    """(B, N, D); several batches are one packed sequence, (1, T, D)."""
    shapes: list[tuple[int, int]]
    """Of each batch its images, and the tokens of each of them."""
    sizes: Tensor | None
    """(B, N): the patches that each token stands for; None where that is one."""


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
        half_tokens: keep tokens in autocast's type between the blocks, under autocast. The sums of the blocks' residuals
            are then rounded to it, and the passes over memory between matrix products take half the bytes. Not saved.
        merge: how its answers merge tokens where a call does not say it; None for not at all. It is not saved.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocess: Any = None
        self.labels: tuple[str, ...] = ()
        self.half_tokens = False
        self.merge: Merging | None = None
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
        z = self.norm_pre(self.pos_drop(z))
        if self.half_tokens and torch.is_autocast_enabled(z.device.type):
            return z.to(torch.get_autocast_dtype(z.device.type))
        return z

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
        return torch.cat([*(token.expand(z.shape[0], -1, -1) for token in tokens if token is not None), z], dim=1)

    def encode(self, images: Images, collected: Collected | None = None, *, patch_size: int | None = None) -> Tensor:
        """Equations 1 to 3 and the final norm, on every token. (B, C, H, W) -> (B, N, D).

        Several batches become one packed sequence, (1, T, D).
        """
        return self._encode(images, {} if collected is None else collected, patch_size).z

    def _encode(
        self,
        images: Images,
        collected: Collected,
        patch_size: int | None,
        merge: Merging | None = None,
        patch_drop: float = 0.0,
        only: int | None = None,
    ) -> Encoded:
        """``only``: how many tokens, the first ones, are read afterwards, where it is known; the last block gives those."""
        z = self.embed(images, patch_size=patch_size)
        keep(collected, embedded=z)
        _, shapes = self._batches(images, patch_size)
        lengths = [(count, self._length(grid)) for count, grid in shapes]
        kept = self._draw(lengths, patch_drop, z.device) if patch_drop and self.training else None
        if kept is not None:
            z = kept.select(z)
            lengths = [(count, tokens) for (count, _), tokens in zip(lengths, kept.tokens, strict=True)]
        places = self._places(shapes, z.device, kept)
        merged = None if merge is None else self._merged(merge, z, collected)
        for layer, (block, place) in enumerate(zip(self.blocks, places, strict=True), start=1):
            if merged is not None:
                place = merged.place(place)
            if only is not None and layer == len(self.blocks):
                z = block(z, place, collected, only=only)
            else:
                z = block(z, place, collected, None if merged is None else merged.merge)
        z = self.norm(z)
        keep(collected, normed=z)
        if "merges" in collected:
            origins = torch.arange(z.shape[1], device=z.device).expand(z.shape[:2])
            keep(collected, merges=origins if merged is None else merged.origins())
        return Encoded(z, lengths, None if merged is None else merged.sizes)

    def _draw(self, lengths: Sequence[tuple[int, int]], patch_drop: float, device: torch.device) -> Kept:
        """The tokens that a training step keeps, of batches of so many images and tokens."""
        require_reducible(self.config, "patch_drop")
        prefix = self.config.prefix_tokens
        return draw([(images, tokens - prefix) for images, tokens in lengths], prefix, patch_drop, device)

    def _merged(self, merge: Merging, z: Tensor, collected: Collected) -> Merged:
        """What the blocks do with the tokens (B, N, D) of the first of them."""
        require_reducible(self.config, "merge")
        prefix = self.config.prefix_tokens
        counts = merge.counts(z.shape[1] - prefix, len(self.blocks))
        follow = "merges" in collected or followed(self.config)
        return Merged(counts, prefix, z, follow)

    def pool(self, z: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Equation 4, or one of its alternatives: (B, N, D) tokens after the final norm -> (B, feature width).

        Merged tokens count by their ``sizes``, (B, N).
        """
        return self.fc_norm(self._pooled(z, sizes))

    def _pooled(self, z: Tensor, sizes: Tensor | None) -> Tensor:
        prefix = self.config.prefix_tokens
        patches, sizes = z[:, prefix:], None if sizes is None else sizes[:, prefix:]
        if self.attn_pool is not None:
            return self.attn_pool(patches, None if sizes is None else log_sizes(sizes))
        if self.config.pool == "avg":
            return _mean(patches, sizes)
        if self.config.pool == "token_avg":
            return torch.cat([z[:, 0], _mean(patches, sizes)], dim=1)
        return z[:, :2].flatten(1) if self.config.distilled else z[:, 0]

    def features(
        self,
        images: Images,
        *,
        patch_size: int | None = None,
        merge: Merging | None = None,
        patch_drop: float = 0.0,
    ) -> Tensor:
        """Pooled features before the head: (B, C, H, W) -> (B, ``config.feature_width``).

        What the last block would compute of patches that are not pooled is left out. Of several batches, the features of
        all images, in order. ``patch_size``, ``merge`` and ``patch_drop`` as in ``forward``.
        """
        merge = self.merge if merge is None else merge
        if merge is not None and patch_drop:
            raise UserError("merge and patch_drop: give one of them")
        if merge is not None and not isinstance(images, Tensor) and len(images) > 1:
            # each size has its own tokens to merge: nothing is packed
            return torch.cat([self.features(batch, patch_size=patch_size, merge=merge) for batch in images])
        z, shapes, sizes = self._encode(images, {}, patch_size, merge, patch_drop, self._read(images))
        if len(shapes) == 1:
            return self.pool(z, sizes)
        parts = z[0].split([count * tokens for count, tokens in shapes])
        return torch.cat([self.pool(part.unflatten(0, shape)) for part, shape in zip(parts, shapes, strict=True)])

    def _read(self, images: Images) -> int | None:
        """How many tokens the last block is asked for: see ``read_tokens``; None for all of them.

        What it would compute of patches that are not pooled is never used: of 12 blocks, that is 7 % of the work. Dropout
        asks for all, as it would draw for other tokens, and so does a packed sequence.
        """
        dropout = self.training and (self.config.dropout or self.config.attention_dropout)
        several = not isinstance(images, Tensor) and len(images) > 1
        return None if dropout or several else read_tokens(self.config)

    def classify(self, features: Tensor) -> Tensor:
        """The head: (B, feature width) -> (B, classes); with a representation layer, dense and tanh come first.

        A distilled model has two heads, one for each of its two tokens, and gives the mean of their logits.
        """
        if self.head_dist is not None:
            of_class, of_distillation = features.chunk(2, dim=1)
            return (self.head(of_class) + self.head_dist(of_distillation)) / 2
        return self.head(features if self.pre_logits is None else torch.tanh(self.pre_logits(features)))

    def forward(
        self,
        images: Images,
        collect: Collection[str] = (),
        *,
        patch_size: int | None = None,
        merge: Merging | None = None,
        patch_drop: float = 0.0,
    ) -> Any:
        """Logits (B, classes); with ``collect``, a dict of ``logits``, ``features`` and the named lists, by layer.

        Args:
            images: (B, C, H, W), normalised; or a sequence of such batches, each of a size of its own, whose logits come
                in order.
            collect: names in ``COLLECTABLE``. Collecting ``attention`` takes the explicit path of the attention.
            patch_size: cut the images into patches of this size instead of the model's own; the linear stem's matrix is
                resized by pseudo-inverse (FlexiViT: Beyer et al., 2023).
            merge: merge similar patches on the way, which is faster and less exact (see ``model/merging.py``); None for
                the model's own way.
            patch_drop: in training mode, the share of the patches that is left out of each image, others each time (see
                ``model/dropping.py``).

        Raises:
            UserError: images of another number of channels, or a size that the patch size does not divide; an unknown
                name in ``collect``, or anything of several batches; another patch size for another stem; ``merge`` or
                ``patch_drop`` with positions of pairs of patches; with merged tokens, anything but ``merges`` collected.
        """
        if not collect:
            return self.classify(self.features(images, patch_size=patch_size, merge=merge, patch_drop=patch_drop))
        merge = self.merge if merge is None else merge
        for name in collect:
            if name not in COLLECTABLE:
                raise UserError(f"the model does not collect {name!r}: {did_you_mean(name, COLLECTABLE)}")
            if merge is not None and name != "merges":
                raise UserError(f"{name} is collected of whole images: leave merge out, or collect merges")
        if not isinstance(images, Tensor):
            raise UserError("intermediates are collected of one batch of images of one size, not of several")
        collected: Collected = {name: [] for name in collect}
        z, _, sizes = self._encode(images, collected, patch_size, merge)
        features = self.pool(z, sizes)
        return {"logits": self.classify(features), "features": features, **collected}

    def _places(self, shapes: Sequence[Shape], device: torch.device, kept: Kept | None = None) -> Iterator[Place]:
        """What each block is told of its tokens' places; where not all are kept, of the places of those."""

        def of_kept(place: Place) -> Place:
            return place if kept is None else kept.place(place)

        if self.config.site == "layers":
            return (of_kept(self._place(block, shapes, device)) for block in self.blocks)
        if self.config.site == "shared":
            return repeat(of_kept(self._place(self, shapes, device)), len(self.blocks))
        return repeat(of_kept(self._packed_place([NOWHERE] * len(shapes), shapes)), len(self.blocks))

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
        return batches, [(batch.shape[0], (batch.shape[2] // p, batch.shape[3] // p)) for batch in batches]


def _mean(patches: Tensor, sizes: Tensor | None) -> Tensor:
    """(B, n, D) -> (B, D); merged patches count by their sizes, (B, n)."""
    if sizes is None:
        return patches.mean(dim=1)
    shares = (sizes / sizes.sum(dim=1, keepdim=True)).to(patches.dtype)
    return (patches * shares[..., None]).sum(dim=1)


def _packed(tokens: Sequence[Tensor]) -> Tensor:
    """Batches of tokens (B, N, D) as one sequence, (1, T, D); one batch stays as it is."""
    return tokens[0] if len(tokens) == 1 else torch.cat([z.flatten(0, 1) for z in tokens])[None]
