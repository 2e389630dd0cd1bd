"""Int8: the operations of an exported model in whole numbers, but for those that need more.

NNCF's post-training quantisation: weights by channel, activations with ranges from calibration pictures, the outliers of
activations moved into the weights before (SmoothQuant: Xiao et al., 2023). Where that loses too much, each part of the
model is quantised alone to see what it costs, and the costliest parts stay in float32: one, two, four of them ...
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from vitrail.errors import Failure
from vitrail.runtimes.engine import installed, missing
from vitrail.runtimes.exported import FORMS
from vitrail.runtimes.write import Wanted, quiet, save_openvino, versions

CALIBRATION = 300  # pictures; what NNCF takes where it is not told otherwise
_RANKED_WITH = 16  # pictures, when a part is quantised alone
_PARTS = re.compile(r"blocks\.\d+\.(?:attn|mlp)|stages\.\d+|patch_embed|attn_pool|head\w*")
_OPERATIONS = ("linear", "conv2d", "scaled_dot_product_attention", "matmul", "einsum")

Log = Callable[[str], None]
Judge = Callable[[], tuple[str | None, float]]
"""Of the model as it now lies in its folder: why it loses too much, None if it does not; and the mean difference."""


@dataclass(frozen=True)
class Quantiser:
    """A float32 model in a folder, that becomes an int8 one there."""

    form: str
    source: Path
    """The folder of the float32 model."""
    target: Path
    wanted: Wanted
    transformer: bool
    pixels: NDArray[np.uint8]
    """(n, C, H, W), to calibrate with."""

    def write(self, ignored: Sequence[str] = (), *, quick: bool = False) -> None:
        """Quantise all but the operations with these names, with fewer pictures and without refinements if quick."""
        import nncf
        from nncf import AdvancedQuantizationParameters, IgnoredScope

        pixels = self.pixels[:_RANKED_WITH] if quick else self.pixels
        count = self.wanted.batch or 1
        batches = [np.resize(pixels[i : i + count], (count, *pixels.shape[1:])) for i in range(0, len(pixels), count)]
        with quiet():
            model, give = self._read()
            quantised = nncf.quantize(
                model,
                nncf.Dataset(batches, give),
                preset=nncf.QuantizationPreset.MIXED,  # activations are not symmetric behind GELU and softmax
                model_type=nncf.ModelType.TRANSFORMER if self.transformer else None,
                subset_size=len(batches),
                ignored_scope=IgnoredScope(names=list(ignored), validate=False) if ignored else None,
                advanced_parameters=AdvancedQuantizationParameters(disable_bias_correction=quick),
            )
            self._save(quantised)

    def operations(self, program: ExportedProgram) -> dict[str, list[str]]:
        """Part of the model -> the names of its operations in the runtime's model, in the model's order."""
        parts = {node.name: part for node in program.graph.nodes if (part := _part(node)) is not None}
        found: dict[str, list[str]] = {part: [] for part in dict.fromkeys(parts.values())}
        for name, origin in self._names():
            if origin in parts:
                found[parts[origin]].append(name)
        return {part: names for part, names in found.items() if names}

    def _read(self) -> tuple[Any, Callable[[NDArray[np.uint8]], Any]]:
        path = self.source / FORMS[self.form].files[0]
        if self.form == "openvino":
            import openvino

            return openvino.Core().read_model(path), lambda images: images
        import onnx

        model = onnx.load(path)
        name = model.graph.input[0].name
        return model, lambda images: {name: images}

    def _save(self, model: Any) -> None:
        if self.form == "openvino":
            save_openvino(model, self.target, self.wanted)
            return
        import onnx

        onnx.save(model, self.target / FORMS["onnx"].files[0])

    def _names(self) -> list[tuple[str, str]]:
        """(Name of an operation, name of the program's node that it was made of)."""
        model, _ = self._read()
        if self.form == "openvino":
            names = [operation.get_friendly_name() for operation in model.get_ordered_ops()]
            return [(name, name.partition("/")[0]) for name in names]
        return [(node.name, _fx_node(node)) for node in model.graph.node]


def require_int8(form: str) -> None:
    """Refuse int8 where it cannot be had.

    Raises:
        UserError: torch's own form, or a package is not installed.
    """
    from vitrail.errors import UserError

    if form == "pt2":
        raise UserError(
            "--int8 --to pt2: torch runs int8 programs fast only when it compiles them, about a minute at each start; "
            "take --to openvino or --to onnx"
        )
    if not installed("nncf"):
        raise missing("nncf", "openvino", "--int8 quantises with NNCF")


def quantise(
    quantiser: Quantiser, program: ExportedProgram, judge: Judge, log: Log
) -> tuple[list[str], dict[str, Any]]:
    """Write the int8 model; -> the parts that stay in float32, and what to record.

    Args:
        quantiser: the model and its calibration pictures.
        program: of which the float32 model was made.
        judge: of what was written last.
        log: told what is being done.

    Raises:
        Failure: too much is lost even with all parts but the smallest in float32.
    """
    log(f"quantising, calibrated with {len(quantiser.pixels):,} images")
    quantiser.write()
    reason, _ = judge()
    if reason is None:
        return [], versions("nncf")
    parts = quantiser.operations(program)
    log(f"{reason}: measuring which of {len(parts)} parts cost it")
    costs: dict[str, float] = {}
    for part in parts:
        quantiser.write([name for other, names in parts.items() if other != part for name in names], quick=True)
        _, costs[part] = judge()
    worst = sorted(parts, key=lambda part: -costs[part])
    kept = 1
    while kept < len(parts):
        log(f"keeping {', '.join(worst[:kept])} in float32")
        quantiser.write([name for part in worst[:kept] for name in parts[part]])
        reason, _ = judge()
        if reason is None:
            return worst[:kept], versions("nncf")
        kept *= 2
    raise Failure(
        f"int8 loses too much ({reason}), whichever parts stay in float32: calibrate with more images, or such as the "
        "model is for; or allow more with --max-loss; or export float32"
    )


def _part(node: Any) -> str | None:
    """The part of the model that a node of a program computes, where it is one that can be quantised."""
    if node.op != "call_function" or not any(name in str(node.target) for name in _OPERATIONS):
        return None
    paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    found = [match for path in paths if (match := _PARTS.search(path))]
    return found[-1].group() if found else None


def _fx_node(node: Any) -> str:
    """The name of the program's node that an operation of ONNX was made of."""
    values = {prop.key: prop.value for prop in node.metadata_props}
    match = re.match(r"%(\w+)", values.get("pkg.torch.onnx.fx_node", ""))
    return match[1] if match else ""
