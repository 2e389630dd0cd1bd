"""Mixup and cutmix: two images of a batch become one, and so do their targets.

Mixup: Zhang et al., arXiv 1710.09412. Cutmix: Yun et al., arXiv 1905.04899.
Shapes: B batch, C channels, H W height and width, K classes.
"""

import math

import numpy as np
import torch


def mixup_cutmix(
    images: torch.Tensor,
    targets: torch.Tensor,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix every image with its neighbour in the batch, by one share drawn for the whole batch.

    Args:
        images: (B, C, H, W), floating point.
        targets: probabilities of the classes, (B, K).
        mixup_alpha: the share is drawn from Beta(alpha, alpha); 0 is no mixup.
        cutmix_alpha: the same for cutmix. Where both are above 0, each is taken for half of the batches.
        rng: from `randomness.step_generator`, so that the mix is a function of (seed, step, rank).

    Returns:
        The mixed images and targets. With both alphas 0, what was given.
    """
    if mixup_alpha <= 0 and cutmix_alpha <= 0:
        return images, targets
    cut = cutmix_alpha > 0 and (mixup_alpha <= 0 or rng.random() < 0.5)
    alpha = cutmix_alpha if cut else mixup_alpha
    share = float(rng.beta(alpha, alpha))  # of the image itself
    others, other_targets = images.roll(1, 0), targets.roll(1, 0)
    if not cut:
        return torch.lerp(others, images, share), torch.lerp(other_targets, targets, share)
    top, bottom, left, right = _cut_box(images.shape[-2], images.shape[-1], 1 - share, rng)
    images = images.clone()
    images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])  # what the edges left of it
    return images, torch.lerp(other_targets, targets, share)


def _cut_box(height: int, width: int, area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box about a uniform centre, cut off at the image's edges."""
    tall, wide = height * math.sqrt(area), width * math.sqrt(area)
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = round(max(0.0, y - tall / 2)), round(min(height, y + tall / 2))
    left, right = round(max(0.0, x - wide / 2)), round(min(width, x + wide / 2))
    return top, bottom, left, right
