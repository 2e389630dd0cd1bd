"""Pixel contracts of others, both ways: timm's ``pretrained_cfg`` and transformers' ``preprocessor_config.json``.

What they ask for and Preprocess cannot do is refused by its key.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.errors import UserError
from vitrail.weights.files.untrusted import shown

Json = Mapping[str, Any]

_HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_TIMM_MODES = {"center": "crop", "squash": "squash", "border": "pad"}
# squash is the nearest to native: nothing is cut off
_TO_TIMM = {"native": "squash", **{ours: theirs for theirs, ours in _TIMM_MODES.items()}}
# Pillow's numbers, as transformers writes them
_RESAMPLE = {2: "bilinear", 3: "bicubic"}
_ALL = {"do_resize": True, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
_SQUARE = {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": _HALF, "image_std": _HALF}
_CLIP_PIXELS = {"resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
_CLIP = {**_ALL, **_CLIP_PIXELS, "default_to_square": False, "size": 224, "do_center_crop": True, "crop_size": 224}
# transformers' image processors, without the end of their names -> the values that they take where a file has none
_PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {**_ALL, **_SQUARE, "resample": 2},
    "DeiT": {**_ALL, **_SQUARE, "do_center_crop": True, "size": 256, "crop_size": 224},
    "Bit": _CLIP,
    "CLIP": _CLIP,
    "Siglip": {**_ALL, **_SQUARE, "default_to_square": False},
    "DINOv3ViT": {**_ALL, **_SQUARE, "resample": 2, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
}
# what a contract needs -> the processors that do it, also in transformers 4; the first where the model's own does not
_CAN = {
    "crop": ("Bit", "CLIP"),
    "squash and crop": ("DeiT", "Bit", "CLIP"),
    "squash": ("ViT", "DeiT", "Bit", "CLIP", "Siglip", "DINOv3ViT"),
}
_UNROUNDED = "DINOv3ViT"  # it resizes fractions and rounds nothing: bicubic's values below 0 and above 1 stay
_LARGEST = 10**6  # pixels of a side: what is more is no image


def averaged(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value a channel; a model whose channels were changed keeps its average colour."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def from_timm(cfg: Json, image_size: tuple[int, int], channels: int) -> Preprocess:
    """The contract of timm's evaluation transform.

    Args:
        cfg: ``pretrained_cfg``; timm's defaults stand in for what it leaves out. Its sizes are not read.
        image_size: (height, width) of the model.
        channels: of the model; a mean and a deviation of another number of channels are averaged.

    Raises:
        UserError: what has no equal here, by key.
    """
    mode, interpolation = cfg.get("crop_mode") or "center", cfg.get("interpolation") or "bicubic"
    if mode not in tuple(_TIMM_MODES):
        raise UserError(f"timm's crop_mode = {shown(repr(mode))} has no equal here: {', '.join(_TIMM_MODES)} have")
    if interpolation not in _RESAMPLE.values():
        given = shown(repr(interpolation))
        raise UserError(f"timm's interpolation = {given} has no equal here: bicubic and bilinear have")
    return _contract(
        "timm's",
        image_size=image_size,
        channels=channels,
        mode=_TIMM_MODES[mode],
        crop_fraction=_number("timm's", cfg, "crop_pct") if cfg.get("crop_pct") else 0.875,
        interpolation=interpolation,
        mean=_per_channel("timm's mean", cfg.get("mean") or IMAGENET_MEAN, channels),
        std=_per_channel("timm's std", cfg.get("std") or IMAGENET_STD, channels),
    )


def to_timm(preprocess: Preprocess) -> dict[str, Any]:
    """The keys of timm's ``pretrained_cfg`` that describe pixels; see `off_centre` for what it cannot say.

    It has one size for all images: mode native becomes squash.
    """
    return {
        "input_size": [preprocess.channels, *preprocess.image_size],
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop_fraction,
        "crop_mode": _TO_TIMM[preprocess.mode],
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }


def from_processor(values: Json, channels: int, kind: str = "ViTImageProcessor") -> Preprocess:
    """The contract of one of transformers' image processors. Its ``image_size`` is what the processor gives.

    Keys that the processor itself does not read, or that do not touch the pixels, are passed over.

    Args:
        values: ``preprocessor_config.json``, also as older versions wrote it.
        channels: of the model.
        kind: the processor where the file names none; transformers then goes by the model.

    Raises:
        UserError: what has no equal here, by key.
    """
    named = values.get("image_processor_type") or values.get("feature_extractor_type") or kind
    processor = _processor(str(named))
    values = {**_PROCESSORS[processor], **values}  # null stands for itself there, and is false
    _refuse_without_equal(values, processor)
    mode, resized, cut = _sizes(values)
    fraction = _fraction(cut, resized)
    if fraction is None:
        raise _no_equal("crop_size", values["crop_size"], f"it is not the same share of both sides of {resized}")
    mean, std = _normalisation(values, channels)
    contract = _contract(
        "transformers'",
        image_size=cut,
        channels=channels,
        mode=mode,
        crop_fraction=fraction,
        interpolation=_RESAMPLE[values["resample"]],
        mean=mean,
        std=std,
        crop_rounding="down",
    )
    # said only where it makes a difference, so that equal contracts compare equal
    return contract if _halfway(contract) else replace(contract, crop_rounding="even")


def to_processor(preprocess: Preprocess, kind: str) -> dict[str, Any]:
    """``preprocessor_config.json`` for transformers; see `off_centre` for what it cannot say.

    Args:
        preprocess: the contract. Of a grey model, transformers takes pictures that are grey already.
        kind: the model's own processor, such as ``ViTImageProcessor``; where it cannot do what the contract says,
            another one is named that can.

    Raises:
        UserError: no processor does what the contract says.
    """
    height, width = preprocess.image_size
    tall, wide = (math.floor(side / preprocess.crop_fraction) for side in (height, width))
    if preprocess.mode in ("pad", "native"):
        raise UserError(
            f"preprocess.mode '{preprocess.mode}' has no equal in transformers' image processors: crop and squash have"
        )
    if preprocess.mode == "crop" and height != width:
        raise UserError(
            f"preprocess.mode 'crop' to {height} x {width} has no equal in transformers' image processors: "
            "they cover squares alone; mode squash has one at any size"
        )
    cut = (tall, wide) != (height, width) or preprocess.mode == "crop"
    can = _CAN["crop" if preprocess.mode == "crop" else "squash and crop" if cut else "squash"]
    processor = _processor(kind)
    if processor not in can or (processor == _UNROUNDED and preprocess.interpolation == "bicubic"):
        processor = can[0]
    return {
        "image_processor_type": f"{processor}ImageProcessor",
        "do_convert_rgb": preprocess.channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": tall} if preprocess.mode == "crop" else {"height": tall, "width": wide},
        "resample": {name: number for number, name in _RESAMPLE.items()}[preprocess.interpolation],
        "do_center_crop": cut,
        "crop_size": {"height": height, "width": width} if cut else None,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def off_centre(preprocess: Preprocess, library: Literal["timm", "transformers"]) -> str | None:
    """What `to_timm` or `to_processor` cannot say of where the crop begins, in a sentence; None where nothing is lost."""
    own = {"timm": "even", "transformers": "down"}[library]
    if preprocess.crop_rounding == own or not _halfway(preprocess):
        return None
    return (
        f"{library} rounds a centre crop that begins between two pixels otherwise (crop_rounding {own}): there its "
        "pixels are ours moved by one"
    )


def _halfway(preprocess: Preprocess) -> bool:
    """Whether the two roundings of the crop's begin can differ: halfway after an odd pixel."""
    if preprocess.mode == "crop" or (preprocess.mode == "pad" and preprocess.crop_fraction < 1):
        return True  # at some aspect ratios
    rests = (math.floor(side / preprocess.crop_fraction) - side for side in preprocess.image_size)
    return preprocess.mode == "squash" and any(rest % 4 == 3 for rest in rests)


def _processor(name: str) -> str:
    """``ViTImageProcessorFast``, ``ViTFeatureExtractor`` -> ``ViT``."""
    found = re.fullmatch(r"(\w+?)(?:ImageProcessor|FeatureExtractor)(?:Fast|Pil)?", name)
    if found is None or found[1] not in _PROCESSORS:
        known = ", ".join(f"{known}ImageProcessor" for known in _PROCESSORS)
        raise UserError(f"transformers' image_processor_type = {shown(repr(name))} has no equal here: {known} have")
    return found[1]


def _refuse_without_equal(values: Json, processor: str) -> None:
    for key, value, why in (
        ("do_resize", False, "images would keep their own sizes"),
        ("do_rescale", False, "it does not say what range the pixels have"),
        ("do_pad", True, "it pads below and to the right alone"),
        ("use_square_size", True, "give size as height and width"),
        ("rescale_offset", True, "put it into image_mean"),
    ):
        if bool(values.get(key, not value)) == value:
            raise _no_equal(key, values[key], why)
    if values["resample"] not in tuple(_RESAMPLE):
        raise _no_equal("resample", values["resample"], "2 (bilinear) and 3 (bicubic) have")
    if processor == _UNROUNDED and _RESAMPLE[values["resample"]] == "bicubic":
        raise _no_equal("resample", values["resample"], f"{processor}ImageProcessor does not clip what it overshoots")


def _sizes(values: Json) -> tuple[str, tuple[int, int], tuple[int, int]]:
    """mode, (height, width) after the resize, (height, width) after the crop."""
    resized, square = _size(values, "size", bool(values.get("default_to_square", True)))
    if not values["do_center_crop"]:
        if not square:
            why = "with size.shortest_edge, and so images of different shapes, it has no equal here: set it to true"
            raise UserError(f"transformers' do_center_crop = {shown(repr(values['do_center_crop']))}: {why}")
        return "squash", resized, resized
    if values.get("crop_size") is None:
        raise UserError("transformers' crop_size is missing, and do_center_crop is true: set it")
    cut, sides_given = _size(values, "crop_size", True)
    if not sides_given:
        raise _no_equal("crop_size", values["crop_size"], "a height and a width are needed")
    if any(own > there for own, there in zip(cut, resized, strict=True)):
        raise _no_equal("crop_size", values["crop_size"], f"larger than size, {resized}: a black border would be added")
    if not square and cut[0] != cut[1]:
        raise _no_equal("crop_size", values["crop_size"], "with size.shortest_edge, a square has")
    return "squash" if square else "crop", resized, cut


def _size(values: Json, key: str, default_to_square: bool) -> tuple[tuple[int, int], bool]:
    """(height, width), and whether they are the sides themselves (True) or a length for the shorter one (False)."""
    size = values[key]
    sides: Sequence[Any] = ()
    both = True
    if isinstance(size, int):
        sides, both = (size, size), default_to_square
    elif isinstance(size, Mapping) and size.keys() == {"height", "width"}:
        sides = size["height"], size["width"]
    elif isinstance(size, Mapping) and size.keys() == {"shortest_edge"}:
        sides, both = (size["shortest_edge"],) * 2, False
    elif isinstance(size, list | tuple) and len(size) == 2:
        sides = size
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side < _LARGEST for side in sides):
        raise _no_equal(key, size, "a number of pixels, height and width, or shortest_edge have")
    return (sides[0], sides[1]), both


def _fraction(cut: tuple[int, int], resized: tuple[int, int]) -> float | None:
    """The largest crop fraction with ``floor(cut / fraction) == resized`` on both sides; None where there is none."""
    fraction = min(own / there for own, there in zip(cut, resized, strict=True))
    for candidate in (fraction, math.nextafter(fraction, 0)):  # the division's rounding may be in the way
        if all(math.floor(own / candidate) == there for own, there in zip(cut, resized, strict=True)):
            return candidate
    return None


def _normalisation(values: Json, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in [0, 1]; a ``rescale_factor`` other than 1/255 goes into them."""
    scale = 255 * _number("transformers'", values, "rescale_factor")
    if math.isclose(scale, 1, rel_tol=1e-6):  # 1/255 in a few digits
        scale = 1.0
    mean: Any = values["image_mean"] if values["do_normalize"] else 0.0
    std: Any = values["image_std"] if values["do_normalize"] else 1.0
    return (
        tuple(value / scale for value in _per_channel("transformers' image_mean", mean, channels)),
        tuple(value / scale for value in _per_channel("transformers' image_std", std, channels)),
    )


def _per_channel(what: str, values: Any, channels: int) -> tuple[float, ...]:
    """One value a channel, as a stranger gives them."""
    try:
        given = values if isinstance(values, list | tuple) else [values]
        return averaged([float(value) for value in given], channels)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        raise UserError(f"{what} = {shown(repr(values))} is not one number a channel: set it") from None


def _number(whose: str, values: Json, key: str) -> float:
    try:
        number = float(values[key])
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(f"{whose} {key} = {shown(repr(values[key]))} is not a number above 0: set it")
    return number


def _contract(whose: str, **fields: Any) -> Preprocess:
    try:
        return Preprocess(**fields)
    except UserError as error:
        raise UserError(f"{whose} pixels have no equal here: {error}") from error


def _no_equal(key: str, value: object, why: str) -> UserError:
    return UserError(f"transformers' {key} = {shown(repr(value))} has no equal here: {why}")
