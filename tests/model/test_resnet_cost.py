"""Counting a ResNet from its configuration gives what building and running it gives."""

import subprocess
import sys
from collections.abc import Callable
from itertools import chain

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from vitrail.model import resnet_cost as cost_of
from vitrail.model.resnet import HybridStem, ResNet
from vitrail.model.resnet_config import RESNETS, BackboneConfig, ResNetConfig, backbone_width, resnet_variant

SMALL = {"image_size": (64, 96), "classes": 5, "layers": (1, 2, 1)}
CHOICES = [
    {},
    {"channels": 1, "classes": 0},
    {"stem": "small", "image_size": (24, 32)},
    {"image_size": (37, 50)},
    {"width_factor": 2, "layers": (1, 1)},
    {"layers": (2,), "drop_path": 0.2},
    {"layers": (2, 1), "root_width": 16, "stem": "small", "image_size": (28, 20)},
    {"layers": (1, 1), "root_width": 24},
]
BACKBONES = [
    (BackboneConfig(3, ()), (64, 96)),
    (BackboneConfig(3, (2,)), (64, 64)),
    (BackboneConfig(3, (1, 2)), (64, 96)),
    (BackboneConfig(3, (1, 2, 1)), (51, 66)),
    (BackboneConfig(1, (), "small", 32), (28, 36)),
    (BackboneConfig(1, (1, 2), "small", 16), (28, 36)),
    (BackboneConfig(3, (2,), "large", 24), (64, 64)),
]
BATCH = 3


@pytest.mark.parametrize("name", RESNETS)
def test_a_named_network_has_as_many_parameters_as_timms(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model(f"resnetv2_{name[1:]}_bit")
    assert sum(cost_of.parameters(resnet_variant(name)).values()) == sum(p.numel() for p in theirs.parameters())


def test_r50x1_has_the_published_number_of_parameters() -> None:
    assert sum(cost_of.parameters(resnet_variant("R50x1")).values()) == 25_549_352


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_is_counted_as_it_is_built(choice: dict) -> None:
    config = ResNetConfig(**{**SMALL, **choice})
    model, images = ResNet(config), torch.randn(BATCH, config.channels, *config.image_size)
    counts = cost_of.parameters(config)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["stem"] == sum(p.numel() for p in model.stem.parameters())
    assert counts["stage 1"] == sum(p.numel() for p in model.stages[0].parameters())
    assert flops_of(model, images) == BATCH * sum(cost_of.flops(config).values())


@pytest.mark.parametrize(("config", "size"), BACKBONES, ids=str)
def test_a_backbone_is_counted_as_it_is_built(config: BackboneConfig, size: tuple[int, int]) -> None:
    backbone, images = HybridStem(config, 8, config.stride).backbone, torch.randn(BATCH, config.channels, *size)
    assert sum(cost_of.backbone_parameters(config).values()) == sum(p.numel() for p in backbone.parameters())
    assert flops_of(backbone, images) == BATCH * sum(cost_of.backbone_flops(config, size).values())


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_training_keeps_the_activations_that_are_forecast(choice: dict) -> None:
    config = ResNetConfig(**{**SMALL, **choice})
    measured = kept_bytes(ResNet(config).train(), torch.randn(BATCH, config.channels, *config.image_size))
    assert cost_of.training_activation_bytes(config, BATCH) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(("config", "size"), BACKBONES, ids=str)
def test_training_a_hybrid_keeps_what_is_forecast(config: BackboneConfig, size: tuple[int, int]) -> None:
    """The patch matrix behind the backbone is what keeps its output, and it keeps nothing else."""
    images = torch.randn(BATCH, config.channels, *size)
    measured = kept_bytes(HybridStem(config, 8, config.stride).train(), images)
    assert cost_of.backbone_training_activation_bytes(config, size, BATCH) == pytest.approx(measured, rel=0.01)


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # torch 2.11
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_inference_peaks_where_it_is_forecast(choice: dict) -> None:
    config = ResNetConfig(**{**SMALL, **choice})
    images = torch.randn(BATCH, config.channels, *config.image_size)
    measured = peak_bytes(ResNet(config).eval(), images) + images.nbytes
    # within 2 % here; what oneDNN copies for itself depends on the processor
    assert cost_of.inference_activation_bytes(config, BATCH) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(("config", "size"), BACKBONES, ids=str)
def test_a_backbones_inference_peaks_where_it_is_forecast(config: BackboneConfig, size: tuple[int, int]) -> None:
    backbone = HybridStem(config, 8, config.stride).backbone.eval()
    measured = peak_bytes(backbone, torch.randn(BATCH, config.channels, *size))
    assert cost_of.backbone_inference_activation_bytes(config, size, BATCH) == pytest.approx(measured, rel=0.1)


def test_values_of_half_the_bytes_take_half_the_memory_but_for_pooling() -> None:
    config = resnet_variant("R50x1")
    whole, half = (cost_of.training_activation_bytes(config, 8, value_bytes) for value_bytes in (4, 2))
    indices = 8 * 8 * 64 * 56 * 56  # max pooling keeps a place of 8 bytes for each of its outputs
    assert whole - indices == 2 * (half - indices)


def test_a_hybrids_backbone_is_a_resnet_without_its_last_stage() -> None:
    """R50+B/16 has 16 units as R50 has, nine of them in the third stage, and no fourth."""
    assert backbone_width((3, 4, 9)) == 1024
    counts = cost_of.backbone_parameters(BackboneConfig(3, (3, 4, 9)))
    assert list(counts) == ["stem", "stage 1", "stage 2", "stage 3"]
    assert sum(counts.values()) < sum(cost_of.parameters(resnet_variant("R50x1")).values())


def test_counting_needs_no_torch() -> None:
    code = (
        "import sys; from vitrail.model import resnet_cost as c; from vitrail.model.resnet_config import ResNetConfig; "
    )
    code += "c.flops(ResNetConfig()); c.inference_activation_bytes(ResNetConfig()); "
    code += "assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def flops_of(model: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops()


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass saves for the backward pass, the model's own tensors aside."""
    own = {t.untyped_storage().data_ptr() for t in chain(model.parameters(), model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@torch.no_grad()
def peak_bytes(model: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """The most bytes that were allocated at once since the call began."""
    model(images)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model(images)
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
