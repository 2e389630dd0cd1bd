"""Counting from a configuration gives what building and running the model gives."""

import json
import subprocess
import sys
from itertools import chain

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from published import PARAMETERS
from vitrail.model import VARIANTS, ViT, ViTConfig, variant
from vitrail.model import cost as cost_of
from vitrail.model.cost import Cost, attention_share, flops, parameters, readable

pytestmark = pytest.mark.usefixtures("whole_last_block")

SMALL = {
    "image_size": (32, 48),
    "patch_size": 8,
    "classes": 5,
    "width": 32,
    "depth": 2,
    "heads": 4,
    "mlp_width": 50,
}
CHOICES = [
    {},
    {"channels": 1, "classes": 0},
    {"pool": "avg", "class_token": False},
    {"pool": "map", "registers": 2},
    {"registers": 3, "layer_scale": 1e-4, "qkv_bias": False},
    {"stem": "conv"},
    {"stem": "conv", "patch_size": 4, "stem_width": 6},
    {"representation": 7, "position": "sincos2d"},
    {"head_width": 16, "position": "none"},
    {"patch_size": 1, "image_size": (5, 7)},
    {"dropout": 0.1, "attention_dropout": 0.2, "drop_path": 0.1},
    {"gated_mlp": True, "activation": "silu", "qk_norm": True},
    {"position": "rotary2d", "pre_norm": True, "patch_bias": False},
    {"pool": "token_avg", "final_norm": "pooled", "prefix_positions": False, "registers": 1},
    {"pool": "avg", "final_norm": "none", "patch_norm": True},
    {"distilled": True},
    {"position": "learned2d", "dropout": 0.1},
    {"position": "learned2d", "position_site": "layers"},
    {"position": "learned", "position_site": "shared", "registers": 1},
    {"position": "relative"},
    {"position": "relative", "position_site": "shared", "class_token": False, "pool": "avg", "qk_norm": True},
    {"position": "relative", "attention_dropout": 0.1, "head_width": 16},
    {"position": "relative_bias"},
    {"position": "relative_bias", "position_site": "shared", "prefix_positions": False, "registers": 2},
    {"stem": "hybrid", "stem_layers": (1, 2), "patch_size": 8},
    {"stem": "hybrid", "stem_layers": (), "patch_size": 8, "patch_bias": False},
    {"stem": "hybrid", "stem_layers": (1, 1), "patch_size": 4, "stem_root": "small", "stem_width": 8},
    {"stem": "hybrid", "stem_layers": (), "patch_size": 2, "image_size": (8, 8), "stem_root": "small"},
]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_variant_has_the_published_number_of_parameters(name: str) -> None:
    assert Cost(variant(name)).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_counted_as_it_is_built(name: str) -> None:
    shallow = variant(name, depth=2)  # building all 48 layers of G/14 takes seconds and tells nothing more
    with torch.device("meta"):
        assert Cost(shallow).parameters == sum(p.numel() for p in ViT(shallow).parameters())


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_is_counted_as_it_is_built(choice: dict) -> None:
    config = ViTConfig(**{**SMALL, **choice})
    assert Cost(config).parameters == sum(p.numel() for p in ViT(config).parameters())


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_flops_are_those_that_torch_counts(choice: dict) -> None:
    config = ViTConfig(**{**SMALL, **choice})
    model, images = ViT(config).eval(), torch.randn(3, config.channels, *config.image_size)
    # written out: the counter of older torch versions does not know the CPU's fused attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.classify(model.features(images))
    assert counter.get_total_flops() == 3 * Cost(config).flops


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_training_keeps_the_activations_that_are_forecast(choice: dict) -> None:
    config = ViTConfig(**{**SMALL, **choice})
    model, images = ViT(config).train(), torch.randn(4, config.channels, *config.image_size)
    own = {t.untyped_storage().data_ptr() for t in chain(model.parameters(), model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    # what is left out (the head's inputs, drop path's masks) does not grow with depth or tokens
    assert cost_of.training_activation_bytes(config, 4) == pytest.approx(measured, rel=0.04)


def test_every_pixel_a_token_makes_attention_nearly_all_of_the_work() -> None:
    pixels, patches = variant("B/16", patch_size=1), variant("B/16")
    assert pixels.tokens == 50_177
    assert attention_share(pixels) > 0.9 > 0.05 > attention_share(patches)
    assert Cost(pixels).memory["attention_matrix"] == 12 * 50_177**2 * 4


def test_the_parts_add_up() -> None:
    config = variant("Ti/16", layer_scale=1e-5, registers=4)
    summary = Cost(config, batch_size=8).to_dict()
    assert summary["parameters"] == sum(parameters(config).values())
    assert summary["flops"] == sum(flops(config).values())
    memory = summary["memory"]
    copies = 2 * memory["weights"] + memory["optimizer_state"]
    assert memory["training"] == copies + memory["training_activations"]
    assert json.loads(json.dumps(summary)) == summary


def test_training_memory_grows_with_the_batch_and_shrinks_with_half_precision() -> None:
    config = variant("Ti/16")
    one, two = (cost_of.training_bytes(config, batch) for batch in (1, 2))
    assert two - one == cost_of.training_activation_bytes(config, 1)
    assert cost_of.training_bytes(config, 2, activation_bytes=2) < two < cost_of.training_bytes(config, 2, ema=True)


def test_counting_needs_no_torch() -> None:
    code = "import sys; from vitrail.model.cost import Cost; from vitrail.model import variant; "
    code += "Cost(variant('B/16')).to_dict(); assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999.4, "999 B"), (1_000, "1.00 kB"), (99_960_000, "100 MB"), (2.35e15, "2.35 PB")]
)
def test_numbers_are_readable(number: float, text: str) -> None:
    assert readable(number, "B") == text
