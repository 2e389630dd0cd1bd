"""What a training step cannot go below on a GPU: its matrix products and its attention, timed alone at their own shapes.

Everything else (norms, sums, activations, the optimiser) only moves memory. Symbols: T tokens of a batch, D width, A width
of all heads, M width of the MLP, H heads, K width per head, N tokens of an image.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from limits import seconds_of
from vitrail.model.config import ViTConfig

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def floor(config: ViTConfig, batch: int, device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """Seconds of all matrix products and of attention in one step, and how fast they compute.

    Returns:
        ``products`` by name, ``attention`` by kernel with forward and backward pass (or why it does not run), and
        ``images_per_second``: the speed if nothing else took time.
    """
    products = matrix_products(config, batch, device, dtype)
    attention = attention_kernels(config, batch, device, dtype)
    fastest = min((row["seconds"] for row in attention.values() if "seconds" in row), default=0.0)
    seconds = sum(row["seconds"] for row in products.values()) + fastest * config.depth
    return {"products": products, "attention": attention, "images_per_second": batch / seconds}


def matrix_products(
    config: ViTConfig, batch: int, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[str, float]]:
    """Name -> seconds in the whole step and operations a second, of forward pass and both products of the backward."""
    T, D, A, M = batch * config.tokens, config.width, config.attention_width, config.mlp_width
    found = {}
    for name, inputs, outputs in (("qkv", D, 3 * A), ("proj", A, D), ("fc1", D, M), ("fc2", M, D)):
        x, g = (torch.randn(T, width, device=device).to(dtype) for width in (inputs, outputs))
        w = torch.randn(outputs, inputs, device=device).to(dtype)
        bias = torch.randn(outputs, device=device).to(dtype)
        ways: dict[str, Callable[[], Tensor]] = {
            "forward": lambda x=x, w=w, bias=bias: F.linear(x, w, bias),
            "inputs": lambda g=g, w=w: g @ w,
            "weights": lambda g=g, x=x: g.t() @ x,
        }
        for way, call in ways.items():
            seconds = seconds_of(call, device, 0.1)
            speed = 2 * T * inputs * outputs / seconds
            found[f"{name} {way}"] = {"seconds": seconds * config.depth, "operations_per_second": speed}
    return found


def attention_kernels(
    config: ViTConfig, batch: int, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[str, object]]:
    """Kernel -> seconds of one layer's attention, forward and backward, from queries, keys and values side by side."""
    N, H = config.tokens, config.heads
    qkv = torch.randn(batch, N, 3 * config.attention_width, device=device).to(dtype).requires_grad_()
    gradient = torch.randn(batch, N, config.attention_width, device=device).to(dtype)

    def forward() -> Tensor:
        q, k, v = (part.unflatten(-1, (H, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def both() -> None:
        qkv.grad = None
        forward().backward(gradient)

    found: dict[str, dict[str, object]] = {}
    for name, backend in BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                found[name] = {"forward": seconds_of(forward, device, 0.1), "seconds": seconds_of(both, device, 0.1)}
        except RuntimeError as error:
            found[name] = {"error": str(error).splitlines()[0]}
    return found
