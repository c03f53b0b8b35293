"""A lock on a file, so that two processes do not work in one folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from understudy.errors import UnderstudyError
from understudy.io.files import writing

_LOOKS = 20  # 10 ms each


@contextmanager
def held_lock(path: Path, where: str, problem: str, fix: str) -> Iterator[None]:
    """Holds an exclusive lock on a file; the kernel frees it when the process ends, however it ends.

    Args:
        path: of the file, which stays and says who holds the lock.
        where: this process is, for the message that another one gets.
        problem: that message, with `{holder}` in it.
        fix: what to do about it.

    Raises:
        UnderstudyError: another process holds it; no permission, disk full.
    """
    with writing(path.parent):
        handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
    with handle:
        try:
            _lock(handle)
        except BlockingIOError as error:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise UnderstudyError(problem.format(holder=holder), where=path.parent, fix=fix) from error
        with writing(path.parent):
            handle.truncate(0)
            handle.write(f"process {os.getpid()} {where}\n")
            handle.flush()
        yield


def _lock(handle: TextIO) -> None:
    """Takes the lock; one held for an instant only is somebody's look at it (`understudy status`), not work.

    Raises:
        BlockingIOError: another process holds it.
    """
    for _ in range(_LOOKS):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
