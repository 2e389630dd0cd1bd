"""A model made of tensors that are at hand, without initialising it first."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vitrail.errors import UserError
from vitrail.model import Model, ModelConfig, build


def empty(config: ModelConfig) -> Model:
    """The model of a configuration with all its parameters on the meta device: names and shapes, and no memory."""
    with torch.device("meta"), _WithoutInitialValues():
        return build(config)


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter and buffer that is saved."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def fill(model: Model, state: Mapping[str, Tensor]) -> Model:
    """Make these tensors, every one that the model has, its parameters (no copy).

    Raises:
        UserError: a parameter that is no tensor of fractions.
    """
    for name, parameter in model.named_parameters():
        if state[name].dtype != parameter.dtype:
            kind = str(state[name].dtype).removeprefix("torch.")
            raise UserError(f"its tensor {name} holds {kind} where weights are floating-point numbers: it is no model")
    model.load_state_dict(dict(state), strict=True, assign=True)
    return model


class _WithoutInitialValues(TorchFunctionMode):
    """Skips in-place operations on meta tensors: they change nothing, yet torch loads its compiler to carry them out."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        target = args[0] if args else kwargs.get("tensor")  # torch.nn.init names it
        in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if in_place and isinstance(target, Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)
