"""Ways to make vitrail's training step on a GPU, put together from switches, so that one run can try several of them.

A way is switches joined by plus signs, such as ``blocks+cudnn``. ``whole`` is what a long run of the product does.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from steps import CLIP, random_head, vitrail_step
from vitrail.model import ViT, ViTConfig, variant

SWITCHES = {
    "eager": "nothing compiled",
    "whole": "the model compiled as one graph",
    "blocks": "each block compiled by itself; all of them share the code",
    "tuned": "Inductor tries several shapes of every kernel it writes (coordinate descent)",
    "autotune": "Inductor also tries its own matrix products (max-autotune-no-cudagraphs)",
    "graphs": "CUDA graphs of forward and backward pass (reduce-overhead)",
    "nomix": "Inductor without joint row and column reductions in the backward pass of norms",
    "flash": "attention by FlashAttention",
    "cudnn": "attention by cuDNN",
    "efficient": "attention by the memory-efficient kernel",
    "lt": "matrix products by cublasLt",
    "half-residual": "tokens in bf16 between the blocks, weights in float32 under autocast",
    "half-weights": "weights cast to bf16 once a step, everything computed in bf16, no autocast; gradients in float32",
    "nocache": "autocast casts a weight at every use",
    "padded": "three tokens more, 200 instead of 197 (registers)",
    "resident": "images are on the device already",
    "prefetch": "the next batch is copied on a stream of its own",
    "noclip": "no clipping of gradients",
    "ema": "with the average of the weights",
}
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


class HalfWeights(nn.Module):
    """A model called with bf16 copies of its float32 weights, made in the forward pass, so that gradients reach them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        halves = {name: parameter.bfloat16() for name, parameter in self.model.named_parameters()}
        return functional_call(self.model, halves, (images.bfloat16(),))


class Ahead:
    """A step whose batch was copied on another stream while the step before was computed."""

    def __init__(self, step: Callable[..., object], images: Tensor) -> None:
        self.step, self.images = step, images
        self.stream = torch.cuda.Stream()
        self.buffers = [torch.empty_like(images, device="cuda") for _ in range(2)]
        self.copied = [torch.cuda.Event() for _ in range(2)]
        self.used = [torch.cuda.Event() for _ in range(2)]
        self.number = 0
        self._copy(0)

    def __call__(self) -> None:
        now, after = self.number % 2, (self.number + 1) % 2
        self.number += 1
        self._copy(after)
        torch.cuda.current_stream().wait_event(self.copied[now])
        self.step(self.buffers[now])
        self.used[now].record()

    def _copy(self, place: int) -> None:
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.used[place])  # an event that was never recorded does not wait
            self.buffers[place].copy_(self.images, non_blocking=True)
            self.copied[place].record()


def switches_of(way: str) -> set[str]:
    """The switches of a way. Raises SystemExit for a name that is none of them."""
    found = set(way.split("+"))
    for name in found - SWITCHES.keys():
        raise SystemExit(f"no switch is called {name!r}; there are {', '.join(SWITCHES)}")
    return found


def build_step(
    way: str, name: str, images: Tensor, targets: Tensor, device: torch.device, classes: int, **changes: Any
) -> Callable[[], object]:
    """vitrail's training step in this way, for the variant called ``name``; ``changes`` are of its configuration."""
    on = switches_of(way)
    config = variant(name, classes=classes, **changes)
    if "padded" in on:
        config = config.with_changes(registers=-config.tokens % 8)
    model = build_model(on, config, device)
    network: nn.Module = HalfWeights(model) if "half-weights" in on else model
    compile_network(network, model, on)
    make = vitrail_step(
        model,
        images.to(device) if "resident" in on else images,
        targets,
        device,
        "float32" if "half-weights" in on else "bf16",
        network=network,
        clip=0.0 if "noclip" in on else CLIP,
        ema=0.9999 if "ema" in on else 0.0,
    )
    call = Ahead(make, images) if "prefetch" in on and device.type == "cuda" else make

    def step() -> None:
        with settings(on):
            call()

    return step


def build_model(on: set[str], config: ViTConfig, device: torch.device) -> ViT:
    """The model with what the switches change in it; its initial values are drawn on the device, which is faster."""
    with device:
        model = ViT(config).to(device)
    model.half_tokens = "half-residual" in on
    return random_head(model)


def compile_network(network: nn.Module, model: nn.Module, on: set[str]) -> None:
    """Compile in the way that the switches say."""
    if "eager" in on:
        return
    mode = {"autotune": "max-autotune-no-cudagraphs", "graphs": "reduce-overhead"}
    chosen = [mode[name] for name in mode if name in on]
    options = {"mode": chosen[0]} if chosen else {}
    for part in model.blocks if "blocks" in on else [network]:
        part.compile(**options)


@contextlib.contextmanager
def settings(on: set[str]) -> Iterator[None]:
    """torch's settings of a way, while its step is compiled and while it runs."""
    import torch._inductor.config as inductor

    with contextlib.ExitStack() as stack:
        for name in on & _BACKENDS.keys():
            stack.enter_context(sdpa_kernel(_BACKENDS[name]))
        if "tuned" in on:
            stack.enter_context(inductor.patch(coordinate_descent_tuning=True))
        if "nomix" in on and hasattr(inductor.triton, "mix_order_reduction"):
            stack.enter_context(inductor.patch({"triton.mix_order_reduction": False}))
        if "lt" in on:
            before = torch.backends.cuda.preferred_blas_library()
            torch.backends.cuda.preferred_blas_library("cublaslt")
            stack.callback(torch.backends.cuda.preferred_blas_library, before)
        if "nocache" in on:
            was = torch.is_autocast_cache_enabled()
            torch.set_autocast_cache_enabled(False)
            stack.callback(torch.set_autocast_cache_enabled, was)
        yield
