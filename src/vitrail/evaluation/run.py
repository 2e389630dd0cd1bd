"""A model over a data set: outputs for every image, exact on the last batch and across processes, and their Evaluation.

Shapes: B batch, n images, C classes, D width of the features.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from vitrail.data.batches import eval_batches, load_image
from vitrail.data.open import Dataset, open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.errors import UserError, did_you_mean
from vitrail.evaluation.metrics import Evaluation, evaluate_logits
from vitrail.model import Model, ModelConfig
from vitrail.weights.contract import require_fit

SPLITS = ("test", "val", "train")
Progress = Callable[[int, int], None]
"""Called with the images done and the images to do, both of this process alone."""


class CutOff(Exception):
    """An evaluation was ended before its last image, as it was asked to stop."""


def evaluate(
    model: Model,
    data: Samples | Dataset | str | Path,
    *,
    split: str | None = None,
    preprocess: Preprocess | None = None,
    calibration: Samples | None = None,
    calibration_name: str = "separate",
    cached: Tensor | None = None,
    batch_size: int = 64,
    workers: int = 0,
    autocast: torch.dtype | None = None,
    top_mistakes: int = 24,
    progress: Progress | None = None,
) -> Evaluation:
    """How well ``model`` tells the classes of ``data`` apart, on the device that it is on.

    Args:
        data: labelled samples whose classes are those of the model, a data set, or what ``open_data`` opens; then the
            classes are matched by name.
        split: ``test``, ``val`` or ``train`` of a data set; None takes the first of these that it has.
        preprocess: None for the model's own.
        calibration: other labelled samples to fit the temperature on; without them it is fitted on the evaluated ones.
        calibration_name: what the result calls these.
        cached: the images of the evaluated samples, as for ``infer``.
        batch_size, workers, autocast, progress: as for ``infer``.
        top_mistakes: how many of the most confident mistakes to keep.

    Raises:
        UserError: no labels, no such split, classes that are not the model's, or a model that has no head.
    """
    if isinstance(data, str | Path):
        data = open_data(data, val_fraction=0.0, labels=model.labels or None)
    samples = choose_split(data, split)[1] if isinstance(data, Dataset) else data
    labels = matched_labels(model, samples)

    predict = partial(
        predict_logits, model, batch_size=batch_size, workers=workers, autocast=autocast, progress=progress
    )
    fitted_on = None
    if calibration is not None:
        matched_labels(model, calibration)
        fitted_on = predict(calibration, preprocess)
    logits, targets = predict(samples, preprocess, cached=cached)
    return evaluate_logits(
        logits,
        targets,
        labels,
        samples.names,
        calibration=fitted_on,
        calibration_name=calibration_name,
        top_mistakes=top_mistakes,
    )


def predict_logits(
    model: Model,
    samples: Samples,
    preprocess: Preprocess | None = None,
    *,
    batch_size: int = 64,
    workers: int = 0,
    cached: Tensor | None = None,
    autocast: torch.dtype | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    ended: Callable[[bool], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (n, C) float32 and targets (n,) int64 of every labelled sample, on the CPU; arguments as for ``infer``."""
    if samples.targets is None:
        raise UserError("these images have no labels: evaluation needs the right answer for every image")
    if model.config.classes == 0:
        raise UserError("this model has no head and so no classes: train it first, or try vitrail probe")
    logits = infer(
        model,
        samples,
        preprocess,
        batch_size=batch_size,
        workers=workers,
        cached=cached,
        autocast=autocast,
        progress=progress,
        stop=stop,
        ended=ended,
    )
    return logits, torch.as_tensor(samples.targets).long()


def infer(
    model: Model,
    samples: Samples,
    preprocess: Preprocess | None = None,
    *,
    features: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    cached: Tensor | None = None,
    autocast: torch.dtype | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    ended: Callable[[bool], None] | None = None,
) -> Tensor:
    """Logits (n, C), or pooled ``features`` (n, D), of every sample in its order: float32, on the CPU.

    Where ``torch.distributed`` is initialised the samples are shared out between its processes, each sample to exactly
    one, and every process returns all of them. The model runs in evaluation mode and is then set back. Of a model that is
    cut up between the processes, which gives logits alone, one that runs out of samples computes as often as the others.

    Args:
        preprocess: None for the model's own; in mode native the images of a batch are packed into one sequence.
        batch_size: images a batch of one process; the last batch may be smaller.
        workers: processes that decode images; 0 decodes in this one.
        cached: every sample's image as ``preprocess`` loads it, uint8 (n, channels, h, w), so that none is decoded.
        autocast: compute in this type (``torch.bfloat16``) where torch's autocast does; None for float32.
        progress: called after every batch.
        stop: asked while a batch is waited for.
        ended: called by every process before their answers are brought together, with whether it has all of its own; it
            may raise, in all of them or in none.

    Raises:
        CutOff: ``stop`` has said so before the last batch.
        ImageError, Failure: see ``load_in_order``.
    """
    preprocess = preprocess or model.preprocess
    if preprocess is None:
        raise UserError("how this model's weights want their pixels is not known: give a Preprocess")
    require_fit(preprocess, model.config)
    device = next(model.parameters()).device
    rank, world = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    batches = eval_batches(
        samples,
        preprocess,
        batch_size,
        rank=rank,
        world=world,
        workers=workers,
        cached=cached,
        pin_memory=device.type == "cuda",
        stop=stop,
    )
    total, done = len(range(rank, len(samples), world)), 0
    rows: list[Tensor] = []
    indices: list[Tensor] = []
    forward: Callable[..., Tensor] = model.features if features else model
    sharded = _is_sharded(model)
    with torch.no_grad(), _evaluation_mode(model), _autocast(device, autocast):
        for batch in batches:
            images = [preprocess.normalize(group.to(device, non_blocking=True)) for group in batch.groups]
            rows.append(forward(images[0] if len(images) == 1 else images).float().cpu())
            indices.append(batch.indices)
            done += len(rows[-1])
            if progress is not None:
                progress(done, total)
        if ended is not None:
            ended(done == total)
        if done < total:
            raise CutOff
        if sharded:
            most = -(-len(range(0, len(samples), world)) // batch_size)  # batches of the first process
            for _ in range(most - len(rows)):
                forward(preprocess.normalize(load_image(samples, preprocess, 0)[None].to(device)))
            cast(Any, model).reshard()  # what a forward pass leaves together would outlive a change of the weights
    return _in_order(rows, indices, len(samples), device)


def choose_split(dataset: Dataset, split: str | None = None) -> tuple[str, Samples]:
    """The named part of a data set, or the first that it has of test, val and train; with its name."""
    if split is not None and split not in SPLITS:
        raise UserError(f"unknown split {split!r}: {did_you_mean(split, SPLITS)}")
    parts = {name: getattr(dataset, name) for name in SPLITS if getattr(dataset, name) is not None}
    name = split or next(iter(parts), None)
    if name not in parts:
        raise UserError(f"{dataset.name} has no {name} part: it has {', '.join(parts) or 'no images'}")
    return name, parts[name]


class Classifier(Protocol):
    """What gives logits: a model, or what was exported from one."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty where unknown."""


def matched_labels(model: Classifier, samples: Samples) -> Sequence[str]:
    """The class names of the logits, once it is sure that the targets mean the same classes.

    Raises:
        UserError: they do not.
    """
    if not model.labels:
        if len(samples.labels) != model.config.classes:
            raise UserError(
                f"the model has {model.config.classes} classes without names, the data {len(samples.labels)}: "
                "they cannot be matched"
            )
        return samples.labels
    if tuple(samples.labels) != tuple(model.labels):
        raise UserError(
            "the data's classes are not the model's, or in another order: "
            "open the data with open_data(..., labels=model.labels)"
        )
    return model.labels


def _is_sharded(model: Model) -> bool:
    """Whether processes hold a share of the weights each: then all of them go through the model equally often."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def _evaluation_mode(model: Model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _in_order(rows: list[Tensor], indices: list[Tensor], n: int, device: torch.device) -> Tensor:
    """Rows put back at their samples' places, those of all processes together: (n, C) on the CPU."""
    width = torch.tensor(rows[0].shape[1] if rows else 0)
    # NCCL moves tensors on the GPU only
    place = device if _distributed() and dist.get_backend() == "nccl" else torch.device("cpu")
    if _distributed():
        width = width.to(place)
        dist.all_reduce(width, dist.ReduceOp.MAX)  # a process may have had no sample, and so not know the width
    whole = torch.zeros(n, int(width))
    if rows:
        whole[torch.cat(indices)] = torch.cat(rows)
    if _distributed():
        whole = whole.to(place)
        dist.all_reduce(whole)  # every other process holds zeros there: the sum is exact
    return whole.cpu()
