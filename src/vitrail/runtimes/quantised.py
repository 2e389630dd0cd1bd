"""Quantised: a model as NNCF leaves it, with weights that are still in float32, of which whole numbers are made."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.runtimes.rounding import Floats, Product

_BITS = 255  # levels of symmetric numbers of 8 bits, -127 to 127


class QuantisedOpenVino:
    """An OpenVINO model; its weights lie behind operations FakeQuantize."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._weights: dict[str, Any] = {}
        self.products: Mapping[str, Product] = {
            operation.get_friendly_name(): self._product(operation)
            for operation in model.get_ordered_ops()
            if operation.get_type_name() == "MatMul" and self._is_weighted(operation)
        }

    def _is_weighted(self, operation: Any) -> bool:
        """Whether it multiplies by a matrix of weights, (O, I) or (I, O), with steps by output."""
        quantiser = operation.input_value(1).get_node()
        if quantiser.get_type_name() != "FakeQuantize" or operation.get_attributes()["transpose_a"]:
            return False
        weights, low = (quantiser.input_value(i).get_node() for i in (0, 1))
        if (
            not weights.get_type_name() == low.get_type_name() == "Constant"
        ):  # of what is computed the shape may be open
            return False
        shape = tuple(operation.input_value(1).get_shape())
        outputs = 0 if operation.get_attributes()["transpose_b"] else 1
        return (
            len(shape) == 2
            and quantiser.get_attributes()["levels"] == _BITS
            and low.get_data().shape == tuple(shape[i] if i == outputs else 1 for i in range(2))
        )

    def _product(self, operation: Any) -> Product:
        weights, low, high = (
            operation.input_value(1).get_node().input_value(i).get_node().get_data() for i in range(3)
        )
        self._weights[operation.get_friendly_name()] = operation
        matrix = weights if operation.get_attributes()["transpose_b"] else weights.T
        return Product(matrix, ((high - low) / (_BITS - 1)).reshape(-1))

    def inputs(self, names: Sequence[str]) -> Callable[[NDArray[np.uint8]], Sequence[Floats]]:
        """As of ``Rounded``."""
        import openvino
        from openvino import opset13

        model = self.model.clone()
        operations = {operation.get_friendly_name(): operation for operation in model.get_ops()}
        results = [opset13.result(operations[name].input_value(0)) for name in names]
        seen = openvino.Model(results, model.get_parameters())
        compiled = openvino.Core().compile_model(seen, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(images: NDArray[np.uint8]) -> Sequence[Floats]:
            found = compiled([images])
            return [found[i] for i in range(len(names))]

        return run

    def put(self, name: str, numbers: NDArray[np.int8]) -> None:
        """As of ``Rounded``: as 8 bits, made floats again and multiplied by the steps."""
        operation, product = self._weights[name], self.products[name]
        straight = operation.get_attributes()["transpose_b"]
        steps = product.steps[:, None] if straight else product.steps[None]
        self._replace(operation.input_value(1).get_node(), numbers if straight else numbers.T, steps)

    def finish(self) -> None:
        """Round all other weights, those of convolutions, each to the nearest number."""
        for quantiser in self.model.get_ordered_ops():
            if quantiser.get_type_name() != "FakeQuantize" or quantiser.get_attributes()["levels"] != _BITS:
                continue
            given = [quantiser.input_value(i).get_node() for i in range(3)]
            if any(node.get_type_name() != "Constant" for node in given):
                continue
            weights, low, high = (node.get_data() for node in given)
            steps = (high - low) / (_BITS - 1)
            if np.allclose(low, -high):
                self._replace(quantiser, np.clip(np.rint(weights / steps), -127, 127).astype(np.int8), steps)

    @staticmethod
    def _replace(quantiser: Any, numbers: NDArray[np.int8], steps: Floats) -> None:
        from openvino import opset13

        whole = opset13.convert(opset13.constant(np.ascontiguousarray(numbers)), "f32")
        weights = opset13.multiply(whole, opset13.constant(np.ascontiguousarray(steps)))
        for reader in quantiser.output(0).get_target_inputs():
            reader.replace_source_output(weights.output(0))


class QuantisedOnnx:
    """An ONNX model; its weights lie behind operations QuantizeLinear and DequantizeLinear."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.model = model
        self._made = {output: node for node in model.graph.node for output in node.output}
        self._constants = {constant.name: constant for constant in model.graph.initializer}
        self._nodes: dict[str, Any] = {}
        self.products: dict[str, Product] = {}
        for node in model.graph.node:
            quantise = self._quantise(node)
            if quantise is None:
                continue
            weights, steps = (numpy_helper.to_array(self._constants[name]) for name in quantise.input[:2])
            if weights.ndim == 2 and steps.shape == weights.shape[1:]:
                self._nodes[node.name] = node
                self.products[node.name] = Product(weights.T, steps)

    def _quantise(self, node: Any) -> Any | None:
        """The operation that quantises the matrix of weights that a node multiplies by."""
        if node.op_type != "MatMul" or (dequantise := self._made.get(node.input[1])) is None:
            return None
        quantise = self._made.get(dequantise.input[0])
        constant = quantise is not None and all(name in self._constants for name in quantise.input)
        return quantise if constant and dequantise.op_type == "DequantizeLinear" else None

    def inputs(self, names: Sequence[str]) -> Callable[[NDArray[np.uint8]], Sequence[Floats]]:
        """As of ``Rounded``."""
        import onnx
        import onnxruntime

        tensors = [self._nodes[name].input[0] for name in names]
        model = copy.deepcopy(self.model)
        del model.graph.output[:]
        # products that read the same tensor share an output
        for tensor in dict.fromkeys(tensors):
            model.graph.output.append(onnx.ValueInfoProto(name=tensor))
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            onnx.save_model(model, path, save_as_external_data=True)  # a message holds no more than 2 GiB
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        image = session.get_inputs()[0].name
        return lambda images: session.run(tensors, {image: images})

    def put(self, name: str, numbers: NDArray[np.int8]) -> None:
        """As of ``Rounded``."""
        quantise = self._quantise(self._nodes[name])
        assert quantise is not None
        self._replace(quantise, numbers.T)

    def finish(self) -> None:
        """Round all other weights, those of convolutions, each to the nearest number."""
        from onnx import numpy_helper

        for quantise in list(self.model.graph.node):
            if quantise.op_type != "QuantizeLinear" or any(name not in self._constants for name in quantise.input):
                continue
            weights, steps, zero = (numpy_helper.to_array(self._constants[name]) for name in quantise.input)
            axis = next((attribute.i for attribute in quantise.attribute if attribute.name == "axis"), 1)
            shape = [1] * weights.ndim
            if steps.ndim:
                shape[axis] = -1
            numbers = np.rint(weights / steps.reshape(shape)) + zero.astype(np.float32).reshape(shape)
            limits = np.iinfo(zero.dtype)
            self._replace(quantise, np.clip(numbers, limits.min, limits.max).astype(zero.dtype))

    def _replace(self, quantise: Any, numbers: NDArray[Any]) -> None:
        from onnx import numpy_helper

        graph, name = self.model.graph, f"{quantise.output[0]}_rounded"
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(numbers), name))
        for node in graph.node:
            for i, read in enumerate(node.input):
                if read == quantise.output[0]:
                    node.input[i] = name
        graph.node.remove(quantise)
        weights = quantise.input[0]
        if not any(weights in node.input for node in graph.node):
            graph.initializer.remove(self._constants.pop(weights))
