"""Images to pixels by several threads, ahead of the model; batches are cut by place, so that no answer depends on timing."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

_MOST_DECODERS = 8  # each may hold an image of the largest size


def loaded(
    items: Iterable[Item], load: Callable[[Item], Loaded], batch_size: int, ahead: int
) -> Iterator[list[tuple[Item, Loaded]]]:
    """Batches of items with what ``load`` makes of each, in order. Items are taken as batches are needed.

    Args:
        items: taken from the thread that iterates.
        load: called in several threads at once.
        batch_size: items a batch; the last may be smaller.
        ahead: batches that are loaded while one is in use; so many and one more are held at most.
    """
    remaining = iter(items)
    waiting: deque[list[tuple[Item, Future[Loaded]]]] = deque()
    with ThreadPoolExecutor(decoders()) as pool:
        try:
            while True:
                while len(waiting) <= ahead and (chunk := list(islice(remaining, batch_size))):
                    waiting.append([(item, pool.submit(load, item)) for item in chunk])
                if not waiting:
                    return
                yield [(item, future.result()) for item, future in waiting.popleft()]
        finally:  # whoever stops early does not wait for images that nobody will look at
            for batch in waiting:
                for _, future in batch:
                    future.cancel()


def decoders() -> int:
    """How many threads decode: one for each core that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(_MOST_DECODERS, cores)
