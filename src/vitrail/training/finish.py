"""The end of a run: the best model on images it has not seen, and the report."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import vitrail.training.metrics as metrics_log
from vitrail.data.cache import Checked
from vitrail.data.samples import Samples
from vitrail.evaluation.metrics import Evaluation, evaluate_logits
from vitrail.evaluation.run import predict_logits
from vitrail.model import ViTConfig, cost
from vitrail.report.cost import machine_rows, model_rows
from vitrail.report.page import ReportData, write_report
from vitrail.training.decide import short_name
from vitrail.training.loop import Loop
from vitrail.training.progress import clock
from vitrail.training.validation import evaluation_batch
from vitrail.weights.folder import write
from vitrail.weights.load import load_folder


@dataclass(frozen=True)
class Result:
    """What a finished run leaves."""

    folder: Path
    model: Path
    report: Path
    split: str
    """Name of the images that ``evaluation`` is about: test if there are any, else val; empty where there are neither."""
    evaluation: Evaluation | None
    seconds: float
    steps: int
    kept_step: int
    """The step whose model is kept."""
    logits: Tensor | None = None
    """(n, C), the kept model's on the images of ``evaluation``, in their order."""
    targets: Tensor | None = None
    """(n,), their classes."""


def finish(loop: Loop, notes: list[str]) -> Result:
    """Evaluate the best model on test, or on val where there is no test, and write the report."""
    plan, folder = loop.plan, loop.folder
    split, part = _final_part(loop)
    samples = part.samples if part else None
    model = load_folder(folder / "model").to(loop.devices.device)
    evaluation = logits = targets = None
    if part is not None:
        logits, targets = predict_logits(
            model,
            part.samples,
            batch_size=evaluation_batch(plan, loop.devices),
            workers=loop.workers,
            cached=part.cached,
        )
        evaluation = evaluate_logits(logits, targets, plan.labels, part.samples.names)
    report = folder / metrics_log.REPORT
    if loop.devices.first:
        if evaluation is not None and split == "test":
            _record(loop, evaluation)
            write(model, folder / "model", metrics={"test top-1": evaluation.top1, "test loss": evaluation.nll})
        write_report(report, _page(loop, notes, split, samples, evaluation))
    loop.devices.barrier()
    return Result(
        folder=folder,
        model=folder / "model",
        report=report,
        split=split,
        evaluation=evaluation,
        seconds=loop.state.seconds,
        steps=loop.state.step,
        kept_step=_kept_step(loop),
        logits=logits,
        targets=targets,
    )


def _final_part(loop: Loop) -> tuple[str, Checked | None]:
    for split, part in (("test", loop.plan.test), ("val", loop.plan.val)):
        if part is not None:
            return split, part
    return "", None


def _kept_step(loop: Loop) -> int:
    return loop.state.best.step if loop.state.best else loop.state.step


def _record(loop: Loop, evaluation: Evaluation) -> None:
    step = _kept_step(loop)
    record = {"step": step, "epoch": round(step / loop.plan.steps_per_epoch, 6), "split": "test"}
    loop.log.write({**record, "loss": evaluation.nll, "top1": evaluation.top1, "top5": evaluation.top5})


def _page(
    loop: Loop, notes: list[str], split: str, samples: Samples | None, evaluation: Evaluation | None
) -> ReportData:
    plan = loop.plan
    n, recipe = len(plan.train.samples), plan.recipe
    kind = "Vision Transformer" if isinstance(plan.config, ViTConfig) else "ResNet"
    millions = sum(cost.parameters(plan.config).values()) / 1e6
    return ReportData(
        title=f"{short_name(plan.name)}: a {kind} of {millions:.1f} M parameters",
        subtitle=f"{len(plan.labels)} classes, {n:,} training images, {plan.steps:,} steps",
        notes=notes,
        evaluation=evaluation,
        split=split,
        metrics=metrics_log.read(loop.log.path),
        recipe=recipe.to_dict(),
        cost=_cost(loop),
        thumbnails=samples.encoded if samples is not None else None,
        command=f"vitrail train {recipe.data.source} --recipe {loop.folder / 'recipe.yaml'}",
    )


def _cost(loop: Loop) -> dict[str, str]:
    plan, device, seconds = loop.plan, loop.devices.device, loop.state.seconds
    seen = plan.steps * plan.recipe.batch_size
    rows = {
        **model_rows(plan.config),
        "training": f"{clock(seconds)}, evaluations included",
        "images seen": f"{seen:,}",
        "speed": f"{seen / max(seconds, 1e-9):,.0f} images/s",
        **machine_rows(device, loop.devices.world, loop.train_step.precision),
    }
    if device.type == "cuda":
        rows["GPU memory"] = f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB at most"
    return rows
