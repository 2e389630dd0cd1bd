"""Image -> tokens: linear patches, a convolutional stem, or a ResNet and then patches (hybrid).

Shapes: B batch, C channels, H W image height and width, p patch size, h w grid, N = h w tokens, D width.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.model.config import ViTConfig
from vitrail.model.resize import resize_kernel
from vitrail.model.resnet import HybridStem


def patchify(images: Tensor, p: int) -> Tensor:
    """Cut images into patches and flatten each: (B, C, H, W) -> (B, N, C p p), row by row; equation 1's x_p.

    A patch is flattened channel by channel, then row by row, as a convolution's kernel is.
    """
    B, C, H, W = images.shape
    h, w = H // p, W // p
    patches = images.reshape(B, C, h, p, w, p).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(B, h * w, C * p * p)


class LinearPatches(nn.Module):
    """One matrix for every patch: (B, C, H, W) -> (B, N, D); equation 1's x_p E.

    The matrix is kept as a convolution kernel (D, C, p, p), the shape it has in every public checkpoint.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        p, eps = config.patch_size, config.norm_eps
        self.p = p
        pixels = config.channels * p * p
        self.norm_pixels = nn.LayerNorm(pixels, eps=eps) if config.patch_norm else nn.Identity()
        self.proj = nn.Conv2d(config.channels, config.width, kernel_size=p, stride=p, bias=config.patch_bias)
        self.norm = nn.LayerNorm(config.width, eps=eps) if config.patch_norm else nn.Identity()

    def forward(self, images: Tensor, p: int | None = None) -> Tensor:
        """``p``: another patch size than the kernel's, which is then resized (``resize_kernel``)."""
        patches = self.norm_pixels(patchify(images, p or self.p))
        kernel = resize_kernel(self.proj.weight, p or self.p)
        return self.norm(F.linear(patches, kernel.flatten(1), self.proj.bias))


class ConvStem(nn.Module):
    """Strided 3x3 convolutions down to the grid, then a 1x1 convolution to the width: (B, C, H, W) -> (B, N, D).

    Each convolution halves the image and doubles the channels; a patch size p takes log2 p of them. The overlap and the
    weight sharing give the locality that a plain ViT must learn from data (Xiao et al., 2021, "Early convolutions help
    transformers see better").
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = config.channels
        for channels in config.stem_channels:
            layers += [
                nn.Conv2d(before, channels, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            before = channels
        self.proj = nn.Sequential(*layers, nn.Conv2d(before, config.width, kernel_size=1, bias=config.patch_bias))

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)

    def of_several(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """The same for batches of several sizes; the norms take their statistics over the pixels of all of them."""
        maps, pixels = list(batches), None
        for layer in self.proj:
            if not isinstance(layer, nn.Conv2d):  # a norm, or its ReLU: on the pixels of all maps, (1, channels, n, 1)
                pixels = layer(_pixels_of(maps) if pixels is None else pixels)
                continue
            maps = [layer(z) for z in (maps if pixels is None else _as_maps(pixels, maps))]
            pixels = None
        return [z.flatten(2).transpose(1, 2) for z in maps]


def _pixels_of(maps: Sequence[Tensor]) -> Tensor:
    """Feature maps (B, C, h, w) of several sizes -> the pixels of all of them, (1, C, n, 1)."""
    return torch.cat([z.transpose(0, 1).flatten(1) for z in maps], dim=1)[None, :, :, None]


def _as_maps(pixels: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of ``_pixels_of``, for maps of the shapes of ``like``."""
    apart = pixels[0, :, :, 0].split([len(z) * z.shape[2] * z.shape[3] for z in like], dim=1)
    return [part.unflatten(1, (len(z), *z.shape[2:])).transpose(0, 1) for part, z in zip(apart, like, strict=True)]


def hybrid_stem(config: ViTConfig) -> HybridStem:
    """A ResNet first, and patches cut from its feature map: the paper's hybrid (section 3.1)."""
    return HybridStem(config.backbone, config.width, config.patch_size, bias=config.patch_bias)


STEMS: dict[str, Callable[[ViTConfig], nn.Module]] = {
    "linear": LinearPatches,
    "conv": ConvStem,
    "hybrid": hybrid_stem,
}
