"""timm's Eva as far as ours is one: DINOv3's rotary positions, and EVA's plain giants; arguments <-> ViTConfig, and names.

Two forms of attention do the same under other names. DINOv3's weights lie in the first, whose keys have no bias:

==========  ====================================  ===========================
attn_type   queries, keys and values              gated MLP
==========  ====================================  ===========================
eva         ``qkv.weight``, ``q_bias, v_bias``    ``fc1_g``, ``fc1_x``
rope        ``qkv.weight``, ``qkv.bias``: ours    ``fc1``, both packed: ours
==========  ====================================  ===========================
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.weights.formats.timm import config as folder
from vitrail.weights.formats.timm import vit
from vitrail.weights.formats.timm.architectures import MODEL, Arguments
from vitrail.weights.formats.timm.config import Json
from vitrail.weights.formats.timm.config import no_equal as refused
from vitrail.weights.names import Entry, Layout, Shape, entry, stacked

if TYPE_CHECKING:
    from torch import Tensor

# width -> the registered architecture with that epsilon; those of DINOv3 always have LayerScale
_BY_WIDTH = {
    192: "vit_tiny_patch16_dinov3_qkvb",
    384: "vit_small_patch16_dinov3",
    768: "vit_base_patch16_dinov3",
    1024: "vit_large_patch16_dinov3",
    1280: "vit_huge_plus_patch16_dinov3",
    4096: "vit_7b_patch16_dinov3",
}
_PLAIN = "eva_giant_patch14_224"

_POOLS = ("token", "avg", "map")
_READ = {
    "img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads", "mlp_ratio",
    "qkv_bias", "qkv_fused", "qk_norm", "init_values", "class_token", "num_reg_tokens", "no_embed_class",
    "use_abs_pos_emb", "use_rot_pos_emb", "rope_type", "rope_temperature", "rope_rotate_half", "attn_type",
    "use_pre_transformer_norm", "use_post_transformer_norm", "use_fc_norm", "norm_layer",
    "swiglu_mlp", "swiglu_align_to", "attn_pool_num_heads", "attn_pool_mlp_ratio", MODEL,
    "rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords", "head_init_scale",  # of training
    "ref_feat_shape", "rope_mrope_section",  # of other kinds of rotary positions
}  # fmt: skip
_NOTHING_ASKED: dict[str, tuple[Any, ...]] = {
    "scale_mlp": (False,),
    "scale_attn_inner": (False,),
    "attn_only_layer_scale": (False,),
    "use_post_norm": (False,),
    "rope_grid_offset": (0,),
    "rope_grid_indexing": ("ij",),
    "use_naflex": (False,),
    "features_only": (False,),
}


def read(values: Json, args: Arguments) -> ViTConfig:
    """The configuration of the model that timm builds from these arguments.

    Raises:
        UserError: an argument that has no equal here, by its key.
    """
    args = {"mlp_ratio": 4, "global_pool": "avg", "class_token": True, **args}
    folder.refuse_without_equal(args, _READ, _NOTHING_ASKED)
    gated, pre_norm = bool(args.get("swiglu_mlp")), bool(args.get("use_pre_transformer_norm"))
    _refuse_pooling(args, gated)
    return ViTConfig(
        image_size=folder.covered_size(values, args),
        patch_size=folder.square(args, "patch_size"),
        channels=folder.channels(values, args),
        classes=folder.classes(values, args),
        width=args["embed_dim"],
        depth=args["depth"],
        heads=args["num_heads"],
        mlp_width=_hidden(args, gated),
        patch_bias=not pre_norm,
        pool=args["global_pool"],
        class_token=bool(args["class_token"]),
        registers=args.get("num_reg_tokens", 0),
        position=_position(args),
        prefix_positions=not args.get("no_embed_class", False),
        rotary_base=args.get("rope_temperature", 100.0),
        pre_norm=pre_norm,
        final_norm=_final_norm(args),
        norm_eps=vit.eps(args),
        activation="silu" if gated else "gelu",
        gated_mlp=gated,
        qkv_bias=bool(args.get("qkv_bias", True)),
        qk_norm=bool(args.get("qk_norm", False)),
        layer_scale=args.get("init_values"),
    )


def no_equal(config: ViTConfig) -> str | None:
    """What keeps timm's Eva from answering as this model of rotary positions; None where nothing does."""
    if (reason := vit.no_equal_anywhere(config)) is not None:
        return reason
    if config.norm_eps not in (vit.EPS, vit.CLIP_EPS):
        return f"its norm_eps of {config.norm_eps:g} (timm: {vit.EPS:g}, {vit.CLIP_EPS:g})"
    rotary = "its rotary positions with"
    if config.stem != "linear":
        return f"{rotary} a {config.stem} stem"
    if config.distilled:
        return f"{rotary} a distillation token"
    activation = "silu" if config.gated_mlp else "gelu"
    if config.activation != activation:
        return f"{rotary} {config.activation} in a {'gated' if config.gated_mlp else 'plain'} MLP (timm: {activation})"
    if config.pool == "map" and (config.gated_mlp or config.prefix_tokens):
        return (
            f"{rotary} attention pooling {'and a gated MLP' if config.gated_mlp else 'beside class token or registers'}"
        )
    return None


def named_otherwise(config: ViTConfig) -> str | None:
    """What keeps the weights from opening in timm as they are; None where names and shapes are equal."""
    if config.layer_scale is not None:
        return "its rotary positions, with which timm names LayerScale otherwise"
    if config.norm_eps != vit.EPS:
        return f"its rotary positions with a norm_eps of {config.norm_eps:g}, with which timm always has LayerScale"
    return vit.named_otherwise(config)


def as_dinov3(config: ViTConfig) -> bool:
    """Whether a model of rotary positions is written with DINOv3's names: all but the bias of keys has a place there."""
    return not config.qkv_bias or config.layer_scale is not None


def describe(config: ViTConfig, dinov3: bool) -> tuple[str, Arguments]:
    """The registered architecture, and everything that makes the model of it, but for the number of classes.

    Args:
        config: of rotary positions.
        dinov3: DINOv3's names, or those nearest to ours.
    """
    architecture = _PLAIN if config.norm_eps == vit.EPS else _BY_WIDTH.get(config.width, "vit_base_patch16_dinov3")
    args: Arguments = {
        "img_size": list(config.image_size),
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": folder.ratio(config.mlp_width, config.width),
        "swiglu_mlp": config.gated_mlp,
        "swiglu_align_to": int(dinov3 and config.gated_mlp),  # any number but 0 asks for two matrices, 1 adds no width
        "attn_type": "eva" if dinov3 else "rope",
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "class_token": config.class_token,
        "num_reg_tokens": config.registers,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": config.rotary_base,
        "rope_rotate_half": True,
        "use_pre_transformer_norm": config.pre_norm,
        "use_post_transformer_norm": config.final_norm == "tokens",
        "use_fc_norm": config.final_norm == "pooled",
        "global_pool": config.pool,
    }
    if config.layer_scale is not None:
        args["init_values"] = config.layer_scale
    return architecture, args


def entries(ours: Iterable[str], gated: bool, dinov3: bool) -> Iterable[Entry]:
    """Every tensor with the names that Eva may have for it, DINOv3's first or those nearest to ours.

    Args:
        ours: our names.
        gated: whether the MLP is.
        dinov3: which of the two forms comes first.
    """
    for name in ours:
        if name.endswith((".ls1.gamma", ".ls2.gamma")):
            yield entry(name, name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"))
        alternatives = [entry(name, name)]
        stem, _, part = name.rpartition(".")
        if stem.endswith(".attn.qkv"):
            attention = stem.removesuffix("qkv")
            biases = [entry(name, f"{attention}q_bias", f"{attention}v_bias", layout=_WITHOUT_KEYS)]
            projections = [f"{attention}{one}_proj.{part}" for one in "qkv"]
            alternatives = [*(biases if part == "bias" else []), *alternatives]
            alternatives += [entry(name, *projections, layout=stacked(3))]
            alternatives += (
                [entry(name, projections[0], projections[2], layout=_WITHOUT_KEYS)] if part == "bias" else []
            )
        elif gated and stem.endswith(".mlp.fc1"):
            gate, value = f"{stem}_g.{part}", f"{stem}_x.{part}"
            alternatives = [entry(name, gate, value, layout=stacked(2)), *alternatives]
        yield from alternatives if dinov3 else sorted(alternatives, key=lambda one: one.theirs != (name,))


def _queries_and_values(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
    import torch

    query, value = tensors
    return torch.cat([query, torch.zeros_like(query), value])


def _no_bias_of_keys(tensor: "Tensor") -> Sequence["Tensor"]:
    query, key, value = tensor.chunk(3)
    if key.any():
        raise UserError("the model has a bias of keys, which has no place among DINOv3's names in timm")
    return [query.contiguous(), value.contiguous()]


_WITHOUT_KEYS = Layout(_queries_and_values, _no_bias_of_keys)


def _hidden(args: Json, gated: bool) -> int:
    hidden, align = folder.hidden(args), args.get("swiglu_align_to") or 0
    if not isinstance(align, int) or align < 0:
        raise refused("swiglu_align_to", align)
    return hidden + (-hidden % align if gated and align else 0)


def _position(args: Json) -> str:
    table, rotary = args.get("use_abs_pos_emb", True), args.get("use_rot_pos_emb", False)
    if not rotary:
        return "learned" if table else "none"
    kind = args.get("rope_type", "cat")
    if kind != "dinov3":
        raise refused("rope_type", kind, "dinov3 has")
    if not args.get("rope_rotate_half", False):
        raise refused("rope_rotate_half", False, "halves of a head are turned against each other")
    if table:
        raise refused("use_abs_pos_emb", True, "positions are learned or rotary, not both")
    return "rotary2d"


def _final_norm(args: Json) -> str:
    after = args.get("use_fc_norm", args["global_pool"] == "avg")
    before = args.get("use_post_transformer_norm", not after)
    if before and after:
        raise refused("use_fc_norm", True, "together with use_post_transformer_norm")
    return "tokens" if before else "pooled" if after else "none"


def _refuse_pooling(args: Json, gated: bool) -> None:
    pool = args["global_pool"]
    if pool not in _POOLS:
        raise refused("global_pool", pool, f"{', '.join(_POOLS)} have")
    if pool != "map":
        return
    if args["class_token"] or args.get("num_reg_tokens") or gated:
        raise refused("global_pool", pool, "it has one without class token, registers and a gated MLP")
    for key, own in (("attn_pool_num_heads", "num_heads"), ("attn_pool_mlp_ratio", "mlp_ratio")):
        if args.get(key, args[own]) != args[own]:
            raise refused(key, args[key], f"{own} has")
