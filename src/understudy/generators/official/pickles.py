"""Pickles read without executing anything in them: a small stack machine, and the inert records that it makes.

`pickletools` splits the file into operations, and the machine follows those that official checkpoints use. A name is
looked up in `NAMES` and never imported. Whatever else a file asks for ends in a `Refusal` before anything has happened.
"""

# By hand, because neither `pickle.Unpickler` with an allow-listing `find_class` nor `torch.load(weights_only=True)` is
# as safe. `find_class` guards names only: BUILD still sets attributes of whatever a name gave, a memo index of 2^31
# reserves gigabytes, and in both a deeply nested tuple as the key of a dictionary overflows the interpreter's stack.

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1",
}  # fmt: skip


class Refusal(ValueError):
    """The file asks for something that no official checkpoint needs."""


def require(condition: object, otherwise: str) -> None:
    if not condition:
        raise Refusal(otherwise)


# --- records: what a checkpoint holds once read; they check what the file claims, and cannot act ---
# `create` takes the arguments that the pickle gives to the original (named in `NAMES`), `restore` its state.


@dataclass
class DType:
    """Element type of a NumPy array: numbers only, no objects, no fields, no metadata."""

    code: str  # e.g. "f4"
    order: str = "="  # of the bytes

    @classmethod
    def create(cls, code: Any = None, align: Any = False, copy: Any = False) -> DType:  # as numpy.dtype
        plain = isinstance(code, str) and re.fullmatch(r"b1|[iu][1248]|f[248]", code)
        require(plain, "a NumPy array of something else than numbers")
        return cls(code)

    def restore(self, state: Any) -> None:
        # version, byte order, subarray, names, fields, size, alignment, flags
        plain = isinstance(state, tuple) and len(state) >= 5 and all(part is None for part in state[2:5])
        require(plain, "a NumPy element type that is no plain number")
        self.order = {"<": "<", ">": ">", "|": "=", "=": "="}[state[1]]


@dataclass
class Array:
    """A NumPy array."""

    value: NDArray[Any] | None = None

    @classmethod
    def scalar(cls, dtype: Any, data: Any) -> Array:
        return cls.buffer(data, dtype, (), "C")

    @classmethod
    def buffer(cls, data: Any, dtype: Any, shape: Any, order: Any) -> Array:
        if isinstance(data, str):  # bytes that Python 2 pickled
            data = data.encode("latin1")
        if not isinstance(data, bytes | bytearray) or not isinstance(dtype, DType):
            raise Refusal("a NumPy array whose values are not numbers")
        kind = np.dtype(dtype.order + dtype.code)
        numbers = np.frombuffer(data, kind) if data else np.empty(0, kind)
        require(order in ("C", "F") and numbers.size == count_of(shape), "a NumPy array of another shape")
        return cls(numbers.reshape(shape, order=order))

    def restore(self, state: Any) -> None:
        require(isinstance(state, tuple) and len(state) == 5, "a NumPy array of an unknown form")
        _, shape, dtype, fortran, data = state
        self.value = self.buffer(data, dtype, shape, "F" if fortran else "C").value

    def array(self) -> NDArray[Any]:
        if self.value is None:
            raise Refusal("a NumPy array without values")
        return self.value


def count_of(shape: Any) -> int:
    sizes = isinstance(shape, tuple) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
    require(sizes, "an array whose shape is no tuple of sizes")
    return math.prod(shape)


@dataclass
class Storage:
    """The numbers behind a PyTorch tensor; bfloat16 is kept as the upper halves of float32."""

    code: str  # of `STORAGES`
    count: int  # of numbers
    data: bytes | None = None  # until the file's values are read

    @property
    def itemsize(self) -> int:
        return 2 if self.code == "bf16" else np.dtype(self.code).itemsize


@dataclass
class Tensor:
    """A PyTorch tensor: a strided view of a storage."""

    storage: Storage
    offset: int  # in numbers, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def create(cls, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
        # rest: requires_grad, hooks
        count, _ = count_of(shape), count_of(strides)
        if not isinstance(storage, Storage) or type(offset) is not int or len(shape) != len(strides):
            raise Refusal("a tensor of an unknown form")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else offset
        inside = offset >= 0 and count <= storage.count and last < max(storage.count, 1)
        require(inside, "a tensor that reaches beyond its values")
        return cls(storage, offset, shape, strides)

    @classmethod
    def parameter(cls, data: Any, *rest: Any) -> Tensor:
        require(isinstance(data, Tensor), "a parameter that is no tensor")
        return data  # type: ignore[no-any-return]

    def array(self) -> NDArray[Any]:
        """The values, as a view where that is possible."""
        storage, half = self.storage, self.storage.code == "bf16"
        if storage.data is None or len(storage.data) < storage.count * storage.itemsize:
            raise Refusal("a tensor without its values")
        numbers = np.frombuffer(storage.data, "<u2" if half else "<" + storage.code, storage.count)
        steps = [s * numbers.itemsize for s in self.strides]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps, writeable=False)
        return (view.astype(np.uint32) << 16).view(np.float32) if half else view


@dataclass
class Network:
    """A TensorFlow network of progressive_growing_of_gans or stylegan: its state, never its source."""

    state: Any = None

    def restore(self, state: Any) -> None:
        require(isinstance(state, dict), "a network whose state is no dictionary")
        self.state = {k: v for k, v in state.items() if k != "build_module_src"}


@dataclass
class Module:
    """A PyTorch module of stylegan2-ada-pytorch or stylegan3: name of its class and its state, never its source."""

    class_name: str
    state: dict[Any, Any]

    @classmethod
    def create(cls, meta: Any) -> Module:
        require(isinstance(meta, dict) and meta.get("type") == "class", "a persistent object of an unknown form")
        name, state = meta.get("class_name"), meta.get("state")
        if not isinstance(name, str) or not isinstance(state, dict):
            raise Refusal("a persistent object without class or state")
        return cls(name, state)


# --- the names that official checkpoints use, and what stands for each ---


@dataclass
class Limits:
    """What one file may use, and how its tensors' values are found."""

    budget: int  # bytes that may still be made by decoding; a small file cannot ask for a large memory
    operations: int = 2_000_000  # that the machine may still take; real checkpoints take some ten thousand
    storage: Callable[[Any], Storage] | None = None  # of a persistent id, None where the format has none
    inner: Callable[[bytes], Any] | None = None  # reads the bytes of a nested `torch.save`

    def spend(self, count: int) -> None:
        self.budget -= count
        require(self.budget >= 0, "more memory than a file of its size can need")


@dataclass(frozen=True)
class Name:
    """A name that a pickle mentions, calls, or creates an empty object of; what is None it may not do."""

    text: str  # such as "numpy dtype"
    call: Callable[..., Any] | None = None  # given the limits and the arguments
    create: Callable[[], Any] | None = None


def _key(value: Any) -> Any:
    # plain keys only: hashing a deeply nested tuple overflows the stack of the interpreter
    require(isinstance(value, str | int | bytes), "a dictionary or set whose keys are neither texts nor numbers")
    return value


def _encode(limits: Limits, text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refusal("an encoding other than latin1")
    limits.spend(len(text))
    return text.encode("latin1")


def _items(limits: Limits, items: Any) -> Any:
    require(isinstance(items, list | tuple), "a dictionary or set of an unknown form")
    limits.spend(100 * len(items))  # bytes of an entry, roughly
    return items


def _mapping(limits: Limits, pairs: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in _items(limits, pairs)}


def _set(limits: Limits, items: Any = ()) -> set[Any]:
    return {_key(item) for item in _items(limits, items)}


def _bytes(limits: Limits, *arguments: Any) -> bytes:
    require(not arguments, "bytes made by a call")
    return b""


def _size(limits: Limits, items: Any = ()) -> tuple[Any, ...]:
    limits.spend(8 * len(items))
    return tuple(items)


def _inner(limits: Limits, data: Any) -> Any:
    if limits.inner is None or not isinstance(data, bytes):
        raise Refusal("a nested PyTorch file")
    limits.spend(len(data))
    return limits.inner(data)


def _free(create: Callable[..., Any]) -> Callable[..., Any]:
    """As a call that needs no limits."""
    return lambda limits, *arguments: create(*arguments)


_CALLS: dict[str, Callable[..., Any] | None] = {
    "numpy ndarray": None,
    "numpy dtype": _free(DType.create),
    "_codecs encode": _encode,
    "collections OrderedDict": _mapping,
    **dict.fromkeys(("builtins set", "__builtin__ set"), _set),
    **dict.fromkeys(("builtins bytes", "__builtin__ bytes"), _bytes),
    "torch_utils.persistence _reconstruct_persistent_obj": _free(Module.create),
    "torch._utils _rebuild_tensor_v2": _free(Tensor.create),
    "torch._utils _rebuild_parameter": _free(Tensor.parameter),
    "torch.storage _load_from_bytes": _inner,
    "torch Size": _size,
    **dict.fromkeys(f"torch {storage}" for storage in STORAGES),
}
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray _reconstruct"] = lambda limits, *arguments: Array()  # empty until its state comes
    _CALLS[f"{_core}.multiarray scalar"] = _free(Array.scalar)
    _CALLS[f"{_core}.numeric _frombuffer"] = _free(Array.buffer)
NAMES = {text: Name(text, call) for text, call in _CALLS.items()}
for _text in ("dnnlib.util EasyDict", "dnnlib EasyDict", "config EasyDict"):
    NAMES[_text] = Name(_text, create=dict)
for _text in ("tfutil Network", "dnnlib.tflib.network Network"):
    NAMES[_text] = Name(_text, create=Network)


# --- the machine ---


def _paired(items: list[Any]) -> dict[Any, Any]:
    return {_key(items[i]): items[i + 1] for i in range(0, len(items), 2)}


class Machine:
    """Reads one pickle from a binary stream, which is left behind its end. `limits` are those of the whole file."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        self.stream, self.limits = stream, limits
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each open mark
        self.memo: dict[int, Any] = {}  # a dictionary: an index of 2^31 costs nothing

    def run(self) -> Any:
        """The object of the pickle: numbers, texts, containers and records; a Refusal for a name or an operation that
        is not on the list, other exceptions of many kinds for damaged files."""
        for operation, argument, _ in pickletools.genops(self.stream):
            self.limits.operations -= 1
            require(self.limits.operations >= 0, "more steps than a checkpoint can need")
            if operation.name == "STOP":
                return self.stack.pop()
            if operation.name in _PUSHED:
                self.stack.append(argument)
            elif operation.name in _OPERATIONS:
                _OPERATIONS[operation.name](self, argument)
            else:
                raise Refusal(f"the operation {operation.name}")
        raise EOFError("no end of the pickle")

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def gather(self, kind: Callable[[list[Any]], Any]) -> None:
        items = self.since_mark()
        self.stack.append(kind(items))

    def push_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        self.stack[len(self.stack) - count :] = [tuple(self.stack[len(self.stack) - count :])]

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def push_global(self, text: str) -> None:
        require(text in NAMES, f"the name {'.'.join(text.split(' '))!r}"[:200])
        self.stack.append(NAMES[text])

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        require(isinstance(name, str) and isinstance(module, str), "a name that is no text")
        self.push_global(f"{module} {name}")

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or name.call is None or not isinstance(arguments, tuple):
            raise Refusal(f"a call of {name.text if isinstance(name, Name) else 'an object'}")
        self.stack.append(name.call(self.limits, *arguments))

    def create(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or name.create is None or arguments != ():
            raise Refusal(f"an object of {name.text if isinstance(name, Name) else 'something unnamed'}")
        self.stack.append(name.create())

    def restore(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) is dict and isinstance(state, dict) and state.keys() == {"_metadata"}:
            return  # `state_dict()` carries the versions of its modules as an attribute
        require(isinstance(self.stack[-1], DType | Array | Network), "the state of an object that has none")
        if isinstance(state, tuple) and state and isinstance(state[-1], str):
            self.limits.spend(len(state[-1]))  # the values of an array that Python 2 pickled; copied on decoding
        self.stack[-1].restore(state)

    def target(self, kind: type) -> Any:
        require(type(self.stack[-1]) is kind, f"items for something that is no {kind.__name__}")
        return self.stack[-1]

    def append(self, items: list[Any]) -> None:
        self.target(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        self.target(dict).update(_paired(items))

    def add(self, items: list[Any]) -> None:
        self.target(set).update(_key(item) for item in items)

    def persistent(self) -> None:
        if self.limits.storage is None:
            raise Refusal("an object outside of the file")
        self.stack.append(self.limits.storage(self.stack.pop()))


# Operations whose argument is the value.
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip

_OPERATIONS: dict[str, Callable[[Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, a: None),
    "NONE": lambda m, a: m.stack.append(None),
    "NEWTRUE": lambda m, a: m.stack.append(True),
    "NEWFALSE": lambda m, a: m.stack.append(False),
    "EMPTY_TUPLE": lambda m, a: m.stack.append(()),
    "EMPTY_LIST": lambda m, a: m.stack.append([]),
    "EMPTY_DICT": lambda m, a: m.stack.append({}),
    "EMPTY_SET": lambda m, a: m.stack.append(set()),
    "MARK": lambda m, a: m.mark(),
    "TUPLE": lambda m, a: m.gather(tuple),
    "LIST": lambda m, a: m.gather(list),
    "DICT": lambda m, a: m.gather(_paired),
    "TUPLE1": lambda m, a: m.push_tuple(1),
    "TUPLE2": lambda m, a: m.push_tuple(2),
    "TUPLE3": lambda m, a: m.push_tuple(3),
    "APPEND": lambda m, a: m.append([m.stack.pop()]),
    "APPENDS": lambda m, a: m.append(m.since_mark()),
    "SETITEM": lambda m, a: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    "SETITEMS": lambda m, a: m.set_items(m.since_mark()),
    "ADDITEMS": lambda m, a: m.add(m.since_mark()),
    **dict.fromkeys(("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"), Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, a: m.stack.append(m.memo[a])),
    "POP": lambda m, a: m.stack.pop(),
    "POP_MARK": lambda m, a: m.since_mark(),
    "GLOBAL": Machine.push_global,
    "STACK_GLOBAL": lambda m, a: m.stack_global(),
    "REDUCE": lambda m, a: m.call(),
    "NEWOBJ": lambda m, a: m.create(),
    "BUILD": lambda m, a: m.restore(),
    "BINPERSID": lambda m, a: m.persistent(),
}
