"""Pickles read without executing anything in them: a small stack machine, and the inert records that it makes.

`Machine` follows the operations that official checkpoints use, as `pickletools` splits them. A name in the file is
looked up in `NAMES` and never imported. Whatever else a file asks for is a `Refusal`, before anything has happened.
"""

# By hand, because neither `pickle.Unpickler` with an allow-listing `find_class` nor `torch.load(weights_only=True)` is
# as safe. `find_class` guards names only: BUILD still sets attributes of whatever a name gave, a memo index of 2^31
# reserves gigabytes, and in both a deeply nested tuple as the key of a dictionary overflows the interpreter's stack.

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from understudy.io.foreign import Budget


class Refusal(ValueError):
    """The file asks for something that no official checkpoint needs."""


def require(condition: object, otherwise: str) -> None:
    """Refuses the file, in these words, unless the condition holds."""
    if not condition:
        raise Refusal(otherwise)


_OPERATION = 64  # bytes that one may leave on the stack


def _cost(values: Any) -> int:
    # bytes that may be made of these values: of a text its length, of an entry of a container about 100
    texts = sum(len(value) for value in values if isinstance(value, str | bytes | bytearray))
    return texts + 100 * sum(len(value) for value in values if isinstance(value, list | tuple | dict | set))


# --- records: what a checkpoint holds once read; they check what the file claims, and cannot act ---
# A pickle calls a name to make an object, and may then give the object its state (`restore`).


@dataclass
class DType:
    """Element type of a NumPy array: numbers only, no objects, no fields, no metadata."""

    code: str  # e.g. "f4"
    order: str = "="  # of the bytes

    @classmethod
    def create(cls, code: Any = None, align: Any = False, copy: Any = False) -> DType:
        """`numpy.dtype(code, align, copy)`."""
        plain = isinstance(code, str) and re.fullmatch(r"b1|[iu][1248]|f[248]", code)
        require(plain, "a NumPy array of something else than numbers")
        return cls(code)

    def restore(self, state: Any) -> None:
        """Takes (version, byte order, subarray, names, fields, ...); of these only the order may be set."""
        plain = isinstance(state, tuple) and len(state) >= 5 and all(part is None for part in state[2:5])
        require(plain and isinstance(state[1], str), "a NumPy element type that is no plain number")
        self.order = {"<": "<", ">": ">", "|": "=", "=": "="}[state[1]]


@dataclass
class Array:
    """A NumPy array, empty until its values come."""

    value: NDArray[Any] | None = None

    @classmethod
    def create(cls, data: Any, dtype: Any, shape: Any, order: Any) -> Array:
        """`numpy.core.numeric._frombuffer(data, dtype, shape, order)`."""
        if isinstance(data, str):  # bytes that Python 2 pickled
            data = data.encode("latin1")
        if not isinstance(data, bytes | bytearray) or not isinstance(dtype, DType):
            raise Refusal("a NumPy array whose values are not numbers")
        kind = np.dtype(dtype.order + dtype.code)
        numbers = np.frombuffer(data, kind) if data else np.empty(0, kind)
        require(order in ("C", "F") and numbers.size == _count(shape), "a NumPy array of another shape")
        return cls(numbers.reshape(shape, order=order))

    def restore(self, state: Any) -> None:
        """Takes (version, shape, dtype, whether in Fortran's order, data)."""
        _, shape, dtype, fortran, data = state
        self.value = self.create(data, dtype, shape, "F" if fortran else "C").value

    def array(self) -> NDArray[Any]:
        """The values."""
        require(self.value is not None, "a NumPy array without values")
        return self.value  # type: ignore[return-value]


def _count(shape: Any) -> int:
    sizes = isinstance(shape, tuple) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
    require(sizes, "an array whose shape is no tuple of sizes")
    return math.prod(shape)


STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1",
}  # fmt: skip


@dataclass
class Storage:
    """The numbers behind a PyTorch tensor; bfloat16 is kept as the upper halves of float32."""

    code: str  # of `STORAGES`
    count: int  # of numbers
    data: bytes | None = None  # until the file's values are read

    @property
    def size(self) -> int:
        """Bytes of all numbers."""
        return self.count * (2 if self.code == "bf16" else np.dtype(self.code).itemsize)


@dataclass
class Tensor:
    """A PyTorch tensor: a strided view of a storage."""

    storage: Storage
    offset: int  # in numbers, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def create(cls, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
        """`torch._utils._rebuild_tensor_v2`; rest: requires_grad, hooks."""
        count, _ = _count(shape), _count(strides)
        if not isinstance(storage, Storage) or type(offset) is not int or len(shape) != len(strides):
            raise Refusal("a tensor of an unknown form")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else offset
        inside = offset >= 0 and count <= storage.count and last < max(storage.count, 1)
        require(inside, "a tensor that reaches beyond its values")
        return cls(storage, offset, shape, strides)

    def array(self) -> NDArray[Any]:
        """The values, as a view where that is possible."""
        storage, half = self.storage, self.storage.code == "bf16"
        if storage.data is None or len(storage.data) < storage.size:
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
        """Takes a dictionary."""
        require(isinstance(state, dict), "a network whose state is no dictionary")
        self.state = {k: v for k, v in state.items() if k != "build_module_src"}


@dataclass
class Module:
    """A PyTorch module of stylegan2-ada-pytorch or stylegan3: name of its class and its state, never its source."""

    class_name: str
    state: dict[Any, Any]

    @classmethod
    def create(cls, meta: Any) -> Module:
        """`torch_utils.persistence._reconstruct_persistent_obj(meta)`, which would execute the source."""
        require(isinstance(meta, dict) and meta.get("type") == "class", "a persistent object of an unknown form")
        name, state = meta.get("class_name"), meta.get("state")
        require(isinstance(name, str) and isinstance(state, dict), "a persistent object without class or state")
        return cls(name, state)


# --- the names that official checkpoints use, and what stands for each ---


def plain_key(value: Any) -> Any:
    """The value, if it is a plain key: hashing a deeply nested tuple overflows the stack of the interpreter."""
    require(isinstance(value, str | int | bytes), "a dictionary or set whose keys are neither texts nor numbers")
    return value


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    require(isinstance(text, str) and encoding in ("latin1", "latin-1"), "an encoding other than latin1")
    return text.encode("latin1")  # type: ignore[no-any-return]


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    require(isinstance(pairs, list | tuple), "a dictionary of an unknown form")
    return {plain_key(key): value for key, value in pairs}


def _set(items: Any = ()) -> set[Any]:
    require(isinstance(items, list | tuple), "a set of an unknown form")
    return set(map(plain_key, items))


def _no_bytes(*arguments: Any) -> bytes:
    require(not arguments, "bytes made by a call")  # `bytes(10**12)` would take a terabyte
    return b""


def _parameter(data: Any, *rest: Any) -> Any:
    require(isinstance(data, Tensor), "a parameter that is no tensor")
    return data


@dataclass(frozen=True)
class Name:
    """A name that a pickle may mention, and what stands for it where the pickle makes an object of it."""

    text: str  # such as "numpy dtype"
    operation: str = ""  # that may make an object: REDUCE (by a call), NEWOBJ (an empty one), or none
    make: Callable[..., Any] | None = None


NESTED = "torch.storage _load_from_bytes"  # a `torch.save` inside a pickle, which the machine's `inner` reads
_CORES = ("numpy.core", "numpy._core")
_CALLED: dict[str, Callable[..., Any] | None] = {
    NESTED: None,
    "numpy dtype": DType.create,
    "_codecs encode": _encode,
    "collections OrderedDict": _dictionary,
    **dict.fromkeys(("builtins set", "__builtin__ set"), _set),
    **dict.fromkeys(("builtins bytes", "__builtin__ bytes"), _no_bytes),
    **dict.fromkeys((f"{core}.multiarray _reconstruct" for core in _CORES), lambda *_: Array()),
    **dict.fromkeys((f"{core}.multiarray scalar" for core in _CORES), lambda d, data: Array.create(data, d, (), "C")),
    **dict.fromkeys((f"{core}.numeric _frombuffer" for core in _CORES), Array.create),
    "torch_utils.persistence _reconstruct_persistent_obj": Module.create,
    "torch._utils _rebuild_tensor_v2": Tensor.create,
    "torch._utils _rebuild_parameter": _parameter,
    "torch Size": lambda items=(): tuple(items),
}
_CREATED: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("dnnlib.util EasyDict", "dnnlib EasyDict", "config EasyDict"), dict),
    **dict.fromkeys(("tfutil Network", "dnnlib.tflib.network Network"), Network),
}
NAMES = {text: Name(text) for text in ("numpy ndarray", *(f"torch {storage}" for storage in STORAGES))}
NAMES |= {text: Name(text, "REDUCE", make) for text, make in _CALLED.items()}
NAMES |= {text: Name(text, "NEWOBJ", make) for text, make in _CREATED.items()}


def _named(text: str) -> Name:
    require(text in NAMES, f"the name {'.'.join(text.split(' '))!r}"[:200])
    return NAMES[text]


# --- the machine ---

# operations whose argument is the value, and those that stand for a value
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip


def _paired(items: list[Any]) -> dict[Any, Any]:
    return {plain_key(items[i]): items[i + 1] for i in range(0, len(items), 2)}


@dataclass
class Machine:
    """Reads one pickle from a binary stream, which is left behind its end."""

    stream: IO[bytes]
    budget: Budget  # of the whole file
    storage: Callable[[Any], Storage] | None = None  # of a persistent id; None: the pickle may have none
    inner: Callable[[Any], Any] | None = None  # reads the bytes of a `torch.save`; None: there may be none inside
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)  # the stacks below each open mark
    memo: dict[int, Any] = field(default_factory=dict)  # no list: an index of 2^31 costs nothing

    def run(self) -> Any:
        """The object of the pickle: numbers, texts, containers and records.

        Raises:
            Refusal: a name or an operation that is not on the list. Damaged files raise exceptions of many kinds.
        """
        for operation, argument, _ in pickletools.genops(self.stream):
            self.budget.spend(_OPERATION, items=1)
            if operation.name == "STOP":
                return self.stack.pop()
            if operation.name in _VALUES:
                self.stack.append(argument)
            elif operation.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[operation.name]())
            else:
                self._follow(operation.name, argument)
        raise EOFError("no end of the pickle")

    def _follow(self, operation: str, argument: Any) -> None:
        stack = self.stack
        match operation:
            case "PROTO" | "FRAME":
                pass
            # marks, and containers of what lies above them
            case "MARK":
                self.marks.append(stack)
                self.stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "TUPLE" | "LIST" | "DICT":
                kind: Any = {"TUPLE": tuple, "LIST": list, "DICT": _paired}[operation]
                items = self._since_mark()
                self.stack.append(kind(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(operation[-1]))]
                stack.append(tuple(reversed(items)))
            # items for the container below them
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if operation == "APPEND" else self._since_mark()
                self._container(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(), stack.pop()][::-1] if operation == "SETITEM" else self._since_mark()
                self._container(dict).update(_paired(items))
            case "ADDITEMS":
                items = self._since_mark()
                self._container(set).update(map(plain_key, items))
            # the memo
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[len(self.memo) if argument is None else argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            # names, and objects made of them
            case "GLOBAL":
                stack.append(_named(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                require(isinstance(name, str) and isinstance(module, str), "a name that is no text")
                stack.append(_named(f"{module} {name}"))
            case "REDUCE" | "NEWOBJ":
                arguments, name = stack.pop(), stack.pop()
                stack.append(self._made(operation, name, arguments))
            case "BUILD":
                self._restore(stack.pop(), stack[-1])
            case "BINPERSID" if self.storage is not None:
                stack.append(self.storage(stack.pop()))
            case _:
                raise Refusal(f"the operation {operation}")

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _container(self, kind: type) -> Any:
        require(type(self.stack[-1]) is kind, f"items for something that is no {kind.__name__}")
        return self.stack[-1]

    def _made(self, operation: str, name: Any, arguments: Any) -> Any:
        known = isinstance(name, Name) and name.operation == operation and isinstance(arguments, tuple)
        make = (self.inner if name.text == NESTED else name.make) if known else None
        if make is None or (operation == "NEWOBJ" and arguments):
            raise Refusal(f"an object of {name.text if isinstance(name, Name) else 'something unnamed'}")
        self.budget.spend(_cost(arguments))
        return make(*arguments)

    def _restore(self, state: Any, target: Any) -> None:
        if type(target) is dict and isinstance(state, dict) and state.keys() == {"_metadata"}:
            return  # `state_dict()` carries the versions of its modules as an attribute
        require(isinstance(target, DType | Array | Network), "the state of an object that has none")
        self.budget.spend(_cost(state if isinstance(state, tuple) else [state]))  # as decoding may copy it
        target.restore(state)
