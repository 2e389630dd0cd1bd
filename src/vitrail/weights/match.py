"""Every parameter matched by name and shape, or an error that lists what is left over."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig

_SHOWN = 4  # names listed in an error; the count says how many there are


def build(config: ViTConfig, state: Mapping[str, Tensor], source: object) -> ViT:
    """A ViT made of these tensors, without initialising it first; they become its parameters (no copy).

    Args:
        config: the model to build.
        state: its parameters and buffers by name, every one.
        source: where they come from, for the error.

    Raises:
        UserError: parameters missing, left over, or of another shape.
    """
    with torch.device("meta"), _WithoutInitialValues():
        model = ViT(config)
    check(model.state_dict(), state, source)
    model.load_state_dict(dict(state), strict=True, assign=True)
    return model


def check(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], source: object) -> None:
    """Compare names and shapes.

    Raises:
        UserError: the first few names, and the count, of what is missing, left over or of another shape.
    """
    problems = []
    missing = [name for name in wanted if name not in state]
    leftover = [name for name in state if name not in wanted]
    reshaped = [
        f"{name} {_shape(state[name])} instead of {_shape(tensor)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing:
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if leftover:
        problems.append(f"{len(leftover)} left over ({_first(leftover)})")
    if reshaped:
        problems.append(f"{len(reshaped)} of another shape ({_first(reshaped)})")
    if problems:
        raise UserError(f"{source}: its weights do not fit the model wanted: {'; '.join(problems)}")


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


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "scalar"
