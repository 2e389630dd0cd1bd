"""Training steps to be timed: vitrail's own, and timm's model in the loop that a person would write around it.

Both do the whole step: uint8 images to normalised floats, forward pass, cross-entropy with label smoothing, backward
pass, clipping at norm 1, AdamW. Shapes: b images, C classes.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.augment import Augment
from vitrail.data.batches import Batch
from vitrail.data.preprocess import Preprocess
from vitrail.model import ViT
from vitrail.recipes.files import from_dict
from vitrail.training.device import Devices
from vitrail.training.ema import Ema
from vitrail.training.optimizer import Optimisers
from vitrail.training.step import TrainStep

Model = TypeVar("Model", bound=nn.Module)
TIMM = {
    "Ti/16": "vit_tiny_patch16_224",
    "S/16": "vit_small_patch16_224",
    "B/16": "vit_base_patch16_224",
    "L/16": "vit_large_patch16_224",
    "H/14": "vit_huge_patch14_224",
}
HALF = (0.5,) * 3
SMOOTHING, LEARNING_RATE, CLIP, DECAY = 0.1, 1e-4, 1.0, 0.05


def synthetic(batch: int, size: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random uint8 images (b, 3, size, size) in the host's memory, page-locked for a GPU, and classes (b,)."""
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    return images.pin_memory() if device.type == "cuda" else images, torch.randint(0, classes, (batch,))


def vitrail_step(
    model: ViT,
    images: Tensor,
    targets: Tensor,
    device: torch.device,
    precision: str,
    *,
    network: nn.Module | None = None,
    preprocess: Any = None,
    clip: float = CLIP,
    ema: float = 0.0,
    patch_drop: float = 0.0,
) -> Callable[..., object]:
    """Our own step, as the training loop calls it, on this batch; or on other images, which may be given to the call.

    Args:
        model: on the device, compiled or not.
        network: how the model is called, where that is not the model itself.
        preprocess: what normalises the images; None for mean and deviation of a half.
        clip, ema, patch_drop: the recipe's ``optimizer.clip``, ``ema.decay`` and ``regularization.patch_drop``.
    """
    step = train_step(
        model, device, precision, network=network, preprocess=preprocess, clip=clip, ema=ema, patch_drop=patch_drop
    )
    indices = torch.arange(len(images))
    epochs = torch.zeros_like(indices)
    return lambda pixels=images: step(1, Batch((pixels,), targets, epochs, indices))


def train_step(
    model: ViT,
    device: torch.device,
    precision: str,
    *,
    network: nn.Module | None = None,
    preprocess: Any = None,
    clip: float = CLIP,
    ema: float = 0.0,
    patch_drop: float = 0.0,
) -> TrainStep:
    """The step of the training loop, with everything that it moves; arguments as for ``vitrail_step``."""
    dropping = {"patch_drop": patch_drop} if patch_drop else {}
    recipe = from_dict(
        {
            "steps": 1000,
            "optimizer": {"lr": LEARNING_RATE, "weight_decay": DECAY, "clip": clip},
            "regularization": {"label_smoothing": SMOOTHING, **dropping},
        }
    )
    return TrainStep(
        recipe=recipe,
        model=model,
        network=model if network is None else network,
        optimisers=Optimisers(model, recipe.optimizer),
        ema=Ema(model, ema) if ema else None,
        preprocess=preprocess or Preprocess(model.config.image_size, mean=HALF, std=HALF),
        augment=Augment(),
        devices=Devices(0, 1, device),
        precision=precision,
        total=1000,
        warmup=0,
    )


def timm_step(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    device: torch.device,
    precision: str,
    *,
    fused: bool | None = True,
) -> Callable[[], object]:
    """timm's model in a plain loop; ``fused`` None is AdamW as ``torch.optim`` and timm's own factory make it."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=fused)
    model.train()

    def step() -> None:
        x = (images.to(device, non_blocking=True).float() / 255 - 0.5) / 0.5
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        y = targets.to(device, non_blocking=True)
        F.cross_entropy(logits.float(), y, label_smoothing=SMOOTHING).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timm_model(name: str, classes: int, device: torch.device, **changes: Any) -> nn.Module:
    """timm's model of the same size, with random weights."""
    with device:
        return random_head(timm.create_model(TIMM[name], num_classes=classes, **changes).to(device))


def random_head(model: Model) -> Model:
    """Give the head random weights: from zeros no gradient passes, and matrix units compute faster with zeros."""
    nn.init.normal_(model.head.weight, std=0.02)
    return model
