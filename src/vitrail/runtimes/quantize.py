"""Int8: the operations of an exported model in whole numbers, but for those that need more.

NNCF's post-training quantisation: weights by channel, activations with ranges from calibration pictures, the outliers of
activations moved into the weights before (SmoothQuant: Xiao et al., 2023), and weights rounded so that their errors cancel
(`rounding`). In float32 stay what costs much of the answers and little of the time: products of single tokens, and
attention's own. Where that still loses too much, each block is quantised alone to see what it costs, and the costliest
blocks stay in float32.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from vitrail.errors import Failure
from vitrail.runtimes.engine import installed, missing
from vitrail.runtimes.exported import FORMS
from vitrail.runtimes.quantised import QuantisedOnnx, QuantisedOpenVino
from vitrail.runtimes.rounding import round_weights
from vitrail.runtimes.write import Wanted, quiet, save_openvino, versions

CALIBRATION = 300  # pictures; what NNCF takes where it is not told otherwise
RANKED_ON = 32  # pictures, when a block is quantised alone
_RANKED_WITH = 8  # pictures that its ranges are found on
_ROUNDED_WITH = 32  # pictures whose inputs weights are rounded for
# How much of the activations' spread goes into the weights, 0 to 1: less is rounded in activations, more in weights. Logits
# of a ViT-S/14 (spread 1.65) are off by 0.079 with 0.35, 0.064 with 0.5, 0.058 with 0.75; NNCF's own 0.95 doubles the
# error that comes from weights.
_SMOOTHED = 0.75
_FEW = 4  # rows of a product, for each image, that take next to no time
_PARTS = re.compile(r"blocks\.\d+|stages\.\d+|patch_embed|\bstem\b|attn_pool|pre_logits|head\w*")
_WEIGHTED = ("linear", "conv2d")
_ATTENTION = ("scaled_dot_product_attention", "matmul", "einsum")
# Of merging tokens: in ONNX, NNCF makes of these a model that does not run, if positions come in at the blocks. In OpenVINO
# they are in int8: 7 % more images/s from files to labels.
_MERGING = ("matmul", "bmm", "cat")
_OF_OPENVINO = (("convolution", "conv2d"),)  # what it calls operations otherwise than the program

Log = Callable[[str], None]
Judge = Callable[[bool], tuple[str | None, float]]
"""Of the model as it now lies in its folder: why it loses too much, None if it does not; and the mean difference. True for
a quick look, on RANKED_ON pictures."""


@dataclass(frozen=True)
class Quantiser:
    """A float32 model in a folder, that becomes an int8 one there."""

    form: str
    source: Path
    """The folder of the float32 model."""
    target: Path
    wanted: Wanted
    transformer: bool
    merging: bool
    """Whether it merges tokens on the way."""
    pixels: NDArray[np.uint8]
    """(n, C, H, W), to calibrate with."""

    def write(self, ignored: Sequence[str], *, quick: bool = False) -> None:
        """Quantise all but the operations with these names; with fewer pictures if quick."""
        import nncf
        from nncf import AdvancedQuantizationParameters, IgnoredScope
        from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        pixels = self.pixels[:: max(1, len(self.pixels) // _RANKED_WITH)] if quick else self.pixels
        count = self.wanted.batch or 1
        batches = [np.resize(pixels[i : i + count], (count, *pixels.shape[1:])) for i in range(0, len(pixels), count)]
        rounding = self.transformer and not quick
        advanced = AdvancedQuantizationParameters(
            disable_bias_correction=quick or self.transformer,  # rounding leaves no mean error to correct
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=_SMOOTHED),
            backend_params={"compress_weights": not rounding},
        )
        if self.transformer:  # its few very large activations carry much: ranges that cut them off lose answers
            advanced.activations_range_estimator_params = RangeEstimatorParametersSet.MINMAX
        with quiet():
            model, give = self._read()
            quantised = nncf.quantize(
                model,
                nncf.Dataset(batches, give),
                preset=nncf.QuantizationPreset.MIXED,  # activations are not symmetric behind GELU and softmax
                model_type=nncf.ModelType.TRANSFORMER if self.transformer else None,
                subset_size=len(batches),
                ignored_scope=IgnoredScope(names=list(ignored), validate=False) if ignored else None,
                advanced_parameters=advanced,
            )
            if rounding:
                kind = QuantisedOpenVino if self.form == "openvino" else QuantisedOnnx
                round_weights(kind(quantised), batches[:: max(1, len(batches) * count // _ROUNDED_WITH)])
            self._save(quantised)

    def operations(self, program: ExportedProgram) -> tuple[list[str], dict[str, list[str]]]:
        """Names of operations in the runtime's model: those that always stay in float32, and part of the model -> others.

        The parts are in the model's order.
        """
        nodes = {node.name: node for node in program.graph.nodes if node.op == "call_function"}
        places = {name: _part(node) for name, node in nodes.items()}
        always: list[str] = []
        parts: dict[str, list[str]] = {part: [] for part in places.values() if part is not None}
        for name, origin in self._names():
            if origin not in nodes:
                continue
            part, target = places[origin], str(nodes[origin].target)
            if self._stays(nodes[origin], part):
                always.append(name)
            elif part is not None and any(kind in target for kind in _WEIGHTED):
                parts[part].append(name)
        return always, {part: names for part, names in parts.items() if names}

    def _stays(self, node: Any, part: str | None) -> bool:
        """Whether a node's operations stay in float32 in any case: of single tokens, attention's own, of merging."""
        target = str(node.target)
        if self.merging and self.form == "onnx" and any(kind in target for kind in _MERGING):
            return True
        if part is None:
            return False
        if any(kind in target for kind in _ATTENTION):
            return True
        few = math.prod(map(int, node.meta["val"].shape[1:-1])) <= _FEW if "linear" in target else False
        return few and self.transformer

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
            return [(name, _program_name(name.partition("/")[0])) for name in names]
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
    """Write the int8 model; -> the parts that stay in float32 beside what always does, and what to record.

    Args:
        quantiser: the model and its calibration pictures.
        program: of which the float32 model was made.
        judge: of what was written last.
        log: told what is being done.

    Raises:
        Failure: too much is lost even with all parts but one in float32.
    """
    always, parts = quantiser.operations(program)
    log(f"quantising, calibrated with {len(quantiser.pixels):,} images")
    quantiser.write(always)
    reason, _ = judge(False)
    if reason is None:
        return [], versions("nncf")
    costs: dict[str, float] = {}
    for number, part in enumerate(parts, start=1):
        log(f"{reason}: measuring what part {number} of {len(parts)} costs")
        others = [name for other, names in parts.items() if other != part for name in names]
        quantiser.write([*always, *others], quick=True)
        _, costs[part] = judge(True)
    worst = sorted(parts, key=lambda part: -costs[part])
    kept = 0
    while kept < len(parts) - 1:
        kept = _half(costs, worst, kept)
        log(f"keeping {', '.join(worst[:kept])} in float32")
        quantiser.write([*always, *(name for part in worst[:kept] for name in parts[part])])
        reason, _ = judge(False)
        if reason is None:
            return sorted(worst[:kept], key=list(parts).index), versions("nncf")
    more = "more images, or such as" if len(quantiser.pixels) < CALIBRATION else "images such as"
    raise Failure(
        f"int8 loses too much ({reason}), whichever parts stay in float32: calibrate with {more} the model is for; or allow "
        "more with --max-loss; or export float32"
    )


def _half(costs: Mapping[str, float], worst: Sequence[str], kept: int) -> int:
    """How many of the worst parts to keep next: so many that at most half of the error is left, of the present one.

    Errors of parts are independent, so that their squares add up.
    """
    left = [costs[part] ** 2 for part in worst]
    aim = sum(left[kept:]) / 4
    return next(count for count in range(kept + 1, len(worst)) if sum(left[count:]) <= aim or count == len(worst) - 1)


def _part(node: Any) -> str | None:
    """The part of the model that a node of a program belongs to."""
    paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    found = [match for path in paths if (match := _PARTS.search(path))]
    return found[-1].group() if found else None


def _program_name(name: str) -> str:
    for theirs, ours in _OF_OPENVINO:
        name = re.sub(rf"^{theirs}\b|^{theirs}(?=_\d)", ours, name)
    return name


def _fx_node(node: Any) -> str:
    """The name of the program's node that an operation of ONNX was made of."""
    values = {prop.key: prop.value for prop in node.metadata_props}
    match = re.match(r"%(\w+)", values.get("pkg.torch.onnx.fx_node", ""))
    return match[1] if match else ""
