"""timm's model folders, both ways: ``config.json`` <-> ViTConfig and Preprocess, and the few tensors that differ.

Tensor names are timm's already. What timm's VisionTransformer does and ours does not is refused by its key.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.config import ACTIVATIONS, POOLS, ViTConfig
from vitrail.weights.formats.timm_architectures import arguments

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.data.preprocess import Preprocess

Json = Mapping[str, Any]

NORM_EPS = 1e-6  # of timm's own LayerNorm; its model_args cannot say another

# width -> the registered architecture that the others are written as a change of
_ARCHITECTURES = {
    192: "vit_tiny_patch16_224",
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
    1280: "vit_huge_patch14_224",
    1408: "vit_giant_patch14_224",
    1664: "vit_gigantic_patch14_224",
}

# arguments that change training, or nothing, and so not what a model answers
_WITHOUT_EFFECT = {
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
    "weight_init", "fix_init", "dynamic_img_size", "dynamic_img_pad", "strict_img_size",
}  # fmt: skip
_READ = {
    "img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads", "mlp_ratio",
    "qkv_bias", "init_values", "class_token", "pos_embed", "no_embed_class", "reg_tokens", "fc_norm", "act_layer",
}  # fmt: skip
# arguments without an equal here -> the values that ask for nothing
_NOTHING_ASKED: dict[str, tuple[Any, ...]] = {
    "qk_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "proj_bias": (True,),
    "pre_norm": (False,),
    "final_norm": (True,),
    "pool_include_prefix": (False,),
    "norm_layer": (None, "", "layernorm"),
    "embed_norm_layer": (None, ""),
    "attn_layer": ("", "attn"),
    "use_naflex": (None, False),
    "distilled": (False,),
}

_MODES = {"crop": "center", "squash": "squash", "pad": "border"}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def no_equal(config: ViTConfig) -> str | None:
    """What keeps timm from building this configuration, in words; None where nothing does."""
    if config.stem != "linear":
        return f"its {config.stem} stem"
    if config.attention_width != config.width:
        return f"its heads of width {config.head_width}, which do not add up to the width {config.width}"
    if config.representation is not None:
        return "its representation layer"
    if config.norm_eps != NORM_EPS:
        return f"its norm_eps of {config.norm_eps:g} (timm: {NORM_EPS:g})"
    return None


def write(config: ViTConfig, labels: Sequence[str], preprocess: "Preprocess | None") -> dict[str, Any]:
    """timm's keys of ``config.json``; without ``architecture`` and ``model_args`` where ``no_equal`` says why."""
    values: dict[str, Any] = {}
    if no_equal(config) is None:
        values["architecture"] = _ARCHITECTURES.get(config.width, "vit_base_patch16_224")
    values |= {"num_classes": config.classes, "num_features": config.width, "global_pool": config.pool}
    if labels:
        values["label_names"] = list(labels)
    if no_equal(config) is None:
        values["model_args"] = _model_args(config)
    values["pretrained_cfg"] = _pretrained_cfg(config, preprocess)
    return values


def recognises(values: Json) -> bool:
    """Whether an architecture is named."""
    return "architecture" in values


def read_config(values: Json) -> ViTConfig:
    """The configuration that a timm folder describes.

    Raises:
        UserError: an architecture or an argument that has no equal here, by its key.
    """
    args = _arguments(values)
    _refuse_without_equal(args)
    width, fixed = int(args["embed_dim"]), _pretrained(values)
    input_size = fixed.get("input_size") or (3, 224, 224)
    size = args.get("img_size") or input_size[1:]
    return ViTConfig(
        image_size=(size, size) if isinstance(size, int) else (int(size[0]), int(size[1])),
        patch_size=_square(args["patch_size"]),
        channels=int(args.get("in_chans") or input_size[0]),
        classes=_classes(values, args),
        width=width,
        depth=int(args["depth"]),
        heads=int(args["num_heads"]),
        mlp_width=int(width * args["mlp_ratio"]),
        pool=args.get("global_pool", "token"),
        class_token=bool(args.get("class_token", True)),
        registers=int(args.get("reg_tokens") or 0),
        position="learned" if args.get("pos_embed", "learn") == "learn" else "none",
        norm_eps=NORM_EPS,
        activation=args.get("act_layer") or "gelu",
        qkv_bias=bool(args.get("qkv_bias", True)),
        layer_scale=float(args["init_values"]) if args.get("init_values") else None,
    )


def read_labels(values: Json) -> tuple[str, ...]:
    """Class names in the order of the logits; empty where the folder has none, or has gaps in them."""
    names = values.get("label_names") or _pretrained(values).get("label_names") or values.get("labels") or ()
    if isinstance(names, Mapping):
        by_index = {int(index): str(name) for index, name in names.items()}
        return tuple(by_index[i] for i in range(len(by_index))) if by_index.keys() == set(range(len(by_index))) else ()
    return tuple(str(name) for name in names)


def read_preprocess(values: Json) -> "Preprocess | None":
    """The pixel contract that ``pretrained_cfg`` describes, with timm's defaults for what it leaves out.

    None for images that are neither grey nor colour, which no contract covers.

    Raises:
        UserError: a crop mode or an interpolation without an equal here.
    """
    from vitrail.data.preprocess import Preprocess

    config, cfg = read_config(values), _pretrained(values)
    if config.channels not in (1, 3):
        return None
    timm_mode, fraction = cfg.get("crop_mode") or "center", float(cfg.get("crop_pct") or 0.875)
    modes = {theirs: ours for ours, theirs in _MODES.items()}
    if timm_mode not in modes or (timm_mode != "center" and fraction != 1):
        raise UserError(
            f"timm's crop_mode {timm_mode!r} with crop_pct {fraction:g} has no equal here: "
            "set pretrained_cfg.crop_mode to center, or crop_pct to 1, in config.json"
        )
    interpolation = cfg.get("interpolation") or "bicubic"
    if interpolation not in ("bicubic", "bilinear"):
        raise UserError(f"timm's interpolation {interpolation!r} has no equal here: bicubic and bilinear have")
    return Preprocess.from_dict(
        {
            "image_size": config.image_size,
            "channels": config.channels,
            "mode": modes[timm_mode],
            "crop_fraction": fraction,
            "interpolation": interpolation,
            "mean": _per_channel(cfg.get("mean") or _IMAGENET_MEAN, config.channels),
            "std": _per_channel(cfg.get("std") or _IMAGENET_STD, config.channels),
        }
    )


def convert(state: "dict[str, Tensor]", values: Json) -> "dict[str, Tensor]":
    """timm's tensors -> ours.

    A norm after token pooling (``fc_norm``) is the norm before it, since both work token by token. Positions that leave
    out the prefix tokens (``no_embed_class``) get zero rows for them. A LayerScale of older DeiT III is renamed.
    """
    args = _arguments(values)
    converted = {}
    for name, tensor in state.items():
        name = name.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma")
        if name.startswith("fc_norm."):
            name = name.removeprefix("fc_")
        converted[name] = tensor
    prefix = int(args.get("class_token", True)) + int(args.get("reg_tokens") or 0)
    if args.get("no_embed_class") and prefix and "pos_embed" in converted:
        positions = converted["pos_embed"]
        padded = positions.new_zeros(1, prefix + positions.shape[1], positions.shape[2])
        padded[:, prefix:] = positions
        converted["pos_embed"] = padded
    return converted


def _model_args(config: ViTConfig) -> dict[str, Any]:
    """Everything that makes the model, but for the number of classes: transformers' timm wrapper passes that itself."""
    ratio = config.mlp_width / config.width
    if int(config.width * ratio) != config.mlp_width:  # timm truncates; half a unit more survives the rounding
        ratio = (config.mlp_width + 0.5) / config.width
    args: dict[str, Any] = {
        "img_size": list(config.image_size),
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": ratio,
        "qkv_bias": config.qkv_bias,
        "class_token": config.class_token,
        "reg_tokens": config.registers,
        "pos_embed": "none" if config.position == "none" else "learn",
        "global_pool": config.pool,
        "fc_norm": False,  # the final norm comes before pooling, whatever the pooling
        "act_layer": config.activation,
    }
    if config.layer_scale is not None:
        args["init_values"] = config.layer_scale or 1e-5  # timm takes 0 for "no LayerScale"
    return args


def _pretrained_cfg(config: ViTConfig, preprocess: "Preprocess | None") -> dict[str, Any]:
    cfg: dict[str, Any] = {
        "input_size": [config.channels, *config.image_size],
        "fixed_input_size": True,
        "num_classes": config.classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    if preprocess is not None:
        cfg |= {
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_fraction if preprocess.mode == "crop" else 1.0,
            "crop_mode": _MODES[preprocess.mode],
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
        }
    return cfg


def _pretrained(values: Json) -> Json:
    """``pretrained_cfg``; the oldest folders have its keys at the top."""
    return values.get("pretrained_cfg", values)


def _arguments(values: Json) -> dict[str, Any]:
    """The architecture's own arguments, with those that the folder changes."""
    return {
        "patch_size": 16,
        "mlp_ratio": 4,
        **arguments(str(values["architecture"])),
        **(values.get("model_args") or {}),
    }


def _refuse_without_equal(args: Json) -> None:
    for key, value in args.items():
        known = key in _READ or key in _WITHOUT_EFFECT or value in _NOTHING_ASKED.get(key, ())
        if not known:
            raise UserError(f"timm's model_args.{key} = {value!r} has no equal here")
    pool, act = args.get("global_pool", "token"), args.get("act_layer") or "gelu"
    if pool not in POOLS:
        raise UserError(f"timm's model_args.global_pool = {pool!r} has no equal here: {', '.join(POOLS)} have")
    if act not in ACTIVATIONS:
        raise UserError(f"timm's model_args.act_layer = {act!r} has no equal here: {', '.join(ACTIVATIONS)} have")
    norm_after_pooling = args.get("fc_norm")
    if norm_after_pooling is None:
        norm_after_pooling = pool == "avg"
    if norm_after_pooling and pool != "token":
        raise UserError(
            f"timm's fc_norm with global_pool = {pool!r} (a norm after pooling) has no equal here: "
            "the final norm comes before pooling"
        )


def _classes(values: Json, args: Json) -> int:
    for place in (args, values, _pretrained(values)):
        if place.get("num_classes") is not None:
            return int(place["num_classes"])
    return 1000


def _square(size: int | Sequence[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise UserError(f"timm's model_args.patch_size = {size!r} has no equal here: patches are square")
    return int(sides.pop())


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value a channel; a model whose channels were changed keeps its average colour."""
    if len(values) == channels:
        return tuple(float(v) for v in values)
    return (sum(values) / len(values),) * channels
