"""Why a job failed, in a few classes that are answered in different ways."""

from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path
from typing import Literal

from understudy.errors import UnderstudyError
from understudy.runtime.memory import is_out_of_memory

FailureClass = Literal["out_of_memory", "time_limit", "nan", "bad_data", "disk", "error"]

RETRIES: dict[str, int] = {"out_of_memory": 2, "time_limit": 1}
"""How often a job is tried again in one run. Memory: alone on the machine, with half as much computed at once. Time: it
continues from its checkpoint. What is not here would fail in the same way again."""

AGAIN = {
    "out_of_memory": "it is tried again with half as much at once",
    "time_limit": "it continues from its checkpoint",
}
STUCK = 240.0  # seconds past its limit, for a checkpoint, after which a job's process is killed
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


class TimeLimit(UnderstudyError, TimeoutError):
    """A job took longer than it may."""

    def __init__(self, minutes: float) -> None:
        super().__init__(
            f"the job took longer than the {minutes:g} minutes that one may take",
            fix="run the same command again: it continues from the checkpoint; or raise --job-minutes",
        )


class LostWorker(Exception):
    """The process that ran a job ended without a word: killed, or crashed inside a library."""


class Killed(LostWorker):
    """The process that ran a job was killed while the system was short of memory."""


def failure_class(error: BaseException, stage: str = "") -> FailureClass:
    """The class of an error, from its type and those that it came from."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            return "disk"
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return "out_of_memory"
        if isinstance(seen, Killed) or is_out_of_memory(seen):
            return "out_of_memory"
        if isinstance(seen, FloatingPointError):
            return "nan"
        if isinstance(seen, TimeoutError | multiprocessing.TimeoutError):
            return "time_limit"
        if isinstance(seen, UnderstudyError) and seen.what.startswith(_DISK_WORDS):
            return "disk"
        seen = seen.__cause__
    return "bad_data" if isinstance(error, UnderstudyError) and stage in _READING else "error"


def oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
