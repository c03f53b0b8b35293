"""What a checkpoint holds once read: arrays, and networks as the dictionaries of their state. Nothing here can act.

The records check what a file claims: element types are plain numbers, and no array reaches beyond its bytes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORDERS = {"<": "<", ">": ">", "|": "=", "=": "="}


class Refusal(ValueError):
    """The file asks for something that no official checkpoint needs."""


@dataclass
class DType:
    """Element type of a NumPy array: numbers only, no objects, no fields, no metadata."""

    code: str
    order: str = "="

    @classmethod
    def create(cls, code: Any = None, align: Any = False, copy: Any = False) -> DType:
        """As `numpy.dtype(code, align, copy)` of a pickle."""
        if not (isinstance(code, str) and re.fullmatch(r"b1|[iu][1248]|f[248]", code)):
            what = "Python objects" if str(code)[:1] == "O" else "something else than numbers"
            raise Refusal(f"a NumPy array of {what}")
        return cls(code)

    def restore(self, state: Any) -> None:
        """Takes the state (version, byte order, subarray, names, fields, size, alignment, flags) of a pickle."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise Refusal("a NumPy element type that is no plain number")
        self.order = _ORDERS[state[1]]

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass
class Array:
    """A NumPy array."""

    value: NDArray[Any] | None = None

    @classmethod
    def create(cls, *arguments: Any) -> Array:
        """As NumPy's `_reconstruct`: empty until its state comes."""
        return cls()

    @classmethod
    def scalar(cls, dtype: Any, data: Any) -> Array:
        """As NumPy's `scalar(dtype, bytes)`."""
        return cls(_view(data, dtype, (), "C"))

    @classmethod
    def buffer(cls, data: Any, dtype: Any, shape: Any, order: Any) -> Array:
        """As NumPy's `_frombuffer(bytes, dtype, shape, order)`."""
        return cls(_view(data, dtype, shape, order))

    def restore(self, state: Any) -> None:
        """Takes the state (version, shape, dtype, Fortran order, bytes) of a pickle."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refusal("a NumPy array of an unknown form")
        _, shape, dtype, fortran, data = state
        self.value = _view(data, dtype, shape, "F" if fortran else "C")

    def array(self) -> NDArray[Any]:
        """The values."""
        if self.value is None:
            raise Refusal("a NumPy array without values")
        return self.value


def _view(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if isinstance(data, str):  # bytes that Python 2 pickled
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, DType):
        raise Refusal("a NumPy array whose values are not numbers")
    numbers = np.frombuffer(data, dtype.numpy) if data else np.empty(0, dtype.numpy)
    if order not in ("C", "F") or numbers.size != _count(shape):
        raise Refusal("a NumPy array whose shape does not fit its values")
    return numbers.reshape(shape, order=order)


def _count(shape: Any) -> int:
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise Refusal("an array whose shape is no tuple of sizes")
    return math.prod(shape)


@dataclass
class Storage:
    """The numbers behind a PyTorch tensor; bfloat16 is kept as the upper halves of float32."""

    code: str
    count: int
    data: bytes | None = None

    @property
    def itemsize(self) -> int:
        return 2 if self.code == "bf16" else np.dtype(self.code).itemsize

    def array(self) -> NDArray[Any]:
        """The numbers, one-dimensional."""
        if self.data is None or len(self.data) < self.count * self.itemsize:
            raise Refusal("a tensor without its values")
        code = "<u2" if self.code == "bf16" else "<" + self.code
        return np.frombuffer(self.data, code, self.count)


@dataclass
class Tensor:
    """A PyTorch tensor: a strided view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def create(cls, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
        """As PyTorch's `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""
        count, _ = _count(shape), _count(strides)
        if not isinstance(storage, Storage) or type(offset) is not int or len(shape) != len(strides):
            raise Refusal("a tensor of an unknown form")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else offset
        if offset < 0 or count > storage.count or last >= max(storage.count, 1):
            raise Refusal("a tensor that reaches beyond its values")
        return cls(storage, offset, shape, strides)

    @classmethod
    def parameter(cls, data: Any, *rest: Any) -> Tensor:
        """As PyTorch's `_rebuild_parameter(tensor, requires_grad, hooks)`."""
        if not isinstance(data, Tensor):
            raise Refusal("a parameter that is no tensor")
        return data

    def array(self) -> NDArray[Any]:
        """The values, as a view where that is possible."""
        numbers = self.storage.array()
        steps = [s * numbers.itemsize for s in self.strides]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps, writeable=False)
        if self.storage.code == "bf16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view


@dataclass
class Network:
    """A TensorFlow network of progressive_growing_of_gans, stylegan or stylegan2: its state, never its source."""

    state: Any = None

    @classmethod
    def create(cls) -> Network:
        return cls()

    def restore(self, state: Any) -> None:
        """Takes the state of a pickle."""
        if not isinstance(state, dict):
            raise Refusal("a network whose state is no dictionary")
        self.state = {k: v for k, v in state.items() if k != "build_module_src"}


@dataclass
class Module:
    """A PyTorch module of stylegan2-ada-pytorch or stylegan3: name of its class and its state, never its source."""

    class_name: str
    state: dict[Any, Any]

    @classmethod
    def create(cls, meta: Any) -> Module:
        """As `torch_utils.persistence._reconstruct_persistent_obj(meta)`."""
        if not isinstance(meta, dict) or meta.get("type") != "class":
            raise Refusal("a persistent object of an unknown form")
        name, state = meta.get("class_name"), meta.get("state")
        if not isinstance(name, str) or not isinstance(state, dict):
            raise Refusal("a persistent object without class or state")
        return cls(name, state)
