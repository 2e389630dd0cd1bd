"""Stochastic depth, for tokens and for feature maps alike."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): training leaves a residual branch out for some images.

    The first axis of the input (B, ...) is the image; what is kept is scaled up, so that its mean stays.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.skip = False
        """Whether a block may leave the work out too; see ``skip_dropped``."""

    def add_to_some(self, x: Tensor, branch: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The residual with a branch that is computed for the images alone which keep it: (B, ...) -> (B, ...).

        Every time as many, drawn anew: each image keeps its branch as often, but not independently of the others (DINOv2:
        Oquab et al., 2023, section 4, "Efficient stochastic depth").

        Args:
            x: what the branch adds to.
            branch: of some of the images (k, ...) and which they are (k,), int64.
        """
        images = x.shape[0]
        count = max(1, round(images * (1 - self.probability)))
        kept = torch.rand(images, device=x.device).argsort()[:count]
        added = branch(x.index_select(0, kept), kept).to(x.dtype)
        return x.index_add(0, kept, added, alpha=images / count)

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


def skip_dropped(model: nn.Module, skip: bool) -> None:
    """Let the blocks of a Vision Transformer compute nothing for the images whose branch stochastic depth leaves out.

    Other numbers are drawn then. Packed images are computed and masked, as is all of a ResNet.
    """
    for module in model.modules():
        if isinstance(module, DropPath):
            module.skip = skip
