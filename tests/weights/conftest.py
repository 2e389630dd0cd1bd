"""Small models with random weights for the tests of files."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vitrail.data.preprocess import Preprocess
from vitrail.model import ViT, ViTConfig

SMALL = {"image_size": (32, 48), "patch_size": 8, "classes": 5, "width": 32, "depth": 2, "heads": 4, "mlp_width": 50}


@pytest.fixture
def make_model() -> Callable[..., ViT]:
    """A function from changed fields of a small configuration to a model with random weights, in evaluation mode."""

    def make(**changes: Any) -> ViT:
        config = ViTConfig(**{**SMALL, **changes})
        torch.manual_seed(0)
        model = ViT(config).eval()
        for tensor in [*model.parameters(), *(b for n, b in model.named_buffers() if "running_mean" in n)]:
            torch.nn.init.normal_(tensor, std=0.3)
        channels = config.channels
        model.preprocess = Preprocess(
            config.image_size, channels=channels, mean=(0.4, 0.5, 0.6)[:channels], std=(0.2, 0.3, 0.25)[:channels]
        )
        model.labels = tuple("abcdefgh"[: config.classes])
        return model

    return make
