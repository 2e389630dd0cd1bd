"""A small model for every kind of position embedding at every place where it can come in."""

from typing import Any

import torch

from vitrail.model import ViT, ViTConfig
from vitrail.model.config import POSITION_SITES

PLACED = [(kind, site) for kind, sites in POSITION_SITES.items() for site in sites]


def small(**changes: Any) -> ViTConfig:
    """Two blocks, a grid of 3 x 5."""
    shape = {
        "image_size": (12, 20),
        "patch_size": 4,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "mlp_width": 24,
        "classes": 3,
    }
    return ViTConfig(**{**shape, **changes})


def randomised(config: ViTConfig) -> ViT:
    """With weights of which positions are a large part, so that what they do is seen."""
    torch.manual_seed(0)
    model = ViT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model
