"""What the machine can do at most: matrix products in each type and memory bandwidth, measured in a few seconds.

    python benchmarks/limits.py [--device auto]

Other benchmarks call ``limits`` and state what they reach as a share of it, in the same run. Random values throughout:
matrix units compute with zeros faster than with data.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from measure import machine, synchronize, timed
from vitrail.device import named_device

_SECONDS = 0.3  # of each measurement, after its warm-up
_SIDE = {"cuda": 8192, "cpu": 2048}
_VALUES = {"cuda": 1 << 28, "cpu": 1 << 25}  # float32 values of an array: far more than any cache holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = named_device(parser.parse_args().device)
    print(json.dumps({"machine": machine(device), "limits": limits(device)}, indent=1))


def limits(device: torch.device, side: int | None = None) -> dict[str, float]:
    """Name -> operations or bytes a second, each the median of many runs.

    ``float32``, ``tf32`` (CUDA), ``bf16``, ``int8`` (on a CPU by ONNX Runtime), and on a CPU ``float32_openvino`` and
    ``int8_openvino``, which take other ways through the same machine: matrix products of ``side`` squared, a multiply and
    an add as two operations. ``copy`` (b = a) and ``triad`` (a = b + s c): bytes read and written. What the machine or the
    installed software cannot do is left out.
    """
    side = side or _SIDE.get(device.type, 2048)
    found: dict[str, float] = {}
    for name, prepare in _products(device, side).items():
        try:
            found[name] = 2 * side**3 / seconds_of(prepare(), device)
        except (RuntimeError, ImportError, NotImplementedError) as error:
            print(f"no measurement of {name}: {str(error).splitlines()[0]}")
    values = _VALUES.get(device.type, 1 << 25)
    a, b = (torch.rand(values, device=device) for _ in range(2))
    out = torch.empty_like(a)
    found["copy"] = 2 * a.nbytes / seconds_of(lambda: out.copy_(a), device)
    found["triad"] = 3 * a.nbytes / seconds_of(lambda: torch.add(a, b, alpha=0.5, out=out), device)
    return found


def matmul_speed(device: torch.device, dtype: torch.dtype, side: int, seconds: float = _SECONDS) -> float:
    """Operations a second of a square matrix product."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, device, seconds)


def _products(device: torch.device, side: int) -> dict[str, Callable[[], Callable[[], object]]]:
    """Name -> what prepares the operands and gives the product to be timed."""

    def plain(dtype: torch.dtype, tf32: bool = False) -> Callable[[], Callable[[], object]]:
        def prepare() -> Callable[[], object]:
            a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            return lambda: _with_tf32(tf32, lambda: a @ b)

        return prepare

    products = {"float32": plain(torch.float32), "bf16": plain(torch.bfloat16)}
    if device.type == "cuda":
        return {**products, "tf32": plain(torch.float32, tf32=True), "int8": lambda: _int8_on_cuda(device, side)}
    if device.type == "cpu" and find_spec("onnxruntime") and find_spec("onnx"):
        products["int8"] = lambda: _int8_on_cpu(side)
    if device.type == "cpu" and find_spec("openvino"):
        products["float32_openvino"] = lambda: _float32_by_openvino(side)
        products["int8_openvino"] = lambda: _int8_by_openvino(side)
    return products


def _with_tf32(allowed: bool, product: Callable[[], object]) -> object:
    """Compute with or without tf32, and leave the setting as it was."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        return product()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _int8_on_cuda(device: torch.device, side: int) -> Callable[[], Tensor]:
    a, b = (torch.randint(-128, 128, (side, side), dtype=torch.int8, device=device) for _ in range(2))
    columns = b.t()  # the matrix units want the second operand by columns
    return lambda: torch._int_mm(a, columns)


def _int8_on_cpu(side: int) -> Callable[[], object]:
    """ONNX Runtime's product of uint8 and int8, the types that processors' instructions take."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    graph = helper.make_graph(
        [node],
        "product",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, [side, side]),
            helper.make_tensor_value_info("b", TensorProto.INT8, [side, side]),
        ],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [side, side])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (side, side), dtype=np.uint8)
    b = rng.integers(-128, 128, (side, side), dtype=np.int8)
    return lambda: session.run(None, {"a": a, "b": b})


def _int8_by_openvino(side: int) -> Callable[[], object]:
    """OpenVINO's product of uint8 images and int8 weights with a scale, as NNCF's models have it; float32 comes out."""
    import numpy as np
    import openvino
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (side, side), dtype=np.uint8)
    data = ops.parameter([side, side], np.uint8, name="a")
    wide = ops.fake_quantize(ops.convert(data, np.float32), *(np.float32(x) for x in (0, 255, 0, 255)), levels=256)
    weights = ops.constant(rng.integers(-127, 128, (side, side), dtype=np.int8))
    scaled = ops.multiply(ops.convert(weights, np.float32), ops.constant(np.full((1, 1), 0.01, dtype=np.float32)))
    return _by_openvino(openvino.Model([ops.matmul(wide, scaled, False, False)], [data], "product"), a)


def _float32_by_openvino(side: int) -> Callable[[], object]:
    """OpenVINO's product of float32 images and weights."""
    import numpy as np
    import openvino
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((side, side), dtype=np.float32) for _ in range(2))
    data = ops.parameter([side, side], np.float32, name="a")
    return _by_openvino(openvino.Model([ops.matmul(data, ops.constant(b), False, False)], [data], "product"), a)


def _by_openvino(model: Any, a: Any) -> Callable[[], object]:
    import openvino

    config = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()
    return lambda: request.infer([a], share_inputs=True)


def seconds_of(call: Callable[[], object], device: torch.device, seconds: float = _SECONDS) -> float:
    """Seconds of one call, the median of as many runs as fit, at least three; on a GPU several calls a run."""
    call()
    synchronize(device)
    first = timed(call, device)
    repeats = max(1, min(20, round(0.02 / max(first, 1e-6)))) if device.type == "cuda" else 1
    times = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        times.append(timed(call, device, repeats))
    return statistics.median(times)


if __name__ == "__main__":
    main()
