"""Attention pooling: one learned query reads the patches (MAP; Zhai et al., 2022, "Scaling Vision Transformers").

Shapes: B batch, N patch tokens, D width, H heads, K width per head. Parameter names are timm's.
"""

import torch
from torch import Tensor, nn

from vitrail.model.attention import attend
from vitrail.model.config import ViTConfig


class AttentionPool(nn.Module):
    """A learned query attends to all patches, then an MLP around a residual: (B, N, D) -> (B, D)."""

    def __init__(self, config: ViTConfig, mlp: type[nn.Module]) -> None:
        super().__init__()
        D = config.width
        self.heads = config.heads
        self.latent = nn.Parameter(torch.empty(1, 1, D))
        self.q = nn.Linear(D, D)
        self.kv = nn.Linear(D, 2 * D)
        self.proj = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D, eps=config.norm_eps)
        self.mlp = mlp(D, config.mlp_width, config.activation, config.dropout)

    def forward(self, z: Tensor, bias: Tensor | None = None) -> Tensor:
        """``bias``: (B, 1, 1, N), added to the scores."""
        B, _, D = z.shape
        q = self.q(self.latent.expand(B, -1, -1)).reshape(B, 1, self.heads, -1).transpose(1, 2)
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.kv(z).chunk(2, dim=-1))
        x = self.proj(attend(q, k, v, bias=None if bias is None else bias.to(q.dtype)).transpose(1, 2).reshape(B, 1, D))
        return (x + self.mlp(self.norm(x)))[:, 0]
