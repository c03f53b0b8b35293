"""Work within the memory that there is: on OOM in smaller parts, and `memory.json` records which.

A job that ran out of memory all the same begins with everything halved when it is tried again (`oom_fallback`).
"""

import contextlib
import ctypes
import gc
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_json

log = logging.getLogger(__name__)

FIX = "use a smaller model or resolution, fewer workers, or a device with more memory"
_WORDS = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")

S = TypeVar("S")
T = TypeVar("T")


class OutOfMemory(UnderstudyError, MemoryError):
    """Memory runs out with the smallest parts as well."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device; PyTorch need not be imported to know."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def physical_memory() -> int:
    """Of this machine, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def release_memory() -> None:
    """Gives unused memory back to the system: glibc keeps up to 64 MB of freed memory a thread otherwise."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL("libc.so.6").malloc_trim(0)


class OomFallback:
    """How finely the work of this process is divided."""

    def __init__(self, path: Path | None = None) -> None:
        self.halvings = 0  # of everything from the start, as an earlier try ran out of memory
        self.record = dict[str, str]()  # what -> how it was divided; for `done.json`
        self._path, self._parts = path, dict[str, int]()
        if path is not None:
            with contextlib.suppress(UnderstudyError, TypeError, ValueError, AttributeError):  # absent, or cut off
                content = read_json(path)
                self.halvings = int(content["halvings"])
                self.record = {str(k): str(v) for k, v in content["record"].items()}

    @property
    def least_parts(self) -> int:
        """The least number of parts for anything; 1 if no earlier try ran out of memory."""
        return int(2**self.halvings)

    def divide(self, what: str, size: int, whole: int, effect: str) -> None:
        """Records that `what` is computed in parts of `size` of `whole` rows, and the effect on the results."""
        self._parts[what] = max(self.divided(what), -(-whole // size))
        self.note(what, f"{size} of {whole} at once: {effect}")

    def divided(self, what: str) -> int:
        """The parts that `divide` recorded; 1 before."""
        return self._parts.get(what, 1)

    def note(self, what: str, text: str) -> None:
        """Records how something is computed, and what this does to the results."""
        log.warning("memory ran out in %s: going on with %s", what, text)
        self.record[what] = text
        self.save()

    def save(self) -> None:
        """Writes halvings and record; on a full disk only this record is lost."""
        if self._path is not None:
            with contextlib.suppress(UnderstudyError, OSError):
                write_json(self._path, {"halvings": self.halvings, "record": self.record})


_current = OomFallback()


def current() -> OomFallback:
    """What holds for the job that runs in this process."""
    return _current


@contextlib.contextmanager
def oom_fallback(path: Path, more: bool = False) -> Iterator[OomFallback]:
    """Inside the block work is divided as the file says of earlier tries, with `more` twice as finely."""
    global _current
    before, _current = _current, OomFallback(path)
    if more:
        _current.halvings = min(10, _current.halvings + 1)
        _current.save()
    try:
        yield _current
    finally:
        _current = before


def in_parts(work: Callable[[slice], T], count: int, what: str, effect: str = "the same up to rounding") -> list[T]:
    """`work(rows)` of consecutive parts of `count` >= 1 rows, in order; again in smaller parts where memory runs out.

    Args:
        work: computes some rows; may be called again for the same ones.
        what, effect: what is computed, and the effect of smaller parts on it, for the record.

    Example:
        >>> in_parts(lambda rows: sum(range(10)[rows]), 10, "a sum")
        [45]
    """
    parts = min(count, max(current().least_parts, current().divided(what)))
    while True:
        size = -(-count // parts)
        if parts > current().divided(what):
            current().divide(what, size, count, effect)
        try:
            return [work(slice(start, min(count, start + size))) for start in range(0, count, size)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemory(f"memory runs out in {what} with a single row", fix=FIX) from error
        release_memory()  # not while the exception is handled: it keeps what fills the memory
        parts = min(count, 2 * parts)


def in_order(function: Callable[[S], T], items: Sequence[S], workers: int) -> Iterator[T]:
    """Maps `function` over `items` on threads, in order, with at most `workers` + 1 results in memory."""
    if workers <= 1 or len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[T]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
