"""A pickle read as a description: no class is imported and nothing is called, so that no code of it can run.

A pickle is a program for a small stack machine, whose steps put numbers and texts together, or name a Python function
and call it. Here the steps are followed up to the calls. Those that make tensors are known by name and answered with
a description of the tensor; those that make other harmless things leave a placeholder; any other name is refused. That
is what ``torch.load(weights_only=True)`` lets pass, but that one does call, ``bytearray(10**11)`` for instance, and
reads every tensor of the file. The steps themselves: the standard library's ``pickletools``.
"""

import pickletools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, cast

from vitrail.errors import UserError
from vitrail.weights.files.pickled_names import Name, Storage, answer, is_allowed, put, stored_memory
from vitrail.weights.files.untrusted import Limited, shown

PICKLE_LIMIT = 64 << 20  # bytes; published checkpoints, optimiser state and all, have a tenth of it at most
_MOST_STEPS = 2_000_000  # of the machine: two or three seconds; published checkpoints take a tenth of it at most
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_MALFORMED = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, EOFError, RecursionError)


def interpret(file: Limited, source: object, storages: dict[str, Storage] | None = None) -> object:
    """The next pickle of a file, as dictionaries, lists, tuples, numbers, texts, SavedTensor and Placeholder.

    Args:
        file: read up to the pickle's end.
        source: its name, for errors.
        storages: filled with what the pickle refers to, by key.

    Raises:
        UserError: it names a function or a class that could run code, or is not a pickle.
    """
    machine, problem, result = _Machine({} if storages is None else storages), None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools', on texts with senseless escapes
            result = machine.run(file)
    except _MALFORMED as error:
        problem = f"its pickle makes no sense ({shown(error) or type(error).__name__})"
    if machine.refused:
        raise _would_run_code(machine.refused, source)
    if problem is not None:
        raise UserError(f"{source} is not a readable checkpoint of torch: {problem}")
    return result


def _would_run_code(names: Sequence[str], source: object) -> UserError:
    model = any(name.startswith("torch.nn.modules.") for name in names)
    what = "holds a whole pickled model, which wants to run the code of its classes" if model else "wants to run code"
    return UserError(
        f"{source} {what} ({shown(names[0], 100)}), and was not opened: with the library that it came from, save the "
        "model's state_dict() as a .safetensors file, and give that"
    )


class _Machine:
    """Follows a pickle's steps. Senseless ones raise whatever Python raises: ``interpret`` tells the person."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}
        self.refused: list[str] = []

    def run(self, file: Limited) -> object:
        start = file.tell()
        for number, (opcode, argument, position) in enumerate(pickletools.genops(cast(BinaryIO, file))):
            if number > _MOST_STEPS or (position or 0) - start > PICKLE_LIMIT:
                raise ValueError("its pickle has more steps than any checkpoint needs")
            if opcode.name in _CONSTANTS:
                self.stack.append(argument)
            elif opcode.name in _STEP:
                _STEP[opcode.name](self, argument)
            else:
                raise ValueError(f"its pickle has a step {opcode.name}, which no checkpoint needs")
        return self.stack.pop()

    def mark(self, _: Any = None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def items(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def push(self, value: object) -> None:
        self.stack.append(value)

    def drop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.items()

    def remember(self, key: int | None) -> None:
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def tuple_of(self, count: int) -> None:
        taken = tuple(self.stack[-count:])
        if len(taken) < count:
            raise ValueError("a step finds less than it needs")
        self.stack[-count:] = [taken]

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            put(self.stack[-1], items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is no text")
        full = f"{_PYTHON_2.get(module, module)}.{name}"
        if not is_allowed(full):
            self.refused.append(full)
        self.push(Name(full))

    def instance(self, names: str) -> None:
        """Protocol 0: a class by name, its arguments since the mark."""
        arguments = tuple(self.items())
        self.name(*names.split(" ", 1))
        self.call(arguments)

    def call(self, arguments: object) -> None:
        """Call what is on top of the stack: it is answered, never done."""
        function = self.stack.pop()
        if not isinstance(function, Name):
            self.refused.append("a call of what the file itself made")
            function = Name("")
        if not isinstance(arguments, tuple):
            raise TypeError("arguments that are no tuple")
        self.push(answer(function.name, arguments))

    def call_with_keywords(self, _: Any) -> None:
        self.stack.pop()
        self.call(self.stack.pop())

    def frozen_set(self, _: Any) -> None:
        self.items()
        self.push(answer("builtins.frozenset", ()))

    def storage(self, _: Any) -> None:
        storage = stored_memory(self.stack.pop())
        self.storages.setdefault(storage.key, storage)  # its size is counted in the first type that refers to it
        self.push(storage)

    def object_since_mark(self, _: Any) -> None:
        function, *arguments = self.items()
        self.push(function)
        self.call(tuple(arguments))


# The rest change nothing that is asked for: BUILD sets attributes, PROTO and FRAME are for the reader.
_STEP: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "BUILD": lambda m, _: m.stack.pop(),
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": lambda m, _: m.items(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, key: m.push(m.memo[key])),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.items()),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.items()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.items())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.push(put({}, m.items())),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m, _: m.set_items(m.items()),
    "EMPTY_SET": lambda m, _: m.push(answer("builtins.set", ())),
    "FROZENSET": _Machine.frozen_set,
    "ADDITEMS": lambda m, _: m.items(),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*(m.stack.pop(), m.stack.pop())[::-1]),
    "INST": _Machine.instance,
    "OBJ": _Machine.object_since_mark,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, _: m.call(m.stack.pop())),
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "BINPERSID": _Machine.storage,
}
_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
