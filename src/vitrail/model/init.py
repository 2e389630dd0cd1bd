"""Every initial value of a Vision Transformer, in one function."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitrail.model.lecun import lecun_normal
from vitrail.model.resnet import HybridStem, init_backbone

if TYPE_CHECKING:
    from vitrail.model.vit import ViT


@torch.no_grad()
def init_weights(model: "ViT") -> None:
    """Set every parameter as Google's code does for the paper, drawn from torch's global generator.

    ======================  =======================================================================
    patch matrix            LeCun normal: truncated at two deviations, variance 1 / fan-in; bias 0
    conv stem, 3x3          He normal by fan-out; its last 1x1 as the patch matrix; norms 1 and 0
    hybrid stem             as ``resnet.init_backbone`` says; its patch matrix as above
    class, distillation     0 (the tokens)
    registers               normal, deviation 1e-6 (DINOv2)
    positions               every learned table normal, deviation 0.02
    queries, keys, values   Xavier uniform, each of the three matrices by itself; bias 0
    attention's projection  Xavier uniform; bias 0
    MLP                     Xavier uniform; bias normal, deviation 1e-6
    LayerNorm               scale 1, shift 0
    LayerScale              the configured initial value
    attention pooling       query and dense layers Xavier uniform; bias 0; its MLP as above
    representation layer    LeCun normal; bias 0
    heads                   0
    ======================  =======================================================================

    The head starts at zero, so that the first loss is the loss of an even guess: log of the number of classes.
    """
    _stem(model.patch_embed)
    if model.cls_token is not None:
        nn.init.zeros_(model.cls_token)
    if model.dist_token is not None:
        nn.init.zeros_(model.dist_token)
    if model.reg_token is not None:
        nn.init.normal_(model.reg_token, std=1e-6)
    if isinstance(model.pos_embed, nn.Parameter):
        nn.init.normal_(model.pos_embed, std=0.02)
    for block in model.blocks:
        _block(block)
    for norm in (model.norm_pre, model.norm, model.fc_norm):
        _norm(norm)
    if model.attn_pool is not None:
        _attention_pool(model.attn_pool)
    if model.pre_logits is not None:
        lecun_normal(model.pre_logits)
    for head in (model.head, model.head_dist):
        if isinstance(head, nn.Linear):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)


def _stem(stem: nn.Module) -> None:
    if isinstance(stem, HybridStem):
        init_backbone(stem.backbone)
        lecun_normal(stem.proj)
        return
    convolutions = [m for m in stem.modules() if isinstance(m, nn.Conv2d)]
    for convolution in convolutions[:-1]:
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    lecun_normal(convolutions[-1])
    for module in stem.modules():
        _norm(module)


def _block(block: Any) -> None:
    if block.pos_embed is not None:
        nn.init.normal_(block.pos_embed, std=0.02)
    for norm in (block.norm1, block.norm2, block.attn.q_norm, block.attn.k_norm):
        _norm(norm)
    for matrix in block.attn.qkv.weight.chunk(3):
        nn.init.xavier_uniform_(matrix)
    if block.attn.qkv.bias is not None:
        nn.init.zeros_(block.attn.qkv.bias)
    _xavier(block.attn.proj)
    _mlp(block.mlp)
    for scale in (block.ls1, block.ls2):
        if not isinstance(scale, nn.Identity):
            nn.init.constant_(scale.gamma, scale.initial)


def _attention_pool(pool: Any) -> None:
    nn.init.xavier_uniform_(pool.latent[0])
    _xavier(pool.q)
    for matrix in pool.kv.weight.chunk(2):
        nn.init.xavier_uniform_(matrix)
    nn.init.zeros_(pool.kv.bias)
    _xavier(pool.proj)
    _norm(pool.norm)
    _mlp(pool.mlp)


def _mlp(mlp: Any) -> None:
    for dense in (mlp.fc1, mlp.fc2):
        nn.init.xavier_uniform_(dense.weight)
        nn.init.normal_(dense.bias, std=1e-6)


def _xavier(dense: nn.Linear) -> None:
    nn.init.xavier_uniform_(dense.weight)
    nn.init.zeros_(dense.bias)


def _norm(norm: nn.Module) -> None:
    """Scale 1 and shift 0, where there is a norm at all."""
    if isinstance(norm, nn.LayerNorm | nn.BatchNorm2d):
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
