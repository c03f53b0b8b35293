"""Why a job failed, in a few classes that are answered in different ways."""

from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path
from typing import Literal

from understudy.errors import UnderstudyError

FailureClass = Literal["out_of_memory", "time_limit", "nan", "bad_data", "disk", "error"]

RETRIES: dict[str, int] = {"out_of_memory": 1, "time_limit": 100}
"""How often a job is tried again in one run. Memory: alone on the machine. Time: it continues from its checkpoint.
What is not here would fail in the same way again."""

LOST_RETRIES = 1  # of a job whose process was killed: it continues from its checkpoint

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_DISK_WORDS = (
    "the disk is full",
    "the disk quota is used up",
    "the file system is read-only",
    "the file is larger than a limit",
    "the checkpoint could not be written",
)
_READING = ("phantom", "prepare")  # stages that fail, if at all, on what they are given


class LostWorker(Exception):
    """The process that ran a job ended without a word: killed, or crashed inside a library."""


class OutOfMemory(LostWorker):
    """The process that ran a job was killed while the system was short of memory."""


def failure_class(error: BaseException, stage: str = "") -> FailureClass:
    """The class of an error, from its type and those that it came from."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            return "disk"
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return "out_of_memory"
        if isinstance(seen, MemoryError | OutOfMemory) or _is_cuda_memory(seen):
            return "out_of_memory"
        if isinstance(seen, FloatingPointError):
            return "nan"
        if isinstance(seen, TimeoutError | multiprocessing.TimeoutError):
            return "time_limit"
        if isinstance(seen, UnderstudyError) and seen.what.startswith(_DISK_WORDS):
            return "disk"
        seen = seen.__cause__
    return "bad_data" if isinstance(error, UnderstudyError) and stage in _READING else "error"


def _is_cuda_memory(error: BaseException) -> bool:
    """Whether it is PyTorch's error, by name: PyTorch need not be imported to know."""
    name = type(error).__name__
    return name == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
