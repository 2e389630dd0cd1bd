"""BiT's ResNet-v2, the convolutional baseline; and the ResNet that a hybrid Vision Transformer has for a stem.

Both are He et al.'s bottleneck units with GroupNorm and standardised kernels (Kolesnikov et al., 2020, section 3.1).
They differ in where a unit has its norms and how images are padded:

====================  ===============================  ==============================================
ResNet                norm and ReLU before each        the same number of zeros on either side
                      convolution
Backbone (hybrids)    norm and ReLU after it           SAME: as many zeros as the output, ceil(size /
                                                       stride), needs; the odd one below and right
====================  ===============================  ==============================================

Shapes: B batch, C channels, H W image height and width, h w those of a feature map, N = h w tokens, D width of a token.
Parameter names are timm's (resnetv2 and HybridEmbed).
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import UserError, did_you_mean
from vitrail.model.resnet_config import BackboneConfig, ResNetConfig
from vitrail.model.resnet_units import (
    PostActivationUnit,
    PreActivationUnit,
    Stage,
    StandardisedConv,
    group_norm,
    init_convolutions_and_norms,
    pad_same,
    unit_shapes,
)

# What ``collect`` gives: name -> the shape of one layer's entry.
COLLECTABLE = {"stages": "(B, C, h, w), the output of each stage, before the final norm"}


class Stem(nn.Module):
    """ResNet's first layer: (B, C, H, W) -> (B, root channels, H / 4, W / 4) or, if small, (B, root channels, H, W)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.pools = config.stem == "large"
        kernel, stride = (7, 2) if self.pools else (3, 1)
        self.conv = StandardisedConv(config.channels, config.root_channels, kernel, stride)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        # zeros, not the -inf of max_pool2d's own padding: nothing was activated yet, a window at the edge is never below 0
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2) if self.pools else x


class Root(nn.Module):
    """The hybrids' first layer: (B, C, H, W) -> (B, root width, H / 4, W / 4), rounded up; if small, H and W stay."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.pools = config.root == "large"
        kernel, stride = (7, 2) if self.pools else (3, 1)
        self.conv = StandardisedConv(config.channels, config.root_width, kernel, stride, same=True)
        self.norm = group_norm(config.root_width)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(images)), inplace=True)
        return F.max_pool2d(pad_same(x, 3, 2), 3, 2) if self.pools else x


class Backbone(nn.Module):
    """The hybrids' ResNet: (B, C, H, W) -> (B, C', H / stride, W / stride), rounded up; its units norm and activate last."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.stem = Root(config)
        stages = [
            Stage([PostActivationUnit(before, after, stride, projects=first) for before, after, stride, first in units])
            for units in unit_shapes(config.layers, config.root_width)
        ]
        self.stages = nn.Sequential(*stages)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return x


class HybridStem(nn.Module):
    """A ResNet, then a matrix for every patch of its feature map: (B, C, H, W) -> (B, N, D).

    The hybrids of Dosovitskiy et al. (2021), section 3.1, and Steiner et al. (2022).

    Args:
        config: of the ResNet; without stages its first layer alone stays.
        width: D.
        patch_size: pixels of an image that a token stands for, on a side: a multiple of the ResNet's stride.
        bias: whether the patch matrix has a bias.
    """

    def __init__(self, config: BackboneConfig, width: int, patch_size: int, *, bias: bool = True) -> None:
        super().__init__()
        side = patch_size // config.stride
        self.backbone: Backbone | Root = Backbone(config) if config.layers else Root(config)
        self.proj = nn.Conv2d(config.width, width, kernel_size=side, stride=side, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.backbone(images)).flatten(2).transpose(1, 2)


class Head(nn.Module):
    """Features to logits, a 1x1 convolution in timm's naming: (B, width) -> (B, classes)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(features[:, :, None, None]).flatten(1)


class ResNet(nn.Module):
    """BiT's ResNet-v2: images (B, C, H, W), normalised as ``preprocess`` says, -> logits (B, classes).

    Images of any size from the network's stride on are accepted.

    Attributes:
        config: its ResNetConfig.
        preprocess: the pixel contract of its weights (``vitrail.data.preprocess.Preprocess``), None where unknown.
        labels: class names in the order of the logits; empty where unknown.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocess: Any = None
        self.labels: tuple[str, ...] = ()

        self.stem = Stem(config)
        total = sum(config.layers)
        rates = iter([config.drop_path * unit / max(total - 1, 1) for unit in range(total)])
        stages = [
            Stage(
                [
                    PreActivationUnit(before, after, stride, next(rates), projects=first)
                    for before, after, stride, first in units
                ]
            )
            for units in unit_shapes(config.layers, config.root_channels)
        ]
        self.stages = nn.Sequential(*stages)
        self.norm = group_norm(config.width)
        self.head = Head(config.width, config.classes) if config.classes else nn.Identity()
        init_resnet(self)

    def encode(self, images: Tensor, collected: dict[str, list[Tensor]] | None = None) -> Tensor:
        """Stem, stages, the final norm and ReLU: (B, C, H, W) -> (B, width, h, w)."""
        self._check(images)
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
            if collected is not None and "stages" in collected:
                collected["stages"].append(x)
        return F.relu(self.norm(x), inplace=True)

    def pool(self, x: Tensor) -> Tensor:
        """The mean over the feature map: (B, width, h, w) -> (B, width)."""
        return x.mean(dim=(2, 3))

    def features(self, images: Tensor) -> Tensor:
        """Pooled features before the head: (B, C, H, W) -> (B, width)."""
        return self.pool(self.encode(images))

    def classify(self, features: Tensor) -> Tensor:
        """The head: (B, width) -> (B, classes)."""
        return self.head(features)

    def forward(self, images: Tensor, collect: Collection[str] = ()) -> Any:
        """Logits (B, classes); with ``collect``, a dict of ``logits``, ``features`` and the named lists, by stage.

        Args:
            images: (B, C, H, W), normalised.
            collect: names in ``COLLECTABLE``.

        Raises:
            UserError: images of another number of channels, or smaller than the stride; an unknown name in ``collect``.
        """
        if not collect:
            return self.classify(self.features(images))
        for name in collect:
            if name not in COLLECTABLE:
                raise UserError(f"the model does not collect {name!r}: {did_you_mean(name, COLLECTABLE)}")
        collected: dict[str, list[Tensor]] = {name: [] for name in collect}
        features = self.pool(self.encode(images, collected))
        return {"logits": self.classify(features), "features": features, **collected}

    def _check(self, images: Tensor) -> None:
        c, s = self.config.channels, self.config.stride
        if images.dim() != 4 or images.shape[1] != c or min(images.shape[2:]) < s:
            raise UserError(
                f"the model takes images of shape (B, {c}, H, W), H and W at least {s}; got {tuple(images.shape)}"
            )


@torch.no_grad()
def init_resnet(model: ResNet) -> None:
    """Set every parameter as Google's code does for BiT, drawn from torch's global generator.

    ======================  =======================================================================
    convolutions            LeCun normal: truncated at two deviations, variance 1 / fan-in
    GroupNorm               scale 1, shift 0
    head                    0
    ======================  =======================================================================

    Kernels are standardised before use: their initial scale says nothing about the first output, only how far a
    learning rate moves them. No branch starts at zero: a unit has no norm after its last convolution.
    """
    init_convolutions_and_norms(model)
    if isinstance(model.head, Head):
        for parameter in model.head.parameters():
            nn.init.zeros_(parameter)


@torch.no_grad()
def init_backbone(backbone: Backbone | Root) -> None:
    """Set every parameter as Google's code does for the hybrids' ResNet, drawn from torch's global generator.

    ======================  =======================================================================
    convolutions            LeCun normal: truncated at two deviations, variance 1 / fan-in
    GroupNorm               scale 1, shift 0
    a unit's last norm      scale 0, shift 0: each unit starts as its shortcut and ReLU
    ======================  =======================================================================
    """
    init_convolutions_and_norms(backbone)
    for module in backbone.modules():
        if isinstance(module, PostActivationUnit):
            nn.init.zeros_(module.norm3.weight)
