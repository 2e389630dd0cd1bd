"""Mistakes: the pictures that a model gets wrong while it is sure, ready to be looked at."""

from dataclasses import dataclass
from pathlib import Path

from vitrail.data.open import Dataset, open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.errors import UserError
from vitrail.evaluation.metrics import Mistake
from vitrail.evaluation.run import Progress, choose_split, evaluate, infer
from vitrail.model import Model


@dataclass(frozen=True, eq=False)
class MistakenPicture:
    """A picture that was told wrong."""

    mistake: Mistake
    """Its place among the samples, its name, the labels, and how sure the model was."""
    target: int
    """The true class, as an index of the logits."""
    predicted: int
    """The predicted class, as an index of the logits."""
    encoded: bytes
    """The picture as it is stored."""


@dataclass(frozen=True, eq=False)
class Mistakes:
    """The most confident mistakes among labelled pictures."""

    pictures: tuple[MistakenPicture, ...]
    """Most confident first."""
    n: int
    """How many pictures were evaluated."""
    wrong: int
    """How many of them were told wrong."""


def mistakes(
    model: Model,
    data: Samples | Dataset | str | Path,
    *,
    split: str | None = None,
    count: int = 8,
    preprocess: Preprocess | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
) -> Mistakes:
    """Evaluate a model, and pick the mistakes that it was most sure of. A ResNet can be asked too.

    Args:
        data, split, preprocess, batch_size, workers, progress: as for ``vitrail.evaluation.run.evaluate``.
        count: how many at most.

    Raises:
        UserError: a count below 1; data or a model that cannot be evaluated.
        ImageError: a picture that cannot be read.
    """
    if count < 1:
        raise UserError(f"count {count}: 1 or more is needed")
    if isinstance(data, str | Path):
        data = open_data(data, val_fraction=0.0, labels=model.labels or None)
    samples = choose_split(data, split)[1] if isinstance(data, Dataset) else data
    evaluation = evaluate(
        model,
        samples,
        preprocess=preprocess,
        batch_size=batch_size,
        workers=workers,
        top_mistakes=count,
        progress=progress,
    )
    found = evaluation.mistakes
    predicted = _classes(model, samples, found, evaluation.labels, preprocess)
    assert samples.targets is not None  # evaluated, so labelled
    pictures = tuple(
        MistakenPicture(mistake, int(samples.targets[mistake.index]), chosen, samples.encoded(mistake.index))
        for mistake, chosen in zip(found, predicted, strict=True)
    )
    wrong = sum(pair.n for pair in evaluation.pairs if pair.target != pair.predicted)
    return Mistakes(pictures, evaluation.n, wrong)


def _classes(
    model: Model,
    samples: Samples,
    found: tuple[Mistake, ...],
    labels: tuple[str, ...],
    preprocess: Preprocess | None,
) -> list[int]:
    """The predicted classes. Of several classes of one name, as ImageNet has, it is the one with the highest logit."""
    if len(set(labels)) == len(labels) or not found:
        return [labels.index(mistake.predicted) for mistake in found]
    logits = infer(model, samples.subset([mistake.index for mistake in found]), preprocess).tolist()
    return [
        max((c for c, label in enumerate(labels) if label == mistake.predicted), key=row.__getitem__)
        for mistake, row in zip(found, logits, strict=True)
    ]
