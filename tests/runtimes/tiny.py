"""Small models with random weights, as the tests of exports need them."""

from typing import Any

import torch

from vitrail.data.preprocess import Preprocess
from vitrail.model import Model, ModelConfig, ResNetConfig, ViTConfig, build

LABELS = ("cat", "dog", "owl")
SIZE = (32, 48)  # not square, so that a swap of sides shows


def model(config: ModelConfig | None = None, **choices: Any) -> Model:
    """A model of any kind whose every parameter is random, with a pixel contract and, with a head, labels."""
    sizes = {"image_size": SIZE, "patch_size": 8, "classes": 3, "width": 32, "depth": 1, "heads": 2, "mlp_width": 32}
    torch.manual_seed(0)
    made = build(config or ViTConfig(**{**sizes, **choices})).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    channels = made.config.channels
    made.preprocess = Preprocess(made.config.image_size, channels, mean=(0.4,) * channels, std=(0.2,) * channels)
    made.labels = LABELS if made.config.classes else ()
    return made


def resnet() -> Model:
    return model(ResNetConfig(image_size=SIZE, layers=(1, 1), width_factor=1, classes=3))


def images(count: int, of: Model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, of.config.channels, *of.preprocess.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def answers(of: Model, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the model says in the ordinary way, its contract's own normalisation included."""
    with torch.no_grad():
        found = of(
            of.preprocess.normalize(pixels), collect=("embedded",) if isinstance(of.config, ViTConfig) else ("stages",)
        )
    names = ("logits", "features") if of.config.classes else ("features",)
    return {name: found[name] for name in names}
