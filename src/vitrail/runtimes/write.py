"""The program of a model, written in the form of each runtime."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram

from vitrail.runtimes.exported import FORMS
from vitrail.runtimes.graph import INPUT

if TYPE_CHECKING:
    import openvino

_LARGEST = 1 << 28  # numbers in a tensor that is computed once
OPSET = 20  # the first of ONNX with Gelu as one operation


@dataclass(frozen=True)
class Wanted:
    """What the runtime's model is to be called and to take."""

    image_shape: tuple[int, int, int]
    """C, H and W."""
    batch: int | None
    """Images at a time; None for any number."""
    outputs: Sequence[str]


def to_onnx(program: ExportedProgram, folder: Path, wanted: Wanted) -> dict[str, Any]:
    """``model.onnx``, with its weights in a second file where they are too many for one; -> what to record of it."""
    with quiet():
        onnx = torch.onnx.export(
            program,
            (),
            input_names=[INPUT],
            output_names=list(wanted.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert onnx is not None
        _fold(onnx.model)
        onnx.save(folder / FORMS["onnx"].files[0])
    return {"opset": OPSET, "versions": versions("torch", "onnx", "onnxscript")}


def _fold(model: Any) -> None:
    """Compute once what depends on no image, however large: matrices that are reshaped, kernels that are standardised.

    Otherwise NNCF would not take them for weights.
    """
    from onnxscript import optimizer

    optimizer.optimize_ir(model, input_size_limit=_LARGEST, output_size_limit=_LARGEST)


def to_openvino(program: ExportedProgram, folder: Path, wanted: Wanted) -> dict[str, Any]:
    """``model.xml`` and ``model.bin``, weights in float32; -> what to record of them."""
    import openvino
    from openvino.passes import ConstantFolding, Manager

    with quiet():
        model = openvino.convert_model(program)
        folding = Manager()
        folding.register_pass(ConstantFolding())
        folding.run_passes(model)
        save_openvino(model, folder, wanted)
    return {"opset": None, "versions": versions("torch", "openvino")}


def save_openvino(model: "openvino.Model", folder: Path, wanted: Wanted) -> None:
    """An OpenVINO model with the names and the shape that are wanted."""
    import openvino

    model.inputs[0].set_names({INPUT})
    for output, name in zip(model.outputs, wanted.outputs, strict=True):
        output.set_names({name})
    model.reshape([-1 if wanted.batch is None else wanted.batch, *wanted.image_shape])
    openvino.save_model(model, folder / FORMS["openvino"].files[0], compress_to_fp16=False)


def to_pt2(program: ExportedProgram, folder: Path, wanted: Wanted) -> dict[str, Any]:
    """``model.pt2``; -> what to record of it."""
    with quiet():
        torch.export.save(program, folder / FORMS["pt2"].files[0])
    return {"opset": None, "versions": versions("torch")}


WRITERS: Mapping[str, Callable[[ExportedProgram, Path, Wanted], dict[str, Any]]] = {
    "onnx": to_onnx,
    "openvino": to_openvino,
    "pt2": to_pt2,
}


def versions(*packages: str) -> dict[str, str]:
    """Those of vitrail and of packages."""
    return {name: version(name) for name in ("vitrail", *packages)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Converters at work: they print, log and warn about their own inner life."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
