"""Batches for training and evaluation: order, sharding over ranks, loader workers, and a position to resume from.

Training is an endless stream of epochs: position i holds sample order(seed, i // n)[i % n] of epoch i // n, and global
step s takes the positions from s * batch_size on. A batch may span two epochs, none is ever short, and where a run
stands is its step alone.

Shapes: b batch on this rank, C channels, h w height and width.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from vitrail.data.augment import Augment
from vitrail.data.groups import by_size
from vitrail.data.policies import apply_policy, kept_view, train_view
from vitrail.data.preprocess import Preprocess
from vitrail.data.processes import load_in_processes
from vitrail.data.randomness import order
from vitrail.data.resolutions import Resolutions, Size
from vitrail.data.samples import Samples
from vitrail.data.watch import at
from vitrail.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Images on their way to the model, before `augment.augment_batch` and `Preprocess.normalize`."""

    groups: tuple[torch.Tensor, ...]
    """uint8 (b, C, h, w), one for each size; a single one, unless images keep their own aspect ratio."""
    targets: torch.Tensor
    """int64 (b,), in the order of the groups, as are the next two; -1 where a sample has no label."""
    epochs: torch.Tensor
    """int64 (b,), the epoch that each image is drawn for; 0 in evaluation."""
    indices: torch.Tensor
    """int64 (b,), the place of each image in its Samples."""

    @property
    def images(self) -> torch.Tensor:
        """The images of a batch in which all are of one size."""
        (images,) = self.groups
        return images

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory, from which copies to a GPU overlap with its work."""
        return Batch(tuple(group.pin_memory() for group in self.groups), self.targets, self.epochs, self.indices)


@dataclass(frozen=True, eq=False)
class TrainBatches(Dataset[Batch]):
    """The endless stream of training batches of one rank, from ``start_step`` on.

    The batches depend on neither ``workers`` nor ``start_step`` nor ``cached``: the same step gives the same batch, to
    the bit.

    Raises:
        UserError: the batch size cannot be shared out equally, or there is nothing to train on.
        ImageError: while iterating, an image cannot be read or decoded.
        Failure: while iterating, a loading process was killed, or hangs.
    """

    samples: Samples
    preprocess: Preprocess
    augment: Augment
    batch_size: int
    """Images a step over all ranks."""
    seed: int
    rank: int = 0
    world: int = 1
    workers: int = 0
    """Processes that prepare batches; 0 is in this process."""
    start_step: int = 0
    cached: Mapping[Size, torch.Tensor] | None = None
    """All images by `cache.check_images`, uint8 (n, C, h, w), for each image size, so that nothing is decoded here."""
    pin_memory: bool = False
    resolutions: Resolutions | None = None
    """The image size and patch size of each step; None for the contract's own size throughout."""
    stop: Callable[[], bool] | None = None
    """As for ``load_in_order``: when it says so, the stream ends. It stays in this process."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.world:
            raise UserError(f"batch_size {self.batch_size} cannot be shared out equally to {self.world} processes")
        if not len(self.samples):
            raise UserError("there are no images to train on")
        for cached in (self.cached or {}).values():
            if len(cached) != len(self.samples):
                raise ValueError(f"{len(cached)} cached images for {len(self.samples)} samples")

    def __iter__(self) -> Iterator[Batch]:
        # a gather from the cache is faster than the way through a worker
        workers = 0 if self.cached is not None and not self.augment.per_image else self.workers
        return load_in_order(replace(self, stop=None), _Steps(self.start_step), workers, self.pin_memory, self.stop)

    def __getitem__(self, step: int) -> Batch:
        """This rank's batch of global step ``step``."""
        epochs, indices = self.positions(step)
        contract = self.contract(step)
        cached = None if self.cached is None else self.cached[contract.image_size]
        if cached is not None and not self.augment.per_image:
            return _batch(self.samples, cached[torch.from_numpy(indices)], epochs, indices)
        views = [self._view(contract, cached, int(e), int(i)) for e, i in zip(epochs, indices, strict=True)]
        return _batch(self.samples, views, epochs, indices)

    def contract(self, step: int) -> Preprocess:
        """The pixel contract of global step ``step``: at its image size, and in mode native its patch size."""
        if self.resolutions is None:
            return self.preprocess
        size, patch_size = self.resolutions.at(step)
        return replace(self.preprocess, image_size=size, patch_size=patch_size)

    def positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The epochs (b,) and sample indices (b,) of this rank's images in global step ``step``."""
        n, share = len(self.samples), self.batch_size // self.world
        start = step * self.batch_size + self.rank * share
        positions = np.arange(start, start + share)
        epochs, places = positions // n, positions % n
        indices = np.empty(share, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = _order(self.seed, int(epoch), n)[places[chosen]]
        return epochs, indices

    def _view(self, contract: Preprocess, cached: torch.Tensor | None, epoch: int, index: int) -> torch.Tensor:
        at(index)
        if cached is not None and self.augment.crop == "none":
            return apply_policy(cached[index], self.augment, seed=self.seed, epoch=epoch, index=index)
        if self.samples.kept is not None:
            return kept_view(self.samples.kept, contract, self.augment, seed=self.seed, epoch=epoch, index=index)
        data, name = self.samples.encoded(index), self.samples.names[index]
        return train_view(data, name, contract, self.augment, seed=self.seed, epoch=epoch, index=index)


@dataclass(frozen=True, eq=False)
class EvalBatches(Dataset[Batch]):
    """Every sample once, in order, the last batch as short as it comes; rank r takes samples r, r + world, ..."""

    samples: Samples
    preprocess: Preprocess
    batch_size: int
    rank: int = 0
    world: int = 1
    cached: torch.Tensor | None = None

    def __len__(self) -> int:
        return -(-len(range(self.rank, len(self.samples), self.world)) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        mine = np.arange(self.rank, len(self.samples), self.world, dtype=np.int64)
        indices = mine[number * self.batch_size : (number + 1) * self.batch_size]
        if self.cached is not None:
            return _batch(self.samples, self.cached[torch.from_numpy(indices)], np.zeros_like(indices), indices)
        images = [load_image(self.samples, self.preprocess, int(i)) for i in indices]
        return _batch(self.samples, images, np.zeros_like(indices), indices)


def eval_batches(
    samples: Samples,
    preprocess: Preprocess,
    batch_size: int,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    cached: torch.Tensor | None = None,
    pin_memory: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Batch]:
    """Every sample once across the ranks, in order, the last batch as short as it comes.

    Args:
        cached: all images by `cache.check_images`, uint8 (n, C, h, w).
        stop: as for ``load_in_order``.

    Raises:
        ImageError: an image cannot be read or decoded.
        Failure: a loading process was killed, or hangs.
    """
    batches = EvalBatches(samples, preprocess, batch_size, rank, world, cached)
    return load_in_order(batches, range(len(batches)), 0 if cached is not None else workers, pin_memory, stop)


def load_image(samples: Samples, preprocess: Preprocess, index: int) -> torch.Tensor:
    """Sample ``index`` as evaluation sees it, uint8 (C, h, w). Raises ImageError."""
    at(index)
    return preprocess.load(samples.encoded(index), samples.names[index])


@dataclass(frozen=True)
class _Steps:
    """The numbers from ``start`` on, without end: which batches a loader asks for."""

    start: int

    def __iter__(self) -> Iterator[int]:
        step = self.start
        while True:
            yield step
            step += 1


def _batch(
    samples: Samples, images: torch.Tensor | Sequence[torch.Tensor], epochs: np.ndarray, indices: np.ndarray
) -> Batch:
    """A batch of images, stacked already or one by one."""
    if isinstance(images, torch.Tensor):
        groups: tuple[torch.Tensor, ...] = (images,)
    else:
        groups, order = by_size(images)
        epochs, indices = epochs[order], indices[order]
    targets = np.full(len(indices), -1) if samples.targets is None else samples.targets[indices]
    return Batch(groups, torch.from_numpy(targets), torch.from_numpy(epochs), torch.from_numpy(indices))


_order = functools.lru_cache(maxsize=4)(order)  # a batch rarely spans more than two epochs


class Source(Protocol):
    """What batches are loaded from: for each number a batch, made of samples."""

    @property
    def samples(self) -> Samples: ...

    def __getitem__(self, number: int, /) -> Batch: ...


def load_in_order(
    batches: Source,
    numbers: Iterable[int],
    workers: int,
    pin_memory: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Batch]:
    """``batches[number]`` for each number, in order, prepared by ``workers`` processes (0: here).

    The processes are watched: one that is killed, or makes no progress for 25 seconds, ends the iteration, and none is
    left behind. Here, without processes, a read that never returns cannot be noticed, nor a decoder that crashes.

    Args:
        batches: it can be pickled.
        numbers: may be without end.
        pin_memory: give batches in page-locked memory.
        stop: asked while a batch is not ready, several times a second with processes, else before it is made; when it
            says so, the iteration ends. Processes that die from the same signal are then no error.

    Raises:
        ImageError: as it was raised in the worker.
        Failure: a worker was killed or hangs; the message names its image and a way out.
    """
    if workers < 1:
        for number in numbers:
            if stop is not None and stop():
                return
            batch = batches[number]
            yield batch.pin_memory() if pin_memory else batch
        return
    name = batches.samples.names.__getitem__
    for targets, epochs, indices, *groups in load_in_processes(
        _Tensors(batches), numbers, workers, name, pin_memory=pin_memory, stop=stop
    ):
        yield Batch(tuple(groups), targets, epochs, indices)


@dataclass(frozen=True, eq=False)
class _Tensors:
    """The tensors of a batch."""

    batches: Source

    def __call__(self, number: int) -> list[torch.Tensor]:
        batch = self.batches[number]
        return [batch.targets, batch.epochs, batch.indices, *batch.groups]
