"""Which parameter is trained how."""

import pytest
import torch

from vitrail.model import ResNet, ResNetConfig, ViT, ViTConfig
from vitrail.recipes.recipe import Optimizer
from vitrail.training.optimizer import Optimisers, rule

CONFIG = ViTConfig(
    image_size=(16, 16), patch_size=8, width=16, depth=3, heads=2, mlp_width=32, classes=4, pool="map", registers=1
)


def test_biases_norms_tokens_and_positions_do_not_decay() -> None:
    model = ViT(CONFIG)
    decayed = {n for n, p in model.named_parameters() if rule(n, p, CONFIG, Optimizer()).decays}
    assert "blocks.0.attn.qkv.weight" in decayed
    assert "patch_embed.proj.weight" in decayed
    assert "head.weight" in decayed
    kept = {n for n, _ in model.named_parameters()} - decayed
    assert {"cls_token", "reg_token", "pos_embed", "attn_pool.latent", "norm.weight", "head.bias"} <= kept
    assert not [n for n in decayed if n.endswith("bias") or "norm" in n]


def test_layer_decay_slows_the_lower_layers() -> None:
    model, settings = ViT(CONFIG), Optimizer(layer_decay=0.5, head_lr_scale=10)
    scale = {n: rule(n, p, CONFIG, settings).lr_scale for n, p in model.named_parameters()}
    assert scale["head.weight"] == 10
    assert scale["norm.weight"] == 1
    assert [scale[f"blocks.{i}.mlp.fc1.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert scale["pos_embed"] == scale["patch_embed.proj.weight"] == scale["cls_token"] == 0.0625


@pytest.mark.parametrize("kind", ["learned", "learned2d", "relative", "relative_bias"])
def test_a_blocks_own_positions_learn_at_its_rate_and_are_no_matrix(kind: str) -> None:
    config = CONFIG.with_changes(position=kind, position_site="layers")
    settings = Optimizer(name="muon", layer_decay=0.5)
    rules = {n: rule(n, p, config, settings) for n, p in ViT(config).named_parameters() if n.endswith("pos_embed")}
    assert [r.lr_scale for r in rules.values()] == [0.125, 0.25, 0.5]
    assert not any(r.decays or r.muon for r in rules.values())
    shared = CONFIG.with_changes(position=kind, position_site="shared")
    table = rule("pos_embed", ViT(shared).pos_embed, shared, settings)
    assert (table.lr_scale, table.decays, table.muon) == (0.0625, False, False)


def test_layer_decay_follows_a_resnets_units_through_its_stages() -> None:
    config = ResNetConfig(image_size=(32, 32), layers=(1, 2), classes=4)
    settings = Optimizer(layer_decay=0.5)
    scale = {n: rule(n, p, config, settings).lr_scale for n, p in ResNet(config).named_parameters()}
    units = ["stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1"]
    assert [scale[f"{unit}.conv1.weight"] for unit in units] == [0.125, 0.25, 0.5]
    assert (scale["stem.conv.weight"], scale["norm.weight"], scale["head.fc.weight"]) == (0.0625, 1, 1)


def test_muon_takes_the_hidden_matrices_alone() -> None:
    model = ViT(CONFIG)
    taken = {n for n, p in model.named_parameters() if rule(n, p, CONFIG, Optimizer(name="muon")).muon}
    kinds = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert taken == {f"blocks.{i}.{kind}.weight" for i in range(3) for kind in kinds}


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_every_optimiser_learns_and_its_state_moves_to_another_run(name: str) -> None:
    torch.manual_seed(0)
    images, targets = torch.randn(8, 3, 16, 16), torch.randint(0, 4, (8,))

    def steps(model: ViT, optimisers: Optimisers, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            optimisers.set_learning_rate(1.0)
            loss = torch.nn.functional.cross_entropy(model(images), targets)
            loss.backward()
            optimisers.step(torch.tensor(True))
            optimisers.zero_grad()
            losses.append(loss.item())
        return losses

    settings = Optimizer(name=name, lr=0.05 if name == "sgd" else 2e-3)
    model = ViT(CONFIG)
    optimisers = Optimisers(model, settings)
    before = steps(model, optimisers, 12)
    assert before[-1] < 0.9 * before[0]

    other = ViT(CONFIG)
    other.load_state_dict(model.state_dict())
    resumed = Optimisers(other, settings)
    resumed.load_state({key: value.clone() for key, value in optimisers.state().items()})
    assert steps(model, optimisers, 4) == steps(other, resumed, 4)


def test_the_learning_rate_is_scaled_by_layer() -> None:
    model = ViT(CONFIG)
    optimisers = Optimisers(model, Optimizer(lr=0.1, layer_decay=0.5))
    assert optimisers.set_learning_rate(0.5) == pytest.approx(0.05)
    rates = {group["lr"] for optimiser in optimisers.optimisers for group in optimiser.param_groups}
    assert sorted(rates) == pytest.approx(sorted(0.05 * 0.5**k for k in range(5)))
