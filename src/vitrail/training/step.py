"""One training step: augmented images in, weights moved. Shapes: b images of this process, C classes, h w pixels."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from vitrail.data.augment import Augment, augment_batch
from vitrail.data.batches import Batch
from vitrail.data.mixup import mixup_cutmix
from vitrail.data.preprocess import Preprocess
from vitrail.data.randomness import step_generator, words
from vitrail.data.resolutions import Resolutions
from vitrail.model import Model, ViTConfig
from vitrail.model.drop_path import skip_dropped
from vitrail.recipes.recipe import Recipe
from vitrail.training.device import Devices, autocast
from vitrail.training.ema import Ema
from vitrail.training.loss import classification_loss, soft_targets
from vitrail.training.optimizer import Optimisers
from vitrail.training.resolution import load, parts, step_of
from vitrail.training.schedule import learning_rate_factor
from vitrail.training.sharding import in_step, is_sharded, whole


@dataclass(frozen=True)
class StepResult:
    """What one step says about itself; tensors stay on the device so that nothing waits for them."""

    loss: Tensor
    correct: Tensor
    gradient_norm: Tensor | None
    lr: float
    finite: Tensor
    """Whether the loss and the gradients of all processes are finite (bool); if not, the step has moved no weight."""


@dataclass
class TrainStep:
    """Everything that a step moves or reads. Call it with the step's number and its batch.

    ``network`` is the model as it is called: itself, or wrapped for several processes, or compiled.
    """

    recipe: Recipe
    model: Model
    network: nn.Module
    optimisers: Optimisers
    ema: Ema | None
    preprocess: Preprocess
    augment: Augment
    devices: Devices
    precision: str
    total: int
    warmup: int
    resolutions: Resolutions | None = None
    """The image size and patch size of each step, as the loader has them; None for the model's own throughout."""
    compiled: bool = False
    """Whether the model, or its blocks, are compiled."""

    def __post_init__(self) -> None:
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        self.statistics = [buffer for norm in norms for buffer in norm.buffers()]
        """What a forward pass changes by itself."""
        skip_dropped(self.model, self.recipe.regularization.drop_path_mode == "skip")

    def __call__(self, step: int, batch: Batch) -> StepResult:
        self.model.train()
        rng = seed_step(self.recipe.seed, step, self.devices)
        groups, targets = self._prepare(batch, rng)
        lr = self.optimisers.set_learning_rate(self._factor(step))
        own = step_of(self.model.config)
        patch_size = own if self.resolutions is None else self.resolutions.at(step)[1]
        before = [buffer.clone() for buffer in self.statistics]
        how = self._how(step, patch_size)
        loss, correct = self._backward(groups, targets, patch_size, how)
        norm = self._clip()
        finite = self._finite(loss, norm)
        self.optimisers.step(finite)
        for buffer, kept in zip(self.statistics, before, strict=True):
            buffer.copy_(torch.where(finite, buffer, kept))
        self.optimisers.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model, step)
        return StepResult(loss, correct, norm, lr, finite)

    def _factor(self, step: int) -> float:
        schedule = self.recipe.schedule
        return learning_rate_factor(
            step, total=self.total, warmup=self.warmup, name=schedule.name, final_fraction=schedule.final_fraction
        )

    def _prepare(self, batch: Batch, rng: np.random.Generator) -> tuple[list[Tensor], Tensor]:
        """Augment, mix and normalise on the device, the images of each size by themselves.

        Returns:
            Groups of images (b, channels, h, w), and the target probabilities of all of them in order (b, C).
        """
        recipe, device = self.recipe, self.devices.device
        classes, smoothing = self.model.config.classes, recipe.regularization.label_smoothing
        targets = soft_targets(batch.targets.to(device, non_blocking=True), classes, smoothing)
        mix = recipe.mixup
        mixed = bool(mix.mixup or mix.cutmix) and rng.random() < mix.probability
        counts = [len(group) for group in batch.groups]
        images, mixed_targets = [], []
        rows = zip(
            batch.groups, targets.split(counts), batch.epochs.split(counts), batch.indices.split(counts), strict=True
        )
        for group, y, epochs, indices in rows:
            pixels = group.to(device, non_blocking=True)
            x = self.preprocess.normalize(augment_batch(pixels, self.augment, recipe.seed, epochs, indices))
            if mixed:
                x, y = mixup_cutmix(x, y, mixup_alpha=mix.mixup, cutmix_alpha=mix.cutmix, rng=rng)
            images.append(x)
            mixed_targets.append(y)
        return images, torch.cat(mixed_targets)

    def _how(self, step: int, patch_size: int) -> dict[str, Any]:
        """What the network is told beside its images, where it is not the usual."""
        how: dict[str, Any] = {}
        if isinstance(self.model.config, ViTConfig) and patch_size != self.model.config.patch_size:
            how["patch_size"] = patch_size
        if dropped := self.recipe.regularization.patch_drop_at(step, self.total):
            how["patch_drop"] = dropped
        return how

    def _backward(
        self, groups: Sequence[Tensor], targets: Tensor, patch_size: int, how: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the mean loss over the batch, part by part; the loss and the number of images got right.

        A part holds no more tokens than one of images of the model's own size does, so that memory stays what it is there.
        """
        config, done = self.model.config, 0
        most = len(targets) // self.recipe.optimizer.accumulate * load(config, config.image_size, step_of(config))
        sizes = [(len(group), load(config, (group.shape[-2], group.shape[-1]), patch_size)) for group in groups]
        cut = parts(sizes, most)
        total_loss, correct = groups[0].new_zeros(()), groups[0].new_zeros(())
        pieces = []
        for part in cut:
            x = [groups[number][chosen] for number, chosen in part]
            pieces.append((x, targets[done : done + sum(map(len, x))]))
            done += len(pieces[-1][1])
        # where images have different sizes, so have processes different numbers of parts
        apart = is_sharded(self.model) and self.preprocess.varies
        counted = in_step(pieces, self.devices) if apart else ((piece, True) for piece in pieces)
        for i, ((x, y), counts) in enumerate(counted):
            with self._without_sync(i < len(cut) - 1):
                with autocast(self.precision, self.devices.device):
                    logits = self.network(x[0] if len(x) == 1 else x, **how)
                loss = classification_loss(logits, y, self.recipe.loss) * (len(y) / len(targets) if counts else 0.0)
                loss.backward()
            if not counts:
                continue
            total_loss += loss.detach()
            correct += (logits.detach().argmax(1) == y.argmax(1)).sum()
        return total_loss, correct

    def _without_sync(self, more_to_come: bool) -> AbstractContextManager:
        """Processes exchange gradients with the last part of a batch only."""
        if isinstance(self.network, DistributedDataParallel) and more_to_come:
            return self.network.no_sync()
        return nullcontext()

    def _clip(self) -> Tensor | None:
        limit = self.recipe.optimizer.clip
        return whole(nn.utils.clip_grad_norm_(self.model.parameters(), limit)) if limit else None

    def _finite(self, loss: Tensor, norm: Tensor | None) -> Tensor:
        """Whether this step may move the weights; the same in every process, as gradients and this loss are shared."""
        if norm is None:
            norm = whole(nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]))
        return torch.isfinite(self.devices.mean(loss) + norm)


def seed_step(seed: int, step: int, devices: Devices) -> np.random.Generator:
    """Make everything drawn in a step a function of (seed, step, rank).

    Seeds torch's generators of the CPU and of the device (dropout, drop path), and returns one for the choices of mixing.
    """
    word = int(words(seed, "torch", step, devices.rank, count=1)[0, 0] >> np.uint64(1))
    torch.default_generator.manual_seed(word)
    if devices.device.type == "cuda":
        torch.cuda.manual_seed(word)
    elif devices.device.type == "mps":
        torch.mps.manual_seed(word)
    return step_generator(seed, step, devices.rank)
