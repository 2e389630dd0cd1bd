"""Images of a run: looked at before the first step, and kept decoded where they fit into memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from vitrail.data.cache import CACHE_BYTES, Checked, Memory, cache_bytes, check_images
from vitrail.data.kept import Form
from vitrail.data.preprocess import Preprocess
from vitrail.data.resolutions import Size
from vitrail.data.samples import Samples
from vitrail.data.store import keep_in_file, keep_in_memory, user_cache
from vitrail.data.workers import cores
from vitrail.errors import UserError
from vitrail.recipes.recipe import Recipe
from vitrail.training.memory import free_bytes

_REDUCED = 2  # times the image size: images that are kept reduced, where crops are none and the recipe does not say
_LOOK_AT = 20_000  # images, before the first step; all of them if bad ones are to be left out


@dataclass(frozen=True)
class Look:
    """How a run looks at its images."""

    recipe: Recipe
    preprocess: Preprocess
    name: str
    """Of the data."""
    neighbours: int = 1
    """Processes on this machine, which share its memory."""
    progress: Callable[[int, int], None] | None = None
    memory: Memory | None = None
    """Of images decoded by earlier runs on the same data, for this run and later ones."""

    @cached_property
    def room(self) -> int:
        """The bytes that decoded images may take."""
        return min(CACHE_BYTES, free_bytes(torch.device("cpu")) // 4) // self.neighbours

    def at_training(self, samples: Samples, sizes: Sequence[Size]) -> tuple[Checked, dict[Size, torch.Tensor]]:
        """The training images that can be used, and all of them decoded at every size that steps have, if they are kept.

        Random crops differ every epoch; all else begins with the same resized image, which is worth keeping.

        Raises:
            UserError: damaged images without ``skip_bad``; images of different sizes are to be kept.
        """
        if self.recipe.data.keeps_reduced:
            return self._reduced(samples, sizes), {}
        if self.preprocess.varies and self.recipe.data.cache:
            raise UserError(
                "data.cache: images at their own aspect ratio are not kept: leave it out, or take another mode"
            )
        contracts = [self.preprocess]
        if not self.preprocess.varies:
            contracts = [replace(self.preprocess, image_size=size) for size in sizes]
        need = sum(cache_bytes(len(samples), contract) for contract in contracts)
        # an image is decoded once for each size in advance: to be a gain, it must be needed as often
        gain = len(contracts) == 1 or len(contracts) <= self._passes(samples)
        room = self.room if self.recipe.augment.crop == "none" and gain else 0
        first = self._checked(samples, contracts[0], "train", need, room)
        if first.cached is None:
            return first, {}
        kept = {contracts[0].image_size: first.cached}
        for contract in contracts[1:]:
            more = self._checked(first.samples, contract, "train", need, room).cached
            assert more is not None
            kept[contract.image_size] = more
        return first, kept

    def at_evaluation(self, samples: Samples | None, split: str) -> Checked | None:
        """The images of ``val`` or ``test`` that can be used, kept if they fit into a quarter of the room."""
        if samples is None:
            return None
        # test images are used once in a run, so they are kept for other runs alone
        room = self.room // 4 if split == "val" or self.memory else 0
        return self._checked(samples, self.preprocess, split, cache_bytes(len(samples), self.preprocess), room)

    def _reduced(self, samples: Samples, sizes: Sequence[Size]) -> Checked:
        """The training images decoded and reduced, in memory or in a file."""
        data = self.recipe.data
        augment = self.recipe.augment
        # so that no random crop is enlarged which would not be from the file
        times = 1 / math.sqrt(augment.scale[0]) if augment.crop == "random_resized" else _REDUCED
        side = data.cache_size or math.ceil(times * max(min(size) for size in sizes))
        form = Form(self.preprocess.channels, self.preprocess.interpolation, side)
        workers = max(1, cores() // self.neighbours)
        if data.cache == "memory":
            free = free_bytes(torch.device("cpu")) // 2 // self.neighbours
            return keep_in_memory(
                samples, form, room=free, workers=workers, skip_bad=data.skip_bad, progress=self.progress
            )
        folder = Path(data.cache_folder).expanduser() if data.cache_folder else user_cache() / "images"
        return keep_in_file(
            samples,
            form,
            folder,
            self.name,
            workers=workers,
            skip_bad=data.skip_bad,
            at_most=_LOOK_AT,
            progress=self.progress,
        )

    def _checked(self, samples: Samples, contract: Preprocess, split: str, need: int, room: int) -> Checked:
        """Look at every image, and keep them if ``need`` bytes fit into ``room``, or the recipe says so."""
        data = self.recipe.data
        return check_images(
            samples,
            contract,
            workers=max(1, cores() // self.neighbours),
            skip_bad=data.skip_bad,
            keep=room > 0 and (data.cache if isinstance(data.cache, bool) else need <= room),
            at_most=None if data.skip_bad else _LOOK_AT,
            progress=self.progress,
            memory=(self.memory, (self.name, split)) if self.memory else None,
        )

    def _passes(self, samples: Samples) -> float:
        recipe = self.recipe
        return recipe.epochs or (recipe.steps or 1) * recipe.batch_size / len(samples)
