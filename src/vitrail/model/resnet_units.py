"""What the ResNets are made of: standardised convolutions, and bottleneck units with GroupNorm.

Shapes: B batch, C channels, h w height and width of a feature map. Parameter names are timm's (resnetv2).
"""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.model.drop_path import DropPath
from vitrail.model.lecun import lecun_normal
from vitrail.model.resnet_config import backbone_width, norm_groups


def group_norm(channels: int) -> nn.GroupNorm:
    """A norm of 32 groups, or of fewer where there are few channels (``norm_groups``)."""
    return nn.GroupNorm(norm_groups(channels), channels)


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around (B, C, h, w), so that a window gives ceil(h / stride) rows and ceil(w / stride) columns.

    An odd number of zeros puts the one more below and to the right (TensorFlow's SAME).
    """
    rows, columns = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
    sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.pad(x, sides) if any(sides) else x


class StandardisedConv(nn.Conv2d):
    """A convolution without bias, each output channel's kernel brought to mean 0 and deviation 1 before use.

    Qiao et al. (2019), "Micro-batch training with batch-channel normalization and weight standardization", equation 2.
    What is learned keeps its own scale; epsilon is timm's, 1e-8.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, *, same: bool = False) -> None:
        same = same and stride > 1  # at stride 1 SAME is the same number on either side
        super().__init__(before, after, kernel, stride, padding=0 if same else kernel // 2, bias=False)
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        # one instance whose channels are the kernels: the same operation as timm's, hence the same bits
        weight = F.instance_norm(self.weight.flatten(1).unsqueeze(0), eps=1e-8).view_as(self.weight)
        if self.same:
            x = pad_same(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


class Shortcut(nn.Module):
    """The way past a unit that changes the shape: a 1x1 convolution; the hybrids' units have a norm after it."""

    def __init__(self, before: int, after: int, stride: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = StandardisedConv(before, after, 1, stride)
        self.norm = group_norm(after) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class PreActivationUnit(nn.Module):
    """A bottleneck with norm and ReLU before each convolution (He et al., 2016, "Identity mappings ..."), as in BiT."""

    def __init__(self, before: int, after: int, stride: int, drop_path: float, *, projects: bool) -> None:
        super().__init__()
        middle = after // 4
        self.downsample = Shortcut(before, after, stride, norm=False) if projects else None
        self.norm1 = group_norm(before)
        self.conv1 = StandardisedConv(before, middle, 1)
        self.norm2 = group_norm(middle)
        self.conv2 = StandardisedConv(middle, middle, 3, stride)
        self.norm3 = group_norm(middle)
        self.conv3 = StandardisedConv(middle, after, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x), inplace=True)
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv1(y)
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        y = self.conv3(F.relu(self.norm3(y), inplace=True))
        return shortcut + self.drop_path(y)


class PostActivationUnit(nn.Module):
    """A bottleneck with norm and ReLU after each convolution and SAME padding, as below the hybrids."""

    def __init__(self, before: int, after: int, stride: int, *, projects: bool) -> None:
        super().__init__()
        middle = after // 4
        self.downsample = Shortcut(before, after, stride, norm=True) if projects else None
        self.conv1 = StandardisedConv(before, middle, 1)
        self.norm1 = group_norm(middle)
        self.conv2 = StandardisedConv(middle, middle, 3, stride, same=True)
        self.norm2 = group_norm(middle)
        self.conv3 = StandardisedConv(middle, after, 1)
        self.norm3 = group_norm(after)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        y = self.norm3(self.conv3(y))
        return F.relu(shortcut + y, inplace=True)


class Stage(nn.Module):
    """Units at one resolution, the first of which changes the shape: (B, C, h, w) -> (B, C', h', w')."""

    def __init__(self, units: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def unit_shapes(layers: tuple[int, ...], root_width: int) -> Iterator[list[tuple[int, int, int, bool]]]:
    """For each stage its units: channels before and after, stride, and whether it is the stage's first."""
    before = root_width
    for stage, units in enumerate(layers):
        after = backbone_width(layers[: stage + 1], root_width)
        first = (before, after, 1 if stage == 0 else 2, True)
        yield [first] + [(after, after, 1, False)] * (units - 1)
        before = after


def init_convolutions_and_norms(module: nn.Module) -> None:
    """LeCun normal for each standardised convolution below a module; scale 1 and shift 0 for each GroupNorm."""
    for part in module.modules():
        if isinstance(part, StandardisedConv):
            lecun_normal(part)
        elif isinstance(part, nn.GroupNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
