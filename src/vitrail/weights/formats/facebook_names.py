"""Facebook's tensors: the configuration that their shapes tell, and their names in ours. Most are timm's.

The names of DINO, MAE and DeiT are timm's own; DINOv2, DINOv3 and DeiT III have others for some.
"""

import re
from collections.abc import Iterable
from typing import Any

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.model.resnet_config import MAX_STAGES, backbone_stride
from vitrail.weights.formats.format import ModelConfig, Shapes
from vitrail.weights.formats.layouts import without_register_rows
from vitrail.weights.formats.shapes import (
    count,
    grid_side,
    published_heads,
    shape_of,
    square_image,
    square_patch,
    usual_image,
)
from vitrail.weights.found import Found
from vitrail.weights.names import Entry, Layout, entry, joined

PATCHES, PERIODS, ROTARY_BASE = "patch_embed.proj.weight", "rope_embed.periods", 100.0
_POSITIONS, _BACKBONE = "pos_embed", "patch_embed.backbone."
_BLOCK = r"blocks[.](?:\d+[.](?=\d))?(\d+)[.]"  # also of blocks in chunks, whose numbers run on: blocks.1.7.
_STAGE = rf"{re.escape(_BACKBONE)}stages[.]"
_REGISTERS = ("register_tokens", "storage_tokens", "reg_token")
_LAYER_SCALE = 1e-5  # at the start of training; what was learned is in the file


def is_dinov3(shapes: Shapes) -> bool:
    """Rotary positions, which no other has."""
    return PERIODS in shapes or "storage_tokens" in shapes


def block_name(shapes: Shapes, i: int) -> str:
    """How the names of a block begin: ``blocks.5.``, or ``blocks.0.5.`` in a chunk."""
    inner = f".{i}.norm1.weight"
    whole = next((name for name in shapes if name.startswith("blocks.") and name.endswith(inner)), f"blocks{inner}")
    return whole.removesuffix("norm1.weight")


def read_config(found: Found) -> ViTConfig:
    """The configuration that the shapes tell, of whichever kind.

    Raises:
        UserError: shapes that make no model, or do not tell which.
    """
    shapes, first = found.shapes, block_name(found.shapes, 0)
    width = shape_of(found, PATCHES, 4)[0]
    stem = _stem(found)
    mlp_width, gated = _mlp(found, first)
    scaled = bool({f"{first}ls1.gamma", f"{first}gamma_1"} & shapes.keys())
    registers = next((shape_of(found, name, 3)[1] for name in _REGISTERS if name in shapes), 0)
    class_token, pre_norm = "cls_token" in shapes, "norm_pre.weight" in shapes
    pooled, mapped = "fc_norm.weight" in shapes, "attn_pool.latent" in shapes
    return ViTConfig(
        **stem,
        **_positions(found, registers, stem["patch_size"], scaled),
        classes=shape_of(found, "head.weight", 2)[0] if "head.weight" in shapes else 0,
        width=width,
        depth=count(found, _BLOCK),
        heads=_heads(found, width),
        mlp_width=mlp_width,
        pool="map" if mapped else "avg" if pooled or not class_token else "token",
        class_token=class_token,
        distilled="dist_token" in shapes,
        registers=registers,
        pre_norm=pre_norm,
        final_norm="pooled" if pooled else "tokens" if "norm.weight" in shapes else "none",
        norm_eps=1e-5 if is_dinov3(shapes) or pre_norm else 1e-6,
        activation="silu" if gated else "gelu",
        gated_mlp=gated,
        qkv_bias=f"{first}attn.qkv.bias" in shapes,
        qk_norm=f"{first}attn.q_norm.weight" in shapes,
        layer_scale=_LAYER_SCALE if scaled else None,
    )


def entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """DINO, MAE, DeiT: our names, which are timm's."""
    return (entry(name, name) for name in ours)


def deit3_entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """DeiT III: LayerScale by another name."""
    for name in ours:
        yield entry(name, name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"))
        yield entry(name, name)


def dinov2_entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """DINOv2: blocks in chunks, registers without positions, SwiGLU in two matrices."""
    assert isinstance(config, ViTConfig)
    yield entry("mask_token", "mask_token")  # there is one when it is written
    yield entry("reg_token", "register_tokens")
    if config.registers and "register_tokens" in (theirs or ("register_tokens",)):
        yield entry("pos_embed", _POSITIONS, layout=without_register_rows(config.registers))
    for i in range(config.depth):
        block = block_name(theirs, i)
        for part in ("weight", "bias") if config.gated_mlp else ():
            yield entry(f"blocks.{i}.mlp.fc1.{part}", f"{block}mlp.w12.{part}")
            yield entry(f"blocks.{i}.mlp.fc2.{part}", f"{block}mlp.w3.{part}")
        own = f"blocks.{i}."
        yield from (entry(name, block + name.removeprefix(own)) for name in ours if name.startswith(own))
    yield from entries(config, theirs, ours)


def dinov3_entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """DINOv3: registers by another name, SwiGLU in three matrices, and a mask that takes the bias from the keys."""
    assert isinstance(config, ViTConfig)
    yield entry("mask_token", "mask_token")  # these two and the masks are there when they are written
    yield entry(PERIODS, PERIODS)
    yield entry("reg_token", "storage_tokens")
    for i in range(config.depth):
        block = f"blocks.{i}"
        bias, mask = f"{block}.attn.qkv.bias", f"{block}.attn.qkv.bias_mask"
        yield entry(mask, mask)
        if theirs:
            yield entry(bias, bias, mask, layout=_MASKED)
        if config.gated_mlp:
            yield from joined(f"{block}.mlp.fc1", f"{block}.mlp.w1", f"{block}.mlp.w2")
            yield from (entry(f"{block}.mlp.fc2.{part}", f"{block}.mlp.w3.{part}") for part in ("weight", "bias"))
    yield from entries(config, theirs, ours)


def _stem(found: Found) -> dict[str, Any]:
    """Patches cut from the image, or from the feature map of timm's hybrids."""
    shapes = found.shapes
    _, channels, *sides = shape_of(found, PATCHES, 4)
    patch = square_patch(found, PATCHES, tuple(sides))
    bias = {"patch_bias": "patch_embed.proj.bias" in shapes}
    if not any(name.startswith(_BACKBONE) for name in shapes):
        return {"patch_size": patch, "channels": channels, **bias}
    staged = any(re.match(_STAGE, name) for name in shapes)
    stages = min(count(found, rf"{_STAGE}(\d+)[.]"), MAX_STAGES + 1) if staged else 0  # one more is refused
    layers = tuple(count(found, rf"{_STAGE}{i}[.]blocks[.](\d+)[.]") for i in range(stages))
    root = f"{_BACKBONE}stem.conv.weight" if staged else f"{_BACKBONE}conv.weight"
    return {
        "stem": "hybrid",
        "stem_layers": layers,
        "patch_size": patch * backbone_stride(layers),
        "channels": shape_of(found, root, 4)[1],
        **bias,
    }


def is_timm(shapes: Shapes) -> bool:
    """Whether there is a part that Facebook's models have not, and timm's have."""
    parts = {"reg_token", "attn_pool.latent", "norm_pre.weight", "blocks.0.attn.q_norm.weight"}
    return bool(parts & shapes.keys()) or any(name.startswith("patch_embed.backbone.") for name in shapes)


def _positions(found: Found, registers: int, patch: int, scaled: bool) -> dict[str, Any]:
    """The kind of positions, the image size, and whether the table has rows for what stands before the patches."""
    if is_dinov3(found.shapes):
        return {"image_size": usual_image(patch), "position": "rotary2d", "rotary_base": ROTARY_BASE}
    if _POSITIONS not in found.shapes:
        raise UserError(
            f"{found.path} has no positions ({_POSITIONS}): which ones its model computes, the file does not tell; "
            "open it with its config.json beside"
        )
    rows = shape_of(found, _POSITIONS, 3)[1]
    tokens = int("cls_token" in found.shapes) + int("dist_token" in found.shapes)
    # Rows before the patches': timm's registers have some, or nothing has, and so in DeiT III; elsewhere the tokens have.
    in_timm, deit3 = "reg_token" in found.shapes, not {"mask_token", "register_tokens"} & found.shapes.keys() and scaled
    possible = (tokens + registers, 0) if in_timm else (tokens, 0) if deit3 else (tokens,)
    prefix = next((leading for leading in possible if grid_side(rows - leading)), possible[0])
    return {
        "image_size": square_image(found, _POSITIONS, rows, prefix, patch),
        "prefix_positions": prefix > 0 or tokens + registers == 0,
        # Registers came with antialiased interpolation (Darcet et al., 2024); timm's way is that in any case.
        "position_interpolation": "bicubic_antialias" if registers or is_timm(found.shapes) else "bicubic",
    }


def _heads(found: Found, width: int) -> int:
    """DINOv3's periods are a quarter of a head; elsewhere the published models tell."""
    if PERIODS in found.shapes:
        heads, rest = divmod(width, 4 * shape_of(found, PERIODS, 1)[0])
        if not rest:
            return heads
    return published_heads(found, width)


def _mlp(found: Found, block: str) -> tuple[int, bool]:
    """Hidden width, and whether there is a gate: its matrix lies above or beside that of the values."""
    if f"{block}mlp.w3.weight" in found.shapes:
        return shape_of(found, f"{block}mlp.w3.weight", 2)[1], True
    rows = shape_of(found, f"{block}mlp.fc1.weight", 2)[0]
    hidden = shape_of(found, f"{block}mlp.fc2.weight", 2)[1]
    return hidden, rows == 2 * hidden


# A bias, and the mask of zeros and ones that it is multiplied with.
_MASKED = Layout(lambda tensors, shape: tensors[0] * tensors[1], lambda bias: [bias])
