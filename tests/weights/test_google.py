"""Google's .npz opens here with the answers that timm's own reader of it gives, and ours open there."""

import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import HybridEmbed, _resnetv2
from torch import nn

import vitrail
from timm_models import LARGEST_DIFFERENCE, randomise
from vitrail.errors import UserError
from vitrail.model import ResNet, ViT, ViTConfig
from vitrail.model.resnet_config import ResNetConfig
from vitrail.weights import read
from vitrail.weights.convert import convert

Arrays = dict[str, NDArray[Any]]
Block = Callable[[int], str]

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 5}
TANH = partial(nn.GELU, approximate="tanh")  # flax's gelu, which Google's code calls


def _theirs(**changes: Any) -> VisionTransformer:
    model = VisionTransformer(**{**SIZES, "mlp_ratio": 1.5, "act_layer": TANH, "fc_norm": False, **changes}).eval()
    randomise(model)
    return model


def _hybrid(layers: tuple[int, ...]) -> VisionTransformer:
    return _theirs(img_size=64, patch_size=2, embed_layer=partial(HybridEmbed, backbone=_resnetv2(layers)))


def _arrays(model: VisionTransformer, *, big_vision: bool = False, head: bool = True) -> Arrays:
    """timm's weights as Google has them, written out name by name."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    attention, norm, mlp = (0, 1, 0) if big_vision else (1, 2, 3)
    arrays: Arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    if "cls_token" in state:
        arrays["cls"] = state["cls_token"]
    if head:
        arrays |= {"head/kernel": state["head.weight"].T, "head/bias": state["head.bias"]}
    for i in range(len(model.blocks)):
        block, own = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        arrays |= _attention(f"{block}/MultiHeadDotProductAttention_{attention}", state, own)
        for theirs, ours in (("LayerNorm_0", "norm1"), (f"LayerNorm_{norm}", "norm2")):
            arrays[f"{block}/{theirs}/scale"] = state[f"{own}.{ours}.weight"]
            arrays[f"{block}/{theirs}/bias"] = state[f"{own}.{ours}.bias"]
        arrays |= _mlp(f"{block}/MlpBlock_{mlp}", state, f"{own}.mlp")
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _attention(theirs: str, state: Arrays, block: str) -> Arrays:
    width = state[f"{block}.norm1.weight"].shape[0]
    arrays = {
        f"{theirs}/out/kernel": state[f"{block}.attn.proj.weight"].T.reshape(4, width // 4, width),
        f"{theirs}/out/bias": state[f"{block}.attn.proj.bias"],
    }
    for part, name in enumerate(("query", "key", "value")):
        rows = slice(part * width, (part + 1) * width)
        arrays[f"{theirs}/{name}/kernel"] = state[f"{block}.attn.qkv.weight"][rows].T.reshape(width, 4, width // 4)
        arrays[f"{theirs}/{name}/bias"] = state[f"{block}.attn.qkv.bias"][rows].reshape(4, width // 4)
    return arrays


def _mlp(theirs: str, state: Arrays, ours: str) -> Arrays:
    return {
        f"{theirs}/Dense_0/kernel": state[f"{ours}.fc1.weight"].T,
        f"{theirs}/Dense_0/bias": state[f"{ours}.fc1.bias"],
        f"{theirs}/Dense_1/kernel": state[f"{ours}.fc2.weight"].T,
        f"{theirs}/Dense_1/bias": state[f"{ours}.fc2.bias"],
    }


def _stack(arrays: Arrays) -> Arrays:
    """All blocks in one, as big_vision's scan keeps them."""
    first = "Transformer/encoderblock_0/"
    inner = [name.removeprefix(first) for name in arrays if name.startswith(first)]
    stacked = {
        f"Transformer/encoderblock/{name}": np.stack([arrays[f"Transformer/encoderblock_{i}/{name}"] for i in range(3)])
        for name in inner
    }
    return {name: array for name, array in arrays.items() if "encoderblock_" not in name} | stacked


def _save(path: Path, arrays: Arrays, prefix: str = "") -> Path:
    np.savez(path, **{f"{prefix}{name}": array for name, array in arrays.items()})
    return path


@torch.no_grad()
def _assert_same(ours: ViT | ResNet, theirs: nn.Module) -> None:
    images = torch.randn(2, ours.config.channels, *ours.config.image_size)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=LARGEST_DIFFERENCE)


def _assert_round_trip(tmp_path: Path, ours: ViT | ResNet, arrays: Arrays) -> None:
    convert(ours, "google", tmp_path / "again.npz")
    again = np.load(tmp_path / "again.npz")
    assert set(again) == set(arrays)
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)


def test_vision_transformers_names_open_and_go_round(tmp_path: Path) -> None:
    theirs = _theirs()
    arrays = _arrays(theirs)
    ours = vitrail.load(_save(tmp_path / "a.npz", arrays))
    assert (ours.config.heads, ours.config.depth, ours.config.mlp_width, ours.config.pool) == (4, 3, 72, "token")
    assert ours.config.position_interpolation == "bilinear_corners"
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, arrays)


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/", "params/img/", "img/", "a(b/"])
def test_big_visions_names_open_under_any_prefix(tmp_path: Path, prefix: str) -> None:
    theirs = _theirs(class_token=False, global_pool="avg")
    ours = vitrail.load(_save(tmp_path / "a.npz", _arrays(theirs, big_vision=True), prefix))
    assert (ours.config.pool, ours.config.class_token) == ("avg", False)
    _assert_same(ours, theirs)


def test_blocks_in_one_stack_open_as_the_same_blocks(tmp_path: Path) -> None:
    theirs = _theirs(class_token=False, global_pool="avg")
    ours = vitrail.load(_save(tmp_path / "a.npz", _stack(_arrays(theirs, big_vision=True)), "params/"))
    _assert_same(ours, theirs)


def test_a_class_token_without_a_position_opens_and_goes_round(tmp_path: Path) -> None:
    theirs = _theirs(no_embed_class=True)
    arrays = _arrays(theirs, big_vision=True)
    ours = vitrail.load(_save(tmp_path / "a.npz", arrays))
    assert not ours.config.prefix_positions
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, arrays)


def test_older_big_vision_files_keep_positions_in_the_encoder(tmp_path: Path) -> None:
    theirs = _theirs()
    arrays = _arrays(theirs, big_vision=True)
    arrays["Transformer/pos_embedding"] = arrays.pop("pos_embedding")
    ours = vitrail.load(_save(tmp_path / "a.npz", arrays, "opt/target/"))
    assert ours.config.prefix_positions
    _assert_same(ours, theirs)


def test_an_image_tower_with_attention_pooling_opens_without_its_text(tmp_path: Path) -> None:
    theirs = _theirs(class_token=False, global_pool="map", num_classes=0)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    attention = "MAPHead_0/MultiHeadDotProductAttention_0"
    arrays = _arrays(theirs, big_vision=True, head=False) | {
        "MAPHead_0/probe": state["attn_pool.latent"],
        f"{attention}/query/kernel": state["attn_pool.q.weight"].T.reshape(48, 4, 12),
        f"{attention}/query/bias": state["attn_pool.q.bias"].reshape(4, 12),
        f"{attention}/key/kernel": state["attn_pool.kv.weight"][:48].T.reshape(48, 4, 12),
        f"{attention}/key/bias": state["attn_pool.kv.bias"][:48].reshape(4, 12),
        f"{attention}/value/kernel": state["attn_pool.kv.weight"][48:].T.reshape(48, 4, 12),
        f"{attention}/value/bias": state["attn_pool.kv.bias"][48:].reshape(4, 12),
        f"{attention}/out/kernel": state["attn_pool.proj.weight"].T.reshape(4, 12, 48),
        f"{attention}/out/bias": state["attn_pool.proj.bias"],
        "MAPHead_0/LayerNorm_0/scale": state["attn_pool.norm.weight"],
        "MAPHead_0/LayerNorm_0/bias": state["attn_pool.norm.bias"],
        **_mlp("MAPHead_0/MlpBlock_0", state, "attn_pool.mlp"),
    }
    text = {"params/txt/head/bias": np.ones(3), "params/t": np.ones(1), "params/b": np.ones(1)}
    tower = {f"params/img/{name}": array for name, array in arrays.items()}
    ours = vitrail.load(_save(tmp_path / "a.npz", tower | text))
    assert (ours.config.pool, ours.config.classes) == ("map", 0)
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, arrays)


def test_computed_positions_are_not_in_the_file_and_open_at_the_usual_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        patch_size=56, classes=3, width=64, depth=1, heads=2, mlp_width=32, position="sincos2d", pool="avg",
        class_token=False, activation="gelu_tanh",
    )  # fmt: skip
    model = ViT(config).eval()
    randomise(model)
    convert(model, "google", tmp_path / "a.npz")
    assert not [name for name in np.load(tmp_path / "a.npz") if "pos_embedding" in name]
    again = vitrail.load(tmp_path / "a.npz")
    assert again.config.position == "sincos2d"
    _assert_same(again, model)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.comment = b""  # as Google's own files, which say nothing beside their tensors
    assert "assumed images of 224x224" in " ".join(read(tmp_path / "a.npz").notes)


@pytest.mark.parametrize("layers", [(), (1, 2)], ids=["stem alone", "stages"])
def test_hybrids_open_go_round_and_open_in_timm(tmp_path: Path, layers: tuple[int, ...]) -> None:
    theirs = _hybrid(layers)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    stem = "patch_embed.backbone." + ("stem." if layers else "")
    arrays = _arrays(theirs) | {
        "conv_root/kernel": state[f"{stem}conv.weight"].transpose(2, 3, 1, 0),
        "gn_root/scale": state[f"{stem}norm.weight"],
        "gn_root/bias": state[f"{stem}norm.bias"],
    }
    for stage, units in enumerate(layers, 1):
        for unit in range(1, units + 1):
            arrays |= _unit(state, stage, unit)
    ours = vitrail.load(_save(tmp_path / "a.npz", arrays))
    assert (ours.config.stem_layers, ours.config.patch_size) == (layers, 16 if layers else 8)
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, arrays)
    fresh = _hybrid(layers)
    for parameter in fresh.parameters():
        nn.init.constant_(parameter, float("nan"))
    fresh.load_pretrained(str(tmp_path / "again.npz"))
    _assert_same(ours, fresh)


def _unit(state: Arrays, stage: int, unit: int) -> Arrays:
    block, own = f"block{stage}/unit{unit}/", f"patch_embed.backbone.stages.{stage - 1}.blocks.{unit - 1}."
    layers = {f"{block}conv{i}": f"{own}conv{i}" for i in (1, 2, 3)}
    norms = {f"{block}gn{i}": f"{own}norm{i}" for i in (1, 2, 3)}
    if unit == 1:
        layers[f"{block}conv_proj"] = f"{own}downsample.conv"
        norms[f"{block}gn_proj"] = f"{own}downsample.norm"
    arrays = {f"{theirs}/kernel": state[f"{ours}.weight"].transpose(2, 3, 1, 0) for theirs, ours in layers.items()}
    for theirs, ours in norms.items():
        arrays |= {f"{theirs}/scale": state[f"{ours}.weight"], f"{theirs}/bias": state[f"{ours}.bias"]}
    return arrays


def test_norms_of_groups_with_leading_axes_open(tmp_path: Path) -> None:
    """The oldest hybrids have (1, 1, 1, C)."""
    model = ViT(ViTConfig(**_SMALL, stem="hybrid", stem_layers=(), activation="gelu_tanh")).eval()
    randomise(model)
    convert(model, "google", tmp_path / "a.npz")
    arrays = dict(np.load(tmp_path / "a.npz"))
    for part in ("scale", "bias"):
        arrays[f"gn_root/{part}"] = arrays[f"gn_root/{part}"][None, None, None]
    _assert_same(vitrail.load(_save(tmp_path / "b.npz", arrays)), model)


_SMALL: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "classes": 5,
    "width": 48,
    "depth": 3,
    "heads": 4,
    "mlp_width": 72,
}

WRITTEN = [
    ({}, {}),
    ({"activation": "gelu"}, {"act_layer": nn.GELU}),
    ({"pool": "avg", "class_token": False}, {"class_token": False, "global_pool": "avg"}),
    ({"pool": "map", "class_token": False}, {"class_token": False, "global_pool": "map"}),
    ({"prefix_positions": False}, {"no_embed_class": True}),
    ({"image_size": (32, 48), "channels": 1}, {"img_size": (32, 48), "in_chans": 1}),
]


@pytest.mark.parametrize(("ours", "theirs"), WRITTEN, ids=lambda choice: str(choice))
def test_timm_reads_what_is_written(tmp_path: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    model = ViT(ViTConfig(**{**_SMALL, "activation": "gelu_tanh", **ours})).eval()
    randomise(model)
    convert(model, "google", tmp_path / "a.npz")
    reader = _theirs(**theirs)
    for parameter in reader.parameters():
        nn.init.constant_(parameter, float("nan"))
    reader.load_pretrained(str(tmp_path / "a.npz"))
    _assert_same(model, reader)


def test_a_representation_layer_goes_round(tmp_path: Path) -> None:
    model = ViT(ViTConfig(**_SMALL, representation=24, activation="gelu_tanh")).eval()
    randomise(model)
    convert(model, "google", tmp_path / "a.npz")
    assert np.load(tmp_path / "a.npz")["pre_logits/kernel"].shape == (48, 24)
    again = vitrail.load(tmp_path / "a.npz")
    assert again.config == model.config
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_bit_opens_goes_round_and_opens_in_timm(tmp_path: Path) -> None:
    def build() -> nn.Module:
        convolution = partial(StdConv2d, eps=1e-8)
        return ResNetV2(
            layers=(2, 1), channels=(256, 512), num_classes=5, stem_type="fixed", conv_layer=convolution
        ).eval()

    theirs = build()
    randomise(theirs)
    arrays = dict(_bit_arrays({name: tensor.numpy() for name, tensor in theirs.state_dict().items()}))
    path = _save(tmp_path / "a.npz", arrays)
    ours = vitrail.load(path, {"image_size": 64})
    assert (ours.config.layers, ours.config.width_factor, ours.config.classes) == ((2, 1), 1, 5)
    _assert_same(ours, theirs)
    _assert_round_trip(tmp_path, ours, arrays)
    fresh = build()
    fresh.load_pretrained(str(tmp_path / "again.npz"))
    _assert_same(ours, fresh)
    assert "assumed images of 224x224" in " ".join(read(path).notes)


def _bit_arrays(state: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
    kernel = "standardized_conv2d/kernel"
    yield f"resnet/root_block/{kernel}", state["stem.conv.weight"].transpose(2, 3, 1, 0)
    for stage, units in ((1, 2), (2, 1)):
        for unit in range(1, units + 1):
            own, block = f"stages.{stage - 1}.blocks.{unit - 1}", f"resnet/block{stage}/unit{unit:02d}"
            for letter, layer in (("a", 1), ("b", 2), ("c", 3)):
                yield f"{block}/{letter}/{kernel}", state[f"{own}.conv{layer}.weight"].transpose(2, 3, 1, 0)
                yield f"{block}/{letter}/group_norm/gamma", state[f"{own}.norm{layer}.weight"]
                yield f"{block}/{letter}/group_norm/beta", state[f"{own}.norm{layer}.bias"]
            if unit == 1:
                yield f"{block}/a/proj/{kernel}", state[f"{own}.downsample.conv.weight"].transpose(2, 3, 1, 0)
    yield "resnet/group_norm/gamma", state["norm.weight"]
    yield "resnet/group_norm/beta", state["norm.bias"]
    yield "resnet/head/conv2d/kernel", state["head.fc.weight"].transpose(2, 3, 1, 0)
    yield "resnet/head/conv2d/bias", state["head.fc.bias"]


def test_pixels_are_those_of_googles_pipeline_and_it_is_said(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.npz", _arrays(_theirs()))
    preprocess = vitrail.load(path).preprocess
    assert preprocess is not None
    assert (preprocess.mode, preprocess.interpolation, preprocess.image_size) == ("squash", "bilinear", (32, 32))
    assert preprocess.mean == preprocess.std == (0.5, 0.5, 0.5)
    notes = " ".join(read(path).notes)
    assert "google format" in notes
    assert "squashed" in notes
    assert "gelu_tanh" in notes


def test_a_grid_that_is_not_square_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.npz", _arrays(_theirs(img_size=(32, 48))))
    with pytest.raises(UserError, match=r"25 rows, and 24 patches are no square grid: .*image_size"):
        vitrail.load(path)


def test_an_array_left_over_and_a_missing_block_are_refused(tmp_path: Path) -> None:
    arrays = _arrays(_theirs())
    with pytest.raises(UserError, match=r"1 left over \(Transformer/adapter/kernel\)"):
        vitrail.load(_save(tmp_path / "a.npz", arrays | {"Transformer/adapter/kernel": np.ones((2, 2))}))
    gap = {name: array for name, array in arrays.items() if "encoderblock_1/" not in name}
    with pytest.raises(UserError, match="no layer 1 of names such as Transformer/encoderblock_"):
        vitrail.load(_save(tmp_path / "b.npz", gap))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"registers": 2}, "its registers of 2"),
        ({"activation": "relu"}, "its activation relu"),
        ({"qkv_bias": False}, "its qkv_bias of False"),
        ({"position": "none"}, "its none positions"),
        ({"stem": "conv"}, "its conv stem"),
        ({"pool": "avg"}, "its pool avg with a class token"),
        ({"head_width": 8}, "add up to 32 and not to the width 48"),
    ],
)
def test_what_google_has_no_equal_of_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = ViT(ViTConfig(**{**_SMALL, "activation": "gelu_tanh", **changes}))
    with pytest.raises(UserError, match=message):
        convert(model, "google", tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("choice", "reason"), [({"stem": "small"}, "its small stem"), ({"root_width": 32}, "its root of 32 channels")]
)
def test_a_resnet_with_the_small_stem_or_another_root_has_no_equal(
    tmp_path: Path, choice: dict[str, Any], reason: str
) -> None:
    model = ResNet(ResNetConfig(image_size=(32, 32), layers=(1,), **choice))
    for origin in ("google", "transformers"):
        with pytest.raises(UserError, match=reason):
            convert(model, origin, tmp_path / "a.npz")
