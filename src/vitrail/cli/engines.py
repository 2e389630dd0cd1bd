"""Exported models where a command takes a model: ``--engine`` and ``--threads``, and what is fixed since the export."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.pixels import Pixels
from vitrail.errors import UserError

if TYPE_CHECKING:
    from vitrail.model import Model
    from vitrail.model.reduction import Merging
    from vitrail.prediction import Predictor
    from vitrail.runtimes.engine import Engine

EngineName = Annotated[
    str, typer.Option("--engine", help="What runs an exported model: auto, openvino, onnxruntime or torch.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads that an exported model may use; by default OMP_NUM_THREADS, else one a core."),
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
    continued: bool = False,
) -> "Predictor":
    """The Predictor of a model or of an exported folder; for the latter torch is not imported, unless it needs it.

    Args:
        name, settings, pixels, image_size, batch_size, device: as for ``load_at`` in `sizes`.
        engine, threads, merge: of ``--engine``, ``--threads`` and ``--merge``.
        continued: whether another process may go on with the work, and must have the same answers.

    Raises:
        UserError: as ``load_at`` and ``Predictor``; what an exported model has fixed is to be changed.
    """
    from vitrail.prediction import Predictor
    from vitrail.prediction.predictor import uncollected

    with uncollected():
        opened = open_exported(
            name,
            settings,
            pixels,
            image_size,
            device=device,
            engine=engine,
            threads=threads,
            batch_size=batch_size if continued else None,
        )
        if opened is not None:
            if merge is not None:
                raise UserError(
                    f"--merge: {name} is an exported model, of which this is fixed: say it to vitrail export"
                )
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
    batch_size: int | None = None,
) -> "Engine | None":
    """The engine of an exported folder; None where a name is that of an ordinary model. ``batch_size`` as for `opened`.

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
    found = opened(Path(name), device, engine, threads, batch_size)
    if found is not None and image_size is not None:
        _require_size(name, image_size, found.preprocess.image_size)
    return found


@dataclass(frozen=True)
class Computed:
    """How a model's answers are computed, beside what it is."""

    engine: str
    """``torch``, or the one that runs an exported model."""
    precision: str
    merge: "Merging | None"
    """None where tokens are left whole."""

    def to_dict(self) -> dict[str, str | None]:
        """As JSON has it."""
        return {**vars(self), "merge": None if self.merge is None else str(self.merge)}


def computed(model: "Model | Engine") -> Computed:
    """How the answers of a model, or of an exported one that has been opened, are computed."""
    from vitrail.prediction.by_engine import TORCH, is_engine

    if not is_engine(model):
        merge = getattr(model, "merge", None)  # a ResNet has none
        return Computed(TORCH, "float32", merge if merge is not None and merge.amount else None)
    exported = getattr(model, "exported", None)  # of another kind of engine nothing more is known
    precision, said = ("float32", None) if exported is None else (exported.precision, exported.details.get("merge"))
    return Computed(model.name, precision, None if said in (None, "0") else _merging(str(said)))


def _merging(text: str) -> "Merging":
    """The inverse of ``str``."""
    from vitrail.model.reduction import Merging

    number = text.removeprefix("falling:")
    return Merging(int(number) if number.isdigit() else float(number), number != text)


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _require_size(name: str, text: str, own: tuple[int, int]) -> None:
    from vitrail.cli.sizes import image_sizes
    from vitrail.model.fields import size_text

    if image_sizes(text) != [own]:
        raise UserError(
            f"--image-size {text}: {name} was exported for {size_text(own)}; export the model again at another size"
        )
