"""A training run from its start to its report. The order in which a run starts stands here, in ``train``."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vitrail.data.batches import TrainBatches
from vitrail.data.cache import Memory
from vitrail.data.randomness import words
from vitrail.data.workers import loader_workers
from vitrail.device import keep_freed_memory
from vitrail.errors import UserError
from vitrail.model import Model, ViT, ViTConfig, build, cost
from vitrail.model.cost import Cost
from vitrail.recipes.recipe import Recipe
from vitrail.training import resolution
from vitrail.training.alone import alone
from vitrail.training.decide import begin
from vitrail.training.device import Devices, devices, resolve_precision, several, worth_compiling
from vitrail.training.ema import Ema
from vitrail.training.explain import explained
from vitrail.training.finish import Result, finish
from vitrail.training.forecast import LONG, Work, cheaper, seconds_per_image, sentence
from vitrail.training.interrupt import Stopped, StopRequest, not_for_ever, stop_requests
from vitrail.training.loop import Loop
from vitrail.training.memory import check_memory, parallel_of
from vitrail.training.optimizer import Optimisers
from vitrail.training.plan import Plan, make_plan
from vitrail.training.progress import TrainingProgress, clock
from vitrail.training.resume import go_on, save_identity, save_recipe
from vitrail.training.sharding import is_sharded, shard, units
from vitrail.training.state import RunState
from vitrail.training.step import TrainStep
from vitrail.weights.load import load_found
from vitrail.weights.start import start_from

_DEEP = 12  # blocks; deeper models are compiled block by block


def train(
    recipe: Recipe | str | Path | None = None,
    data: str | Path | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    memory: Memory | None = None,
    allow_data_change: bool = False,
) -> Result:
    """Train a Vision Transformer or a ResNet, from random weights or from a start model (``init`` in the recipe).

    Args:
        recipe: a Recipe, the name of a shipped one or the path of a file; None chooses one from the data.
        data: as for ``open_data``; None for the recipe's own, or the built-in digits.
        changes: recipe values by their paths, such as ``{"optimizer.lr": 3e-4, "epochs": 10}``.
        out: the run folder; None makes one below ``runs``.
        resume: go on with the run in ``out`` from its newest valid checkpoint.
        quiet: say nothing on the terminal.
        memory: where small images that are decoded are kept for other runs on the same data, in this process.
        allow_data_change: go on although the images are not those that the run began with.

    Returns:
        Where the run, its best model and its report are, and the final evaluation.

    Raises:
        UserError: unusable input, found before anything is written; or another process is training in ``out``.
        Failure: a full disk, or another process of this run has ended; what was saved before is whole.
        Stopped: the run was asked to stop by a signal, and has saved its state.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(stop_requests())
        if several():
            stack.enter_context(not_for_ever(stop))
        place = stack.enter_context(devices())
        stack.enter_context(_own_randomness(place))
        if place.device.type == "cpu":
            keep_freed_memory()
        progress = TrainingProgress(quiet=quiet or not place.first)
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        folder = _folder(out)
        begun = begin(recipe, data, dict(changes or {}), folder, resume, place, restarted=restarted)
        stack.enter_context(explained(begun.folder, place, stop))
        if not place.agreed(int(begun.goes_on)):
            raise UserError(
                f"not every process finds the run in {begun.folder}: put --out on a disk that all machines share"
            )
        if begun.goes_on:
            stack.enter_context(alone(begun.folder, place))
        _say(progress, begun.notes)
        precision = resolve_precision(begun.recipe.precision, place.device)
        plan = make_plan(
            begun.recipe,
            begun.data,
            world=place.world,
            neighbours=place.neighbours,
            progress=progress.looking,
            memory=memory,
            approve=lambda config: check_memory(begun.recipe, config, place, precision),
        )
        of_step = check_memory(plan.recipe, plan.config, place, precision)
        parallel = parallel_of(plan.recipe, plan.config, place, precision)

        model, started = _model(plan, place, parallel)
        state = RunState(
            model,
            Optimisers(model, plan.recipe.optimizer),
            _ema(model, plan.recipe),
            plan.fingerprint,
            plan.recipe.to_dict(),
        )
        sizes = [resolution.sentence(plan.resolutions)] if plan.resolutions else []
        _say(progress, [*plan.notes, *started, _describe(plan, place, precision, parallel), *sizes, of_step])
        if plan.recipe.init and not begun.goes_on:
            _say(progress, _forecast(plan, place, precision))
        place.barrier()  # every process has found the folder as it is before the first one changes it
        if begun.goes_on:
            go_on(state, plan, begun.folder, progress, place, allow_data_change=allow_data_change)
        else:
            stack.enter_context(alone(begun.folder, place, new=True))
        if place.first:
            save_recipe(plan.recipe, begun.folder, begun.reasons)
            save_identity(plan, begun.folder)
        place.barrier()

        step = _train_step(plan, state, place, precision)
        workers = loader_workers(plan.recipe.data.workers, len(plan.train.samples), place.device.type, place.neighbours)
        loop = Loop(plan, state, step, place, begun.folder, progress, stop, workers)
        unfinished = (
            f"trained to the last step, but not finished: go on with vitrail train --resume --out {begun.folder}"
        )
        with progress.of(plan.steps), stop.deferred():
            loop.run(_batches(plan, state, place, workers, stop))
            stop.at_once(unfinished)
        if place.any(stop.asked):  # after the loop had last looked
            stop.settled = True
            raise Stopped(stop.exit_code or 143, unfinished)
        return finish(loop, [*begun.reasons, *plan.notes, *started])


def _folder(out: str | Path | None) -> Path | None:
    """The folder that was named. Where processes that die are started anew, they must be able to find it.

    Raises:
        UserError: none was named, and torchrun is to restart.
    """
    if out is None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise UserError(
            "torchrun --max-restarts needs --out RUN: a restarted run goes on with the folder that is named"
        )
    return Path(out) if out else None


def _say(progress: TrainingProgress, lines: Sequence[str]) -> None:
    for line in lines:
        progress.say(line)


def _own_randomness(place: Devices) -> AbstractContextManager[None]:
    """Leave the caller's random state as it was: a run seeds torch's generators at every step."""
    return torch.random.fork_rng([place.device] if place.device.type == "cuda" else [])


def _model(plan: Plan, place: Devices, parallel: str) -> tuple[Model, list[str]]:
    """The model at its start: from another model's weights, or from random ones that depend on the seed alone."""
    torch.manual_seed(int(words(plan.recipe.seed, "init", 0, count=1)[0, 0] >> 1))
    if plan.start:
        source = load_found(plan.start, plan.preprocess)
        model, notes = start_from(plan.config, source, labels=plan.labels, name=plan.recipe.init)
    else:
        model, notes = build(plan.config), []
    model.preprocess, model.labels = plan.preprocess, plan.labels
    if isinstance(model, ViT):
        model.half_tokens = plan.recipe.precision == "bf16-tokens"
    if place.world > 1 and place.device.type == "cuda" and not plan.preprocess.varies:
        # A conv stem then normalises over the whole batch, and not over each GPU's share. Where images have different
        # sizes, each process has its own number of groups, and they would wait for each other in vain.
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if parallel == "fsdp":
        shard(model, place)
    else:
        model.to(place.device)
    return model, notes


def _ema(model: Model, recipe: Recipe) -> Ema | None:
    return Ema(model, recipe.ema.decay) if recipe.ema.decay else None


def _train_step(plan: Plan, state: RunState, place: Devices, precision: str) -> TrainStep:
    """The step, with the model compiled where that pays and wrapped where several processes train."""
    network: nn.Module = state.model
    varies = plan.resolutions is not None or plan.preprocess.varies
    compiled = worth_compiling(plan.recipe.compile, place.device, plan.steps, varies=varies)
    if compiled:
        _compile(state.model, dynamic=False if varies else None)
    if place.world > 1 and not is_sharded(state.model):
        network = DistributedDataParallel(network, device_ids=[place.device] if place.device.type == "cuda" else None)
    return TrainStep(
        recipe=plan.recipe,
        model=state.model,
        network=network,
        optimisers=state.optimisers,
        ema=state.ema,
        preprocess=plan.preprocess,
        augment=plan.augment,
        devices=place,
        precision=precision,
        total=plan.steps,
        warmup=plan.warmup,
        resolutions=plan.resolutions,
        compiled=compiled,
    )


def _compile(model: Model, dynamic: bool | None) -> None:
    """Compile a model in place; a deep one block by block, which share what is compiled: a few seconds and not a minute.

    Args:
        model: a Vision Transformer or a ResNet.
        dynamic: False where there are several image sizes: positions cannot be interpolated to one that is left open.
    """
    torch._dynamo.reset()  # what earlier runs of this process have compiled would count against the limit of this one
    alike = isinstance(model, ViT) and model.config.drop_path == 0  # else each block's rate is a program of its own
    if is_sharded(model) or (isinstance(model, ViT) and alike and model.config.depth > _DEEP):
        for unit in units(model):
            unit.compile(dynamic=dynamic)
    else:
        model.compile(dynamic=dynamic)


def _batches(plan: Plan, state: RunState, place: Devices, workers: int, stop: StopRequest) -> TrainBatches:
    return TrainBatches(
        plan.train.samples,
        plan.preprocess,
        plan.augment,
        plan.recipe.batch_size,
        plan.recipe.seed,
        rank=place.rank,
        world=place.world,
        workers=workers,
        start_step=state.step,
        cached=plan.cached or None,
        pin_memory=place.device.type == "cuda",
        resolutions=plan.resolutions,
        stop=lambda: stop.asked,
    )


def _forecast(plan: Plan, place: Devices, precision: str) -> list[str]:
    """How long the run will take, and a cheaper plan if that is long."""
    work = Work(
        images=len(plan.train.samples),
        epochs=plan.steps / plan.steps_per_epoch,
        val=len(plan.val.samples) if plan.val else 0,
        evaluations=max(1, plan.steps // plan.evaluate_every),
        test=len(plan.test.samples) if plan.test else 0,
        share=resolution.mean_flops(plan.recipe, plan.config) / Cost(plan.config).flops,
    )
    of_image = seconds_per_image(plan.config, place.device, precision) / place.world
    seconds = work.seconds(of_image)
    lines = [sentence(seconds, of_image * work.share)]
    if seconds > LONG:
        may_shrink = plan.recipe.resolution.sizes is None  # else the image size is not what the time goes into
        epochs, (h, w) = cheaper(plan.config, work, of_image, LONG / 2, may_shrink=may_shrink)
        share = Cost(plan.config.with_changes(image_size=(h, w))).flops / Cost(plan.config).flops
        less = dataclasses.replace(work, epochs=epochs, evaluations=min(work.evaluations, epochs)).seconds(
            of_image * share
        )
        if less < seconds:
            lines.append(f"cheaper: --epochs {epochs} --image-size {h}x{w} would take about {clock(less)}")
    return lines


def _describe(plan: Plan, place: Devices, precision: str, parallel: str) -> str:
    config, n = plan.config, len(plan.train.samples)
    parameters = sum(cost.parameters(config).values())
    h, w = config.image_size
    tokens = f" in {config.tokens} tokens" if isinstance(config, ViTConfig) else ""
    cut_up = ", the model cut up between them" if parallel == "fsdp" else ""
    return (
        f"model: {parameters / 1e6:.1f} M parameters, {h}x{w} pixels{tokens}; "
        f"{n:,} images of {len(plan.labels)} classes; steps: {plan.steps:,} of {plan.recipe.batch_size} images, "
        f"epochs: {plan.steps / plan.steps_per_epoch:.3g}; {place.world} x {place.device}, {precision}{cut_up}"
    )
