"""Exported models where a command takes a model: ``--engine`` and ``--threads``, and what is fixed since the export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.pixels import Pixels
from vitrail.errors import UserError

if TYPE_CHECKING:
    from vitrail.prediction import Predictor
    from vitrail.runtimes.engine import Engine

EngineName = Annotated[
    str, typer.Option("--engine", help="What runs an exported model: auto, openvino, onnxruntime or torch.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads that an exported model may use; one a core where it is left out.")
]


def open_predictor(
    name: str,
    settings: list[str] | None,
    pixels: Pixels,
    image_size: str | None,
    *,
    batch_size: int,
    device: str,
    engine: str = "auto",
    threads: int | None = None,
    merge: str | None = None,
) -> "Predictor":
    """The Predictor of a model or of an exported folder; for the latter torch is not imported, unless it needs it.

    Args:
        name, settings, pixels, image_size, batch_size, device: as for ``load_at`` in `sizes`.
        engine, threads, merge: of ``--engine``, ``--threads`` and ``--merge``.

    Raises:
        UserError: as ``load_at`` and ``Predictor``; what an exported model has fixed is to be changed.
    """
    from vitrail.prediction import Predictor

    opened = open_exported(name, settings, pixels, image_size, device=device, engine=engine, threads=threads)
    if opened is not None:
        if merge is not None:
            raise UserError(f"--merge: {name} is an exported model, of which this is fixed: say it to vitrail export")
        return Predictor(opened, batch_size=batch_size)
    from vitrail.cli.merging import merged
    from vitrail.cli.sizes import load_at

    model = merged(load_at(name, settings, pixels, image_size, batch_size=batch_size, device=device), merge)
    return Predictor(model, device=device, batch_size=batch_size)


def open_exported(
    name: str,
    settings: list[str] | None,
    pixels: Pixels,
    image_size: str | None,
    *,
    device: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
) -> "Engine | None":
    """The engine of an exported folder; None where a name is that of an ordinary model.

    Raises:
        UserError: see ``open_predictor``.
    """
    from vitrail.prediction.by_engine import is_exported, opened

    if is_exported(name):
        for option, given in (("--set", settings), *((_option(key), True) for key in pixels.changes)):
            if given:
                raise UserError(
                    f"{option}: {name} is an exported model, of which this is fixed: say it to vitrail export"
                )
    found = opened(Path(name), device, engine, threads)
    if found is not None and image_size is not None:
        _require_size(name, image_size, found.preprocess.image_size)
    return found


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _require_size(name: str, text: str, own: tuple[int, int]) -> None:
    from vitrail.cli.sizes import image_sizes
    from vitrail.model.fields import size_text

    if image_sizes(text) != [own]:
        raise UserError(
            f"--image-size {text}: {name} was exported for {size_text(own)}; export the model again at another size"
        )
