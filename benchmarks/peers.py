"""Other libraries' models of the same sizes, with random weights, as each of them makes one."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from vitrail.model import ViTConfig


def timm_model(config: ViTConfig) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=config.classes,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_width / config.width,
    )


def transformers_model(config: ViTConfig) -> nn.Module:
    from transformers import ViTConfig as TheirConfig
    from transformers import ViTForImageClassification

    values = TheirConfig(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_width,
        image_size=config.image_size[0],
        patch_size=config.patch_size,
        num_labels=config.classes,
    )
    return Logits(ViTForImageClassification(values))


def torchvision_model(config: ViTConfig) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=config.image_size[0],
        patch_size=config.patch_size,
        num_layers=config.depth,
        num_heads=config.heads,
        hidden_dim=config.width,
        mlp_dim=config.mlp_width,
        num_classes=config.classes,
    )


def vit_pytorch_model(config: ViTConfig) -> nn.Module:
    from vit_pytorch import ViT

    return ViT(
        image_size=config.image_size[0],
        patch_size=config.patch_size,
        num_classes=config.classes,
        dim=config.width,
        depth=config.depth,
        heads=config.heads,
        dim_head=config.width // config.heads,
        mlp_dim=config.mlp_width,
    )


class Logits(nn.Module):
    """transformers' model, called as the others are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


PEERS: Mapping[str, Callable[[ViTConfig], nn.Module]] = {
    "timm": timm_model,
    "transformers": transformers_model,
    "torchvision": torchvision_model,
    "vit-pytorch": vit_pytorch_model,
}


def frozen(model: nn.Module) -> nn.Module:
    """Compiled for inference, with the weights as constants."""
    compiled: nn.Module = torch.compile(model, dynamic=False, options={"freezing": True})
    return compiled
