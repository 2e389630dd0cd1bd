"""An exported model over a data set: the numbers that `run` gives of the model itself.

Shapes: B images, C channels, H W height and width, n images of the data set, K classes.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitrail.data.batches import eval_batches
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.errors import UserError
from vitrail.evaluation.metrics import Evaluation, evaluate_logits
from vitrail.evaluation.run import Classifier, Progress, matched_labels


class Exported(Classifier, Protocol):
    """A model that an engine runs."""

    @property
    def preprocess(self) -> Preprocess:
        """Its pixel contract."""

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(B, C, H, W) -> ``logits`` (B, K) and ``features``."""


def evaluate_exported(
    exported: Exported,
    samples: Samples,
    *,
    calibration: Samples | None = None,
    calibration_name: str = "separate",
    cached: Tensor | None = None,
    batch_size: int = 64,
    workers: int = 0,
    top_mistakes: int = 24,
    progress: Progress | None = None,
) -> Evaluation:
    """How well an exported model tells the classes of ``samples`` apart, from the pixels that the model itself would get.

    Arguments and errors are those of `run.evaluate`.
    """
    if exported.config.classes == 0:
        raise UserError("this model has no head and so no classes: export it once it is trained")
    labels = matched_labels(exported, samples)

    def predict(part: Samples, cached: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if part.targets is None:
            raise UserError("these images have no labels: evaluation needs the right answer for every image")
        logits = torch.empty(len(part), exported.config.classes)
        done = 0
        for batch in eval_batches(part, exported.preprocess, batch_size, workers=workers, cached=cached):
            rows = [torch.from_numpy(exported.run(group.numpy())["logits"]) for group in batch.groups]
            logits[batch.indices] = torch.cat(rows)
            done += len(batch.indices)
            if progress is not None:
                progress(done, len(part))
        return logits, torch.as_tensor(part.targets).long()

    fitted_on = None
    if calibration is not None:
        matched_labels(exported, calibration)
        fitted_on = predict(calibration)
    logits, targets = predict(samples, cached)
    return evaluate_logits(
        logits,
        targets,
        labels,
        samples.names,
        calibration=fitted_on,
        calibration_name=calibration_name,
        top_mistakes=top_mistakes,
    )
