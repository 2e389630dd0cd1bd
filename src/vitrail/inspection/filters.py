"""Patch filters: what a model's first layer looks for in the pixels, as pictures (Dosovitskiy et al., 2021, figure 7).

Shapes: n pictures, D kernels (one for each channel of a token), C channels of an image, p side of a patch or kernel.
"""

import torch
from torch import Tensor, nn

from vitrail.errors import UserError
from vitrail.inspection.inspection import Filters
from vitrail.model import Model
from vitrail.model.patches import LinearPatches
from vitrail.model.resnet_units import StandardisedConv


@torch.no_grad()
def patch_filters(model: Model, count: int = 28) -> Filters:
    """The main directions of the kernels that turn patches into tokens; of convolutions the kernels themselves.

    A linear stem's D kernels are D points in the space of a patch's C p p pixels. Their principal components, from the
    greatest variance down, are the patterns that its tokens tell apart. A patch's pixels count as they are normalised for
    the model; factors of a norm over them are part of the kernels. Hybrids, convolutional stems and ResNets share a few
    small kernels among all places: the first ``count`` of the first convolution are shown as they act, which for
    standardised ones is without their mean.

    Args:
        model: any model of grey or colour images.
        count: how many pictures at most; there are no more than kernels, or than pixels of a patch.

    Returns:
        Pictures from 0 to 1, each scaled by itself so that 0.5, grey, is 0 and the strongest pixel is 0 or 1. A component's
        sign means nothing; here its strongest pixel is bright.

    Raises:
        UserError: a count below 1, or images of another number of channels than 1 or 3.
    """
    if count < 1:
        raise UserError(f"{count} patch filters: give a positive number")
    channels = model.config.channels
    if channels not in (1, 3):
        raise UserError(
            f"the patch filters of images with {channels} channels are no pictures; only of 1 or 3 they are"
        )
    stem = getattr(model, "patch_embed", None)
    if isinstance(stem, LinearPatches):
        kernels = _linear(stem)
        found, shares = components(kernels.flatten(1), count)
        what = f"principal components of the {len(kernels)} kernels that turn patches into tokens"
        return Filters(_pictures(found.unflatten(1, kernels.shape[1:])).numpy(), shares.numpy(), what)
    kernels = _first_convolution(model)
    what = f"kernels of the first convolution, of {len(kernels)}"
    return Filters(_pictures(kernels[:count]).numpy(), torch.zeros(0).numpy(), what)


def components(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Principal components of points (n, d), from the greatest variance down: unit vectors (k, d), and shares (k,).

    k is ``count``, or n or d where that is less. A share is the part of the points' variance along its component. The
    entry of a component that is largest in magnitude is positive, so that the sign does not hang on the machine.
    """
    _, lengths, directions = torch.linalg.svd(points - points.mean(dim=0), full_matrices=False)
    strongest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    variances = lengths.square()
    shares = variances / variances.sum().clamp_min(torch.finfo(points.dtype).tiny)
    return (directions * strongest.sign())[:count], shares[:count]


def _linear(stem: LinearPatches) -> Tensor:
    """(D, C, p, p), with the factors of the pixels' norm where there is one."""
    kernels = stem.proj.weight.float()
    if isinstance(stem.norm_pixels, nn.LayerNorm):
        kernels = kernels * stem.norm_pixels.weight.float().view(kernels.shape[1:])
    return kernels.cpu()


def _first_convolution(model: Model) -> Tensor:
    """(n, C, p, p)"""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    kernels = first.weight.float().cpu()
    return kernels - kernels.mean(dim=(1, 2, 3), keepdim=True) if isinstance(first, StandardisedConv) else kernels


def _pictures(patterns: Tensor) -> Tensor:
    """(n, C, p, p) of any scale -> (n, p, p, C) from 0 to 1, where 0 becomes 0.5."""
    strongest = patterns.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(patterns.dtype).tiny)
    return (0.5 + patterns / (2 * strongest)).permute(0, 2, 3, 1).contiguous()
