"""Small models of transformers with random weights, and what each gives for images."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is fetched

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

TOLERANCE = 2e-5  # largest absolute difference in float32; outputs are of the order of one

SIZES: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 50, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
RATIO: Mapping[str, Any] = {
    **{key: value for key, value in SIZES.items() if key != "intermediate_size"},
    "mlp_ratio": 2,
}
TEXT: Mapping[str, Any] = {**SIZES, "vocab_size": 20}
LABELS = {0: "tench", 1: "goldfish", 2: "great white shark", 3: "cat", 4: "dog"}
NAMED: Mapping[str, Any] = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}

Output = Callable[[Any, Tensor], Tensor]


def logits(model: Any, images: Tensor) -> Tensor:
    return model(images).logits


def pooled(model: Any, images: Tensor) -> Tensor:
    return model(images).pooler_output


def class_token(model: Any, images: Tensor) -> Tensor:
    return model(images).last_hidden_state[:, 0]


def patch_mean(model: Any, images: Tensor) -> Tensor:
    return model(images).last_hidden_state.mean(dim=1)


def all_patches(encoder: Callable[[Any], Any]) -> Output:
    """The class token of ViT-MAE's encoder with no patch masked, which reorders them alone."""
    return lambda model, images: class_token(encoder(model), images)


def image_embeds(model: Any, images: Tensor) -> Tensor:
    return model(images).image_embeds


def image_features(model: Any, images: Tensor) -> Tensor:
    return model.get_image_features(images).pooler_output


@dataclass(frozen=True)
class Case:
    """One model of transformers."""

    kind: str
    """Its class."""
    config: Any
    output: Output
    excused: tuple[str, ...] = ()
    """Beginnings of the names of tensors that our model does not take."""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.kind

    def build(self) -> Any:
        model = getattr(transformers, self.kind)(self.config, **self.arguments).eval()
        randomise(model)
        return model


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Every parameter at random, scales of norms around one, matrices so that what passes through keeps its size."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        is_scale = "norm" in name and name.endswith("weight") and parameter.dim() == 1
        is_matrix = parameter.dim() == 2 and "embed" not in name
        deviation = parameter.shape[1] ** -0.5 if is_matrix else 0.2
        parameter.copy_(torch.randn_like(parameter) * deviation + is_scale)


def pictures(size: tuple[int, int] = (32, 32), channels: int = 3) -> Tensor:
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(1))


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def open_theirs(kind: str, folder: Path) -> Any:
    """A model by transformers' ordinary call, which must find every tensor and no other."""
    model, told = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return model.eval()
