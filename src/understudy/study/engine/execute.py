"""Runs one job in its folder: a lock, a heartbeat, the stage's function, and `done.json` written last.

Running a job that is done does nothing; one that was interrupted, killed or has failed continues from what is there.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from understudy import __version__
from understudy.errors import Interrupted, TimeOver, UnderstudyError
from understudy.io.files import sha256_json, write_json
from understudy.io.seals import DONE, Damaged, check_sealed, files_of, sealed
from understudy.runtime.checkpoints import STOPPING, time_limit
from understudy.runtime.memory import oom_fallback, release_memory
from understudy.runtime.progress import latest
from understudy.study.engine.failures import ERROR_LOG, TimeLimit, disk_error, next_attempt, record_failure
from understudy.study.engine.jobs import Context, Job, StageFunction, job_folder, locked, read_done, read_quietly, sweep

HEARTBEAT_EVERY = 5.0  # seconds: what a SIGKILL can take from the time that is accounted for


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
    rank: int = 0,
) -> dict[str, Any]:
    """Runs one job to its end, or continues it; returns the content of `done.json`, also of a job that was done.

    Args:
        jobs: all jobs of the plan by id, among them its inputs.
        minutes: after which it is stopped, with a checkpoint: `TimeLimit`; it continues when it is run again.
        rank: of this process among those of a launcher; the first runs the job, the others only take part in it.

    Raises what the stage raises, and `UnderstudyError` where an input is not done or another process runs the job.
    """
    folder = job_folder(out, job)
    if (finished := read_done(folder)) is not None:
        return finished
    inputs, used = _inputs(job, jobs, out)
    context = Context(folder, job.spec, job.local, inputs, device, progress, devices, nodes)
    if rank > 0:  # no lock, no heartbeat, no record
        with on_stop_signals():
            return stages[job.stage](context)
    with locked(folder):
        if (finished := read_done(folder)) is not None:  # by another process while this one waited
            return finished
        sweep(folder)
        attempts, less = next_attempt(folder), read_quietly(folder / "failed.json").get("class") == "out_of_memory"
        for name in ("failed.json", ERROR_LOG):
            (folder / name).unlink(missing_ok=True)
        with Heartbeat(folder) as heart:
            write_json(folder / "spec.json", {**job.as_dict(), "local": {}})
            try:
                with oom_fallback(folder / "memory.json", less) as memory, on_stop_signals(), time_limit(minutes):
                    results = stages[job.stage](context)
            except Exception as error:
                known: Exception | None = disk_error(error, folder)
                if isinstance(error, TimeOver) and minutes is not None:  # else the limit of `understudy job --minutes`
                    known = TimeLimit(minutes)
                record_failure(folder, job, known or error, attempts)
                if known is not None:
                    raise known from error
                raise
        torch, used_device = sys.modules.get("torch"), None  # None if the job did not need it
        if torch:
            from understudy.runtime.devices import described

            used_device = described(device)
        done = sealed({
            "id": job.id, "stage": job.stage, "name": job.name, "results": results, **heart.account,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"), "software": software(),
            "torch_threads": torch.get_num_threads() if torch else None, "device": used_device, "inputs": used,
            **({"memory": memory.record} if memory.record else {}), "files": files_of(folder),
        })  # fmt: skip
        write_json(folder / DONE, done)
        for name in ("heartbeat.json", "memory.json"):
            (folder / name).unlink(missing_ok=True)
    release_memory()
    return done


def _inputs(job: Job, jobs: Mapping[str, Job], out: str | Path) -> tuple[dict[str, list[Path]], list[dict[str, Any]]]:
    """Folders by role, and which results the job depends on, for `done.json`."""
    folders, used = dict[str, list[Path]](), []
    for role, job_id in job.inputs:
        folder = job_folder(out, jobs[job_id])
        if (done := read_done(folder)) is None:
            what = f"job `{job.name}` needs `{jobs[job_id].name}` ({job_id[:12]}), which is not done"
            fix = f"run that job first: understudy job {job_id[:12]} ..., or `understudy run` for all of them"
            raise UnderstudyError(what, where=folder, fix=fix)
        try:
            check_sealed(folder)
        except Damaged as error:  # recorded, as the queue of a cluster sees nothing else of it
            record_failure(job_folder(out, job), job, error, next_attempt(job_folder(out, job)))
            raise
        folders.setdefault(role, []).append(folder)
        used.append({"role": role, "id": done["id"], "results_sha256": sha256_json(done["results"])})
    return folders, used


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}")


@contextlib.contextmanager
def on_stop_signals(handler: Callable[[int, object], None] = _interrupt) -> Iterator[None]:
    """Inside the block the signals that ask to stop call `handler`, in the main thread; by default `Interrupted` is
    raised, which training loops replace by a checkpoint first."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in STOPPING} if main else {}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class Heartbeat:
    """Keeps `heartbeat.json` of a running job up to date; it goes on from what an interrupted process left."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "heartbeat.json"
        first = {"seconds": 0.0, "processor_seconds": 0.0, "peak_rss_mb": 0.0, "restarts": -1}
        self._before = first | read_quietly(self._path)
        self._progress: dict[str, Any] | None = None  # the last that was told, for one who looks after a stop
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._start, self._start_processor = time.monotonic(), time.process_time()
        with contextlib.suppress(OSError):  # an earlier job's peak in this process is not this one's; Linux only
            Path("/proc/self/clear_refs").write_text("5")
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._write()

    @property
    def account(self) -> dict[str, Any]:
        """Seconds, those of the processor, peak resident memory in MiB, and restarts; earlier processes included."""
        before = self._before
        return {
            "seconds": round(before["seconds"] + time.monotonic() - self._start, 3),
            "processor_seconds": round(before["processor_seconds"] + time.process_time() - self._start_processor, 3),
            "peak_rss_mb": round(max(before["peak_rss_mb"], peak_rss_mb()), 1),
            "restarts": before["restarts"] + 1,
        }

    def _beat(self) -> None:
        wait = 1.0  # so that there is something to see soon
        while not self._stop.wait(wait):
            self._write()
            wait = HEARTBEAT_EVERY

    def _write(self) -> None:
        self._progress = latest() or self._progress
        beat = {"pid": os.getpid(), "host": platform.node(), **self.account, "progress": self._progress}
        # A full disk must not end a training that may still be able to finish; the stage itself reports it.
        with contextlib.suppress(UnderstudyError, OSError):
            write_json(self._path, beat)


def software() -> dict[str, str]:
    """Versions of Understudy, Python and the packages that results depend on."""
    found = {"understudy": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "nibabel", "zarr", "pandas", "monai"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def peak_rss_mb() -> float:
    """Largest resident memory of this process since the last reset (Linux) or its start, MiB."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
