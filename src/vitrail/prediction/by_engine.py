"""Answers of an exported model, by the engine that runs it; nothing here imports torch.

Shapes: B images of one size, C channels, h w height and width, D width of the features.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError, did_you_mean
from vitrail.prediction.answers import Ranking

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from vitrail.model import Model
    from vitrail.runtimes.engine import Engine, Hint

AUTO, TORCH = "auto", "torch"
_CONFIG = "config.json"  # as in weights/found.py, of which the import would take longer than that of all else here
_MANY = 4  # images of a batch, from which on they are dealt out; as runtimes/by_openvino.py has it
_BATCHES_AHEAD = 2  # decoded while one is computed: threads that wait for one another leave no core idle


class EngineAnswers:
    """An engine, and NumPy on its answers."""

    ahead = _BATCHES_AHEAD

    def __init__(self, engine: "Engine", opening: "tuple[str | Path, str, str, int | None] | None" = None) -> None:
        """
        Args:
            engine: runs the model.
            opening: the arguments of `opened` that gave it, by which a copy in another process opens its own.
        """
        self.engine, self._opening = engine, opening
        self.preprocess: Preprocess = engine.preprocess
        self.classes = engine.config.classes
        self.labels = engine.labels or tuple(str(index) for index in range(self.classes))

    def __reduce__(self) -> Any:
        return (_reopened, self._opening) if self._opening is not None else super().__reduce__()

    @property
    def feature_width(self) -> int:
        from vitrail.model import ViTConfig

        config = self.engine.config
        return config.feature_width if isinstance(config, ViTConfig) else config.width

    def load(self, data: bytes, name: str) -> NDArray[np.uint8]:
        return self.preprocess.load_array(data, name)

    def rank(self, pixels: Sequence[NDArray[np.uint8]], top: int) -> list[Ranking]:
        rows = self._rows(pixels, "logits").astype(np.float64)
        shares = np.exp(rows - rows.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        best = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        return [list(zip(own.tolist(), row[own].tolist(), strict=True)) for own, row in zip(best, shares, strict=True)]

    def features(self, pixels: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return list(self._rows(pixels, "features"))

    def identity(self) -> dict[str, Any]:
        from vitrail.runtimes.engine import ENGINES

        exported = getattr(self.engine, "exported", None)  # of another kind of engine the configuration is all there is
        runtime = ENGINES.get(self.engine.name)
        return {
            "model": repr(self.engine.config),
            "weights": dict(sorted(exported.digests.items())) if exported is not None else {},
            "engine": self.engine.name,
            "version": _version(runtime.package) if runtime is not None else "",
            **({"threads": _threads_of_torch()} if self.engine.name == TORCH else {}),
        }

    def _rows(self, pixels: Sequence[NDArray[np.uint8]], output: str) -> NDArray[np.float32]:
        """The row of each image, in order; those of one size are computed together."""
        places: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(pixels):
            places.setdefault(image.shape, []).append(index)
        found: dict[int, NDArray[np.float32]] = {}
        for own in places.values():
            rows = self.engine.run(np.stack([pixels[index] for index in own]))[output]
            found.update(zip(own, rows, strict=True))
        return np.stack([found[index] for index in range(len(pixels))]).astype(np.float32, copy=False)


def opened(
    model: "Model | Engine | str | Path", device: str, engine: str, threads: int | None, batch_size: int | None = None
) -> "Engine | None":
    """The engine of an exported model; None where the model is one for torch, in its ordinary form.

    Args:
        model, device, engine, threads: as for `Predictor`.
        batch_size: of a work that may be continued by another process, whose answers are to be the same: it alone decides
            how the engine works, and not the batches that come, of which the last may be small.

    Raises:
        UserError: a choice that the model leaves no room for, or there is no model; or the engine cannot be opened.
    """
    if isinstance(model, str) and not model.strip():  # which would mean the folder that one is in
        raise UserError("a model with an empty name: name its folder")
    if isinstance(model, str | Path) and is_exported(model):
        if device not in (AUTO, "cpu"):
            raise UserError(f"device {device!r}: exported models run on the CPU; leave it out")
        from vitrail.runtimes.engine import open_engine

        folder = Path(model).expanduser()
        hint = None if batch_size is None else _hint(folder, batch_size, threads)
        return open_engine(folder, engine, threads=threads, hint=hint)
    if isinstance(model, str | Path) and (engine not in (AUTO, TORCH) or threads is not None):
        _require_there(model)
    if engine not in (AUTO, TORCH):
        what = model if isinstance(model, str | Path) else "this model"
        raise UserError(f"--engine {engine}: {_refused(engine, what)}")
    if threads is not None:
        raise UserError(f"threads {threads}: only exported models take it; for torch, set OMP_NUM_THREADS={threads}")
    return model if not isinstance(model, str | Path) and is_engine(model) else None


def _refused(engine: str, model: object) -> str:
    """Why an engine cannot run a model in torch."""
    from vitrail.runtimes.engine import ENGINES
    from vitrail.runtimes.exported import FORMS

    if engine not in ENGINES:
        return did_you_mean(engine, (AUTO, *ENGINES))
    form = engine if engine in FORMS else next(name for name, form in FORMS.items() if engine in form.engines)
    return f"{model} is not exported; write one with vitrail export MODEL --to {form}"


def _reopened(model: str | Path, device: str, engine: str, threads: int | None) -> EngineAnswers:
    """The answers of what these arguments open."""
    running = opened(model, device, engine, threads)
    if running is None:
        raise UserError(f"{model} is not an exported model any more: export it again")
    return EngineAnswers(running, (model, device, engine, threads))


def _version(package: str) -> str:
    """Of a package that is imported; some are installed under other names than their own, such as onnxruntime-gpu."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(import_module(package), "__version__", ""))


def _threads_of_torch() -> int:
    """By which the order of its sums is decided; other engines give the same bits with any number."""
    import torch

    return torch.get_num_threads()


def _hint(folder: Path, batch_size: int, threads: int | None) -> "Hint":
    """How an engine works best on whole batches."""
    from vitrail.runtimes.engine import default_threads
    from vitrail.runtimes.exported import read_exported

    many = batch_size >= _MANY and (threads or default_threads()) > 1 and read_exported(folder).batch is None
    return "throughput" if many else "latency"


def is_engine(model: "Model | Engine") -> "TypeIs[Engine]":
    """Whether it is an engine, and no model in torch."""
    return hasattr(model, "run")


def _require_there(name: str | Path) -> None:
    """Refuse the name of a path that leads nowhere, in the words that it gets without any choice of how it is run."""
    from vitrail.weights.find import HUB, TIMM, find

    if str(name).startswith((HUB, TIMM)):
        return
    try:
        there = Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # no such user, a name too long
        there = False
    if not there:
        find(name)


def is_exported(name: str | Path) -> bool:
    """Whether a name is that of a folder that ``vitrail export`` has written."""
    try:
        values = json.loads((Path(name).expanduser() / _CONFIG).read_bytes())
    except (OSError, ValueError, RuntimeError, RecursionError):  # whatever is wrong with it, opening it will say
        return False
    return isinstance(values, dict) and "export" in values
