"""The rows of the page's cost table that every page shares: the model, the machine and the software."""

import platform
from importlib.metadata import version

import torch

from vitrail.model import ModelConfig, ViTConfig
from vitrail.model.cost import Cost, readable


def model_rows(config: ModelConfig) -> dict[str, str]:
    """Parameters, image, FLOPs: what the model is and costs, wherever it runs."""
    cost, (h, w), (rows, columns) = Cost(config), config.image_size, config.grid
    rows_of = {"parameters": f"{cost.parameters:,}"}
    if isinstance(config, ViTConfig):
        rows_of["image"] = f"{h}x{w} pixels, {rows}x{columns} patches of {config.patch_size}x{config.patch_size}"
        rows_of["tokens"] = f"{config.tokens:,}"
    else:
        rows_of["image"] = f"{h}x{w} pixels, a last feature map of {rows}x{columns}"
    return {**rows_of, "FLOPs of one image": readable(cost.flops, "FLOPs")}


def machine_rows(device: torch.device, processes: int = 1, precision: str = "float32") -> dict[str, str]:
    """The device and the versions of the software."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} {device.type.upper()}, {torch.get_num_threads()} threads"
    many = f"{processes} x " if processes > 1 else ""
    return {
        "device": f"{many}{name}, {precision}",
        "software": f"vitrail {version('vitrail')}, torch {torch.__version__}, Python {platform.python_version()}",
    }
