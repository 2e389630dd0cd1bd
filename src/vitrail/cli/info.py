"""``vitrail info``: what a variant or a model is and costs, without building it."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.models import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from vitrail.model import ModelConfig, ViTConfig
    from vitrail.model.cost import Cost
    from vitrail.weights.description import Description

_MANY_TOKENS = 4096  # beyond, attention between all of them is most of the work in every variant


def info(
    model: Annotated[
        str,
        typer.Argument(
            help="A variant such as B/16 or R50x1, a run, a model folder, a file of weights, hf:owner/name or timm:NAME."
        ),
    ],
    patch_size: Annotated[int | None, typer.Option(help="Another patch size; 1 makes every pixel a token.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Another image size: 224 or 384x256.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a training step, for the memory.")] = 32,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights", help="List every tensor of the files and where it goes; exit code 2 if they do not fit."
        ),
    ] = False,
    set_: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, memory in bytes.")] = False,
) -> None:
    """Show parameters, tokens, FLOPs by part and memory of a variant or a model."""
    from vitrail.cli.console import console
    from vitrail.cli.sizes import image_size as parse_size
    from vitrail.errors import UserError
    from vitrail.model.cost import Cost

    config, opened = _describe(model, set_)
    if weights:
        if opened is None:
            raise UserError(f"{model} is a variant, which has no weights: leave out --weights, or name a model")
        _show_weights(model, opened, as_json)
        return
    changes: dict[str, object] = {} if image_size is None else {"image_size": parse_size(image_size)}
    reference = _reference(config, changes, patch_size)
    if patch_size is not None:
        changes["patch_size"] = patch_size
    cost = Cost(config.with_changes(**changes), batch_size)
    if as_json:
        print(json.dumps({"model": model, **cost.to_dict(), **_said(opened)}, indent=2))
        return
    out = console()
    out.print(_overview(model, cost, opened))
    out.print(_parts(cost))
    out.print(_memory(cost))
    if reference is not None:
        out.print(comparison(cost, Cost(reference, batch_size)))


def comparison(cost: "Cost", reference: "Cost") -> str:
    """What another patch size costs, in a sentence or three."""
    from vitrail.model.cost import attention_share, readable

    (p, (h, w)), (q, (h2, w2)) = (
        (getattr(config, "patch_size", 1), config.grid) for config in (cost.config, reference.config)
    )
    pixels = "every pixel is a token" if p == 1 else f"patches have {p}x{p} pixels"
    text = (
        f"Where {pixels}, an image is {h * w:,} tokens long instead of {h2 * w2:,} with patches of {q}x{q}. "
        f"One image takes {readable(cost.flops, 'FLOPs')}, {_times(cost.flops / reference.flops)} as with patches of "
        f"{q}x{q}; {attention_share(cost.config):.1%} of it goes into comparing tokens with each other "
        f"({attention_share(reference.config):.1%} there), which grows with the square of their number. "
        f"The attention weights of one block would fill {readable(cost.memory['attention_matrix'], 'B')}, were they "
        f"written out ({readable(reference.memory['attention_matrix'], 'B')} there)."
    )
    if p < q and h * w > _MANY_TOKENS:
        text += f" That is too many: this is why a Vision Transformer reads patches{', not pixels' if p == 1 else ''}."
    return text


def _show_weights(name: str, opened: "Description", as_json: bool) -> None:
    """The loading report, on standard output; what does not fit is an error then."""
    from vitrail.cli.console import console
    from vitrail.cli.loading import report_table, report_values
    from vitrail.errors import UserError
    from vitrail.weights.fit import fit

    checked = fit(opened)
    if as_json:
        print(json.dumps({"model": name, **_said(opened), "weights": report_values(checked)}, indent=2))
    else:
        out = console()
        for text in opened.notes:
            out.print(text, markup=False)
        out.print(f"pixels: {_pixels(opened)}", markup=False)
        out.print(report_table(checked))
    if checked.report.problem:
        raise UserError(f"{name}: its weights do not fit the model wanted: {checked.report.problem}")


def _said(opened: "Description | None") -> dict[str, object]:
    """What a model's files say beside its architecture, for JSON; of a variant there is nothing."""
    if opened is None:
        return {"labels": [], "format": None, "notes": [], "preprocess": None}
    from vitrail.errors import UserError

    try:
        contract = opened.preprocess
    except UserError:  # what it asks for has no equal here; the text says so
        contract = None
    return {
        "labels": list(opened.labels),
        "format": opened.format.name,
        "notes": list(opened.notes),
        "preprocess": None if contract is None else contract.to_dict(),
    }


def _pixels(opened: "Description") -> str:
    """The pixel contract in words."""
    from vitrail.doctor.contract import contract_text
    from vitrail.errors import UserError

    try:
        contract = opened.preprocess
    except UserError as error:
        return str(error)
    return "not known: give --mean and --std to use the model" if contract is None else contract_text(contract)


def _describe(name: str, settings: list[str] | None) -> "tuple[ModelConfig, Description | None]":
    """The configuration of a variant or of a model, and the model."""
    from vitrail.cli.models import changes, describe
    from vitrail.errors import UserError
    from vitrail.model import is_resnet, model_variant

    if not Path(name).exists():
        if is_resnet(name):
            return model_variant(name, **changes(settings or [])), None
        try:
            config = model_variant(name)
        except UserError:
            if re.fullmatch(r"[A-Za-z]{1,2}/?\d+", name):  # meant as a variant: its error has the nearest names
                raise
        else:
            return config.with_changes(**changes(settings or [])), None
    opened = describe(name, settings)
    return opened.config, opened


def _reference(config: "ModelConfig", changes: dict[str, object], patch_size: int | None) -> "ModelConfig | None":
    """What to compare with: the model's own patch size, or 16 for a model of the smallest patches."""
    from vitrail.errors import UserError
    from vitrail.model import ViTConfig

    if not isinstance(config, ViTConfig):
        return None
    if patch_size is None:
        if config.patch_size > 2:
            return None
        own = 16
    else:
        own = config.patch_size
    if own == (patch_size or config.patch_size):
        return None
    try:
        return config.with_changes(**changes, patch_size=own)
    except UserError:  # the image size asked for does not allow it
        return None


def _overview(name: str, cost: "Cost", opened: "Description | None") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    from vitrail.model import ViTConfig
    from vitrail.model.cost import attention_share, readable
    from vitrail.weights.card import architecture

    config = cost.config
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = f"[bold]{escape(name)}[/bold]", "left"
    (h, w), (rows, columns) = config.image_size, config.grid
    table.add_row("architecture", architecture(config))
    table.add_row("image size", f"{h}x{w} pixels, {config.channels} channel{'s' if config.channels > 1 else ''}")
    if isinstance(config, ViTConfig):
        table.add_row("grid", f"{rows}x{columns} patches of {config.patch_size}x{config.patch_size} pixels")
        table.add_row("tokens", _tokens(config))
    else:
        table.add_row("grid", f"{rows}x{columns} positions of the last feature map, {config.stride} pixels apart")
    table.add_row("parameters", f"{cost.parameters:,}")
    table.add_row("FLOPs", f"{readable(cost.flops, 'FLOPs')} for one image, multiply and add counted as two")
    if isinstance(config, ViTConfig):
        share = attention_share(config)
        table.add_row("attention", f"{share:.1%} of the FLOPs grow with the square of the tokens")
    if opened is None:
        return table
    table.add_row("pixels", escape(_pixels(opened)))
    if labels := opened.labels:
        shown = ", ".join(labels[:8]) + (f" ... ({len(labels)})" if len(labels) > 8 else "")
        table.add_row("labels", escape(shown))
    for number, note in enumerate(opened.notes):
        table.add_row("" if number else "files", escape(note))
    return table


def _tokens(config: "ViTConfig") -> str:
    parts = [f"{config.grid[0] * config.grid[1]:,} patches"]
    parts += ["1 class token"] if config.class_token else []
    parts += ["1 distillation token"] if config.distilled else []
    parts += [f"{config.registers} registers"] if config.registers else []
    return f"{config.tokens:,} ({' + '.join(parts)})"


def _parts(cost: "Cost") -> "Table":
    from rich.table import Table

    from vitrail.model.cost import flops, parameters, readable

    counts, work = parameters(cost.config), flops(cost.config)
    order = list(counts)
    if "attention scores" in work:
        order.insert(order.index("attention projections") + 1, "attention scores")
    table = Table("part", header_style="bold")
    for column in ("parameters", "share", "FLOPs", "share"):
        table.add_column(column, justify="right")
    for part in order:
        n, f = counts.get(part), work.get(part)
        of_n = ("", "") if n is None else (f"{n:,}", f"{n / cost.parameters:.1%}")
        of_f = ("", "") if f is None else (readable(f, "FLOPs"), f"{f / cost.flops:.1%}")
        table.add_row(part, *of_n, *of_f)
    table.add_section()
    table.add_row("all", f"{cost.parameters:,}", "", readable(cost.flops, "FLOPs"), "")
    return table


def _memory(cost: "Cost") -> "Table":
    from rich.table import Table

    from vitrail.model.cost import readable

    memory = cost.memory
    table = Table("memory, float32", header_style="bold")
    table.add_column("", justify="right")
    for what, key in (
        ("weights", "weights"),
        ("inference, 1 image: weights and activations", "inference"),
        (f"training, {cost.batch_size} images, AdamW: all", "training"),
        ("    of it activations", "training_activations"),
        ("    of it optimizer state", "optimizer_state"),
        ("attention weights of 1 block and image, were they written out", "attention_matrix"),
    ):
        if memory[key]:
            table.add_row(what, readable(memory[key], "B"))
    return table


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times as much" if ratio >= 10 else f"{ratio:.2g} times as much"
