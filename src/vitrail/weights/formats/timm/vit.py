"""timm's VisionTransformer, its distilled form and its hybrids: arguments <-> ViTConfig."""

from typing import Any

from vitrail.model.config import ACTIVATIONS, ViTConfig
from vitrail.model.resnet_config import backbone_stride
from vitrail.weights.formats.layouts import other_positions, other_root
from vitrail.weights.formats.timm import config as folder
from vitrail.weights.formats.timm.architectures import (
    CLIP_NORM,
    DISTILLED,
    GATED,
    HYBRID,
    LAYERS,
    MODEL,
    Arguments,
)
from vitrail.weights.formats.timm.config import Json
from vitrail.weights.formats.timm.config import no_equal as refused

# timm's LayerNorms -> their epsilon; model_args cannot say another
NORMS: dict[str | None, float] = {None: 1e-6, "": 1e-6, "layernorm": 1e-6, "layernormfp32": 1e-6, CLIP_NORM: 1e-5}
EPS, CLIP_EPS = NORMS[None], NORMS[CLIP_NORM]

# width -> the registered architecture that the others are written as a change of
_BY_WIDTH = {
    192: "vit_tiny_patch16_224",
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
    1280: "vit_huge_patch14_224",
    1408: "vit_giant_patch14_224",
    1664: "vit_gigantic_patch14_224",
}
_CLIP_BY_WIDTH = {
    768: "vit_base_patch16_clip_224",
    1024: "vit_large_patch14_clip_224",
    1280: "vit_huge_patch14_clip_224",
}
_DISTILLED_BY_WIDTH = {
    192: "deit_tiny_distilled_patch16_224",
    384: "deit_small_distilled_patch16_224",
    768: "deit_base_distilled_patch16_224",
}
_GATED_ARCHITECTURE = "vit_giant_patch14_dinov2"
_HYBRIDS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}

_POOLS = ("token", "avg", "map")
_READ = {
    "img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads", "mlp_ratio",
    "qkv_bias", "qk_norm", "init_values", "class_token", "pos_embed", "no_embed_class", "reg_tokens", "pre_norm",
    "final_norm", "fc_norm", "pool_include_prefix", "norm_layer", "mlp_layer", "act_layer", "distilled", MODEL, LAYERS,
}  # fmt: skip
_NOTHING_ASKED: dict[str, tuple[Any, ...]] = {
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "proj_bias": (True,),
    "embed_norm_layer": ("",),
    "attn_layer": ("", "attn"),
    "use_naflex": (False,),
    "features_only": (False,),
}


def read(values: Json, args: Arguments) -> ViTConfig:
    """The configuration of the model that timm builds from these arguments.

    Raises:
        UserError: an argument that has no equal here, by its key.
    """
    args = {"mlp_ratio": 4, "global_pool": "token", "class_token": True, **args}
    folder.refuse_without_equal(args, _READ, _NOTHING_ASKED)
    gated, pre_norm = args.get("mlp_layer") == GATED, bool(args.get("pre_norm"))
    distilled = args[MODEL] == DISTILLED or bool(args.get("distilled"))
    activation, epsilon = _activation(args), eps(args)
    _refuse_pooling(args, distilled)
    side = folder.square(args, "patch_size")
    if args[MODEL] == HYBRID:
        stem: Arguments = {"stem": "hybrid", "stem_layers": args[LAYERS], "image_size": folder.image_size(values, args)}
        side *= backbone_stride(args[LAYERS])
    else:
        stem = {"image_size": folder.covered_size(values, args)}
    return ViTConfig(
        **stem,
        patch_size=side,
        channels=folder.channels(values, args),
        classes=folder.classes(values, args),
        width=args["embed_dim"],
        depth=args["depth"],
        heads=args["num_heads"],
        mlp_width=folder.hidden(args) // (2 if gated else 1),
        patch_bias=not pre_norm,
        pool=args["global_pool"],
        class_token=bool(args["class_token"]),
        distilled=distilled,
        registers=args.get("reg_tokens", 0),
        position="learned" if args.get("pos_embed", "learn") == "learn" else "none",
        prefix_positions=not args.get("no_embed_class", False),
        pre_norm=pre_norm,
        final_norm=_final_norm(args),
        norm_eps=epsilon,
        activation=activation,
        gated_mlp=gated,
        qkv_bias=bool(args.get("qkv_bias", True)),
        qk_norm=bool(args.get("qk_norm", False)),
        layer_scale=args.get("init_values") or None,  # timm takes 0 for "no LayerScale"
    )


def no_equal(config: ViTConfig) -> str | None:
    """What keeps timm's VisionTransformer from answering as this model, in words; None where nothing does."""
    if (reason := no_equal_anywhere(config)) is not None:
        return reason
    if reason := other_positions(config, ("learned", "sincos2d", "none")):
        return reason
    if config.norm_eps not in (EPS, CLIP_EPS):
        return _unlike_eps(config)
    hybrid = config.stem == "hybrid"
    if reason := other_root(config):
        return reason
    if hybrid and config.stem_layers not in _HYBRIDS:
        units = "-".join(map(str, config.stem_layers))
        return f"its hybrid stem of {units} units a stage (timm: {', '.join('-'.join(map(str, k)) for k in _HYBRIDS if k)})"
    for special, what in (
        (hybrid, "its hybrid stem"),
        (config.distilled, "its distillation token"),
        (config.gated_mlp, "its gated MLP"),
    ):
        if special and config.norm_eps != EPS:
            return f"{what} with a norm_eps of {config.norm_eps:g} (timm: {EPS:g})"
    if config.gated_mlp and (hybrid or config.distilled or config.pool == "map"):
        other = "a hybrid stem" if hybrid else "a distillation token" if config.distilled else "attention pooling"
        return f"its gated MLP with {other}"
    if config.distilled and hybrid:
        return "its distillation token with a hybrid stem"
    if config.distilled and not config.classes:
        return "its distillation token without heads, of which timm gives the mean"
    if config.distilled and (config.registers or not config.prefix_positions or config.position == "none"):
        return "its distillation token with registers, or without a position of its own"
    return None


def no_equal_anywhere(config: ViTConfig) -> str | None:
    """What no class of timm does."""
    if config.stem == "conv":
        return "its conv stem"
    if config.patch_norm:
        return "its norms around the patch matrix"
    if config.pool not in _POOLS:
        return "its head, which reads class token and mean side by side"
    if config.attention_width != config.width:
        return f"its heads of width {config.head_width}, which do not add up to the width {config.width}"
    if config.representation is not None:
        return "its representation layer"
    if config.pre_norm and config.patch_bias and config.position in ("none", "rotary2d"):
        return "its bias of the patch matrix together with a norm before the first block"
    return None


def named_otherwise(config: ViTConfig) -> str | None:
    """What keeps the weights from opening in timm as they are; None where names and shapes are equal."""
    if config.patch_bias == config.pre_norm:
        has = "a bias" if config.patch_bias else "no bias"
        return f"its patch matrix with {has}, which timm has only {'without' if config.pre_norm else 'with'} pre_norm"
    return None


def describe(config: ViTConfig) -> tuple[str, Arguments]:
    """The registered architecture, and everything that makes the model of it, but for the number of classes.

    transformers' timm wrapper passes that number itself.
    """
    architecture = _architecture(config)
    args: Arguments = {
        "img_size": list(config.image_size),
        "patch_size": config.patch_size // (backbone_stride(config.stem_layers) if config.stem == "hybrid" else 1),
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": folder.ratio(config.mlp_width * (2 if config.gated_mlp else 1), config.width),
        "qkv_bias": config.qkv_bias,
        "class_token": config.class_token,
        "reg_tokens": config.registers,
        "pos_embed": "none" if config.position == "none" else "learn",
        "global_pool": config.pool,
        "fc_norm": config.final_norm == "pooled",  # said always, as timm would go by the pooling
        "act_layer": config.activation,
    }
    # the rest only where it differs from the architecture's own, as older versions of timm know less
    if config.pre_norm or architecture in _CLIP_BY_WIDTH.values():
        args["pre_norm"] = config.pre_norm
    if config.final_norm == "none":
        args["final_norm"] = False
    if not config.prefix_positions:
        args["no_embed_class"] = True
    if config.qk_norm:
        args["qk_norm"] = True
    if config.layer_scale is not None:
        args["init_values"] = config.layer_scale or 1e-5  # timm takes 0 for "no LayerScale"
    elif config.gated_mlp:
        args["init_values"] = 0.0  # the architecture has one
    return architecture, args


def _architecture(config: ViTConfig) -> str:
    if config.distilled:
        return _DISTILLED_BY_WIDTH.get(config.width, "deit_base_distilled_patch16_224")
    if config.stem == "hybrid":
        return _HYBRIDS[config.stem_layers]
    if config.gated_mlp:
        return _GATED_ARCHITECTURE
    if config.norm_eps == CLIP_EPS:
        return _CLIP_BY_WIDTH.get(config.width, "vit_base_patch16_clip_224")
    return _BY_WIDTH.get(config.width, "vit_base_patch16_224")


def _unlike_eps(config: ViTConfig) -> str:
    theirs = f"timm: {EPS:g}, {CLIP_EPS:g}"
    return f"its norm_eps of {config.norm_eps:g} ({theirs}); --set model.norm_eps={EPS:g} takes the first"


def eps(args: Json) -> float:
    """The epsilon of the norms; timm reads a norm's name without underscores and case."""
    given = args.get("norm_layer")
    name = given.replace("_", "").lower() if isinstance(given, str) and given != CLIP_NORM else given
    if name not in tuple(NORMS):
        raise refused("norm_layer", given, "layernorm has")
    return NORMS[name]


def _activation(args: Json) -> str:
    given = args.get("act_layer") or "gelu"
    name = {"swish": "silu"}.get(str(given).lower(), str(given).lower())
    if name not in ACTIVATIONS:
        raise refused("act_layer", given, f"{', '.join(ACTIVATIONS)} have")
    if args.get("mlp_layer") not in (None, GATED):
        raise refused("mlp_layer", args["mlp_layer"])
    return name


def _refuse_pooling(args: Json, distilled: bool) -> None:
    pool = args["global_pool"]
    if pool not in _POOLS:
        raise refused("global_pool", pool, f"{', '.join(_POOLS)} have")
    prefix = args["class_token"] or args.get("reg_tokens")
    if args.get("pool_include_prefix") and pool != "token" and prefix:
        raise refused("pool_include_prefix", True, "class token and registers are not pooled")
    if args.get("pos_embed", "learn") not in ("learn", "none", ""):
        raise refused("pos_embed", args["pos_embed"])
    if distilled:
        for key, wanted in (("reg_tokens", 0), ("no_embed_class", False), ("fc_norm", False), ("pos_embed", "learn")):
            if args.get(key, wanted) != wanted:
                raise refused(key, args[key], "a distilled model has none")
    if args.get("mlp_layer") == GATED and pool == "map":
        raise refused("global_pool", pool, "a gated MLP is not pooled by attention")


def _final_norm(args: Json) -> str:
    if not args.get("final_norm", True):
        return "none"
    after = args.get("fc_norm")
    if after is None:
        after = args["global_pool"] == "avg"
    return "pooled" if after else "tokens"
