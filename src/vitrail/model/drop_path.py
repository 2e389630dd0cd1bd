"""Stochastic depth, for tokens and for feature maps alike."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): training leaves a residual branch out for some images.

    The first axis of the input (B, ...) is the image; what is kept is scaled up, so that its mean stays.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor, lengths: Sequence[int] = ()) -> Tensor:
        """``lengths``: where x is one sequence (1, T, D) of several images, the tokens of each."""
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        of_image = (len(lengths) or len(x),) + (1,) * (x.dim() - 1)
        kept = (torch.rand(of_image, device=x.device) < keep).to(x.dtype)
        if lengths:
            kept = kept.transpose(0, 1).repeat_interleave(torch.tensor(lengths, device=x.device), dim=1)
        return x * kept / keep
