"""The moving average of the weights, which is evaluated and saved in place of the weights themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vitrail.training.sharding import local


class Ema:
    """An exponential moving average of a model's parameters; its buffers (a norm's statistics) are averaged too.

    The average forgets faster at the beginning, so that it does not remember the initial values: at step t its decay
    is min(decay, (1 + t) / (10 + t)).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model's present values after the given step (0 for the first)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        present = model.state_dict()
        floats = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([local(self.tensors[n]) for n in floats], [local(present[n]) for n in floats], weight)
        for name in self.tensors.keys() - set(floats):
            self.tensors[name].copy_(present[name])

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Within the context the model has the averaged values; afterwards its own again."""
        own = {name: t.detach().clone() for name, t in model.state_dict().items()}
        model.load_state_dict(self.tensors)
        try:
            yield
        finally:
            model.load_state_dict(own)
