"""A model, and a model with data, examined: every check in order."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.doctor.classes import balance_findings, class_findings, outputs_of
from vitrail.doctor.contract import contract_findings
from vitrail.doctor.finding import Finding, ok, problem, warning
from vitrail.errors import UserError
from vitrail.weights.description import Description, read
from vitrail.weights.fit import fit
from vitrail.weights.load import load_found

if TYPE_CHECKING:
    from vitrail.data.open import Dataset
    from vitrail.data.preprocess import Preprocess
    from vitrail.data.samples import Samples
    from vitrail.model import Model, ModelConfig

LOOK_AT, TRY = 500, 200  # images

Watch = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and all of it."""


def examine(
    model: Description | str | Path,
    data: "Dataset | str | Path | None" = None,
    *,
    preprocess: "Preprocess | None" = None,
    look_at: int = LOOK_AT,
    try_on: int = TRY,
    watch: Watch | None = None,
) -> list[Finding]:
    """What is wrong with a model, or between it and data; nothing is written or changed.

    Args:
        model: a name (see ``vitrail.load``), or what ``vitrail.weights.read`` gives.
        data: what ``open_data`` opens, or a Dataset in its own order of classes; None for the model alone.
        preprocess: the pixel contract, where the person knows better than the model's files.
        look_at: most images to look at, evenly spread.
        try_on: most labelled images for a trial of the model; 0 for none.
        watch: called as the work proceeds.

    Raises:
        UserError: there is no such model, or none that could be described; no such data.
    """
    description = model if isinstance(model, Description) else read(model)
    found = _format(description)
    try:
        config = description.config
    except UserError as error:
        return [*found, problem("configuration", str(error), "take a model that opens here")]
    weights, built = _exported(description) if description.found.exported else _weights(description)
    contract, pixels = _contract(description, config, preprocess)
    if contract is not None and any(finding.level == "problem" for finding in pixels):
        built = None  # it cannot be tried with such pixels
    found += weights + pixels
    if data is not None:
        found += _data(description, config, built, contract, data, look_at, try_on, watch or (lambda *_: None))
    return found


def _format(description: Description) -> list[Finding]:
    text, *assumed = description.notes
    advice = "where it is wrong, --set, --mean and --std say better"
    settled = [f"--set model.{key}=" for key in description.found.said]
    open_notes = [note for note in assumed if not any(option in note for option in settled)]
    return [ok("format", text), *(warning("format", note, advice) for note in open_notes)]


def _weights(description: Description) -> "tuple[list[Finding], Model | None]":
    """Whether the weights fit and are sound; and the model where they are."""
    advice = "vitrail info MODEL --weights lists every tensor"
    try:
        checked = fit(description)
        report = checked.report
        if report.problem:
            return [problem("weights", f"they do not fit the model: {report.problem}", advice)], None
        model = load_found(description)  # checks the digest and refuses NaN
    except UserError as error:
        return [problem("weights", str(error), "mend the model's files, or take another copy of them")], None
    excused = f", {len(report.excused)} of its files not needed" if report.excused else ""
    found = [ok("weights", f"all {len(checked.wanted)} tensors of the model found, of their shapes, finite{excused}")]
    head = [tensor for name, tensor in model.state_dict().items() if name.startswith("head")]
    if head and not any(tensor.any() for tensor in head):
        found.append(
            warning("weights", "the head is all zeros: every class is equally probable", "train the model before use")
        )
    return found, model


def _exported(description: Description) -> "tuple[list[Finding], None]":
    """Whether the files of an exported model are those that were written; it is in the form of a runtime, and not tried."""
    from vitrail.runtimes.exported import read_exported

    try:
        exported = read_exported(description.found.path)
        exported.verify()
    except UserError as error:
        return [problem("weights", str(error), "export the model again")], None
    what = f"exported to {exported.form} in {exported.precision}"
    return [ok("weights", f"{what}; {', '.join(exported.digests)} are what was written, by their SHA-256")], None


def _contract(
    description: Description, config: "ModelConfig", given: "Preprocess | None"
) -> "tuple[Preprocess | None, list[Finding]]":
    try:
        contract = given or description.preprocess
    except UserError as error:
        return None, [problem("pixels", str(error), "give --mean and --std, and what else differs")]
    return contract, contract_findings(contract, config)


def _data(
    description: Description,
    config: "ModelConfig",
    model: "Model | None",
    contract: "Preprocess | None",
    data: "Dataset | str | Path",
    look_at: int,
    try_on: int,
    watch: Watch,
) -> list[Finding]:
    from vitrail.data.preprocess import Preprocess
    from vitrail.doctor.copies import MOST_BYTES, copy_findings
    from vitrail.doctor.pictures import look, spread
    from vitrail.doctor.sizes import size_findings
    from vitrail.doctor.trial import trial_findings
    from vitrail.doctor.values import value_findings

    dataset, found = _open(data)
    parts = [part for part in (dataset.train, dataset.val, dataset.test) if part is not None]
    labels = description.labels
    names = dataset.labels if any(part.targets is not None for part in parts) else ()
    found += class_findings(config.classes, labels, names) + balance_findings(dataset)
    if config.channels not in (1, 3):
        what = f"the model takes {config.channels} channels, and images have 1 or 3"
        return [*found, problem("colour", what, "give it arrays of that many channels: vitrail.load in Python")]
    half = (0.5,) * config.channels
    used = contract or Preprocess(config.image_size, config.channels, crop_fraction=1.0, mean=half, std=half)
    pictures = look(spread(parts, look_at), used, lambda done, total: watch("looking at images", done, total))
    found += value_findings(pictures, contract) + size_findings(pictures, used, config)
    if len(parts) and pictures.mean_bytes * sum(map(len, parts)) <= MOST_BYTES:
        found += copy_findings(dataset, lambda done, total: watch("looking for copies", done, total))
    part, samples = _judged(dataset)
    outputs = outputs_of(samples, labels, config.classes)
    if model is not None and pictures.good and outputs is not None and try_on:
        found += trial_findings(
            model,
            samples,
            outputs,
            used,
            known=contract is not None,
            own=(pictures.mean, pictures.std),
            part=part,
            most=try_on,
            progress=lambda done, total: watch("trying the model", done, total),
        )
    return found


def _open(data: "Dataset | str | Path") -> "tuple[Dataset, list[Finding]]":
    """The data in their own order of classes; what training would refuse about them is a problem, not an end."""
    from vitrail.data.open import open_data

    if not isinstance(data, str | Path):
        return data, []
    try:
        return open_data(data, val_fraction=0.0), []
    except UserError as error:
        with suppress(UserError):
            return open_data(data, val_fraction=0.0, need_labels=False), [problem("data", str(error), "mend the data")]
        raise


def _judged(dataset: "Dataset") -> "tuple[str, Samples]":
    """The part that a model is judged by, with its name."""
    for name in ("test", "val"):
        if (part := getattr(dataset, name)) is not None:
            return name, part
    assert dataset.train is not None
    return "train", dataset.train
