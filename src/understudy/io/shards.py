"""Whole shards of a Zarr v3 array: readable by zarr, which takes 0.7 ms more a chunk written and 20 ms an item read.

A shard is its compressed chunks, then a table of their offsets with a CRC-32C ("sharding_indexed" of Zarr v3).
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

_LEVEL = 1  # as small as the default level on MR slices, in two thirds of the time
_ENCODER = Zstd(level=_LEVEL, checksum=True)  # of 4 bytes a chunk, which every decoder of Zstandard looks at
_ABSENT = 2**64 - 1  # offset and length of a chunk that is not stored: all zeros


def create_sharded(group: Any, name: str, item: tuple[int, ...], capacity: int) -> Any:
    """A new, empty uint8 array [0, *item] in a Zarr group: one chunk an item, `capacity` items a shard."""
    from zarr.codecs import ZstdCodec

    shapes: dict[str, Any] = {"shape": (0, *item), "chunks": (1, *item), "shards": (capacity, *item)}
    return group.create_array(name, dtype="uint8", compressors=ZstdCodec(level=_LEVEL, checksum=True), **shapes)


def encode_chunk(item: NDArray[np.uint8]) -> bytes | None:
    """The compressed chunk of an item; None if it is all zeros. Leaves the interpreter free for other threads."""
    return bytes(_ENCODER.encode(np.ascontiguousarray(item))) if item.any() else None


def write_shard(array: Path, number: int, chunks: Sequence[bytes | None], capacity: int, item_axes: int) -> None:
    """Writes shard `number` of the array in the folder `array`; one that is there is replaced.

    Args:
        chunks: of `encode_chunk`, at most `capacity`, from item `number * capacity` on; items without one are zeros.
        item_axes: number of axes of an item.
    """
    path = array.joinpath("c", str(number), *["0"] * item_axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.full((capacity, 2), _ABSENT, "<u8")
    with open(path, "wb") as handle:
        for i, chunk in enumerate(chunks):
            if chunk is not None:
                table[i] = handle.tell(), len(chunk)
                handle.write(chunk)
        index = table.tobytes()
        handle.write(index + crc32c(index).to_bytes(4, "little"))


class ShardReader:
    """Random access to the items of an array that zarr opened; ValueError if it is not as `create_sharded` makes it.

    `check`: called with the name of a shard below `folder` before it is read for the first time.
    """

    def __init__(self, array: Any, folder: Path, check: Callable[[str], None] | None = None) -> None:
        self._item: tuple[int, ...] = tuple(array.shape[1:])
        compressors = [type(c).__name__ for c in array.compressors]
        if array.shards is None or array.chunks != (1, *self._item) or compressors != ["ZstdCodec"]:
            raise ValueError("not one Zstandard chunk an item, in shards")
        self._capacity, self._folder, self._check = int(array.shards[0]), folder, check
        self._checked: set[int] = set()
        self._tables: OrderedDict[int, NDArray[np.uint64]] = OrderedDict()
        self._decoder, self._lock = Zstd(), Lock()

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [n, *item], in the order given; 0 <= rows < length of the array. Raises ValueError for damage."""
        out = np.zeros((len(rows), *self._item), np.uint8)
        shards = rows // self._capacity
        for number in np.unique(shards):
            name = "/".join(["c", str(number), *["0"] * len(self._item)])
            if self._check and number not in self._checked:
                self._check(name)
                self._checked.add(int(number))
            if not (self._folder / name).is_file():  # `write_shard` stores a shard of zeros, too
                raise ValueError(f"shard {number} is missing")
            with open(self._folder / name, "rb") as handle:
                table = self._table(int(number), handle)
                for i in np.flatnonzero(shards == number):
                    self._decode(handle, table[rows[i] % self._capacity], out[i])
        return out

    def _table(self, number: int, handle: BinaryIO) -> NDArray[np.uint64]:
        """[capacity, 2]: offset and length of each chunk of a shard."""
        with self._lock:
            if number not in self._tables:
                handle.seek(-(16 * self._capacity + 4), os.SEEK_END)
                index = handle.read()
                if crc32c(index[:-4]) != int.from_bytes(index[-4:], "little"):
                    raise ValueError(f"damaged table in shard {number}")
                self._tables[number] = np.frombuffer(index[:-4], "<u8").reshape(self._capacity, 2)
                if len(self._tables) > 1024:  # 4 KB each: memory does not grow with the array
                    self._tables.popitem(last=False)
            return self._tables[number]

    def _decode(self, handle: BinaryIO, place: NDArray[np.uint64], out: NDArray[np.uint8]) -> None:
        start, length = int(place[0]), int(place[1])
        if start == _ABSENT:
            return
        handle.seek(start)
        try:
            self._decoder.decode(handle.read(length), out=out)
        except (RuntimeError, ValueError) as error:  # not Zstandard, or of another size
            raise ValueError(f"damaged chunk at byte {start} of {handle.name}: {error}") from error


def crc32c(data: bytes) -> int:
    """CRC-32C of a few kilobytes (RFC 3720, appendix B.4): 0xE3069283 for b"123456789"."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC_TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


_CRC_TABLE = list(range(256))
for _ in range(8):  # the polynomial of CRC-32C (Castagnoli), bits reversed
    _CRC_TABLE = [value >> 1 ^ 0x82F63B78 * (value & 1) for value in _CRC_TABLE]
