"""Progress with throughput and remaining time: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY = 10.0  # seconds between lines where there is no terminal


class Meter:
    """What `track` yields: `advance` moves it on and shows the latest figures."""

    def __init__(self, total: float, done: float, description: str, unit: str) -> None:
        self.total, self.done, self.description, self.unit = total, done, description, unit
        self._first, self._start = done, time.monotonic()

    @property
    def rate(self) -> float:
        """Units a second since the start of this process (not counting what an earlier one did)."""
        return (self.done - self._first) / max(1e-9, time.monotonic() - self._start)

    def advance(self, amount: float = 1, **figures: Any) -> None:
        """Moves on by `amount` units; `figures` are shown beside the bar."""
        self.done += amount
        self._show(_format(figures))

    def _show(self, text: str) -> None:
        """Shows nothing: the silent meter."""


class _LineMeter(Meter):
    _last = 0.0

    def _show(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last < LINE_EVERY and self.done < self.total:
            return
        self._last = now
        left = (self.total - self.done) / self.rate if self.rate > 0 else float("inf")
        sys.stderr.write(
            f"{self.description}: {self.done:,.0f}/{self.total:,.0f} {self.unit}"
            f" ({self.rate:,.1f} {self.unit}/s, {_clock(left)} left) {text}\n"
        )
        sys.stderr.flush()


class _BarMeter(Meter):
    def __init__(self, total: float, done: float, description: str, unit: str, progress: Progress) -> None:
        super().__init__(total, done, description, unit)
        self._progress = progress
        self._task = progress.add_task(description, total=total, rate="", figures="")
        progress.update(self._task, completed=done)

    def _show(self, text: str) -> None:
        self._progress.update(
            self._task, completed=self.done, rate=f"{self.rate:,.1f} {self.unit}/s", figures=text
        )


@contextmanager
def track(
    total: float, description: str, unit: str = "it", done: float = 0, show: bool = True
) -> Iterator[Meter]:
    """A progress meter for `total` units of work, `done` of them by an earlier, interrupted run."""
    if not show:
        yield Meter(total, done, description, unit)
    elif not sys.stderr.isatty():
        yield _LineMeter(total, done, description, unit)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", style="dim"),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield _BarMeter(total, done, description, unit, progress)


def _format(figures: dict[str, Any]) -> str:
    return " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
