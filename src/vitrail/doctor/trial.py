"""A quick trial: are a model's answers on labelled images better than chance, and would other pixels be better?

Shapes: B batch, n images, C classes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vitrail.data.decode import ImageError
from vitrail.data.groups import by_size
from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.data.samples import Samples
from vitrail.doctor.finding import Finding, ok, problem, warning
from vitrail.model import Model
from vitrail.model.cost import Cost

_FLOPS = 10e12  # of all forward passes together: about a minute and a half on two cores
_FEWEST = 50  # images, however large the model
_BATCH = 25
_ALIKE = 1.35  # deviations whose ratio is below, and means as near, are the same to a model
_SURE = 3.0  # standard errors
_WORTH = 0.03  # of accuracy
_ENOUGH = 10  # images a class, from which on an exchange of classes can be told
_TOLD_APART, _MUCH = 0.5, 0.3  # shares of images: recognised under other names, and that is so much more


@dataclass(frozen=True, eq=False)
class Tried:
    """What came of one normalisation."""

    name: str
    preprocess: Preprocess
    logits: Tensor
    """(n, C) float32."""
    targets: Tensor
    """(n,) int64."""

    @property
    def right(self) -> Tensor:
        """(n,) bool."""
        return self.logits.argmax(1) == self.targets

    @property
    def accuracy(self) -> float:
        """Share of the images whose most probable class is theirs."""
        return self.right.double().mean().item()

    @property
    def losses(self) -> Tensor:
        """(n,), negative log-likelihood of each image's class."""
        return torch.nn.functional.cross_entropy(self.logits, self.targets, reduction="none")


def trial_findings(
    model: Model,
    samples: Samples,
    outputs: np.ndarray,
    contract: Preprocess,
    *,
    known: bool,
    own: tuple[np.ndarray, np.ndarray],
    part: str = "test",
    most: int = 200,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Accuracy on a few images, with the model's normalisation and with others.

    Args:
        model: has a head; it is used on the device that it is on.
        samples: labelled images.
        outputs: the model's output for each of them (n,), -1 where it has none.
        contract: the model's pixel contract.
        known: whether its mean and std are known; otherwise only its size and shape are used.
        own: mean and deviation (C,) of the data's pixels.
        part: what the samples are called.
        most: images; fewer are taken for a large model.
        progress: called with (done, all) images.
    """
    ways = _ways(contract, known, own)
    flops = Cost(model.config.with_changes(image_size=contract.image_size)).flops
    count = min(most, max(_FEWEST, int(_FLOPS / (flops * len(ways)))))
    usable = np.flatnonzero(outputs >= 0)
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int))]
    tried = _run(model, samples, chosen, outputs, ways, progress)
    if tried is None:
        return []
    return [_own_way(tried, model.labels or samples.labels, part) if known else _which(tried, part)]


def _own_way(tried: Sequence[Tried], names: Sequence[str], part: str) -> Finding:
    """The verdict on the model's own normalisation, which is the first."""
    first = tried[0]
    n, chance = len(first.targets), 1 / first.logits.shape[1]
    text = f"{first.accuracy:.0%} of {n} images of {part} are recognised"
    better = [other for other in tried[1:] if _clearly_better(other, first)]
    if better:
        best = max(better, key=lambda other: (other.accuracy, -other.losses.mean().item()))
        make = problem if best.accuracy > first.accuracy + _WORTH else warning
        return make(
            "trial",
            f"{text} with the mean and std that it has, and {best.accuracy:.0%} with {best.name} "
            f"(loss {first.losses.mean():.2f} and {best.losses.mean():.2f})",
            f"its mean and std seem to be wrong: give {_options(best.preprocess)}",
        )
    if exchanged := _exchanged(first, names):
        return problem("trial", f"{text}; {exchanged}", "bring the class names into the order of the model's outputs")
    if first.accuracy < chance + _SURE * (chance * (1 - chance) / n) ** 0.5:
        return problem(
            "trial",
            f"{text}: no better than chance ({chance:.1%})",
            "the classes, the pixels or the weights are not what they seem; an untrained head answers so too",
        )
    return ok("trial", f"{text} (chance {chance:.1%}); no other normalisation is clearly better")


def _ways(base: Preprocess, known: bool, own: tuple[np.ndarray, np.ndarray]) -> list[tuple[str, Preprocess]]:
    """The model's own normalisation first, then those that differ from it and from each other."""
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if base.channels == 3 else ((0.449,), (0.226,))
    half = (0.5,) * base.channels
    candidates = [
        ("ImageNet's", replace(base, mean=mean, std=std)),
        ("0.5 and 0.5", replace(base, mean=half, std=half)),
        ("the images' own", replace(base, mean=tuple(own[0].tolist()), std=tuple(np.maximum(own[1], 1e-3).tolist()))),
    ]
    ways = [("its own", base)] if known else []
    for name, preprocess in candidates:
        if not any(_alike(preprocess, other) for _, other in ways):
            ways.append((name, preprocess))
    return ways


def _alike(a: Preprocess, b: Preprocess) -> bool:
    ratios = np.array(a.std) / np.array(b.std)
    shift = (np.array(a.mean) - np.array(b.mean)) / np.maximum(a.std, b.std)
    return bool(max(ratios.max(), 1 / ratios.min()) < _ALIKE and np.abs(shift).max() < _ALIKE - 1)


def _run(
    model: Model,
    samples: Samples,
    chosen: np.ndarray,
    outputs: np.ndarray,
    ways: Sequence[tuple[str, Preprocess]],
    progress: Callable[[int, int], None] | None,
) -> list[Tried] | None:
    """The logits of these images under every normalisation; None where none can be read."""
    device = next(model.parameters()).device
    rows: list[list[Tensor]] = [[] for _ in ways]
    kept: list[int] = []
    for start in range(0, len(chosen), _BATCH):
        batch, read = [], []
        for index in chosen[start : start + _BATCH]:
            try:
                batch.append(ways[0][1].load(samples.encoded(int(index)), samples.names[index]))
                read.append(int(index))
            except ImageError:  # those are told elsewhere
                continue
        if batch:
            groups, order = by_size(batch)
            kept += [read[place] for place in order]
            with torch.inference_mode():
                for found, (_, preprocess) in zip(rows, ways, strict=True):
                    images = [preprocess.normalize(group.to(device)) for group in groups]
                    found.append(model(images[0] if len(images) == 1 else images).float().cpu())
        if progress is not None:
            progress(min(start + _BATCH, len(chosen)), len(chosen))
    if not kept:
        return None
    targets = torch.from_numpy(outputs[kept]).long()
    return [
        Tried(name, preprocess, torch.cat(found), targets) for (name, preprocess), found in zip(ways, rows, strict=True)
    ]


def _clearly_better(other: Tried, first: Tried) -> bool:
    """Whether the images' losses are lower by more than chance can do, and accuracy is no worse."""
    gain = (first.losses - other.losses).double()
    error = gain.std().item() / len(gain) ** 0.5
    return gain.mean().item() > _SURE * error and other.accuracy >= first.accuracy and gain.mean().item() > _WORTH


def _which(tried: Sequence[Tried], part: str) -> Finding:
    """Where mean and std are not known: what each normalisation gives."""
    best = max(tried, key=lambda other: (round(other.accuracy, 2), -other.losses.mean().item()))
    each = ", ".join(f"{other.accuracy:.0%} with {other.name}" for other in tried)
    return warning(
        "trial",
        f"of {len(best.targets)} images of {part} are recognised: {each}",
        f"if the model's origin does not say what it takes, try {_options(best.preprocess)}",
    )


def _exchanged(tried: Tried, names: Sequence[str]) -> str:
    """Whether the model tells the classes apart under other names, in words; empty where it does not."""
    n, present = len(tried.targets), tried.targets.unique().tolist()
    if n < _ENOUGH * len(present):
        return ""
    pairs = Counter(zip(tried.targets.tolist(), tried.logits.argmax(1).tolist(), strict=True))
    answer: dict[int, int] = {}  # class -> the output that answers to it, none to two
    for target, output in sorted(pairs, key=lambda pair: -pairs[pair]):
        if target not in answer and output not in answer.values():
            answer[target] = output
    share = sum(pairs[pair] for pair in answer.items()) / n
    if share < _TOLD_APART or share < tried.accuracy + _MUCH:
        return ""
    target, output = next(pair for pair in answer.items() if pair[0] != pair[1])
    return (
        f"it would be {share:.0%} with the classes in another order: images of {names[target]!r} have the answer "
        f"{names[output]!r}"
    )


def _options(preprocess: Preprocess) -> str:
    mean, std = (",".join(f"{value:.4g}" for value in values) for values in (preprocess.mean, preprocess.std))
    return f"--mean {mean} --std {std}"
