"""Less at once where memory ran out: smaller parts of a batch, and a record of which were made.

    with thrift(job_folder / "memory.json") as record:   # the runner
        ...
    at_once = in_parts(work, len(rows), "prediction")     # a room, around what it computes at once

A room that runs out of memory goes on in parts half as large, and begins with these the next time. A job that failed
for want of memory all the same is begun with everything halved when it is tried again.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_json

log = logging.getLogger(__name__)

MOST_HALVINGS = 10
FIX = "use a smaller model or resolution, fewer workers, or a device with more memory"
_WORDS = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")

T = TypeVar("T")


class OutOfMemory(UnderstudyError, MemoryError):
    """Memory runs out with the smallest parts as well."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device; PyTorch need not be imported to know."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def release_memory() -> None:
    """Gives memory that is no longer used back to the system, which the C library keeps for itself otherwise.

    After a few blocks of slices have come and gone, glibc keeps up to 64 MB of freed memory a thread, and more where
    something small that lives on lies above it.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL("libc.so.6").malloc_trim(0)


class Thrift:
    """In how many parts each thing is computed in this process, and what has been said about it.

    Attributes:
        halvings: of everything from the start, as an earlier try ran out of memory.
        record: what -> how it was cut; for `done.json`.
    """

    def __init__(self, path: Path | None = None, halvings: int = 0) -> None:
        self.halvings, self.record = halvings, dict[str, str]()
        self._path, self._parts = path, dict[str, int]()

    @property
    def least(self) -> int:
        """The least number of parts for anything; 1 if no earlier try ran out of memory."""
        return int(2**self.halvings)

    def parts(self, what: str) -> int:
        """The least number of parts for something, by what was found out in this try too."""
        return max(self.least, self.cut_into(what))

    def cut_into(self, what: str) -> int:
        """The parts of something that have been taken note of."""
        return self._parts.get(what, 1)

    def cut(self, what: str, at_once: int, whole: int, effect: str) -> None:
        """Takes note, on disk too, that something is computed in smaller parts from now on.

        Args:
            what: e.g. "prediction".
            at_once, whole: rows in a part, and in a batch.
            effect: on the results, e.g. "the same up to rounding".
        """
        self._parts[what] = max(self._parts.get(what, 1), -(-whole // at_once))
        self.note(what, f"{at_once} of {whole} at once: {effect}")

    def note(self, what: str, text: str) -> None:
        """Adds to the record how something is computed, and what this does to the results."""
        log.warning("memory ran out in %s: going on with %s", what, text)
        self.record[what] = text
        self.save()

    def save(self) -> None:
        """Writes halvings and record; where the disk is full as well, only the account of it is lost."""
        if self._path is not None:
            with contextlib.suppress(UnderstudyError, OSError):
                write_json(self._path, {"halvings": self.halvings, "record": self.record})


_current = Thrift()


def current() -> Thrift:
    """What holds for the job that runs in this process."""
    return _current


@contextlib.contextmanager
def thrift(path: Path, more: bool = False) -> Iterator[Thrift]:
    """Inside the block rooms keep to what the file says of earlier tries, and add to it.

    Args:
        path: of the file, which need not be there.
        more: halve everything once more: the try before ran out of memory.
    """
    global _current
    before, _current = _current, _read(path)
    if more:
        _current.halvings = min(MOST_HALVINGS, _current.halvings + 1)
        _current.save()
    try:
        yield _current
    finally:
        _current = before


def _read(path: Path) -> Thrift:
    found = Thrift(path)
    with contextlib.suppress(UnderstudyError, TypeError, ValueError, AttributeError):  # absent, or cut off
        content = read_json(path)
        found.halvings = int(content["halvings"])
        found.record = {str(k): str(v) for k, v in content["record"].items()}
    return found


def in_parts(work: Callable[[slice], T], count: int, what: str, effect: str = "the same up to rounding") -> list[T]:
    """`work(rows)` of consecutive parts of `count` rows, in order; anew in smaller parts where memory runs out.

    Args:
        work: computes some rows; may be called again for the same ones.
        count: of rows, at least one.
        what: is computed, for the record.
        effect: of smaller parts on the result.

    Raises:
        OutOfMemory: memory runs out with a single row as well.

    Example:
        >>> in_parts(lambda rows: sum(range(10)[rows]), 10, "a sum")
        [45]
    """
    parts = min(count, current().parts(what))
    while True:
        size = -(-count // parts)
        if parts > current().cut_into(what):
            current().cut(what, size, count, effect)
        try:
            return [work(slice(start, min(count, start + size))) for start in range(0, count, size)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemory(f"memory runs out in {what}, and it cannot be parted further", fix=FIX) from error
        release_memory()  # not while the exception is handled: it keeps what fills the memory
        parts = min(count, 2 * parts)
