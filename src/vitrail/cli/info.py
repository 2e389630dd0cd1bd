"""``vitrail info``: what a variant or a model is and costs, without building it."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vitrail.model.config import ViTConfig
    from vitrail.model.cost import Cost

_MANY_TOKENS = 4096  # beyond, attention between all of them is most of the work in every variant


def info(
    model: Annotated[str, typer.Argument(help="A variant such as B/16, a run, a model folder, or hf:owner/name.")],
    patch_size: Annotated[int | None, typer.Option(help="Another patch size; 1 makes every pixel a token.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Another image size: 224 or 384x256.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a training step, for the memory.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, memory in bytes.")] = False,
) -> None:
    """Show parameters, tokens, FLOPs by part and memory of a variant or a model."""
    from vitrail.cli.console import console
    from vitrail.cli.sizes import image_size as parse_size
    from vitrail.model.cost import Cost

    config, labels = _describe(model)
    changes: dict[str, object] = {} if image_size is None else {"image_size": parse_size(image_size)}
    reference = _reference(config, changes, patch_size)
    if patch_size is not None:
        changes["patch_size"] = patch_size
    cost = Cost(config.with_changes(**changes), batch_size)
    if as_json:
        print(json.dumps({"model": model, **cost.to_dict(), "labels": list(labels)}, indent=2))
        return
    out = console()
    out.print(_overview(model, cost, labels))
    out.print(_parts(cost))
    out.print(_memory(cost))
    if reference is not None:
        out.print(comparison(cost, Cost(reference, batch_size)))


def comparison(cost: "Cost", reference: "Cost") -> str:
    """What another patch size costs, in a sentence or three."""
    from vitrail.model.cost import attention_share, readable

    p, q = cost.config.patch_size, reference.config.patch_size
    (h, w), (h2, w2) = cost.config.grid, reference.config.grid
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


def _describe(name: str) -> tuple["ViTConfig", tuple[str, ...]]:
    """The configuration and the labels of a variant or of a model."""
    from vitrail.errors import UserError
    from vitrail.model.config import variant
    from vitrail.weights import read

    if not Path(name).exists():
        try:
            return variant(name), ()
        except UserError:
            if re.fullmatch(r"[A-Za-z]{1,2}/?\d+", name):  # meant as a variant: its error has the nearest names
                raise
    found = read(name)
    return found.config, found.labels


def _reference(config: "ViTConfig", changes: dict[str, object], patch_size: int | None) -> "ViTConfig | None":
    """What to compare with: the model's own patch size, or 16 for a model of the smallest patches."""
    from vitrail.errors import UserError

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


def _overview(name: str, cost: "Cost", labels: tuple[str, ...]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    from vitrail.model.cost import attention_share, readable
    from vitrail.weights.card import architecture

    config = cost.config
    prefix = ["1 class token"] if config.class_token else []
    prefix += [f"{config.registers} registers"] if config.registers else []
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = f"[bold]{escape(name)}[/bold]", "left"
    (h, w), (rows, columns), p = config.image_size, config.grid, config.patch_size
    table.add_row("architecture", architecture(config))
    table.add_row("image size", f"{h}x{w} pixels, {config.channels} channel{'s' if config.channels > 1 else ''}")
    table.add_row("grid", f"{rows}x{columns} patches of {p}x{p} pixels")
    table.add_row("tokens", f"{config.tokens:,} ({' + '.join([f'{rows * columns:,} patches', *prefix])})")
    table.add_row("parameters", f"{cost.parameters:,}")
    table.add_row("FLOPs", f"{readable(cost.flops, 'FLOPs')} for one image, multiply and add counted as two")
    table.add_row("attention", f"{attention_share(config):.1%} of the FLOPs grow with the square of the tokens")
    if labels:
        shown = ", ".join(labels[:8]) + (f" ... ({len(labels)})" if len(labels) > 8 else "")
        table.add_row("labels", escape(shown))
    return table


def _parts(cost: "Cost") -> "Table":
    from rich.table import Table

    from vitrail.model.cost import flops, parameters, readable

    counts, work = parameters(cost.config), flops(cost.config)
    order = list(counts)
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
        table.add_row(what, readable(memory[key], "B"))
    return table


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times as much" if ratio >= 10 else f"{ratio:.2g} times as much"
