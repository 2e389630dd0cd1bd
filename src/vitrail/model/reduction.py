"""How many tokens the blocks see when similar ones are merged, or random ones dropped; torch is not imported.

Symbols: n patches of an image, depth blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.model.resnet_config import ResNetConfig

# Kinds of position that add to the scores of pairs of tokens; of those that are left, pairs would have to be looked up.
OF_PAIRS = ("relative", "relative_bias")


def read_tokens(config: ViTConfig) -> int | None:
    """How many tokens behind the last block are read, the first ones, if they are the class token (and that of
    distillation) alone; None where more are, or where positions of pairs or in every block want them all there."""
    if config.pool != "token" or config.position in OF_PAIRS or config.site == "layers":
        return None
    return 2 if config.distilled else 1


@dataclass(frozen=True)
class Merging:
    """How many patches each block merges into others (Bolya et al., 2023, "Token Merging: Your ViT But Faster").

    No block merges more than half of the patches that it has.
    """

    amount: int | float
    """A whole number: patches a block, 0 for none. A fraction between 0 and 1: of an image's patches, the share that is
    gone behind the last block."""
    falling: bool = False
    """As many in all, but twice as many in the first block, falling evenly to none in the last: faster, and less exact."""

    def __post_init__(self) -> None:
        whole = isinstance(self.amount, int) and not isinstance(self.amount, bool)
        if not (self.amount >= 0 if whole else isinstance(self.amount, float) and 0 < self.amount < 1):
            raise UserError(
                f"merge {self.amount}: give the patches that a block merges, such as 8, or the share of all that is gone "
                "in the end, such as 0.5"
            )

    def __str__(self) -> str:
        """As a person writes it: 8, 0.5, falling:8."""
        return f"falling:{self.amount}" if self.falling else str(self.amount)

    def counts(self, patches: int, depth: int) -> tuple[int, ...]:
        """Of an image with so many patches: how many are merged away in each of the blocks."""
        wanted = self.amount * depth if isinstance(self.amount, int) else self.amount * patches
        counts, left = [], patches
        for block in range(depth):
            count = round(wanted * self._done(block + 1, depth)) - round(wanted * self._done(block, depth))
            counts.append(min(count, left // 2))
            left -= counts[-1]
        return tuple(counts)

    def _done(self, blocks: int, depth: int) -> float:
        """The share of the merging that the first blocks do."""
        share = blocks / depth
        # the sum of a line from 2 to 0 over the blocks; one block alone does all
        return share if not self.falling or depth == 1 else share * (2 * depth - blocks - 1) / (depth - 1)


def kept_patches(patches: int, dropped: float) -> int:
    """Patches of an image that are left when this share of them is dropped; at least one.

    Raises:
        UserError: a share outside [0, 1).
    """
    if not 0 <= dropped < 1:
        raise UserError(f"patch_drop {dropped}: it must be a share of the patches, 0 to below 1")
    return max(1, patches - round(patches * dropped))


def require_reducible(config: ViTConfig | ResNetConfig, what: str) -> None:
    """Refuse a model in which tokens cannot be left out or merged.

    Args:
        config: the model's configuration.
        what: what was asked for, such as ``merge`` or ``regularization.patch_drop``.

    Raises:
        UserError: its positions are numbers of pairs of patches, or it is a ResNet.
    """
    if not isinstance(config, ViTConfig):
        raise UserError(f"{what}: a ResNet has no tokens; leave it out")
    if config.position in OF_PAIRS:
        raise UserError(
            f"{what}: {config.position} positions belong to pairs of patches on the whole grid, which a reduced sequence "
            "does not have; leave it out, or take a model with another kind of position"
        )


def block_tokens(config: ViTConfig, merging: Merging | None = None, dropped: float = 0.0) -> Sequence[tuple[int, int]]:
    """The tokens that each block's attention sees, and those that its MLP sees: merging stands between the two."""
    patches, found = kept_patches(config.tokens - config.prefix_tokens, dropped), []
    for count in (Merging(0) if merging is None else merging).counts(patches, config.depth):
        found.append((config.prefix_tokens + patches, config.prefix_tokens + patches - count))
        patches -= count
    return found


def followed(config: ViTConfig) -> bool:
    """Whether merging must keep up which patches a token stands for: positions come in at the blocks."""
    return config.site in ("layers", "shared")
