"""transformers' BiT, both ways (Kolesnikov et al., 2020): the pre-activation ResNet, our ResNet.

Its configuration names no image size; that of the pixel contract, else 224, stands in for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitrail.model.resnet_config import MAX_STAGES, MAX_UNITS, ROOT_WIDTH, ResNetConfig, backbone_width
from vitrail.weights.formats.format import Documents, Format, ModelConfig, Shapes
from vitrail.weights.formats.transformers.config import (
    Keys,
    architecture,
    class_count,
    label_keys,
    labels,
    unknown_note,
)
from vitrail.weights.formats.transformers.layers import prefix_in
from vitrail.weights.formats.transformers.pixels import pixel_documents, read_pixels
from vitrail.weights.found import CONFIG, Found
from vitrail.weights.names import Entry, entry, module, reshaped

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

_MODEL, _CLASSIFIER, _BACKBONE = "BitModel", "BitForImageClassification", "BitBackbone"
_DEFAULTS: Mapping[str, Any] = {
    "num_channels": 3, "embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3],
    "layer_type": "preactivation", "hidden_act": "relu", "num_groups": 32, "embedding_dynamic_padding": False,
    "output_stride": 32, "width_factor": 1,
}  # fmt: skip
# what our ResNet does; other values make another function
_NOTHING_ASKED: Mapping[str, tuple[Any, ...]] = {
    "layer_type": ("preactivation",),
    "hidden_act": ("relu",),
    "global_padding": (),
    "num_groups": (32,),
    "embedding_dynamic_padding": (False,),
    "output_stride": (32,),
    "width_factor": (1,),
}
_PROCESSOR = "BitImageProcessor"
_IMAGE_SIZE = (224, 224)
_CONVOLUTION = reshaped(lambda tensor: tensor[:, :, None, None], lambda tensor: tensor[:, :, 0, 0])


def _keys(found: Found) -> Keys:
    return Keys(found.document, found.config, _DEFAULTS)


def _class(found: Found) -> str:
    return architecture(found, (_MODEL, _CLASSIFIER, _BACKBONE), _MODEL)


def _recognises(found: Found) -> bool:
    return found.config.get("model_type") == "bit"


def _read_config(found: Found) -> ResNetConfig:
    keys = _keys(found)
    keys.refuse(_NOTHING_ASKED)
    layers, factor = keys.wholes("depths", MAX_STAGES), keys.whole("embedding_size") // ROOT_WIDTH
    if max(layers) > MAX_UNITS:
        raise keys.refusal("depths", f"at most {MAX_UNITS} units a stage have")
    if keys["embedding_size"] != ROOT_WIDTH * factor or factor < 1:
        raise keys.refusal("embedding_size", f"multiples of {ROOT_WIDTH} have")
    wanted = [backbone_width(layers[: stage + 1]) * factor for stage in range(len(layers))]
    if keys["hidden_sizes"] != wanted:
        raise keys.refusal("hidden_sizes", f"{wanted} have")
    return ResNetConfig(
        image_size=_image_size(found.processor),
        channels=keys.whole("num_channels"),
        classes=class_count(found.config) if _class(found) == _CLASSIFIER else 0,
        layers=layers,
        width_factor=factor,
    )


def _image_size(processor: Mapping[str, Any]) -> tuple[int, int]:
    for key in ("crop_size", "size"):
        size = processor.get(key)
        if isinstance(size, int):
            return size, size
        if isinstance(size, Mapping) and isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
            return size["height"], size["width"]
    return _IMAGE_SIZE


def _entries(config: Any, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    p = prefix_in(theirs, ("", "bit."), "embedder.convolution.weight", "bit." if config.classes else "")
    yield entry("stem.conv.weight", f"{p}embedder.convolution.weight")
    for stage, units in enumerate(config.layers):
        for unit in range(units):
            here, there = f"stages.{stage}.blocks.{unit}", f"{p}encoder.stages.{stage}.layers.{unit}"
            yield entry(f"{here}.downsample.conv.weight", f"{there}.downsample.conv.weight")
            for number in (1, 2, 3):
                yield from module(f"{here}.norm{number}", f"{there}.norm{number}")
                yield entry(f"{here}.conv{number}.weight", f"{there}.conv{number}.weight")
    yield from module("norm", f"{p}norm")
    yield from module("head.fc", "classifier.1", layout=_CONVOLUTION)


def _read_preprocess(found: Found, config: ModelConfig) -> "Preprocess | None":
    return read_pixels(found, config, _PROCESSOR)


def _read_labels(found: Found) -> tuple[str, ...]:
    return labels(found.config) if _class(found) == _CLASSIFIER else ()


def _notes(found: Found) -> tuple[str, ...]:
    return unknown_note(_keys(found), ("conv_layer", *_NOTHING_ASKED))


def _no_equal(config: Any) -> str | None:
    if not isinstance(config, ResNetConfig):
        return "it is no ResNet"
    if config.stem != "large":
        return f"its {config.stem} stem"
    if config.root_channels % ROOT_WIDTH:
        return f"its root of {config.root_channels} channels (BiT: a multiple of {ROOT_WIDTH})"
    return None


def _documents(config: Any, names: Sequence[str], preprocess: "Preprocess | None") -> Documents:
    stages = range(len(config.layers))
    values = {
        "architectures": [_CLASSIFIER if config.classes else _MODEL],
        "model_type": "bit",
        "num_channels": config.channels,
        "embedding_size": config.root_channels,
        "hidden_sizes": [backbone_width(config.layers[: stage + 1], config.root_channels) for stage in stages],
        "depths": list(config.layers),
        "layer_type": "preactivation",
        "hidden_act": "relu",
        "num_groups": 32,
        **(label_keys(config.classes, names) if config.classes else {}),
    }
    return {CONFIG: values, **pixel_documents(preprocess, _PROCESSOR)}


FORMATS = (
    Format(
        "transformers bit",
        "transformers",
        _recognises,
        _read_config,
        _entries,
        _read_preprocess,
        read_labels=_read_labels,
        notes=_notes,
        no_equal=_no_equal,
        documents=_documents,
    ),
)
