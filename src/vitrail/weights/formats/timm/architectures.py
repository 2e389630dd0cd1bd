"""timm's names of architectures -> the arguments they stand for, read by rule and not by importing timm.

``vit_base_patch14_reg4_dinov2`` is a family (vit), a size (base), a patch size and words (reg4, dinov2), each with the
arguments that it adds. A name that no rule reads rightly (parallel blocks, RMSNorm) is refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vitrail.errors import UserError
from vitrail.weights.files.untrusted import shown

Arguments = dict[str, Any]

# What timm passes as a class has a name here.
CLIP_NORM = "LayerNorm with eps 1e-5"  # norm_layer
GATED = "SwiGLUPacked"  # mlp_layer

# Arguments that no class of timm takes, for what an architecture decides by itself.
MODEL = "vitrail_model"  # the class: one of the following
VIT, DISTILLED, HYBRID, EVA, RESNET = "vit", "distilled", "hybrid", "eva", "resnetv2"
LAYERS = "vitrail_layers"  # units of each ResNet stage
WIDTH_FACTOR = "vitrail_width_factor"  # of a ResNet

# size -> (embed_dim, depth, num_heads, mlp_ratio)
_SIZES: dict[str, tuple[int, int, int, float]] = {
    "tiny": (192, 12, 3, 4),
    "wee": (256, 14, 4, 5),
    "xsmall": (256, 10, 4, 4),
    "little": (320, 14, 5, 5.6),
    "small": (384, 12, 6, 4),
    "medium": (512, 12, 8, 4),
    "mediumd": (512, 20, 8, 4),
    "betwixt": (640, 12, 10, 4),
    "base": (768, 12, 12, 4),
    "so150m2": (832, 21, 13, 34 / 13),
    "so150m": (896, 18, 14, 2.572),
    "large": (1024, 24, 16, 4),
    "so400m": (1152, 27, 16, 3.7362),
    "huge": (1280, 32, 16, 4),
    "giant": (1408, 40, 16, 48 / 11),
    "giantopt": (1536, 40, 16, 4),
    "gigantic": (1664, 48, 16, 64 / 13),
}
# the same of DINOv3, LingBot, and the giants of DINOv2, TIPS and RADIO
_OTHER_SIZES: dict[str, tuple[int, int, int, float]] = {
    **{size: _SIZES[size] for size in ("tiny", "small", "base", "large")},
    "huge": (1280, 32, 20, 4),
    "giant": (1536, 40, 24, 4),
    "7b": (4096, 40, 32, 2),
}
_SO400M_RATIO = 4304 / 1152  # that of TIPS and RADIO
_LONGEST = 100  # characters of a name; no real one has half of them, and numbers in it stay short

_GAP = {"class_token": False, "global_pool": "avg"}
_GATED = {"mlp_layer": GATED, "act_layer": "silu"}
_CLIP = {"pre_norm": True, "norm_layer": CLIP_NORM}
_TEST = {"embed_dim": 64, "num_heads": 2, "mlp_ratio": 3}
_NARROW = {"qkv_bias": False, "init_values": 1e-6}

# words that say how the weights came about, in names of older versions of timm
_WITHOUT_MEANING = {"in21k", "in21ft1k", "sam", "dino", "laion2b"}

# names that the rules would read wrongly: their differences from what a rule says
_EXCEPTIONS: dict[str, Arguments] = {
    "vit_base_patch16_gap_224": {"num_heads": 16},
    "vit_base_patch16_reg4_gap_256": {"init_values": None},
    "vit_base_patch16_plus_clip_240": {"init_values": None},
    "vit_betwixt_patch16_gap_256": _NARROW,
    "vit_medium_patch16_gap_240": _NARROW,
    "vit_medium_patch16_gap_256": _NARROW,
    "vit_medium_patch16_gap_384": _NARROW,
    "vit_small_patch16_36x1_224": {"depth": 36, "init_values": 1e-5},
}

# names that no rule reads, and names that timm itself has given up -> the arguments
_PLAIN_G = {"patch_size": 14, "embed_dim": 1408, "depth": 40, "num_heads": 16, "mlp_ratio": 6144 / 1408, MODEL: EVA}
_WHOLE: dict[str, Callable[[], Arguments]] = {
    "eva_large_patch14_196": lambda: {**_size("large", 14), "global_pool": "avg"},
    "eva_large_patch14_336": lambda: {**_size("large", 14), "global_pool": "avg"},
    "eva_giant_patch14_224": lambda: dict(_PLAIN_G),
    "eva_giant_patch14_336": lambda: dict(_PLAIN_G),
    "eva_giant_patch14_560": lambda: dict(_PLAIN_G),
    "eva_giant_patch14_clip_224": lambda: {**_PLAIN_G, "global_pool": "token"},
    "vit_intern300m_patch14_448": lambda: {**_size("large", 14), "init_values": 0.1, "final_norm": False},
    "test_vit": lambda: {**_size("tiny", 16), **_TEST, "depth": 6},
    "test_vit2": lambda: {**_size("tiny", 16), **_TEST, **_GAP, "depth": 8, "reg_tokens": 1, "init_values": 1e-5},
    "vit_base_resnet50_224_in21k": lambda: arguments("vit_base_r50_s16_224"),
    "vit_base_resnet50_384": lambda: arguments("vit_base_r50_s16_384"),
}


def arguments(architecture: str) -> Arguments:
    """The arguments of timm's class that an architecture's name stands for; ``MODEL`` names the class.

    Those that the class would take anyway may be left out or not.

    Raises:
        UserError: a name outside the families read here.
    """
    name = architecture.split(".")[0]  # what follows the dot says where the weights came from
    if name in _WHOLE:
        return {MODEL: VIT, **_WHOLE[name]()}
    rules = _RULES if len(name) <= _LONGEST else {}
    for pattern, read in rules.items():
        match = re.fullmatch(pattern, name)
        found = read(match) if match is not None else None
        if found is not None:
            return {MODEL: VIT, **found, **_EXCEPTIONS.get(name, {})}
    raise UserError(
        f"timm's architecture {shown(repr(architecture))} is not one that opens here: vit_* (AugReg, CLIP, SigLIP, DINO, "
        "DINOv2, DINOv3, hybrids vit_*_r50_*), deit_*, deit3_*, flexivit_* and resnetv2_*_bit do, "
        "unless with parallel blocks, RMSNorm or relative positions"
    )


def _size(name: str, patch: int, sizes: Mapping[str, tuple[int, int, int, float]] = _SIZES) -> Arguments:
    width, depth, heads, ratio = sizes[name]
    return {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": ratio}


def _vit(match: re.Match[str]) -> Arguments | None:
    """``vit_<size>_patch<side>_<words>``."""
    size, patch, words = match["size"], int(match["patch"]), [w for w in match["words"].split("_") if w]
    if size not in _SIZES:
        return None
    big = size == "giant" and any(teacher in words for teacher in ("dinov2", "tipsv2", "radio"))
    found = _size(size, patch, _OTHER_SIZES if big else _SIZES)
    if size == "so150m2":
        found["qkv_bias"] = False
    for word in words:
        added = _word(word, words, size, patch)
        if added is None:
            return None
        found |= added
    return found


def _word(word: str, words: Sequence[str], size: str, patch: int) -> Arguments | None:
    """What one word of a name adds, given the others; None for a word unknown here."""
    giant = size == "giant"
    if word.isdigit() or word in _WITHOUT_MEANING or (word in ("v3", "v4") and "radio" in words):
        return {}
    if registers := re.fullmatch(r"reg(\d)", word):
        scale = {"init_values": 1e-5} if "gap" in words and size != "so150m" else {}
        return {"reg_tokens": int(registers[1]), "no_embed_class": not size.startswith("so150m"), **scale}
    match word:
        case "gap":
            normed_first = size == "so150m" or not any(w.startswith("reg") for w in words)
            return _GAP | ({"fc_norm": False} if normed_first else {})
        case "map":
            return {"class_token": False, "global_pool": "map"}
        case "clip":
            return _CLIP
        case "quickgelu":
            return {"act_layer": "quick_gelu"}
        case "plus":
            return {"embed_dim": 896, "num_heads": 14, "init_values": 1e-5}
        case "miil":
            return {"qkv_bias": False}
        case "36x1":
            return {}
        case "siglip":
            tanh = (size, patch) in [("base", 32), ("so400m", 16), ("giantopt", 16)] or (size, words[-1]) == (
                "large",
                "512",
            )
            head = {} if "gap" in words else {"class_token": False, "global_pool": "map"}
            return head | ({"act_layer": "gelu_tanh"} if tanh else {})
        case "dinov2":
            return {"init_values": 1e-5} | (_GATED | {"mlp_ratio": 2.66667 * 2} if giant else {})
        case "tipsv2":
            ratio = {"mlp_ratio": _SO400M_RATIO} if size == "so400m" else {}
            return {"init_values": 1.0} | ratio | (_GATED | {"mlp_ratio": 2.66667 * 2} if giant else {})
        case "radio":
            ratio = {"mlp_ratio": _SO400M_RATIO} if size == "so400m" else {}
            scale = {"init_values": 1e-5} if size in ("base", "large") else {}
            registers_too = {"reg_tokens": 9 if "v4" in words else 7, "no_embed_class": True}
            return {"img_size": 512, "final_norm": False} | registers_too | ratio | scale
    return None


def _deit(match: re.Match[str]) -> Arguments | None:
    """``deit_<size>_patch16_<side>``, with ``_distilled`` or not, and ``deit3``."""
    if match["size"] not in _SIZES:
        return None
    third = {"no_embed_class": True, "init_values": 1e-6} if match["third"] else {}
    return {**_size(match["size"], int(match["patch"])), **third, **({MODEL: DISTILLED} if match["distilled"] else {})}


def _hybrid(match: re.Match[str]) -> Arguments | None:
    """``vit_<size>_r<layers>_s<stride>_<side>``; the patch size counts positions of the ResNet's feature map."""
    layers = {"": (), "26": (2, 2, 2, 2), "50": (3, 4, 9) if match["stride"] == "16" else (3, 4, 6, 3)}
    patch = int(match["patch"] or 1)
    return {**_size(match["size"], patch), LAYERS: layers[match["layers"]], MODEL: HYBRID}


def _flexi(match: re.Match[str]) -> Arguments | None:
    return {**_size(match["size"], 16), "no_embed_class": True}


def _rotary(match: re.Match[str]) -> Arguments | None:
    """``vit_<size>_patch16_dinov3`` and the like, which are timm's Eva."""
    size, lingbot = match["size"], match["teacher"] == "lingbot"
    if size not in _OTHER_SIZES:
        return None
    align = 64 if size == "7b" else 8 if match["plus"] or size == "giant" else 0
    return {
        **_size(size, 16, _OTHER_SIZES),
        **({"mlp_ratio": 4 * 2 / 3} if size == "giant" else {}),
        "qkv_bias": bool(match["biased"]) or (lingbot and size != "giant"),
        "global_pool": "token" if lingbot else "avg",
        "init_values": 1e-5,
        "rope_type": "dinov3",
        "rope_temperature": 100,
        "rope_rotate_half": True,
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "num_reg_tokens": 4,
        "use_fc_norm": False,
        "norm_layer": CLIP_NORM,
        **({"swiglu_mlp": True, "swiglu_align_to": align} if align else {}),
        MODEL: EVA,
    }


def _bit(match: re.Match[str]) -> Arguments | None:
    """``resnetv2_<depth>x<width factor>_bit``."""
    layers = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
    return {LAYERS: layers[match["depth"]], WIDTH_FACTOR: int(match["factor"]), MODEL: RESNET}


_RULES: dict[str, Callable[[re.Match[str]], Arguments | None]] = {
    r"vit_(?P<size>[a-z0-9]+?)(?P<plus>_plus)?_patch16_(?P<teacher>dinov3|lingbot)(?P<biased>_qkvb)?": _rotary,
    r"vit_(?P<size>[a-z0-9]+)_patch(?P<patch>\d+)(?P<words>(?:_[a-z0-9]+)*)": _vit,
    r"deit(?P<third>3)?_(?P<size>[a-z]+)(?P<distilled>_distilled)?_patch(?P<patch>\d+)_\d+(?:_in21ft1k)?": _deit,
    r"vit_(?P<size>tiny|small|base|large)_r(?P<layers>|26|50)_s(?P<stride>16|32)(?:_p(?P<patch>\d+))?_\d+(?:_in21k)?": _hybrid,
    r"flexivit_(?P<size>small|base|large)": _flexi,
    r"resnetv2_(?P<depth>50|101|152)x(?P<factor>[1-4])_bit(?:m|m_in21k|_distilled|_teacher|_teacher_384)?": _bit,
}
