"""What several workers do, on a terminal: a line each, and one for the whole study."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from understudy.study.engine.jobs import Job

REFRESH = 1.0  # seconds
LONGEST = 1e9  # seconds; what would take longer has hardly begun and is not known
WIDE = 100  # columns from which a training's figures are shown


@dataclass(frozen=True)
class Line:
    """What a worker does.

    Attributes:
        number: of the worker.
        name: of its job.
        seconds: since it began.
        progress: of `heartbeat.json`; {} where nothing is counted.
    """

    number: int
    name: str
    seconds: float
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """Of the job that is done, 0 ... 1; None if it does not say."""
        total = float(self.progress.get("total") or 0)
        return min(1.0, float(self.progress["done"]) / total) if total > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds to the end of what it counts; None if it is not known."""
        rate = float(self.progress.get("rate") or 0)
        units = max(0.0, float(self.progress.get("total") or 0) - float(self.progress.get("done") or 0))
        return units / rate if rate > 0 and units < LONGEST * rate else None


@dataclass(frozen=True)
class Overall:
    """The study: jobs done of all, how many failed, and seconds left (None: not known)."""

    done: int
    total: int
    failed: int
    left: float | None


def remaining(left: Sequence[tuple[Job, float]], running: Sequence[Line], workers: int) -> float | None:
    """Seconds to the end of a study.

    Args:
        left: jobs that are not done, with their estimated seconds.
        running: what workers do.
        workers: that share the work.

    Returns:
        None without an estimate.
    """
    shares = {line.name: line.share or 0.0 for line in running}
    alone = [seconds * (1 - shares.get(job.name, 0.0)) for job, seconds in left]
    longest = max((line.left for line in running if line.left is not None), default=0.0)
    found = max(sum(alone) / max(1, workers), longest)
    return found if found > 0 and math.isfinite(found) else None


def table_of(lines: Sequence[Line], overall: Overall, width: int) -> Table:
    """The lines as a table that fits into `width` columns, each on one line."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, justify="right", style="dim")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(width=10)
    for _ in range(3):
        table.add_column(no_wrap=True, justify="right")
    if width >= WIDE:
        table.add_column(no_wrap=True, overflow="ellipsis", style="dim", width=width // 5)
    for line in lines:
        table.add_row(*_cells(line)[: len(table.columns)])
    table.add_row(*_whole(overall)[: len(table.columns)], style="bold")
    return table


def _cells(line: Line) -> list[Any]:
    from understudy.study.engine.run import duration

    share, name = line.share, line.name.replace("[", r"\[")
    if share is None:
        return [str(line.number), name, "", "", "", f"since {duration(line.seconds)}", ""]
    rate = f"{_short(line.progress['rate'])} {line.progress['unit']}/s"
    left = "" if line.left is None else f"{duration(line.left)} left"
    figures = str(line.progress.get("figures", "")).replace("[", r"\[")
    return [str(line.number), name, _bar(share), f"{math.floor(100 * share)} %", rate, left, figures]


def _whole(overall: Overall) -> list[Any]:
    from understudy.study.engine.run import duration

    name = f"study: {overall.done} of {overall.total} jobs"
    name += f", [red]{overall.failed} failed[/red]" if overall.failed else ""
    share = overall.done / max(1, overall.total)
    left = "" if overall.left is None else f"{duration(overall.left)} left"
    return ["", name, _bar(share), f"{math.floor(100 * share)} %", "", left, ""]


def _bar(share: float) -> ProgressBar:
    return ProgressBar(total=1.0, completed=share, width=10)


def _short(rate: float) -> str:
    """Three figures at most before the point: "12,300", "98", "4.1", "0.052"."""
    if rate >= 1000:
        return f"{round(rate, -2):,.0f}"
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


class Display:
    """The table on a terminal, refreshed once a second; nothing elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, 0.0
        shown = console.is_terminal and not console.quiet
        self._live = Live(console=console, transient=True, auto_refresh=False) if shown else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    @property
    def due(self) -> bool:
        """Whether it is time to show something new."""
        return self._live is not None and time.monotonic() - self._last >= REFRESH

    def show(self, lines: Sequence[Line], overall: Overall) -> None:
        """Draws the table anew."""
        if self._live is not None:
            self._last = time.monotonic()
            self._live.update(table_of(lines, overall, self._console.width), refresh=True)
