"""The loss, and the targets that it compares with. Shapes: B batch, C classes."""

import torch.nn.functional as F
from torch import Tensor


def soft_targets(targets: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Class indices (B,) -> probabilities (B, C); ``smoothing`` of the mass is spread evenly over all classes."""
    one_hot = F.one_hot(targets, classes).float()
    return one_hot * (1 - smoothing) + smoothing / classes


def classification_loss(logits: Tensor, targets: Tensor, kind: str = "softmax") -> Tensor:
    """Mean over the batch of the cross-entropy between logits (B, C) and target probabilities (B, C).

    ``softmax``: one distribution over the classes. ``sigmoid``: a yes or no for each class, summed over the classes
    (Beyer et al., 2020, "Are we done with ImageNet?", section 5).
    """
    logits = logits.float()
    if kind == "softmax":
        return F.cross_entropy(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1).mean()
