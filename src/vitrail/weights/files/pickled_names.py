"""What the names of functions and classes in a pickle stand for: a tensor, something harmless, or a refusal.

Nothing here imports or calls what it names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.weights.files.stored import ITEM
from vitrail.weights.files.untrusted import shown

_STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt2x4Storage": "quint2x4",
    "QUInt4x2Storage": "quint4x2",
}
_DICTS = {"builtins.dict", "collections.OrderedDict", "collections.defaultdict"}
_TENSORS = {
    f"torch._utils._rebuild_{what}"
    for what in ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state")
} | {"torch._tensor._rebuild_from_type_v2", "torch.nn.parameter.Parameter"}
# Tensors of kinds that no format of weights here has; a state that needs one is refused by its name.
_OTHER_TENSORS = {
    f"torch._utils._rebuild_{what}"
    for what in (
        "qtensor",
        "sparse_tensor",
        "nested_tensor",
        "wrapper_subclass",
        "meta_tensor_no_storage",
        "xla_tensor",
        "device_tensor_from_numpy",
        "device_tensor_from_cpu_tensor",
    )
}
# What stands beside the weights in published checkpoints: arguments, dates, counters, random states, histories.
_HARMLESS = {
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.torch_version.TorchVersion",
    "torch.serialization._get_layout",
    *(f"torch.per_{what}" for what in ("tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric")),
    *(f"builtins.{name}" for name in ("bool", "bytearray", "bytes", "complex", "float", "frozenset", "int", "list")),
    *(f"builtins.{name}" for name in ("object", "range", "set", "slice", "str", "tuple")),
    *(f"builtins.{name}" for name in ("long", "unicode", "xrange")),  # as Python 2 named them
    "_codecs.encode",
    "copyreg._reconstructor",
    "argparse.Namespace",
    "types.SimpleNamespace",
    "collections.Counter",
    "collections.deque",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath")),
    *(f"numpy.{name}" for name in ("dtype", "ndarray", "bool_", "int32", "int64", "float32", "float64")),
    *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Int32", "Int64", "UInt32", "UInt64", "Float32", "Float64")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
}


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory that a checkpoint keeps beside its pickle, by key."""

    key: str
    dtype: str
    elements: int
    start: int
    """Where the tensors' part begins, in elements."""

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return ITEM.get(self.dtype, 4 if self.dtype == "qint32" else 1)


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor as the pickle describes it; offset and strides are in elements of ``dtype``. Not yet checked."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Where the pickle has something else than numbers, texts, lists, dictionaries and tensors."""

    name: str

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor of a kind that does not open here."""
        return self.name in _OTHER_TENSORS


@dataclass(frozen=True, slots=True)
class Name:
    """A function or a class, by name only."""

    name: str


_ALLOWED = _HARMLESS | _DICTS | _TENSORS | _OTHER_TENSORS


def is_allowed(name: str) -> bool:
    """Whether a checkpoint may name this function or class, as ``module.name``."""
    module, _, last = name.rpartition(".")
    if module in ("torch", "torch.cuda", "torch.storage") and last in _STORAGES:
        return True
    return name in _ALLOWED or (module == "torch" and last in ITEM)


def answer(name: str, arguments: tuple[Any, ...]) -> object:
    """What a call stands for: a dictionary, sizes, a tensor, or a placeholder for anything else.

    Raises:
        ValueError, TypeError: arguments that make no sense.
    """
    if name in _DICTS:
        return _dictionary(arguments)
    if name == "torch.Size":
        return arguments[0]
    if name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes: how it is made, and from what
        function, _, inner, *_ = arguments
        return answer(function.name, inner)
    if name not in _TENSORS:
        return Placeholder(name)
    if not name.startswith("torch._utils._rebuild_tensor"):
        return arguments[0]  # a parameter is its tensor
    storage, offset, shape, stride, *more = arguments
    if not isinstance(storage, Storage):
        return storage
    dtype = more[2].name.removeprefix("torch.") if name.endswith("_v3") else storage.dtype
    flags = more[2] if name.endswith("_v2") and len(more) > 2 else None
    if flags:  # its memory is to be read conjugated or negated
        return Placeholder("torch._utils._rebuild_wrapper_subclass")
    return SavedTensor(storage, dtype, _whole(offset), _sizes(shape), _sizes(stride))


def stored_memory(reference: tuple[Any, ...]) -> Storage:
    """A reference to memory beside the pickle.

    Args:
        reference: ("storage", type, key, device, elements), and in old files (key of a view, its start, its elements)
            or None after these.
    """
    kind, storage_type, key, _, elements, *view = reference
    if kind != "storage" or not isinstance(key, str):
        raise ValueError("it refers to something that is no storage")
    start = view[0][1] if view and view[0] is not None else 0
    return Storage(key, _STORAGES[storage_type.name.rpartition(".")[2]], _whole(elements), _whole(start))


def put(target: dict[Any, Any], items: Sequence[Any]) -> dict[Any, Any]:
    """Set keys and values given in turn; keys that are no names are left out, as some take for ever to hash."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) in (str, int):
            target[key] = value
    return target


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Python 2 gives an OrderedDict its items as a list of pairs; the others begin empty."""
    made: dict[Any, Any] = {}
    if arguments and isinstance(arguments[0], list):
        for pair in arguments[0]:
            put(made, pair)
        arguments[0].clear()  # used up, so that no file can have one list copied a million times
    return made


def _whole(number: object) -> int:
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise ValueError(f"{shown(number, 40)} where a size should be")
    return number


def _sizes(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    if len(numbers) > 64:
        raise ValueError(f"a tensor with {len(numbers)} axes")
    return tuple(_whole(number) for number in numbers)
