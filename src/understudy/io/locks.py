"""A lock on a file, so that two processes do not work in one folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.io.files import writing

# The kernel's flock and not filelock: the file names its holder and is also looked at with a shared lock
# (`is_locked`); filelock's older versions empty the file when they open it, its newer ones delete it.


@contextmanager
def held_lock(path: Path, where: str, problem: str, fix: str) -> Iterator[None]:
    """Holds an exclusive lock on a file; the kernel frees it when the process ends, however it ends.

    Args:
        where: this process runs, for the message that another one gets.
        problem, fix: that message; `{holder}` in it is replaced.

    Raises:
        UnderstudyError: another process holds it; no permission, disk full.
    """
    with writing(path.parent):
        handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
    with handle:
        for last in [False] * 20 + [True]:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if last:
                    handle.seek(0)
                    holder = handle.read().strip() or "unknown"
                    raise UnderstudyError(problem.format(holder=holder), where=path.parent, fix=fix) from error
                time.sleep(0.01)  # held for an instant, it is a look at the lock (`understudy status`), not work
        with writing(path.parent):
            handle.truncate(0)
            handle.write(f"process {os.getpid()} {where}\n")
            handle.flush()
        yield
