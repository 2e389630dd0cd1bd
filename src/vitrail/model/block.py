"""One block of the Vision Transformer: equations 2 and 3 of Dosovitskiy et al. (2021).

Shapes: B batch, N tokens, T tokens of a packed sequence, D width. Parameter names are timm's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.model.attention import Attention, Collected, Place, keep
from vitrail.model.config import ViTConfig
from vitrail.model.drop_path import DropPath
from vitrail.model.positions import KINDS

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}

Merge = Callable[[Tensor, Tensor], Tensor]  # tokens (B, N, D) and their keys -> fewer tokens


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

    def forward(
        self, z: Tensor, place: Place, collected: Collected, merge: Merge | None = None, only: int | None = None
    ) -> Tensor:
        """
        Args:
            z: (B, N, D).
            place: where the tokens lie.
            collected: where to keep what its names ask for.
            merge: makes fewer tokens of those behind the attention, by its keys.
            only: how many of the tokens, the first ones, are read afterwards, if not all; the result may be those alone.
        """
        if place.added is not None:
            z = z + place.added
        drop_path = self.drop_path
        if self.training and drop_path.skip and drop_path.probability and not (collected or place.segments or merge):
            return self._skipping(z, place)
        keys: list[Tensor] = []
        asked = collected if merge is None else {**collected, "keys": keys}
        attention = self.attn(self.norm1(z), place, asked, only)
        lengths = place.lengths
        attention = self.drop_path(self.ls1(attention), lengths)
        z = z[:, :only] + attention
        if merge is not None:
            z = merge(z, keys[0])
        mlp = self.drop_path(self.ls2(self.mlp(self.norm2(z))), lengths)
        z = z + mlp
        keep(collected, tokens=z, attention_output=attention, mlp_output=mlp)
        return z

    def _skipping(self, z: Tensor, place: Place) -> Tensor:
        """The same, with no work done for the images whose branch stochastic depth leaves out."""

        def attention(some: Tensor, images: Tensor) -> Tensor:
            return self.ls1(self.attn(self.norm1(some), place.of_images(images)))

        def mlp(some: Tensor, images: Tensor) -> Tensor:
            return self.ls2(self.mlp(self.norm2(some)))

        return self.drop_path.add_to_some(self.drop_path.add_to_some(z, attention), mlp)
