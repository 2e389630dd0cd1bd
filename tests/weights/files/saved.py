"""Random tensors, and files of them in the containers that open."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

TYPES = [
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "float8_e4m3fn",
]


def tensors_of(*types: str) -> dict[str, Tensor]:
    """A tensor of each type; random, none of them a multiple of anything."""
    torch.manual_seed(0)
    made = {}
    for name in types:
        dtype = getattr(torch, name)
        values = torch.randn(7, 13) * 3
        made[f"a.{name}"] = values > 0 if dtype == torch.bool else values.abs().to(dtype)
    return made


def as_read(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is promised of tensors that were saved: floating ones in float32."""
    return {name: tensor.detach().float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def assert_same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert sorted(got) == sorted(wanted)
    for name, tensor in wanted.items():
        assert got[name].is_contiguous()
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=0)  # bytes are read, nothing is computed


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_safetensors(content: Any, path: Path) -> None:
    save_file(content, path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").rename(path)  # what it is shows in its content


SAVERS = {"zip": torch.save, "legacy": save_legacy, "safetensors": save_safetensors}
