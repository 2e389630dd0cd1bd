"""The ResNets compute what BiT and the hybrids' reference implementation compute."""

import json
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitrail.errors import UserError
from vitrail.model import VARIANTS, ViT, ViTConfig
from vitrail.model.drop_path import DropPath
from vitrail.model.patches import patchify
from vitrail.model.resnet import Backbone, HybridStem, ResNet, Root, init_backbone, init_resnet
from vitrail.model.resnet_config import RESNETS, BackboneConfig, ResNetConfig, is_resnet, norm_groups, resnet_variant
from vitrail.model.resnet_units import PostActivationUnit, StandardisedConv


def small(**changes: object) -> ResNetConfig:
    return ResNetConfig(**{"image_size": (64, 64), "classes": 5, "layers": (1, 2, 1), **changes})


def randomise(model: nn.Module) -> None:
    """Random weights at which every part matters: norms are near 1 and 0, but are neither."""
    for name, tensor in model.state_dict().items():
        scale = tensor.dim() == 1 and name.endswith("weight")
        deviation = 0.3 if "norm" in name or "proj" not in name else 0.03
        tensor.copy_(float(scale) + deviation * torch.randn_like(tensor).clamp(-2, 2))


def bit(config: ResNetConfig) -> nn.Module:
    """timm's model of a configuration, made as timm makes those of BiT."""
    resnetv2 = pytest.importorskip("timm.models.resnetv2")
    return resnetv2.ResNetV2(
        layers=list(config.layers),
        num_classes=config.classes,
        in_chans=config.channels,
        width_factor=config.width_factor,
        stem_type="fixed",
        conv_layer=partial(resnetv2.StdConv2d, eps=1e-8),
    ).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": (1, 2, 1, 1)},
        {"layers": (1, 2, 1, 1), "image_size": (97, 70)},
        {"image_size": (33, 51), "channels": 1},
        {"layers": (1, 1), "width_factor": 3, "image_size": (31, 18)},
        {"layers": (2,), "image_size": (4, 5)},
    ],
    ids=str,
)
@torch.no_grad()
def test_features_and_logits_are_timms(changes: dict) -> None:
    torch.manual_seed(1)
    config = small(**changes)
    ours, theirs = ResNet(config).eval(), bit(config)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, config.channels, *config.image_size)
    features = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    assert features.std() > 0.1
    torch.testing.assert_close(ours.features(images), features, atol=2e-5, rtol=0)
    torch.testing.assert_close(ours(images), theirs(images), atol=2e-5, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_r50x1_at_full_depth_is_timms() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    theirs = timm.create_model("resnetv2_50x1_bit").eval()
    randomise(theirs)
    ours = ResNet(resnet_variant("R50x1")).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 224, 224)
    expected = theirs(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(images), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "layers", "patch_size"),
    [
        ("vit_tiny_r_s16_p8_224", (), 32),
        ("vit_base_r50_s16_224", (3, 4, 9), 16),
        ("vit_small_r26_s32_224", (2, 2, 2, 2), 32),
    ],
)
@torch.no_grad()
def test_a_hybrids_tokens_are_timms(name: str, layers: tuple[int, ...], patch_size: int) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    theirs = timm.create_model(name, depth=1, img_size=(96, 64)).eval().patch_embed
    ours = HybridStem(BackboneConfig(3, layers), theirs.proj.out_channels, patch_size).eval()
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 96, 64)
    expected = theirs(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(images), expected, atol=2e-5, rtol=0)
    # each side padded by another number of zeros than above
    odd = torch.randn(2, 3, 67, 49)
    torch.testing.assert_close(ours.backbone(odd), theirs.backbone(odd), atol=2e-5, rtol=0)


@torch.no_grad()
def test_kernels_are_standardised_as_the_equation_says() -> None:
    torch.manual_seed(4)
    conv = StandardisedConv(6, 4, 3)
    nn.init.normal_(conv.weight, mean=0.7, std=3.0)
    kernels = conv.weight.double().flatten(1)
    mean, deviation = kernels.mean(dim=1, keepdim=True), kernels.std(dim=1, correction=0, keepdim=True)
    expected = ((kernels - mean) / deviation).view_as(conv.weight)
    images = torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(conv(images).double(), F.conv2d(images.double(), expected, padding=1), atol=1e-5, rtol=0)
    conv.weight.mul_(5.0).add_(1.0)  # the scale and the mean of what is learned do not matter
    torch.testing.assert_close(conv(images).double(), F.conv2d(images.double(), expected, padding=1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_small_stem_is_one_standardised_convolution_that_leaves_the_size() -> None:
    torch.manual_seed(10)
    model = ResNet(small(stem="small", image_size=(9, 12))).eval()
    randomise(model)
    kernels = model.stem.conv.weight.double()
    assert kernels.shape == (64, 3, 3, 3)
    deviation, mean = torch.std_mean(kernels, dim=(1, 2, 3), correction=0, keepdim=True)
    images = torch.randn(2, 3, 9, 12)
    expected = F.conv2d(images.double(), (kernels - mean) / deviation, padding=1)
    torch.testing.assert_close(model.stem(images).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("stem", "step"), [("large", 4), ("small", 1)])
@torch.no_grad()
def test_a_thing_that_moves_moves_in_the_feature_map_and_leaves_the_features(stem: str, step: int) -> None:
    torch.manual_seed(5)
    model = ResNet(small(layers=(1,), stem=stem, image_size=(16 * step, 14 * step))).eval()
    randomise(model)
    thing = torch.randn(1, 3, 2 * step, 3 * step)
    images = torch.zeros(2, 3, 16 * step, 14 * step)
    images[0, :, 5 * step : 7 * step, 5 * step : 8 * step] = thing
    images[1, :, 8 * step : 10 * step, 6 * step : 9 * step] = thing
    here, there = model.encode(images)
    # around the thing as far as a unit sees: a position or two on each side
    around = here[:, 3:9, 3:10]
    assert around.std() > 0.1
    torch.testing.assert_close(there[:, 6:12, 4:11], around, atol=1e-5, rtol=0)
    features = model.features(images)
    torch.testing.assert_close(features[0], features[1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_stages_can_be_looked_at() -> None:
    torch.manual_seed(6)
    model = ResNet(small(image_size=(50, 36))).eval()
    randomise(model)
    images = torch.randn(2, 3, 50, 36)
    out = model(images, collect=("stages",))
    assert [tuple(stage.shape) for stage in out["stages"]] == [(2, 256, 13, 9), (2, 512, 7, 5), (2, 1024, 4, 3)]
    assert model.config.grid == (4, 3)
    torch.testing.assert_close(out["logits"], model(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(out["features"], model.features(images), atol=1e-6, rtol=0)
    last = torch.relu(model.norm(out["stages"][-1])).mean(dim=(2, 3))
    torch.testing.assert_close(last, out["features"], atol=1e-6, rtol=0)


@torch.no_grad()
def test_small_images_keep_their_size_up_to_the_second_stage() -> None:
    model = ResNet(small(stem="small", image_size=32, layers=(1, 1, 1, 1))).eval()
    stages = model(torch.randn(1, 3, 32, 32), collect=("stages",))["stages"]
    assert [tuple(stage.shape[2:]) for stage in stages] == [(32, 32), (16, 16), (8, 8), (4, 4)]


def test_without_classes_the_model_gives_features() -> None:
    model = ResNet(small(classes=0)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.features(images))


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 3, 15, 64), (3, 64, 64)])
def test_images_that_do_not_fit_are_refused_by_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"\(B, 3, H, W\), H and W at least 16; got"):
        ResNet(small())(torch.randn(shape))


def test_an_unknown_name_to_collect_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean stages"):
        ResNet(small())(torch.randn(1, 3, 64, 64), collect=("stage",))


@pytest.mark.parametrize("classes", [0, 5])
def test_every_parameter_gets_an_initial_value(classes: int) -> None:
    model = ResNet(small(classes=classes))
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    init_resnet(model)
    assert not any(parameter.isnan().any() for parameter in model.parameters())
    kernels = model.stages[1].blocks[1].conv2.weight.detach()
    assert kernels.std() * kernels[0].numel() ** 0.5 == pytest.approx(1, abs=0.02)
    with torch.no_grad():
        assert model.features(torch.randn(1, 3, 64, 64)).std() > 0.1
        assert not classes or (model(torch.randn(1, 3, 64, 64)) == 0).all()


@pytest.mark.parametrize("layers", [(), (1, 2)])
def test_a_backbone_starts_as_its_shortcuts(layers: tuple[int, ...]) -> None:
    config = BackboneConfig(3, layers)
    backbone = Backbone(config) if layers else Root(config)
    for parameter in backbone.parameters():
        nn.init.constant_(parameter, float("nan"))
    init_backbone(backbone)
    assert not any(parameter.isnan().any() for parameter in backbone.parameters())
    if isinstance(backbone, Backbone):
        unit = backbone.stages[1].blocks[0]
        assert isinstance(unit, PostActivationUnit)
        x = torch.randn(1, 256, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(unit(x), torch.relu(unit.downsample(x)))


@pytest.mark.parametrize(
    "make", [lambda: ResNet(small(drop_path=0.1)), lambda: HybridStem(BackboneConfig(3, (1, 1)), 8, 16)]
)
def test_every_parameter_is_trained(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(7)
    model = make().train()
    randomise(model)
    (model(torch.randn(4, 3, 64, 64)) ** 2).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_stochastic_depth_leaves_a_branch_out_for_whole_images() -> None:
    torch.manual_seed(8)
    x = torch.randn(2000, 2, 3, 2)
    out = DropPath(0.4).train()(x)
    dropped = (out == 0).flatten(1).all(dim=1)
    assert dropped.float().mean() == pytest.approx(0.4, abs=0.04)  # four standard deviations
    torch.testing.assert_close(out[~dropped], x[~dropped] / 0.6)
    assert DropPath(0.4).eval()(x) is x
    model = ResNet(small(drop_path=0.3))
    rates = [unit.drop_path.probability for stage in model.stages for unit in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_configuration_survives_json() -> None:
    config = small(stem="small", width_factor=2, drop_path=0.1, channels=1)
    assert ResNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "model.layers is []: it must be 1 to 4 stages"),
        ({"layers": (3, 0)}, "1 to 1000 units each"),
        ({"layers": (1, 1, 1, 1, 1)}, "1 to 4 stages"),
        ({"layers": 3}, "a list of whole numbers"),
        ({"stem": "smal"}, "did you mean small"),
        ({"width_factor": 0}, "model.width_factor is 0"),
        ({"width_factor": 1.5}, "a whole number"),
        ({"image_size": (16, 15)}, "image size 16x15 is below 16 pixels, the stride of the network: set model.stem"),
        ({"image_size": 3, "stem": "small"}, "fewer stages"),
        ({"root_width": 15}, "model.root_width is 15: it must be an even number, at least 2"),
        ({"root_width": 0}, "model.root_width is 0"),
        ({"drop_path": 1.0}, "a probability below 1"),
        ({"classes": -1}, "0 or more"),
    ],
    ids=str,
)
def test_a_network_that_cannot_be_built_is_refused_by_its_field(changes: dict, message: str) -> None:
    with pytest.raises(UserError) as refused:
        small(**changes)
    assert message in str(refused.value)


def test_an_unknown_field_is_refused_with_the_nearest() -> None:
    for refused in (
        lambda: ResNetConfig.from_dict({"layer": [1]}),
        lambda: small().with_changes(layer=[1]),
        lambda: resnet_variant("R50x1", layer=[1]),
    ):
        with pytest.raises(UserError, match="did you mean layers"):
            refused()


def test_names_give_the_papers_networks() -> None:
    config = resnet_variant("R152x4", classes=10)
    assert (config.layers, config.width, config.stride, config.classes) == ((3, 8, 36, 3), 8192, 32, 10)
    assert resnet_variant("R50x2", image_size=64, stem="small").stride == 8
    assert all(resnet_variant(name).to_dict().items() >= {"channels": 3}.items() for name in RESNETS)
    assert all(map(is_resnet, (*RESNETS, "R51x12")))
    assert not any(map(is_resnet, (*VARIANTS, "R50", "R50x")))
    for name in ("R51x1", "R50", "R50xx", "r50x1 "):
        with pytest.raises(UserError, match="R50x1"):
            resnet_variant(name)


def test_a_backbones_shape_is_known_before_it_is_built() -> None:
    for layers in ((), (2,), (1, 1), (1, 1, 1, 1)):
        for config in (BackboneConfig(3, layers), BackboneConfig(3, layers, "small", 6)):
            backbone = Backbone(config) if layers else Root(config)
            with torch.no_grad():
                out = backbone(torch.randn(1, 3, 64, 96))
            assert tuple(out.shape) == (1, config.width, 64 // config.stride, 96 // config.stride)
    assert BackboneConfig(3, (3, 4, 9)).stride == 16
    assert (BackboneConfig(3, (), "small").stride, BackboneConfig(3, (1, 1), "small").stride) == (1, 2)


def test_a_norm_has_32_groups_or_as_many_as_leave_two_channels_each() -> None:
    assert {norm_groups(64 * factor) for factor in range(1, 20)} == {32}
    assert [norm_groups(channels) for channels in (2, 6, 8, 16, 24, 32, 48, 96)] == [1, 2, 4, 8, 8, 16, 16, 32]
    model = ResNet(small(layers=(1, 1), root_width=16))
    groups = [(m.num_groups, m.num_channels) for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert groups[:3] == [(8, 16), (8, 16), (8, 16)]
    assert all(channels // count >= 2 for count, channels in groups)


@torch.no_grad()
def test_a_narrow_network_is_the_published_one_with_fewer_channels() -> None:
    config = small(stem="small", image_size=12, layers=(1, 2), root_width=8, width_factor=2)
    model = ResNet(config).eval()
    stages = model(torch.randn(2, 3, 12, 12), collect=("stages",))["stages"]
    assert [tuple(stage.shape) for stage in stages] == [(2, 64, 12, 12), (2, 128, 6, 6)]
    assert (config.root_channels, config.width, config.stride) == (16, 128, 2)
    wide = ResNet(small(layers=(1, 1), root_width=128)).eval()
    twice = ResNet(small(layers=(1, 1), width_factor=2)).eval()
    randomise(wide)
    twice.load_state_dict(wide.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(twice(images), wide(images), rtol=0, atol=0)


@pytest.mark.parametrize("layers", [(), (1,), (2, 1)])
@torch.no_grad()
def test_a_small_hybrids_tokens_are_convolution_norm_units_and_a_matrix_one_after_the_other(
    layers: tuple[int, ...],
) -> None:
    torch.manual_seed(9)
    config = ViTConfig(
        image_size=(12, 8),
        patch_size=4,
        channels=1,
        width=16,
        heads=2,
        depth=1,
        stem="hybrid",
        stem_layers=layers,
        stem_root="small",
        stem_width=8,
    )
    stem = ViT(config).eval().patch_embed
    randomise(stem)
    images = torch.randn(2, 1, 12, 8)
    root = stem.backbone.stem if layers else stem.backbone
    kernel = root.conv.weight.flatten(1)
    kernel = (kernel - kernel.mean(1, keepdim=True)) / kernel.std(1, keepdim=True, correction=0)
    x = F.conv2d(images, kernel.view_as(root.conv.weight), padding=1)
    x = F.relu(F.group_norm(x, 4, root.norm.weight, root.norm.bias))  # eight channels in groups of two
    for stage in stem.backbone.stages if layers else ():
        for unit in stage.blocks:
            x = unit(x)
    stride = max(1, 2 ** (len(layers) - 1)) if layers else 1
    assert x.shape == (2, 8 * 4 * 2 ** (len(layers) - 1) if layers else 8, 12 // stride, 8 // stride)
    patches = patchify(x, 4 // stride)
    expected = patches @ stem.proj.weight.flatten(1).T + stem.proj.bias
    assert expected.shape == (2, 6, 16)
    assert expected.std() > 0.1
    torch.testing.assert_close(stem(images), expected, atol=1e-5, rtol=0)
