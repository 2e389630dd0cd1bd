"""The end of a run: the best model on images it has not seen, and the report."""

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

import vitrail.training.metrics as metrics_log
from vitrail.data.samples import Samples
from vitrail.evaluation.metrics import Evaluation, evaluate_logits
from vitrail.evaluation.run import predict_logits
from vitrail.model import cost
from vitrail.report.page import ReportData, write_report
from vitrail.training.loop import Loop, evaluation_batch
from vitrail.training.progress import clock
from vitrail.weights.folder import load_folder, save


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


def finish(loop: Loop, notes: list[str]) -> Result:
    """Evaluate the best model on test, or on val where there is no test, and write the report."""
    plan, folder = loop.plan, loop.folder
    split, samples = _final_part(loop)
    model = load_folder(folder / "model").to(loop.devices.device)
    evaluation = None
    if samples is not None:
        logits, targets = predict_logits(
            model, samples, batch_size=evaluation_batch(plan, loop.devices), workers=loop.workers
        )
        evaluation = evaluate_logits(logits, targets, plan.labels, samples.names)
    report = folder / "report.html"
    if loop.devices.first:
        if evaluation is not None and split == "test":
            _record(loop, evaluation)
            save(model, folder / "model", metrics={"test top-1": evaluation.top1, "test loss": evaluation.nll})
        write_report(report, _page(loop, notes, split, samples, evaluation))
    loop.devices.barrier()
    return Result(folder, folder / "model", report, split, evaluation, loop.state.seconds)


def _final_part(loop: Loop) -> tuple[str, Samples | None]:
    for split, part in (("test", loop.plan.test), ("val", loop.plan.val)):
        if part is not None:
            return split, part.samples
    return "", None


def _record(loop: Loop, evaluation: Evaluation) -> None:
    best = loop.state.best
    step = best.step if best else loop.state.step
    record = {"step": step, "epoch": round(step / loop.plan.steps_per_epoch, 6), "split": "test"}
    loop.log.write({**record, "loss": evaluation.nll, "top1": evaluation.top1, "top5": evaluation.top5})


def _page(
    loop: Loop, notes: list[str], split: str, samples: Samples | None, evaluation: Evaluation | None
) -> ReportData:
    plan = loop.plan
    n, recipe = len(plan.train.samples), plan.recipe
    return ReportData(
        title=f"{plan.name}: a Vision Transformer of {sum(cost.parameters(plan.config).values()) / 1e6:.1f} M parameters",
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
    plan, device = loop.plan, loop.devices.device
    h, w = plan.config.image_size
    flops = sum(cost.flops(plan.config).values())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    rows = {
        "parameters": f"{sum(cost.parameters(plan.config).values()):,}",
        "image": f"{h}x{w} pixels, {plan.config.tokens} tokens",
        "FLOPs of one image": f"{flops / 1e9:.2f} G",
        "training": f"{clock(loop.state.seconds)}, evaluations included",
        "images seen": f"{plan.steps * plan.recipe.batch_size:,}",
        "speed": f"{plan.steps * plan.recipe.batch_size / max(loop.state.seconds, 1e-9):,.0f} images/s",
        "device": f"{loop.devices.world} x {device.type} ({name}), {loop.train_step.precision}",
        "software": f"vitrail {_version()}, torch {torch.__version__}, Python {platform.python_version()}",
    }
    if device.type == "cuda":
        rows["GPU memory"] = f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB at most"
    return rows


def _version() -> str:
    from importlib.metadata import version

    return version("vitrail")
