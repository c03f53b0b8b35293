"""Progress with throughput and remaining time: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from understudy.names import duration

_open: list["Meter"] = []  # those of this process, shown or not, the outermost first


class Meter:
    """What `track` yields: `advance` moves it on and shows the latest figures. This one shows nothing."""

    def __init__(self, total: float, done: float, description: str, unit: str) -> None:
        self.total, self.done, self.description, self.unit = total, done, description, unit
        self._first, self._start = done, time.monotonic()
        self.figures: dict[str, Any] = {}

    @property
    def rate(self) -> float:
        """Units a second in this process (without those that an earlier one did)."""
        return (self.done - self._first) / max(1e-9, time.monotonic() - self._start)

    def advance(self, amount: float = 1, **figures: Any) -> None:
        """Moves on by `amount` units; `figures` are shown beside the bar."""
        self.done += amount
        self.figures = figures or self.figures
        self._show(_format(figures))

    def _show(self, text: str) -> None: ...


class _LineMeter(Meter):
    _last = 0.0

    def _show(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last < 10 and self.done < self.total:
            return
        self._last = now
        left = max(0.0, self.total - self.done) / self.rate if self.rate > 0 else None
        text = f"({self.rate:,.1f} {self.unit}/s, {duration(left)} left) {text}"
        sys.stderr.write(f"{self.description}: {self.done:,.0f}/{self.total:,.0f} {self.unit} {text}\n")
        sys.stderr.flush()


class _BarMeter(Meter):
    def __init__(self, total: float, done: float, description: str, unit: str) -> None:
        super().__init__(total, done, description, unit)
        tight, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self.bar = Progress(  # one line, also on a narrow terminal: the last column is cut first
            TextColumn("{task.description}", table_column=tight),
            BarColumn(bar_width=16, table_column=tight),
            TextColumn("{task.percentage:>3.0f} %", table_column=tight),
            TextColumn("{task.fields[rate]}", table_column=tight),
            TimeRemainingColumn(compact=True, table_column=tight),
            TextColumn("{task.fields[figures]}", style="dim", table_column=rest),
            console=Console(stderr=True),
            expand=True,
        )
        self._task = self.bar.add_task(description, total=total, completed=done, rate="", figures="")  # type: ignore

    def _show(self, text: str) -> None:
        self.bar.update(self._task, completed=self.done, rate=f"{self.rate:,.1f} {self.unit}/s", figures=text)


@contextmanager
def track(total: float, description: str, unit: str = "it", done: float = 0, show: bool = True) -> Iterator[Meter]:
    """A progress meter for `total` units of work, `done` of them by an earlier, interrupted run."""
    kind = Meter if not show else _BarMeter if sys.stderr.isatty() else _LineMeter
    meter = kind(total, done, description, unit)
    _open.append(meter)
    try:
        with meter.bar if isinstance(meter, _BarMeter) else nullcontext():
            yield meter
    finally:
        _open.remove(meter)


def latest() -> dict[str, Any] | None:
    """How far this process is, shown or not, as plain JSON values for other processes; None outside `track`."""
    if not _open:
        return None
    meter = _open[0]
    return {"what": meter.description, "done": meter.done, "total": meter.total, "unit": meter.unit,
            "rate": meter.rate, "figures": _format(meter.figures)}  # fmt: skip


def _format(figures: dict[str, Any]) -> str:
    return " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
