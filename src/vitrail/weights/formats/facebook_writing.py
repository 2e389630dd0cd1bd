"""Which of our models Facebook's code has an equal of, and what its ``load_state_dict`` wants beside their tensors."""

from collections.abc import Mapping
from typing import Any

from vitrail.model.config import ViTConfig
from vitrail.weights.formats.facebook_names import PERIODS, ROTARY_BASE
from vitrail.weights.formats.format import ModelConfig
from vitrail.weights.formats.layouts import differs, other_heads, other_positions, with_prefix_rows
from vitrail.weights.names import Tensors

# What every model of Facebook's has.
_FIXED = {
    "stem": "linear",
    "patch_bias": True,
    "patch_norm": False,
    "class_token": True,
    "representation": None,
    "pre_norm": False,
    "qk_norm": False,
}
_PLAIN = {"norm_eps": 1e-6, "activation": "gelu", "gated_mlp": False, "registers": 0}
_FEATURES = {"classes": 0, "pool": "token", "distilled": False, "final_norm": "tokens"}


def _common(config: Any) -> str | None:
    if not isinstance(config, ViTConfig):
        return "it is not a Vision Transformer"
    return other_heads(config) or differs(config, _FIXED)


def _table(config: ViTConfig) -> str | None:
    """Fixed sines and cosines are written as the table that they are."""
    return other_positions(config, ("learned", "sincos2d"))


def _plain(config: Any) -> str | None:
    """DINO, MAE and DeiT."""
    if reason := _common(config) or _table(config) or differs(config, {**_PLAIN, "layer_scale": None}):
        return reason
    if (config.pool, config.final_norm) not in (("token", "tokens"), ("avg", "pooled")):
        return f"its pool {config.pool} with final_norm {config.final_norm} (token with tokens, and avg with pooled, have one)"
    return None


def _deit3(config: Any) -> str | None:
    if reason := _common(config) or _table(config) or differs(config, _PLAIN):
        return reason
    if config.layer_scale is None:
        return "that it has no LayerScale"
    return differs(config, {"pool": "token", "distilled": False, "final_norm": "tokens"})


def _dinov2(config: Any) -> str | None:
    if reason := _common(config) or _table(config) or differs(config, _FEATURES):
        return reason
    if config.layer_scale is None:
        return "that it has no LayerScale"
    return differs(config, {"norm_eps": 1e-6, "activation": "silu" if config.gated_mlp else "gelu"})


def _dinov3(config: Any) -> str | None:
    wanted = {"position": "rotary2d", "norm_eps": 1e-5}
    if reason := _common(config) or differs(config, {**_FEATURES, **wanted, "rotary_base": ROTARY_BASE}):
        return reason
    if config.layer_scale is None:
        return "that it has no LayerScale"
    return differs(config, {"activation": "silu" if config.gated_mlp else "gelu"})


def _without_rows(tensors: Tensors, config: ModelConfig) -> Tensors:
    """DeiT III adds positions before the class token comes: what the table has for it goes into the token."""
    assert isinstance(config, ViTConfig)
    if not config.prefix_positions:
        return tensors
    table = tensors["pos_embed"]
    return {**tensors, "cls_token": tensors["cls_token"] + table[:, :1], "pos_embed": table[:, 1:]}


def _for_dinov2(tensors: Tensors, config: ModelConfig) -> Tensors:
    """Registers have no positions there: what the table has for them goes into the tokens. And there is a mask token."""
    import torch

    assert isinstance(config, ViTConfig)
    tensors = {**with_prefix_rows(tensors, config), "mask_token": torch.zeros(1, config.width)}
    if config.registers:
        tensors["reg_token"] = tensors["reg_token"] + tensors["pos_embed"][:, 1 : 1 + config.registers]
    return tensors


def _for_dinov3(tensors: Tensors, config: ModelConfig) -> Tensors:
    """The mask token, the periods of the rotations, and the masks that take the bias from the keys, where it is zero."""
    import torch

    assert isinstance(config, ViTConfig)
    head = config.width // config.heads
    periods = ROTARY_BASE ** (2 * torch.arange(head // 4, dtype=torch.float32) / (head // 2))
    tensors = {**tensors, "mask_token": torch.zeros(1, config.width), PERIODS: periods}
    for name in [name for name in tensors if name.endswith(".attn.qkv.bias")]:
        _, of_keys, _ = tensors[name].chunk(3)
        if not of_keys.any():
            mask = torch.ones_like(tensors[name])
            mask[len(of_keys) : 2 * len(of_keys)] = 0
            tensors[f"{name}_mask"] = mask
    return tensors


# Name of a format -> what it takes to write it. DINO's, MAE's and DeiT's are one, the first that has an equal is taken.
WRITTEN: Mapping[str, Mapping[str, Any]] = {
    "facebook dinov3": {"no_equal": _dinov3, "before_writing": _for_dinov3},
    "facebook dinov2": {"no_equal": _dinov2, "before_writing": _for_dinov2},
    "facebook deit3": {"no_equal": _deit3, "before_writing": _without_rows},
    "facebook": {"no_equal": _plain, "before_writing": with_prefix_rows},
}
