"""What a run shows while it goes on (lines, and a table of its workers on a terminal), and what became of it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from understudy.names import duration
from understudy.study.engine.jobs import Job, not_done
from understudy.study.engine.plan import Plan, elapsed

LONGEST = 1e9  # seconds; what would take longer has hardly begun and is not known


@dataclass
class RunResult:
    """What became of a run."""

    out: Path  # folder of the results
    reused: list[Job] = field(default_factory=list)  # done before
    done: list[Job] = field(default_factory=list)  # by this run
    failed: list[tuple[Job, str]] = field(default_factory=list)  # with the message
    blocked: list[Job] = field(default_factory=list)  # need a failed one
    page: Path | None = None  # the report, if it was made
    answer: dict[str, str] = field(default_factory=dict)  # the lines that it opens with, see `report.conclusion`

    @property
    def complete(self) -> bool:
        """Whether every job is done."""
        return not self.failed and not self.blocked


class RunLog:
    """Lines on stderr about jobs and how long they and the study will take, corrected by what earlier jobs took."""

    def __init__(self, plan: Plan, out: Path, progress: bool, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=not progress)
        self.total = len(plan.jobs)
        self._left = not_done(plan.jobs, out)
        self._timed: dict[str, tuple[float, float]] = {}  # stage -> seconds estimated and taken by its jobs so far
        self._beside = False  # other jobs run at the same time
        if kept := self.total - len(self._left):
            self.console.print(f"{kept} of {self.total} jobs are done already")

    def left(self) -> list[Job]:
        """Jobs that are not done, their estimated seconds scaled by what earlier jobs of the stage took."""
        shares = {stage: taken / estimated for stage, (estimated, taken) in self._timed.items() if estimated}
        return [replace(job, seconds=job.seconds * shares.get(job.stage, 1.0)) for job in self._left]

    def announce(self, number: int, job: Job, workers: int = 1) -> None:
        """Prints the line above a job's own progress, or that one of several workers has begun it."""
        self._beside, left, times = workers > 1, self.left(), ""
        whole = elapsed(left, workers)
        if whole and not (self._beside and self.console.is_terminal):  # where the table below has them
            own = next((other.seconds for other in left if other.id == job.id), job.seconds)
            times = f" - about {duration(own)}, whole study {duration(whole)}"
        self._print(f"[bold]\\[{number}/{self.total}][/bold] {escape(job.name)}[dim]{times}[/dim]")

    def finished(self, job: Job, done: Mapping[str, Any], named: bool = False) -> None:
        """Learns how long a job took; prints its name too if others run beside it, or if `named`."""
        self._left.remove(job)
        if not done["restarts"]:
            estimated, taken = self._timed.get(job.stage, (0.0, 0.0))
            self._timed[job.stage] = estimated + job.seconds, taken + float(done["seconds"])
        name = f"{escape(job.name)}: " if self._beside or named else ""
        self._print(f"      [dim]{name}done in {duration(done['seconds'])}[/dim]")

    def failed(self, job: Job, kind: str, message: str) -> None:
        """Prints at once that a job failed for good."""
        self._left = [other for other in self._left if other.id != job.id]
        text = f"failed ({kind.replace('_', ' ')}): {job.name}: {message.splitlines()[0] if message else kind}"
        self._print(f"[bold red]{escape(text)}[/bold red]")

    def warn(self, text: str) -> None:
        """Prints something to take note of."""
        self._print(f"[yellow]{escape(text)}[/yellow]")

    def pass_on(self, text: str) -> None:
        """Prints what a worker's process said, which must be seen also where no progress is wanted."""
        if self.console.quiet:
            sys.stderr.write(f"{text}\n")
        else:
            self.console.print(escape(text), style="dim", highlight=False, soft_wrap=True)

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=not self.console.is_terminal)  # no file or pipe cuts it at 80 columns


@dataclass(frozen=True)
class Line:
    """What a worker does."""

    number: int  # of the worker
    name: str  # of its job
    seconds: float  # since it began
    progress: dict[str, Any] = field(default_factory=dict)  # of `heartbeat.json`; {} where nothing is counted

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

    @property
    def cells(self) -> list[Any]:
        """Of its row in the table."""
        name, share = escape(self.name), self.share
        if share is None:
            return [str(self.number), name, "", "", "", f"since {duration(self.seconds)}", ""]
        rate = float(self.progress["rate"])  # "12,300", "98", "4.1", "0.052"
        shown = f"{round(rate, -2):,.0f}" if rate >= 1000 else f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        speed, figures = f"{shown} {self.progress['unit']}/s", escape(str(self.progress.get("figures", "")))
        return [str(self.number), name, *_bar(share), speed, _left(self.left), figures]


def remaining(left: Sequence[Job], running: Sequence[Line], workers: int) -> float | None:
    """Seconds to the end of a study from the estimates of the jobs that are left; None without an estimate."""
    shares = {line.name: line.share or 0.0 for line in running}
    work = sum(job.seconds * (1 - shares.get(job.name, 0.0)) for job in left)
    longest = max((line.left for line in running if line.left is not None), default=0.0)
    found = max(work / max(1, workers), longest)
    return found if found > 0 and math.isfinite(found) else None


def table_of(lines: Sequence[Line], done: int, total: int, failed: int, left: float | None, width: int) -> Table:
    """The lines, and one about the study's jobs and seconds left, as a table of `width` columns, each on one line."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, justify="right", style="dim")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(width=10)
    for _ in range(3):
        table.add_column(no_wrap=True, justify="right")
    if width >= 100:  # else there is no room for a training's figures
        table.add_column(no_wrap=True, overflow="ellipsis", style="dim", width=width // 5)
    for line in lines:
        table.add_row(*line.cells[: len(table.columns)])
    study = f"study: {done} of {total} jobs{f', [red]{failed} failed[/red]' if failed else ''}"
    table.add_row("", study, *_bar(done / max(1, total)), "", _left(left), style="bold")
    return table


def _bar(share: float) -> list[Any]:
    return [ProgressBar(total=1.0, completed=share, width=10), f"{math.floor(100 * share)} %"]


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(seconds)} left"


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
        return self._live is not None and time.monotonic() - self._last >= 1.0  # seconds

    def show(self, lines: Sequence[Line], done: int, total: int, failed: int, left: float | None) -> None:
        """Shows the table of these values (see `table_of`)."""
        if self._live is not None:
            self._last = time.monotonic()
            self._live.update(table_of(lines, done, total, failed, left, self._console.width), refresh=True)
