"""The account of a running job: time, memory and software, kept up to date on disk while it runs."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_json
from understudy.runtime.progress import latest

HEARTBEAT_EVERY = 5.0  # seconds between heartbeats: what a SIGKILL can take from the time that is accounted for
RECORDED_PACKAGES = ("torch", "numpy", "scipy", "nibabel", "zarr", "pandas", "monai")


class Heartbeat:
    """Keeps account of a running job: `heartbeat.json` with process id, times so far, peak memory and progress.

    Times, restarts and peak memory go on from what an interrupted process left.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "heartbeat.json"
        before = self._before()
        self._earlier = float(before.get("seconds", 0.0))
        self._earlier_processor = float(before.get("processor_seconds", 0.0))
        self._earlier_peak = float(before.get("peak_rss_mb", 0.0))
        self.restarts = int(before.get("restarts", -1)) + 1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _before(self) -> dict[str, Any]:
        try:
            return dict(read_json(self._path))
        except UnderstudyError:  # none, or one that a full disk cut off: only the account of time is lost
            return {}

    def __enter__(self) -> Heartbeat:
        self._start, self._start_processor = time.monotonic(), time.process_time()
        reset_peak_rss()
        self._write()
        self._thread.start()
        return self

    @property
    def seconds(self) -> float:
        """Running time of the job, that of earlier processes included."""
        return self._earlier + time.monotonic() - self._start

    @property
    def processor_seconds(self) -> float:
        """Processor time of this process for the job, of all its threads; other work beside it hardly changes it."""
        return self._earlier_processor + time.process_time() - self._start_processor

    @property
    def peak_rss_mb(self) -> float:
        """Largest resident memory of the process while the job ran, MiB."""
        return max(self._earlier_peak, peak_rss_mb())

    def _beat(self) -> None:
        wait = 1.0  # so that there is something to see soon
        while not self._stop.wait(wait):
            self._write()
            wait = HEARTBEAT_EVERY

    def _write(self) -> None:
        # A full disk must not end the training that may still be able to finish; the stage itself reports it.
        with contextlib.suppress(UnderstudyError, OSError):
            write_json(
                self._path,
                {
                    "pid": os.getpid(),
                    "host": platform.node(),
                    "seconds": round(self.seconds, 3),
                    "processor_seconds": round(self.processor_seconds, 3),
                    "peak_rss_mb": round(self.peak_rss_mb, 1),
                    "restarts": self.restarts,
                    "progress": latest(),
                },
            )

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._write()


def software() -> dict[str, str]:
    """Versions of Understudy, Python and the packages that results depend on."""
    found = {"understudy": __version__, "python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def peak_rss_mb() -> float:
    """Largest resident memory of this process since the last reset (Linux) or its start, MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def reset_peak_rss() -> None:
    """So that a job is not charged for what an earlier one in the same process took; Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def torch_threads() -> int | None:
    """Threads that torch computes with; None if it was not needed."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None
