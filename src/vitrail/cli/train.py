"""vitrail train: from images to a trained and evaluated model."""

from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder of class folders, CSV, JSON lines, Parquet, tar shards, hf:NAME, or digits (default)."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Variant, such as S/16, or R50x1, a ResNet; without it one is chosen.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Model to start from: run, model folder, file of weights, hf:owner/name or timm:NAME."),
    ] = None,
    image_size: Annotated[str | None, typer.Option(help="Pixels: 224, or height x width as 384x256.")] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Several image sizes in training: 112,224,384x256, or a range, 112-336.")
    ] = None,
    patch_sizes: Annotated[str | None, typer.Option(help="Several patch sizes in training: 8,16,32.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Name of a recipe or path of a YAML file (see vitrail recipe).")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; repeatable.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, over all processes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that load images; any number gives the same run.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default a new one below runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    allow_data_change: Annotated[
        bool, typer.Option("--allow-data-change", help="With --resume: although the images have changed.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
) -> None:
    """Train from scratch, or fine-tune --init; with no DATA, the built-in digits.

    Under torchrun the same command trains on several GPUs or machines.
    """
    from vitrail.cli.sizes import image_size as parse_image_size
    from vitrail.errors import UserError
    from vitrail.recipes.files import parse_settings

    if resume and out is None:
        raise UserError("--resume needs --out RUN: the folder of the run to go on with")
    given: dict[str, Any] = {
        "model.variant": model,
        "init": init,
        "image_size": None if image_size is None else parse_image_size(image_size),
        "resolution.sizes": sizes,
        "resolution.patch_sizes": patch_sizes,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        "data.workers": workers,
        "data.skip_bad": skip_bad or None,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if epochs is not None and steps is not None:
        raise UserError("give --epochs or --steps, not both")
    changes |= parse_settings(set_ or [])
    if {"resolution.sizes", "resolution.scales"} <= changes.keys():
        raise UserError("give resolution.sizes (--sizes) or resolution.scales, not both")

    from vitrail.training.run import train as run

    result = run(recipe, data, changes=changes, out=out, resume=resume, allow_data_change=allow_data_change)
    _say(result)


def _say(result: Any) -> None:
    """The outcome, on standard output of the first process alone."""
    import os

    if os.environ.get("RANK", "0") != "0":
        return
    from vitrail.cli.console import console

    out = console()
    evaluation = result.evaluation
    if evaluation is not None:
        low, high = evaluation.top1_ci95
        out.print(
            f"{result.split}: top-1 {evaluation.top1:.2%} (95 % interval {low:.1%} to {high:.1%}) on {evaluation.n:,} images"
        )
    out.print(f"model:  {result.model}")
    out.print(f"report: {result.report}")
