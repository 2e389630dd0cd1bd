"""One training step: augmented images in, weights moved. Shapes: b images of this process, C classes, h w pixels."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitrail.data.augment import Augment, augment_batch
from vitrail.data.batches import Batch
from vitrail.data.mixup import mixup_cutmix
from vitrail.data.preprocess import Preprocess
from vitrail.data.randomness import step_generator, words
from vitrail.model import Model
from vitrail.recipes.recipe import Recipe
from vitrail.training.device import Devices, autocast
from vitrail.training.ema import Ema
from vitrail.training.loss import classification_loss, soft_targets
from vitrail.training.optimizer import Optimisers
from vitrail.training.schedule import learning_rate_factor


@dataclass(frozen=True)
class StepResult:
    """What one step says about itself; tensors stay on the device so that nothing waits for them."""

    loss: Tensor
    correct: Tensor
    gradient_norm: Tensor | None
    lr: float


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

    def __call__(self, step: int, batch: Batch) -> StepResult:
        self.model.train()
        rng = seed_step(self.recipe.seed, step, self.devices)
        images, targets = self._prepare(batch, rng)
        lr = self.optimisers.set_learning_rate(self._factor(step))
        loss, correct = self._backward(images, targets)
        norm = self._clip()
        self.optimisers.step()
        self.optimisers.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model, step)
        return StepResult(loss, correct, norm, lr)

    def _factor(self, step: int) -> float:
        schedule = self.recipe.schedule
        return learning_rate_factor(
            step, total=self.total, warmup=self.warmup, name=schedule.name, final_fraction=schedule.final_fraction
        )

    def _prepare(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Augment, mix and normalise on the device: images (b, channels, h, w) and target probabilities (b, C)."""
        recipe, device = self.recipe, self.devices.device
        pixels = batch.images.to(device, non_blocking=True)
        images = augment_batch(pixels, self.augment, recipe.seed, batch.epochs, batch.indices)
        images = self.preprocess.normalize(images)
        classes, smoothing = self.model.config.classes, recipe.regularization.label_smoothing
        targets = soft_targets(batch.targets.to(device, non_blocking=True), classes, smoothing)
        mix = recipe.mixup
        if (mix.mixup or mix.cutmix) and rng.random() < mix.probability:
            images, targets = mixup_cutmix(images, targets, mixup_alpha=mix.mixup, cutmix_alpha=mix.cutmix, rng=rng)
        return images, targets

    def _backward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the mean loss over the batch, part by part; the loss and the number of images got right."""
        parts = self.recipe.optimizer.accumulate
        total_loss, correct = images.new_zeros(()), images.new_zeros(())
        chunks = list(zip(images.chunk(parts), targets.chunk(parts), strict=True))
        for i, (x, y) in enumerate(chunks):
            with self._without_sync(i < len(chunks) - 1):
                with autocast(self.precision, self.devices.device):
                    logits = self.network(x)
                loss = classification_loss(logits, y, self.recipe.loss) * (len(x) / len(images))
                loss.backward()
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
        return nn.utils.clip_grad_norm_(self.model.parameters(), limit) if limit else None


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
