"""timm's names of plain Vision Transformers -> the arguments they stand for, read by rule and not by importing timm.

``vit_base_patch14_reg4_dinov2`` is a family (vit), a size (base), a patch size and modifiers (reg4, dinov2). What a
rule does not give (a CLIP tower's extra norm, parallel blocks) is refused by name.
"""

import re
from typing import Any

from vitrail.errors import UserError

Arguments = dict[str, Any]

# size -> (embed_dim, depth, num_heads, mlp_ratio)
SIZES: dict[str, tuple[int, int, int, float]] = {
    "tiny": (192, 12, 3, 4),
    "small": (384, 12, 6, 4),
    "medium": (512, 12, 8, 4),
    "betwixt": (640, 12, 10, 4),
    "base": (768, 12, 12, 4),
    "large": (1024, 24, 16, 4),
    "huge": (1280, 32, 16, 4),
    "giant": (1408, 40, 16, 48 / 11),
    "gigantic": (1664, 48, 16, 64 / 13),
    "so400m": (1152, 27, 16, 3.7362),
}

_NARROW = {"qkv_bias": False, "init_values": 1e-6}

# names that the rule below would read wrongly: their differences from it
_EXCEPTIONS: dict[str, Arguments] = {
    "vit_base_patch16_224_miil": {"qkv_bias": False},
    "vit_base_patch16_gap_224": {"num_heads": 16},
    "vit_betwixt_patch16_gap_256": _NARROW,
    "vit_medium_patch16_gap_240": _NARROW,
    "vit_medium_patch16_gap_256": _NARROW,
    "vit_medium_patch16_gap_384": _NARROW,
    "vit_small_patch16_36x1_224": {"depth": 36, "init_values": 1e-5},
}

_NAME = re.compile(r"(vit|deit|deit3)_([a-z0-9]+)_patch(\d+)((?:_[a-z0-9]+)*)")


def arguments(architecture: str) -> Arguments:
    """The arguments of timm's VisionTransformer that an architecture's name stands for.

    Raises:
        UserError: a name outside the families read here.
    """
    match = _NAME.fullmatch(architecture)
    if match is None or match[2] not in SIZES:
        raise _unknown(architecture)
    family, size, patch, modifiers = match[1], match[2], int(match[3]), match[4].split("_")[1:]
    width, depth, heads, ratio = SIZES[size]
    found: Arguments = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": ratio}
    exception = _EXCEPTIONS.get(architecture, {})
    known = {"36x1", "miil"} if exception else set()
    if family == "deit3":
        found |= {"no_embed_class": True, "init_values": 1e-6}
    for modifier in modifiers:
        if not modifier.isdigit() and modifier not in known:
            found |= _modifier(modifier, modifiers, architecture, size, patch)
    return found | exception


def _modifier(name: str, modifiers: list[str], architecture: str, size: str, patch: int) -> Arguments:
    """What one word of an architecture's name adds."""
    if name == "dinov2" and size != "giant":  # the giant one has a gated MLP
        return {"init_values": 1e-5}
    if name == "reg4" and "dinov2" in modifiers:
        return {"reg_tokens": 4, "no_embed_class": True}
    if name == "gap" and not any(m.startswith("reg") for m in modifiers):
        return {"class_token": False, "global_pool": "avg", "fc_norm": False}
    if name == "siglip":
        tanh = (
            (size, patch) == ("base", 32)
            or (size, patch) == ("so400m", 16)
            or (size, modifiers[-1]) == ("large", "512")
        )
        found: Arguments = {"act_layer": "gelu_tanh"} if tanh else {}
        return found if "gap" in modifiers else found | {"class_token": False, "global_pool": "map"}
    raise _unknown(architecture)


def _unknown(architecture: str) -> UserError:
    return UserError(
        f"timm's architecture {architecture!r} is not one that opens here: plain vit_*, deit_* and deit3_* do "
        "(such as vit_base_patch16_224), without distillation, CLIP's extra norm or parallel blocks"
    )
