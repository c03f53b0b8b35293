"""Why a job failed: a few classes that are answered in different ways, and what is recorded and told."""

import contextlib
import errno
import multiprocessing
import os
import signal
import traceback
from pathlib import Path
from typing import Literal

from understudy.errors import Interrupted, UnderstudyError, debugging, report, unexpected
from understudy.io.files import explain_os_error, write_json, write_text
from understudy.runtime.memory import FIX, is_out_of_memory
from understudy.study.engine.jobs import Job, read_failed

FailureClass = Literal["out_of_memory", "time_limit", "nan", "bad_data", "disk", "error"]

STUCK = 240.0  # seconds past its limit, for a checkpoint, after which a job's process is killed
ERROR_LOG = "error.log"  # in a job's folder: the traceback of an unforeseen error

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_DISK_WORDS = (
    "the disk is full", "the disk quota is used up", "the file system is read-only", "the file exceeds a limit",
    "the checkpoint could not be written",
)  # fmt: skip


class TimeLimit(UnderstudyError, TimeoutError):
    """A job took longer than it may."""

    def __init__(self, minutes: float) -> None:
        fix = "run the same command again: it continues from the checkpoint; or raise --job-minutes"
        super().__init__(f"the job took longer than the {minutes:g} minutes that one may take", fix=fix)


class LostWorker(Exception):
    """The process that ran a job was killed, or crashed inside a library."""


class Killed(LostWorker):
    """The process that ran a job was killed while the system was short of memory."""


_FORESEEN = (UnderstudyError, FloatingPointError, LostWorker)


def failure_class(error: BaseException, stage: str = "") -> FailureClass:
    """The class of an error, from its type and those that it came from."""
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        if number in _DISK or (isinstance(seen, UnderstudyError) and seen.what.startswith(_DISK_WORDS)):
            return "disk"
        if number == errno.ENOMEM or isinstance(seen, Killed) or is_out_of_memory(seen):
            return "out_of_memory"
        if isinstance(seen, FloatingPointError):
            return "nan"
        if isinstance(seen, TimeoutError | multiprocessing.TimeoutError):
            return "time_limit"
        seen = seen.__cause__
    # these stages fail, if at all, on what they are given
    return "bad_data" if isinstance(error, UnderstudyError) and stage in ("phantom", "prepare") else "error"


def lost_process(status: int, out_of_memory: bool) -> LostWorker:
    """The error for a job's process that ended with an exit status (negative: by a signal) and no record."""
    ended = signal.Signals(-status).name if status < 0 else f"status {status}"
    text = f"the job's process ended unexpectedly ({ended})"
    return Killed(f"{text}: the system was out of memory") if out_of_memory else LostWorker(text)


def disk_error(error: BaseException, folder: Path) -> UnderstudyError | None:
    """The message for a disk that is full or closed; None for other errors."""
    if isinstance(error, UnderstudyError | Interrupted):
        return None
    if isinstance(error, OSError) and error.errno:
        # what lies in the job's folder was written, its inputs in others were read
        return explain_os_error(error, folder / "done.json", writing=True)
    for number in _DISK:  # libraries have their own errors: that of safetensors, for one, ends with the system's text
        if os.strerror(number) in str(error):
            return explain_os_error(OSError(number, os.strerror(number)), folder, writing=True)
    return None


def next_attempt(folder: Path) -> int:
    """Which try at a job comes next, from 1; ask before it begins, which deletes the last failure's record."""
    return int(read_failed(folder).get("attempts", 0)) + 1


def record_failure(folder: Path, job: Job, error: Exception, attempts: int = 1) -> None:
    """Writes `failed.json`; where even that cannot be written, the error itself is what the user must see."""
    if isinstance(error, Interrupted):
        return
    foreseen = isinstance(error, _FORESEEN)
    record = {
        "id": job.id, "name": job.name, "type": type(error).__name__, "class": failure_class(error, job.stage),
        "attempts": attempts, "message": str(error), "traceback": "" if foreseen else traceback.format_exc(),
    }  # fmt: skip
    with contextlib.suppress(UnderstudyError, OSError):
        write_json(folder / "failed.json", record)
        if not foreseen:
            write_text(folder / ERROR_LOG, report(error))
    if debugging():
        traceback.print_exception(error)


def failure_message(error: Exception, folder: Path) -> str:
    """What the user is told of a job's failure; the traceback of an unforeseen one is in the job's log."""
    if isinstance(error, _FORESEEN):
        return str(error)
    if is_out_of_memory(error):
        why = f" ({str(error).splitlines()[0]})" if str(error) else ""
        return UnderstudyError(f"memory ran out{why}", fix=FIX).message
    return unexpected(error, log if (log := folder / ERROR_LOG).is_file() else None).message


def oom_kills() -> int:
    """Processes that the kernel has killed for lack of memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0
