"""Pickles read without executing anything in them.

Python's own unpickler calls whatever a file names. This one is a small machine of its own: `pickletools` splits the
file into operations, and the machine follows those that official checkpoints use. A name in the file is looked up in
the table `NAMES` and never imported; what the table gives are the inert records of `records.py`. Whatever else the
file names or asks for ends the reading with a `Refusal`, before anything has happened.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from understudy.generators.official.records import Array, DType, Module, Network, Refusal, Storage, Tensor

STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1",
}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A name that official checkpoints use.

    Attributes:
        text: e.g. "numpy dtype".
        call: what stands in for calling it, None if it may only be mentioned; given the limits and the arguments.
        create: what stands in for creating an empty object of this class.
    """

    text: str
    call: Callable[..., Any] | None = None
    create: Callable[[], Any] | None = None


@dataclass
class Limits:
    """What one file may use, and how its tensors' values are found.

    Attributes:
        budget: bytes that may still be made by decoding; a small file cannot ask for a large memory.
        operations: steps that the machine may still take; real checkpoints take some ten thousand.
        storage: the storage of a persistent id, None where the format has none.
        inner: reads the bytes of a nested `torch.save`.
    """

    budget: int
    operations: int = 2_000_000
    storage: Callable[[Any], Storage] | None = None
    inner: Callable[[bytes], Any] | None = None

    def spend(self, count: int) -> None:
        """Takes `count` bytes from the budget."""
        self.budget -= count
        if self.budget < 0:
            raise Refusal("more memory than a file of its size can need")


def _encode(limits: Limits, text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refusal("an encoding other than latin1")
    limits.spend(len(text))
    return text.encode("latin1")


def _mapping(limits: Limits, pairs: Any = ()) -> dict[Any, Any]:
    if isinstance(pairs, list | tuple):
        limits.spend(100 * len(pairs))
        return {_key(key): value for key, value in pairs}
    raise Refusal("a dictionary of an unknown form")


def _set(limits: Limits, items: Any = ()) -> set[Any]:
    if isinstance(items, list | tuple):
        limits.spend(100 * len(items))
        return {_key(item) for item in items}
    raise Refusal("a set of an unknown form")


def _bytes(limits: Limits, *arguments: Any) -> bytes:
    if arguments:
        raise Refusal("bytes made by a call")
    return b""


def _inner(limits: Limits, data: Any) -> Any:
    if limits.inner is None or not isinstance(data, bytes):
        raise Refusal("a nested PyTorch file")
    limits.spend(len(data))
    return limits.inner(data)


def _size(limits: Limits, items: Any = ()) -> tuple[Any, ...]:
    limits.spend(8 * len(items))
    return tuple(items)


def _unlimited(create: Callable[..., Any]) -> Callable[..., Any]:
    return lambda limits, *arguments: create(*arguments)


def _names() -> dict[str, Name]:
    calls: dict[str, Callable[..., Any] | None] = {
        "numpy ndarray": None,
        "numpy dtype": _unlimited(DType.create),
        "_codecs encode": _encode,
        "collections OrderedDict": _mapping,
        "builtins set": _set,
        "__builtin__ set": _set,
        "builtins bytes": _bytes,
        "__builtin__ bytes": _bytes,
        "torch_utils.persistence _reconstruct_persistent_obj": _unlimited(Module.create),
        "torch._utils _rebuild_tensor_v2": _unlimited(Tensor.create),
        "torch._utils _rebuild_parameter": _unlimited(Tensor.parameter),
        "torch.storage _load_from_bytes": _inner,
        "torch Size": _size,
    }
    for core in ("numpy.core", "numpy._core"):
        calls[f"{core}.multiarray _reconstruct"] = _unlimited(Array.create)
        calls[f"{core}.multiarray scalar"] = _unlimited(Array.scalar)
        calls[f"{core}.numeric _frombuffer"] = _unlimited(Array.buffer)
    calls |= {f"torch {storage}": None for storage in STORAGES}
    names = {text: Name(text, call) for text, call in calls.items()}
    for text in ("dnnlib.util EasyDict", "dnnlib EasyDict", "config EasyDict"):
        names[text] = Name(text, create=dict)
    for text in ("tfutil Network", "dnnlib.tflib.network Network"):
        names[text] = Name(text, create=Network.create)
    return names


NAMES = _names()


def _key(value: Any) -> Any:
    # Plain keys only: hashing a deeply nested tuple overflows the stack of the interpreter.
    if not isinstance(value, str | int | bytes):
        raise Refusal("a dictionary or set whose keys are neither texts nor numbers")
    return value


@dataclass
class Machine:
    """Reads one pickle from a stream, which is left behind its end.

    Args:
        stream: binary, with `read` and `readline`. limits: of the whole file.
    """

    stream: IO[bytes]
    limits: Limits
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        """The object of the pickle: numbers, texts, containers and records.

        Raises:
            Refusal: a name or an operation that is not on the list.
            Exception: of many kinds, for damaged files.
        """
        for operation, argument, _ in pickletools.genops(self.stream):
            self.limits.operations -= 1
            if self.limits.operations < 0:
                raise Refusal("more steps than a checkpoint can need")
            if operation.name == "STOP":
                return self.stack.pop()
            if operation.name in _PUSHED:
                self.stack.append(argument)
            elif operation.name in _OPERATIONS:
                _OPERATIONS[operation.name](self, argument)
            else:
                raise Refusal(f"the operation {operation.name}")
        raise EOFError("no end of the pickle")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def gather(self, kind: Callable[[list[Any]], Any]) -> None:
        made = kind(self.since_mark())
        self.stack.append(made)

    def push_global(self, text: str) -> None:
        if text not in NAMES:
            raise Refusal(f"the name {'.'.join(text.split(' '))!r}"[:200])
        self.stack.append(NAMES[text])

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Refusal("a name that is no text")
        self.push_global(f"{module} {name}")

    def call(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or name.call is None or not isinstance(arguments, tuple):
            raise Refusal(f"a call of {name.text if isinstance(name, Name) else 'an object'}")
        self.stack.append(name.call(self.limits, *arguments))

    def create(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or name.create is None or arguments != ():
            raise Refusal(f"an object of {name.text if isinstance(name, Name) else 'something unnamed'}")
        self.stack.append(name.create())

    def restore(self, _: Any) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) is dict and isinstance(state, dict) and state.keys() == {"_metadata"}:
            return  # `state_dict()` carries the versions of its modules as an attribute
        if not isinstance(self.stack[-1], DType | Array | Network):
            raise Refusal("the state of an object that has none")
        if isinstance(state, tuple) and state and isinstance(state[-1], str):
            self.limits.spend(len(state[-1]))  # the values of an array that Python 2 pickled; copied on decoding
        self.stack[-1].restore(state)

    def append_one(self, _: Any) -> None:
        item = self.stack.pop()
        self._target(list).append(item)

    def append_all(self, _: Any) -> None:
        items = self.since_mark()
        self._target(list).extend(items)

    def set_one(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._target(dict)[_key(key)] = value

    def set_all(self, _: Any) -> None:
        items = self.since_mark()
        self._target(dict).update(_paired(items))

    def add_all(self, _: Any) -> None:
        items = self.since_mark()
        self._target(set).update(_key(item) for item in items)

    def _target(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise Refusal(f"items for something that is no {kind.__name__}")
        return self.stack[-1]

    def push_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        self.stack[len(self.stack) - count :] = [tuple(self.stack[len(self.stack) - count :])]

    def memorise(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def persistent(self, _: Any) -> None:
        if self.limits.storage is None:
            raise Refusal("an object outside of the file")
        self.stack.append(self.limits.storage(self.stack.pop()))


def _paired(items: list[Any]) -> dict[Any, Any]:
    return {_key(items[i]): items[i + 1] for i in range(0, len(items), 2)}


# Operations whose argument is the value.
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip

_OPERATIONS: dict[str, Callable[[Machine, Any], Any]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "NONE": lambda m, a: m.stack.append(None),
    "NEWTRUE": lambda m, a: m.stack.append(True),
    "NEWFALSE": lambda m, a: m.stack.append(False),
    "EMPTY_TUPLE": lambda m, a: m.stack.append(()),
    "EMPTY_LIST": lambda m, a: m.stack.append([]),
    "EMPTY_DICT": lambda m, a: m.stack.append({}),
    "EMPTY_SET": lambda m, a: m.stack.append(set()),
    "MARK": Machine.mark,
    "TUPLE": lambda m, a: m.gather(tuple),
    "LIST": lambda m, a: m.gather(list),
    "DICT": lambda m, a: m.gather(_paired),
    "TUPLE1": lambda m, a: m.push_tuple(1),
    "TUPLE2": lambda m, a: m.push_tuple(2),
    "TUPLE3": lambda m, a: m.push_tuple(3),
    "APPEND": Machine.append_one,
    "APPENDS": Machine.append_all,
    "SETITEM": Machine.set_one,
    "SETITEMS": Machine.set_all,
    "ADDITEMS": Machine.add_all,
    "MEMOIZE": lambda m, a: m.memorise(None),
    "PUT": Machine.memorise,
    "BINPUT": Machine.memorise,
    "LONG_BINPUT": Machine.memorise,
    "GET": lambda m, a: m.stack.append(m.memo[a]),
    "BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "LONG_BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "POP": lambda m, a: m.stack.pop(),
    "POP_MARK": lambda m, a: m.since_mark(),
    "GLOBAL": Machine.push_global,
    "STACK_GLOBAL": Machine.stack_global,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.create,
    "BUILD": Machine.restore,
    "BINPERSID": Machine.persistent,
}
