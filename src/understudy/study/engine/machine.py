"""This machine: its cores, its GPUs, of which each serves one worker at a time, and how fast it computes.

The speed is that of a 3x3 convolution, timed once and kept in this machine's cache, `$XDG_CACHE_HOME/understudy`
(`~/.cache/understudy`), which may be deleted at any time. A plan for another machine states its speed: `understudy plan
STUDY --speed h100`, or `--speed 2.5e14` (operations a second of large convolutions, forward and backward).
"""

import contextlib
import fcntl
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_json

# torch is imported in functions: the process that waits for a job in a queue does without it.

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SPEEDS = "calibration.json"  # in the cache
# dense bf16 operations a second as the makers state them
RATED = {"a100": 3.12e14, "h100": 9.89e14, "rtx4090": 1.65e14, "rtx3090": 0.71e14}
# Share that convolutions of these networks reach. Not measured here; within a quarter of NVIDIA's own trainings on an
# A100 (stylegan3/docs/configs.md: 12.5 s for 1000 images of StyleGAN 2 at 256 x 256; ours: 9.7 s).
REACHED_OF_RATED = 0.15


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
    found: str | None = None
    with contextlib.ExitStack() as handles:
        for device in devices:
            handle = os.open(folder / f"{device.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o666)
            handles.callback(os.close, handle)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = device
                break
        yield found


def read_cached(name: str) -> dict[str, Any]:
    """A file of the cache; {} if it is not there or not whole (another process may be writing)."""
    try:
        return read_json(_cache() / name, dict)
    except UnderstudyError:
        return {}


def write_cached(name: str, value: dict[str, Any]) -> None:
    """Keeps a file; where the cache cannot be written (a home that is read-only) it is measured again next time."""
    with contextlib.suppress(UnderstudyError, OSError):
        write_json(_cache() / name, value)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "understudy"


@dataclass(frozen=True)
class Calibration:
    """A speed and where it comes from."""

    speed: float  # operations a second
    device: str  # for people, e.g. "AMD EPYC, 1 thread"
    measured: str  # when (ISO 8601, UTC); "" for a speed that was stated
    gpu: bool

    @property
    def words(self) -> str:
        """Where the estimates come from."""
        if not self.measured:
            return f"for {self.device}, {self.speed:.2g} operations a second: stated, not measured"
        return f"from a calibration of {self.device} at {self.measured}: {self.speed:.2g} operations a second"


def calibrated(device: str = "auto", again: bool = False, threads: int | None = None) -> Calibration:
    """The speed of this machine with so many threads: measured now (`again`), or when it was first asked for."""
    import torch

    from understudy.runtime.devices import resolve_device

    if threads is not None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return calibrated(device, again)
        finally:
            torch.set_num_threads(before)
    where = resolve_device(device)
    if where.type == "cuda":
        name = torch.cuda.get_device_name(where)
    else:
        cpuinfo, count = Path("/proc/cpuinfo"), torch.get_num_threads()
        model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text() if cpuinfo.is_file() else "", re.MULTILINE)
        processor = model[1].strip() if model else platform.processor() or platform.machine()
        name = f"{processor}, {count} thread{'s' if count > 1 else ''} of {os.cpu_count()}"
    key = f"{platform.node()} | {name} | {where} | torch {torch.__version__}"
    known = read_cached(SPEEDS)
    if key in known and not again:
        return Calibration(**known[key])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = Calibration(calibrate(device), name, now, where.type == "cuda")
    write_cached(SPEEDS, {**read_cached(SPEEDS), key: asdict(found)})
    return found


def stated(speed: str) -> Calibration:
    """The speed that a user states: a number of operations a second, or the name of a device."""
    plain = re.sub("[-_ ]", "", speed.lower())
    if plain in RATED:
        share = f"{REACHED_OF_RATED:.0%} of the {RATED[plain]:.3g} that its maker states"
        return Calibration(RATED[plain] * REACHED_OF_RATED, f"one {plain.upper()} ({share})", "", True)
    with contextlib.suppress(ValueError):
        if 1e6 < float(speed) < 1e20:
            return Calibration(float(speed), "a device", "", True)
    fix = f"give operations a second such as 1e14, or one of {', '.join(RATED)}"
    raise UnderstudyError(f"{speed!r} is no speed", where="--speed", fix=fix)


def calibrate(device: str = "auto", seconds: float = 0.25, dtype: Any = None) -> float:
    """Floating-point operations a second of a 3x3 convolution, forward and backward; in the type that is used here."""
    import torch

    from understudy.runtime.devices import resolve_device, resolve_precision

    where = resolve_device(device)
    kind = dtype or resolve_precision("auto", where)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(16, 64, 32, 32, generator=rng).to(where, kind, memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, generator=rng).to(where, kind).requires_grad_()

    def once() -> None:
        torch.nn.functional.conv2d(x, weight, padding=1).sum().backward()
        if where.type == "cuda":
            torch.cuda.synchronize()

    once()
    fastest, rounds, begun = float("inf"), 0, time.perf_counter()
    while (start := time.perf_counter()) - begun < seconds or rounds < 3:
        once()
        # not the mean: where another program has the processor for a moment, a round takes 30 times as long
        fastest, rounds = min(fastest, time.perf_counter() - start), rounds + 1
    # forward and the weight's gradient: two convolutions of 2 * 9 * 64 * 64 operations a pixel
    return 2 * 16 * 32 * 32 * (2 * 9 * 64 * 64) / fastest
