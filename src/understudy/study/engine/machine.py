"""Cores and GPUs of this machine, and the locks by which each GPU serves one worker at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that this process may use, as in CUDA_VISIBLE_DEVICES; [] without any."""
    import torch

    named = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    return named or [str(index) for index in range(torch.cuda.device_count())]


@contextlib.contextmanager
def leased(devices: Sequence[str], folder: Path | None = None) -> Iterator[str | None]:
    """The first of `devices` (as in CUDA_VISIBLE_DEVICES) that no other process has leased; None if all are.

    The kernel frees the locks when a process ends; their `folder` is one that all users of the machine share.
    """
    if folder is None:
        folder = Path(tempfile.gettempdir()) / "understudy-gpus"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o1777)
    for device in devices:
        handle = os.open(folder / f"{device.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        try:
            yield device
        finally:
            os.close(handle)
        return
    yield None
