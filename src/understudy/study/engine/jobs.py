"""One job: a folder, a lock, a heartbeat, and `done.json` written last.

A job's folder is `OUT/jobs/<stage>-<first 12 digits of its id>/` and holds `spec.json`, whatever the stage writes,
`heartbeat.json` while it runs and, last and atomically, `done.json`. Running a job that is done does nothing;
running one that was interrupted, killed or has failed continues from what is there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import platform
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from understudy.errors import Interrupted, TimeOver, UnderstudyError
from understudy.io.files import explain_os_error, read_json, sha256_json, write_json, write_text, writing
from understudy.io.locks import held_lock
from understudy.runtime.checkpoints import STOPPING, time_limit
from understudy.runtime.memory import FIX, is_out_of_memory, release_memory, thrift
from understudy.runtime.unexpected import debugging, report, unexpected
from understudy.study.engine.account import Heartbeat, software, torch_threads
from understudy.study.engine.failures import LostWorker, TimeLimit, failure_class

ERROR_LOG = "error.log"  # in a job's folder: the traceback of an error that nobody foresaw
_FORESEEN = (UnderstudyError, FloatingPointError, LostWorker)  # numbers that ran away, a process that was killed

State = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True)
class Job:
    """A unit of work whose identity is what it does to what.

    Attributes:
        stage: key of the stage's function, e.g. "generator".
        name: for people, e.g. "segmenter real.unet.aug, repeat 2".
        spec: plain JSON values that the result depends on.
        inputs: (role, job id) of the jobs whose results it reads.
        version: of the stage's code; raised whenever the same spec would give another result.
        local: what this machine must know and the result does not depend on (paths, workers).
        seconds, disk_bytes: estimates.
    """

    stage: str
    name: str
    spec: dict[str, Any]
    inputs: tuple[tuple[str, str], ...] = ()
    version: int = 1
    local: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    disk_bytes: float = 0.0

    @functools.cached_property
    def id(self) -> str:
        """SHA-256 (hex) of stage, code version, spec and inputs."""
        return sha256_json(
            {
                "stage": self.stage,
                "version": self.version,
                "spec": self.spec,
                "inputs": [list(entry) for entry in self.inputs],
            }
        )

    @property
    def folder_name(self) -> str:
        """Name of its folder below `OUT/jobs`."""
        return folder_name(self.stage, self.id)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Job(**value)` without "id" gives the job back."""
        return {"id": self.id, **asdict(self)}


@dataclass(frozen=True)
class Context:
    """What a stage's function is given.

    Attributes:
        folder: of the job; everything it writes goes here.
        spec, local: as in `Job`.
        inputs: role -> folders of the finished jobs in that role.
        device: "auto", "cpu", "cuda", ...
        progress: show progress bars.
        devices, nodes: devices on each of so many machines, for stages that are data parallel.
    """

    folder: Path
    spec: dict[str, Any]
    local: dict[str, Any]
    inputs: dict[str, list[Path]]
    device: str = "auto"
    progress: bool = True
    devices: int = 1
    nodes: int = 1

    def input(self, role: str) -> Path:
        """The folder of the one job in a role."""
        (folder,) = self.inputs[role]
        return folder


StageFunction = Callable[[Context], dict[str, Any]]
"""Does the work in `context.folder` and returns plain JSON results: the job's summary, free of paths and hosts."""


def plain_name(name: str) -> str:
    """A job's name without that of its cohort, which stands before it in a study with several.

    Example:
        >>> plain_name("brats2020: generator stylegan2")
        'generator stylegan2'
    """
    return name.split(": ", 1)[-1]


def folder_name(stage: str, job_id: str) -> str:
    """Name of a job's folder below `OUT/jobs`."""
    return f"{stage}-{job_id[:12]}"


def job_folder(out: str | Path, job: Job) -> Path:
    """The folder of a job."""
    return Path(out) / "jobs" / job.folder_name


def run_job(
    job: Job,
    jobs: Mapping[str, Job],
    out: str | Path,
    stages: Mapping[str, StageFunction],
    device: str = "auto",
    progress: bool = True,
    devices: int = 1,
    nodes: int = 1,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Runs one job to its end, or continues it; a job that is done is left alone.

    Args:
        job: what to run.
        jobs: all jobs of the plan by id, among them its inputs.
        out: folder of the study's results.
        stages: stage name -> function.
        device: "auto", "cpu", "cuda", ...
        progress: show progress bars.
        devices, nodes: devices on each of so many machines, for stages that are data parallel.
        minutes: after which it is stopped, with a checkpoint; None for no limit.

    Returns:
        The content of `done.json`.

    Raises:
        UnderstudyError: an input is not done, another process runs the job, or what the stage raises.
        TimeLimit: it took longer than `minutes`; the job continues when it is run again.
        Interrupted: SIGTERM or SIGINT; the job continues when it is run again.
    """
    folder = job_folder(out, job)
    finished = read_done(folder)
    if finished is not None:
        return finished
    inputs = _inputs(job, jobs, out)
    with locked(folder):
        finished = read_done(folder)  # another process may have finished it while this one waited
        if finished is not None:
            return finished
        attempts, less = next_attempt(folder), read_failed(folder).get("class") == "out_of_memory"
        for name in ("failed.json", ERROR_LOG):
            (folder / name).unlink(missing_ok=True)
        write_json(folder / "spec.json", {**job.as_dict(), "local": {}})
        context = _context(job, folder, inputs, device, progress, devices, nodes)
        with (
            Heartbeat(folder) as heart,
            _failures_recorded(folder, job, attempts),
            thrift(folder / "memory.json", less) as thrifty,
            interruptible(),
            _limited(minutes),
        ):
            results = stages[job.stage](context)
        done = _done(job, results, heart, inputs) | ({"memory": thrifty.record} if thrifty.record else {})
        write_json(folder / "done.json", done)
        for name in ("heartbeat.json", "memory.json"):
            (folder / name).unlink(missing_ok=True)
    release_memory()
    return done


def join_job(
    job: Job, jobs: Mapping[str, Job], out: str | Path, stages: Mapping[str, StageFunction], device: str,
    devices: int, nodes: int,
) -> None:  # fmt: skip
    """Takes part in a job that the first process of a launcher runs: no lock, no heartbeat, no record.

    Raises:
        UnderstudyError: an input is not done, or what the stage raises.
        Interrupted: SIGTERM or SIGINT.
    """
    folder = job_folder(out, job)
    if read_done(folder) is None:
        inputs = _inputs(job, jobs, out)
        with interruptible():
            stages[job.stage](_context(job, folder, inputs, device, False, devices, nodes))


def read_done(folder: Path) -> dict[str, Any] | None:
    """The content of `done.json`; None if the job is not done."""
    path = folder / "done.json"
    return read_json(path) if path.is_file() else None


def read_failed(folder: Path) -> dict[str, Any]:
    """The content of `failed.json`; {} if the job has not failed, or the file is not whole."""
    try:
        return dict(read_json(folder / "failed.json"))
    except UnderstudyError:
        return {}


def state_of(folder: Path) -> State:
    """What the files of a job say about it; "waiting" also for one that was interrupted."""
    if (folder / "done.json").is_file():
        return "done"
    if is_locked(folder):
        return "running"
    return "failed" if (folder / "failed.json").is_file() else "waiting"


def _inputs(job: Job, jobs: Mapping[str, Job], out: str | Path) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
    """Role -> (folder, done.json) of the jobs in that role."""
    found: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for role, job_id in job.inputs:
        folder = job_folder(out, jobs[job_id])
        done = read_done(folder)
        if done is None:
            raise UnderstudyError(
                f"job `{job.name}` needs `{jobs[job_id].name}` ({job_id[:12]}), which is not done",
                where=folder,
                fix=f"run that job first: understudy job {job_id[:12]} ..., or `understudy run` for all of them",
            )
        found.setdefault(role, []).append((folder, done))
    return found


def _context(
    job: Job, folder: Path, inputs: dict[str, list[tuple[Path, dict[str, Any]]]], device: str, progress: bool,
    devices: int, nodes: int,
) -> Context:  # fmt: skip
    folders = {role: [path for path, _ in entries] for role, entries in inputs.items()}
    return Context(folder, job.spec, job.local, folders, device, progress, devices, nodes)


def _done(
    job: Job, results: dict[str, Any], heart: Heartbeat, inputs: dict[str, list[tuple[Path, dict[str, Any]]]]
) -> dict[str, Any]:
    return {
        "id": job.id,
        "stage": job.stage,
        "name": job.name,
        "results": results,
        "seconds": round(heart.seconds, 3),
        "processor_seconds": round(heart.processor_seconds, 3),
        "peak_rss_mb": round(heart.peak_rss_mb, 1),
        "restarts": heart.restarts,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": software(),
        "torch_threads": torch_threads(),
        "inputs": [
            {"role": role, "id": done["id"], "results_sha256": sha256_json(done["results"])}
            for role, entries in inputs.items()
            for _, done in entries
        ],
    }


@contextlib.contextmanager
def _failures_recorded(folder: Path, job: Job, attempts: int) -> Iterator[None]:
    """Leaves `failed.json` if the block fails, and turns trouble with the disk into a message."""
    try:
        yield
    except Exception as error:
        known = _disk_error(error, folder)
        record_failure(folder, job, known or error, attempts)
        if known is not None:
            raise known from error
        raise


def _disk_error(error: BaseException, folder: Path) -> UnderstudyError | None:
    """The message for a disk that is full or closed, where a library reports it in its own words or as an OSError.

    safetensors, for one, raises its own error, whose text ends with the system's words.
    """
    if isinstance(error, UnderstudyError | Interrupted):
        return None
    if isinstance(error, OSError) and error.errno:
        # what lies in the job's folder was written, its inputs in others were read
        return explain_os_error(error, folder / "done.json", writing=True)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        if os.strerror(number) in str(error):
            return explain_os_error(OSError(number, os.strerror(number)), folder, writing=True)
    return None


def next_attempt(folder: Path) -> int:
    """Which try at a job comes next, from 1. Asked before it begins, as the last failure's record is gone then."""
    return int(read_failed(folder).get("attempts", 0)) + 1


def told(error: Exception, folder: Path) -> str:
    """What the user is told of a job's failure; the traceback of one that nobody foresaw is in the job's log."""
    if isinstance(error, _FORESEEN):
        return str(error)
    if is_out_of_memory(error):
        return UnderstudyError(
            f"memory ran out ({str(error).splitlines()[0]})" if str(error) else "memory ran out", fix=FIX
        ).message
    log = folder / ERROR_LOG
    return unexpected(error, log if log.is_file() else None).message


def record_failure(folder: Path, job: Job, error: Exception, attempts: int = 1) -> None:
    """Writes `failed.json`; where even that cannot be written, the error itself is what the user must see."""
    if isinstance(error, Interrupted):
        return
    foreseen = isinstance(error, _FORESEEN)
    with contextlib.suppress(UnderstudyError, OSError):
        write_json(
            folder / "failed.json",
            {
                "id": job.id,
                "name": job.name,
                "type": type(error).__name__,
                "class": failure_class(error, job.stage),
                "attempts": attempts,
                "message": str(error),
                "traceback": "" if foreseen else traceback.format_exc(),
            },
        )
        if not foreseen:
            write_text(folder / ERROR_LOG, report(error))
    if debugging():
        traceback.print_exception(error)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder; the kernel frees it when the process ends, however it ends.

    Raises:
        UnderstudyError: another process holds it; no permission, disk full.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held_lock(
        folder / "lock",
        f"on {platform.node()}",
        "another process is working here ({holder})",
        "wait until it has finished; `understudy status` shows its progress",
    ):
        yield


def is_locked(folder: Path) -> bool:
    """Whether a live process holds the lock of a folder."""
    try:
        with open(folder / "lock", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def _limited(minutes: float | None) -> Iterator[None]:
    """Makes the end of a job's time a failure, which has a class of its own, rather than an interruption."""
    try:
        with time_limit(minutes):
            yield
    except TimeOver as over:
        if minutes is None:  # somebody else's limit
            raise
        raise TimeLimit(minutes) from over


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block SIGTERM and SIGINT raise `Interrupted`; training loops replace this by a checkpoint first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, interrupt) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
