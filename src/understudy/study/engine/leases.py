"""One GPU for one worker: locks on files that all runs on a machine share, freed when the process ends, however."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


def lease_folder() -> Path:
    """Where the locks of this machine lie; all users may write there."""
    folder = Path(tempfile.gettempdir()) / "understudy-gpus"
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o1777)
    return folder


@contextlib.contextmanager
def leased(devices: Sequence[str], folder: Path | None = None) -> Iterator[str | None]:
    """The first of `devices` (as in CUDA_VISIBLE_DEVICES) that no other process has leased; None if all are."""
    folder = folder or lease_folder()
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


def free_devices(devices: Sequence[str], folder: Path | None = None) -> list[str]:
    """Those of `devices` that nobody has leased at this moment."""
    found = []
    for device in devices:
        with leased([device], folder) as free:
            found += [free] if free else []
    return found


def gpus() -> list[str]:
    """The GPUs that this process may use, as in CUDA_VISIBLE_DEVICES; [] without any."""
    import torch

    named = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    return named or [str(index) for index in range(torch.cuda.device_count())]
