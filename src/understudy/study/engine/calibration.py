"""How fast this machine computes: a 3x3 convolution, timed once for a machine and kept, or a speed that is stated.

A plan for another machine states its speed: `understudy plan STUDY --speed h100`, or `--speed 2.5e14` (operations a
second of large convolutions, forward and backward, in the precision of the training).
"""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import torch

from understudy.errors import UnderstudyError
from understudy.runtime.devices import resolve_device, resolve_precision
from understudy.study.engine.costs import read_cached, write_cached

FILE = "calibration.json"
# dense bf16 operations a second as the makers state them
RATED = {"a100": 3.12e14, "h100": 9.89e14, "rtx4090": 1.65e14, "rtx3090": 0.71e14}
# Share that convolutions of these networks reach. Not measured here; it agrees with NVIDIA's own trainings on an A100
# (stylegan3/docs/configs.md: 12.5 s for 1000 images of StyleGAN 2 at 256 x 256) for the operations that we count.
REACHED_OF_RATED = 0.15


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
    """The speed of this machine: measured now, or when it was first asked for with as many threads.

    Args:
        again: measure even if it is known.
        threads: of a processor that compute; None: as many as this process uses.
    """
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
        count = torch.get_num_threads()
        name = f"{_processor()}, {count} thread{'s' if count > 1 else ''} of {os.cpu_count()}"
    key = f"{platform.node()} | {name} | {where} | torch {torch.__version__}"
    known = read_cached(FILE)
    if again or key not in known:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        found = Calibration(calibrate(device), name, now, where.type == "cuda")
        write_cached(FILE, {**read_cached(FILE), key: asdict(found)})
        return found
    return Calibration(**known[key])


def stated(speed: str) -> Calibration:
    """The speed that a user states: a number of operations a second, or the name of a device."""
    plain = re.sub("[-_ ]", "", speed.lower())
    if plain in RATED:
        share = f"{REACHED_OF_RATED:.0%} of the {RATED[plain]:.3g} that its maker states"
        return Calibration(RATED[plain] * REACHED_OF_RATED, f"one {plain.upper()} ({share})", "", True)
    try:
        value = float(speed)
    except ValueError:
        value = 0.0
    if not 1e6 < value < 1e20:
        fix = f"give operations a second such as 1e14, or one of {', '.join(RATED)}"
        raise UnderstudyError(f"{speed!r} is no speed", where="--speed", fix=fix)
    return Calibration(value, "a device", "", True)


def calibrate(device: str = "auto", seconds: float = 0.25) -> float:
    """Floating-point operations a second of a 3x3 convolution, forward and backward, bfloat16 where it is used."""
    where = resolve_device(device)
    kind = resolve_precision("auto", where)
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


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()
