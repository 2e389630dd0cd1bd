"""What stands in a ``config.json`` of timm: arguments, classes, sizes and labels, each looked up as timm does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vitrail.errors import UserError
from vitrail.weights.files.untrusted import shown
from vitrail.weights.formats.timm.architectures import Arguments, arguments

Json = Mapping[str, Any]

INPUT_SIZE = (3, 224, 224)  # where nothing is said
_LARGEST = 10**9  # of any number that makes a model

# arguments that change training, or nothing that a model answers
WITHOUT_EFFECT = {
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
    "weight_init", "fix_init", "dynamic_img_size", "dynamic_img_pad", "strict_img_size",
    "scriptable", "exportable", "no_jit", "out_indices", "pretrained_strict",
}  # fmt: skip


def pretrained(values: Json) -> Json:
    """``pretrained_cfg``; the oldest folders have its keys at the top."""
    return _mapping(values, "pretrained_cfg") if "pretrained_cfg" in values else values


def settings(values: Json) -> Arguments:
    """The architecture's own arguments, with those that the folder changes; as in timm, null changes nothing.

    Raises:
        UserError: an architecture that does not open here.
    """
    changed = _mapping(values, "model_args")
    return {**arguments(str(values["architecture"])), **{k: v for k, v in changed.items() if v is not None}}


def refuse_without_equal(args: Json, read: Iterable[str], nothing_asked: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse the first argument that is neither read, nor without effect, nor asks for nothing by its value."""
    for key, value in args.items():
        if key not in read and key not in WITHOUT_EFFECT and value not in nothing_asked.get(key, ()):
            raise no_equal(key, value)


def no_equal(key: str, value: object, why: str = "") -> UserError:
    """The error for an argument that ours lacks."""
    said = f": {why}" if why else ""
    return UserError(f"timm's model_args.{shown(key)} = {shown(repr(value))} has no equal here{said}")


def classes(values: Json, args: Json) -> int:
    """Outputs of the head: an argument, else what the folder says, else ImageNet's."""
    for place in (args, values, pretrained(values)):
        count = place.get("num_classes")
        if count is not None and not (isinstance(count, int) and count < 0):
            return count  # a ViTConfig checks that it is a number
    return 1000


def channels(values: Json, args: Json) -> int:
    """Channels of the images."""
    return args.get("in_chans") or _input_size(values)[0]


def image_size(values: Json, args: Json) -> tuple[int, int]:
    """Height and width of the images."""
    size = args.get("img_size") or _input_size(values)[1:]
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(map(_is_size, sides)):
        raise no_equal("img_size", size, "one whole number or two have")
    return sides[0], sides[1]


def covered_size(values: Json, args: Json) -> tuple[int, int]:
    """The part of the images that whole patches cover: all that timm looks at."""
    side, size = square(args, "patch_size"), image_size(values, args)
    if args.get("dynamic_img_pad") and any(length % side for length in size):
        raise no_equal("dynamic_img_pad", True, f"{size[0]} x {size[1]} is not divisible by the patch size {side}")
    return size[0] // side * side, size[1] // side * side


def square(args: Json, key: str) -> int:
    """The side of a patch."""
    size = args[key]
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if not sides or not all(_is_size(side) and side == sides[0] for side in sides):
        raise no_equal(key, size, "patches are square")
    return int(sides[0])


def hidden(args: Json) -> int:
    """Hidden width of the MLP, as timm rounds it: down."""
    for key in ("embed_dim", "mlp_ratio"):
        if not _is_positive(args[key]):
            raise no_equal(key, args[key], f"a number above 0 and below {_LARGEST:,} has")
    return int(args["embed_dim"] * args["mlp_ratio"])


def ratio(hidden_width: int, width: int) -> float:
    """The ``mlp_ratio`` of which timm makes that hidden width; half a unit more survives its rounding."""
    exact = hidden_width / width
    return exact if int(width * exact) == hidden_width else (hidden_width + 0.5) / width


def label_names(values: Json) -> tuple[str, ...]:
    """Class names in the order of the logits; empty where the folder has none, or has gaps in them."""
    names = values.get("label_names") or pretrained(values).get("label_names") or values.get("labels") or ()
    if isinstance(names, Mapping):
        by_index = {str(index): str(name) for index, name in names.items()}
        wanted = [str(index) for index in range(len(by_index))]
        return tuple(by_index[index] for index in wanted) if by_index.keys() == set(wanted) else ()
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) else ()


def _input_size(values: Json) -> tuple[int, int, int]:
    size = pretrained(values).get("input_size") or INPUT_SIZE
    if not isinstance(size, list | tuple) or len(size) != 3 or not all(isinstance(side, int) for side in size):
        raise UserError(
            f"timm's pretrained_cfg.input_size = {shown(repr(size))} is not channels, height and width: set it"
        )
    return size[0], size[1], size[2]


def _mapping(values: Json, key: str) -> Json:
    found = values.get(key) or {}
    if not isinstance(found, Mapping):
        raise UserError(f"timm's {key} = {shown(repr(found))} is not a mapping of names to values: set it")
    return found


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LARGEST


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and _is_positive(value)
