"""Our tensors, brought to what transformers' models hold, with every answer unchanged."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.model.config import ViTConfig
from vitrail.weights.formats.layouts import with_prefix_rows
from vitrail.weights.names import Layout, Shape, Tensors


def plain(state: Tensors, config: ViTConfig) -> Tensors:
    """With what nearly every family has: positions for every token, a patch bias, and the last norm over the tokens."""
    return on_tokens(with_patch_bias(full_positions(state, config), config), config)


def with_patch_bias(state: Tensors, config: ViTConfig) -> Tensors:
    """With a bias of zero on the patch matrix where ours has none."""
    return state if config.patch_bias else {**state, "patch_embed.proj.bias": torch.zeros(config.width)}


def on_tokens(state: Tensors, config: ViTConfig) -> Tensors:
    """With the last norm over all tokens: for the class token alone it is the same as after pooling."""
    if (config.pool, config.final_norm) != ("token", "pooled"):
        return state
    return {name.replace("fc_norm.", "norm."): tensor for name, tensor in state.items()}


def with_qkv_bias(state: Tensors, config: ViTConfig) -> Tensors:
    """With a bias of queries, keys and values: zeros where ours has none."""
    if config.qkv_bias:
        return state
    names = (f"blocks.{index}.attn.qkv.bias" for index in range(config.depth))
    return state | {name: torch.zeros(3 * config.attention_width) for name in names}


def full_positions(state: Tensors, config: ViTConfig) -> Tensors:
    """With a table of positions that has a row for every token: zeros for those that ours has none for."""
    if config.position == "none":
        return {**state, "pos_embed": torch.zeros(1, config.tokens, config.width)}
    return with_prefix_rows(state, config)


def fold_register_positions(state: Tensors, config: ViTConfig) -> Tensors:
    """With the registers' positions added to the registers themselves. To be done to full positions."""
    if not config.registers:
        return state
    first = config.prefix_tokens - config.registers
    table = state["pos_embed"].clone()
    registers = state["reg_token"] + table[:, first : config.prefix_tokens]
    table[:, first : config.prefix_tokens] = 0
    return {**state, "pos_embed": table, "reg_token": registers}


def unit_layer_scales(state: Tensors, config: ViTConfig) -> Tensors:
    """With LayerScales of one where ours has none."""
    if config.layer_scale is not None:
        return state
    names = (f"blocks.{index}.ls{branch}.gamma" for index in range(config.depth) for branch in (1, 2))
    return state | {name: torch.ones(config.width) for name in names}


def head_on_token_and_average(state: Tensors, config: ViTConfig) -> Tensors:
    """With a head that reads the class token and the mean of the patches, and gives nothing for what ours does not read."""
    if config.pool == "token_avg" or not config.classes:
        return state
    sides = {"token": (0, config.width), "avg": (config.width, 0)}[config.pool]
    return {**state, "head.weight": F.pad(state["head.weight"], sides)}


def beside(*shapes: Shape, value: float = 0.0) -> Layout:
    """A tensor of ours, and others of theirs that ours does not need: all one value when they are written."""
    return Layout(lambda tensors, _: tensors[0], lambda tensor: [tensor, *(tensor.new_full(s, value) for s in shapes)])


def some_of_qkv(present: Sequence[bool]) -> Layout:
    """Biases of some of queries, keys and values; zeros for the others, in what is read."""

    def to_ours(tensors: Sequence[Tensor], shape: Shape) -> Tensor:
        given, nothing = iter(tensors), tensors[0].new_zeros(shape[0] // 3)
        return torch.cat([next(given) if there else nothing for there in present])

    return Layout(to_ours, lambda tensor: list(tensor.chunk(3)))
