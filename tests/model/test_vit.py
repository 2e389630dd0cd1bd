"""The model computes what the paper and the reference implementations say."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig, init_weights, variant
from vitrail.model.cost import flops, unread_flops
from vitrail.model.drop_path import DropPath
from vitrail.model.vit import COLLECTABLE


def small(**changes: object) -> ViTConfig:
    fields = {
        "image_size": (32, 48),
        "patch_size": 8,
        "width": 32,
        "depth": 3,
        "heads": 4,
        "mlp_width": 64,
        "classes": 5,
    }
    return ViTConfig(**{**fields, **changes})


def randomise(model: nn.Module) -> None:
    """Random weights at which every part of the model matters: none is zero or one, as initial values are."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            centre = 1.0 if ("norm" in name and name.endswith("weight")) or "running_var" in name else 0.0
            tensor.copy_(centre + 0.2 * torch.randn_like(tensor).clamp(-2, 2))


ALTERNATIVES = [
    {},
    {"pool": "avg", "class_token": False},
    {"pool": "map", "registers": 2},
    {"registers": 4, "layer_scale": 0.1},
    {"stem": "conv", "position": "sincos2d"},
    {"position": "none", "pool": "avg"},
    {"representation": 24, "head_width": 16, "qkv_bias": False, "activation": "quick_gelu"},
    {"channels": 1, "activation": "relu", "norm_eps": 1e-5},
    {"position": "rotary2d", "gated_mlp": True, "activation": "silu", "registers": 1},
    {"pre_norm": True, "patch_bias": False, "qk_norm": True},
    {"pool": "token_avg", "final_norm": "pooled", "prefix_positions": False},
    {"pool": "avg", "final_norm": "none", "patch_norm": True},
    {"distilled": True},
    {"stem": "hybrid", "stem_layers": (1, 1)},
    {"stem": "hybrid", "stem_layers": (1,), "stem_root": "small", "stem_width": 8},
    {"position": "learned", "position_site": "layers", "registers": 1},
    {"position": "learned2d"},
    {"position": "learned2d", "position_site": "shared", "pool": "avg", "class_token": False},
    {"position": "sincos2d", "position_site": "shared"},
    {"position": "relative", "qk_norm": True},
    {"position": "relative", "position_site": "shared", "pool": "avg", "class_token": False},
    {"position": "relative_bias", "head_width": 16},
    {"position": "relative_bias", "position_site": "shared", "registers": 2, "prefix_positions": False},
]


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("Ti/16", "vit_tiny_patch16_224"),
        pytest.param("S/16", "vit_small_patch16_224", marks=pytest.mark.slow),
        pytest.param("B/16", "vit_base_patch16_224", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_timms_weights_give_timms_logits(name: str, timm_name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    theirs = timm.create_model(timm_name).eval()
    for key, tensor in theirs.state_dict().items():
        one = "norm" in key and key.endswith("weight")
        tensor.copy_(float(one) + 0.02 * torch.randn_like(tensor))
    ours = ViT(variant(name)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 224, 224)
    expected = theirs(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", ALTERNATIVES)
@torch.no_grad()
def test_fast_and_explicit_attention_agree(changes: dict[str, object]) -> None:
    torch.manual_seed(2)
    config = small(**changes)
    model = ViT(config).eval()
    randomise(model)
    images = torch.randn(3, config.channels, 32, 48)
    out = model(images, collect=tuple(COLLECTABLE))
    torch.testing.assert_close(out["logits"], model(images), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(out["features"], model.features(images), atol=2e-6, rtol=1e-5)
    assert [tuple(a.shape) for a in out["attention"]] == [(3, 4, config.tokens, config.tokens)] * 3
    for weights in out["attention"]:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, config.tokens))


@torch.no_grad()
def test_collected_intermediates_are_those_of_the_forward_pass() -> None:
    torch.manual_seed(3)
    model = ViT(small(layer_scale=0.5)).eval()
    randomise(model)
    out = model(torch.randn(2, 3, 32, 48), collect=("embedded", "tokens", "attention_output", "mlp_output", "normed"))
    before = out["embedded"][0]
    for layer in range(3):
        after = before + out["attention_output"][layer] + out["mlp_output"][layer]
        torch.testing.assert_close(after, out["tokens"][layer])
        before = after
    torch.testing.assert_close(model.norm(before), out["normed"][0])
    assert set(out) == {"logits", "features", "embedded", "tokens", "attention_output", "mlp_output", "normed"}


def test_an_unknown_intermediate_is_named_with_its_neighbours() -> None:
    with pytest.raises(UserError, match="did you mean attention"):
        ViT(small())(torch.randn(1, 3, 32, 48), collect=("atention",))


@pytest.mark.parametrize("shape", [(1, 1, 32, 48), (1, 3, 32, 47), (3, 32, 48)])
def test_images_of_a_wrong_shape_are_refused_with_the_right_one(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"\(B, 3, H, W\), H and W divisible by 8"):
        ViT(small())(torch.randn(shape))


@pytest.mark.parametrize("changes", ALTERNATIVES)
def test_initialisation_reaches_every_parameter(changes: dict[str, object]) -> None:
    model = ViT(small(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    init_weights(model)
    missed = [name for name, parameter in model.named_parameters() if parameter.isnan().any()]
    assert missed == []


def test_initial_values_have_the_papers_sizes() -> None:
    torch.manual_seed(4)
    model = ViT(variant("Ti/16", depth=2))
    patches = model.patch_embed.proj.weight
    assert patches.std().item() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.02)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    q = model.blocks[0].attn.qkv.weight[:192]
    assert q.abs().max().item() == pytest.approx((6 / (192 + 192)) ** 0.5, rel=0.01)
    assert model.blocks[0].mlp.fc1.bias.std().item() == pytest.approx(1e-6, rel=0.2)
    assert model.head.weight.abs().max() == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "map", "registers": 2, "drop_path": 0.1, "dropout": 0.1},
        {"stem": "conv"},
        pytest.param({"position": "relative"}, marks=pytest.mark.slow),
        pytest.param({"position": "relative_bias", "position_site": "shared"}, marks=pytest.mark.slow),
    ],
)
def test_it_compiles_as_one_graph(changes: dict[str, object]) -> None:
    torch.manual_seed(5)
    model = ViT(small(**changes))
    randomise(model)
    images = torch.randn(2, 3, 32, 48)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(images).sum().backward()
    model.eval()
    torch.testing.assert_close(compiled(images), model(images))


@torch.no_grad()
def test_a_model_takes_images_of_another_size() -> None:
    torch.manual_seed(6)
    for changes in ALTERNATIVES:
        model = ViT(small(**changes)).eval()
        assert model(torch.randn(2, model.config.channels, 64, 24)).shape == (2, 5)


@torch.no_grad()
def test_dropout_and_drop_path_act_in_training_only() -> None:
    torch.manual_seed(7)
    model = ViT(small(dropout=0.3, attention_dropout=0.3, drop_path=0.3))
    randomise(model)
    images = torch.randn(8, 3, 32, 48)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_drop_path_keeps_the_mean() -> None:
    torch.manual_seed(8)
    kept = DropPath(0.25)(torch.ones(20_000, 1, 1))
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


def test_without_positions_the_order_of_patches_does_not_matter() -> None:
    torch.manual_seed(9)
    images = torch.randn(2, 3, 32, 48)
    swapped = torch.cat([images[..., 24:], images[..., :24]], dim=-1)
    for position, same in (("none", True), ("learned", False), ("sincos2d", False), ("rotary2d", False)):
        model = ViT(small(position=position)).eval()
        randomise(model)
        assert torch.allclose(model(images), model(swapped), atol=1e-5) is same


@torch.no_grad()
def test_a_distilled_model_gives_the_mean_of_its_two_heads() -> None:
    torch.manual_seed(10)
    model = ViT(small(distilled=True)).eval()
    randomise(model)
    out = model(torch.randn(2, 3, 32, 48), collect=("normed",))
    tokens = out["normed"][0]
    expected = (model.head(tokens[:, 0]) + model.head_dist(tokens[:, 1])) / 2
    torch.testing.assert_close(out["logits"], expected)
    assert out["features"].shape == (2, model.config.feature_width) == (2, 64)


@pytest.mark.parametrize("pool", ["token", "avg", "token_avg"])
@torch.no_grad()
def test_the_last_norm_stands_where_it_is_said_to(pool: str) -> None:
    torch.manual_seed(11)
    images = torch.randn(2, 3, 32, 48)
    for where in ("tokens", "pooled", "none"):
        model = ViT(small(pool=pool, final_norm=where)).eval()
        randomise(model)
        out = model(images, collect=("tokens",))
        z = model.norm(out["tokens"][-1])
        parts = {"token": [z[:, 0]], "avg": [z[:, 1:].mean(1)], "token_avg": [z[:, 0], z[:, 1:].mean(1)]}[pool]
        torch.testing.assert_close(out["features"], model.fc_norm(torch.cat(parts, dim=1)))
        norms = [isinstance(norm, nn.LayerNorm) for norm in (model.norm, model.fc_norm)]
        assert norms == [where == "tokens", where == "pooled"]


@torch.no_grad()
def test_positions_of_the_patches_alone_leave_the_prefix_as_it_is() -> None:
    torch.manual_seed(12)
    model = ViT(small(prefix_positions=False, registers=2)).eval()
    randomise(model)
    embedded = model.embed(torch.randn(2, 3, 32, 48))
    torch.testing.assert_close(embedded[:, :1], model.cls_token.expand(2, -1, -1))
    torch.testing.assert_close(embedded[:, 1:3], model.reg_token.expand(2, -1, -1))
    assert model.pos_embed.shape == (1, 24, 32)


@torch.no_grad()
def test_a_gate_multiplies_the_second_half_by_the_activation_of_the_first() -> None:
    torch.manual_seed(13)
    mlp = ViT(small(gated_mlp=True, activation="silu")).blocks[0].mlp
    randomise(mlp)
    x = torch.randn(2, 5, 32)
    gate, value = mlp.fc1(x)[..., :64], mlp.fc1(x)[..., 64:]
    torch.testing.assert_close(mlp(x), mlp.fc2(gate * torch.sigmoid(gate) * value))


@torch.no_grad()
def test_norms_around_the_patches_are_over_pixels_and_over_tokens() -> None:
    torch.manual_seed(14)
    stem = ViT(small(patch_norm=True)).patch_embed
    randomise(stem)
    images = torch.randn(1, 3, 32, 48)
    pixels = images[0, :, 8:16, 16:24].reshape(-1)
    expected = stem.norm(stem.proj.weight.flatten(1) @ stem.norm_pixels(pixels) + stem.proj.bias)
    torch.testing.assert_close(stem(images)[0, 6 + 2], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distilled": True},
        {"registers": 3, "layer_scale": 0.1, "qk_norm": True},
        {"position": "rotary2d", "qkv_bias": False},
        {"position": "learned2d", "gated_mlp": True},
        {"stem": "conv", "head_width": 16, "drop_path": 0.3},
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_what_is_left_out_of_the_last_block_is_never_read(changes: dict[str, object], training: bool) -> None:
    torch.manual_seed(0)
    model = ViT(small(**changes)).train(training)
    randomise(model)
    images = torch.randn(6, 3, 32, 48)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    results = []
    for whole in (False, True):
        model.load_state_dict(state)  # a conv stem's statistics move
        model.zero_grad()
        torch.manual_seed(1)
        if whole:
            z = model.encode(images)
            assert z.shape[1] > 20
            logits = model.classify(model.pool(z))
        else:
            logits = model(images)
        logits.square().sum().backward()
        results.append((logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (logits, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        scale = float(expected_gradients[name].abs().max())
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-4 * scale + 1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("changes", [{}, {"distilled": True, "registers": 2}, {"gated_mlp": True, "head_width": 16}])
def test_leaving_it_out_saves_the_work_that_is_counted(changes: dict[str, object]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = small(**changes)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        ViT(config).eval()(torch.randn(1, 3, 32, 48))
    assert counter.get_total_flops() == sum(flops(config).values()) - unread_flops(config)
    assert 0.1 < unread_flops(config) / sum(flops(config).values()) < 0.3  # of three blocks
    assert unread_flops(small(pool="avg")) == unread_flops(small(position="relative_bias")) == 0


def test_tokens_in_bf16_stay_so_through_the_blocks_and_cost_a_little_exactness() -> None:
    torch.manual_seed(0)
    model = ViT(small(depth=6)).eval()
    randomise(model)
    images = torch.randn(4, 3, 32, 48)
    exact = model(images)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        usual = model(images, collect=["tokens"])
        model.half_tokens = True
        halved = model(images, collect=["tokens"])
    assert {z.dtype for z in usual["tokens"]} == {torch.float32}
    assert {z.dtype for z in halved["tokens"]} == {torch.bfloat16}
    assert torch.equal(model(images), exact)  # without autocast there is nothing to keep
    off = [(found["logits"].float() - exact).abs().mean() / exact.abs().mean() for found in (usual, halved)]
    assert off[0] < off[1] < 0.1
