"""Runs a study on this machine: its jobs one after the other, or several at once (`pool`), each after its inputs."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import atomic_path, read_json, write_json, writing
from understudy.runtime.memory import release_memory
from understudy.study.config.schema import Study
from understudy.study.engine.failures import AGAIN, RETRIES, failure_class
from understudy.study.engine.jobs import Job, StageFunction, job_folder, locked, read_done, read_failed, run_job, told
from understudy.study.engine.plan import Plan
from understudy.study.engine.pool import PartialReport, Pool, worker_count
from understudy.study.engine.schedule import elapsed

RunJob = Callable[[Job], dict[str, Any]]
FORMAT = "understudy-study-1"
PUBLISHED = (  # copied to the study's folder
    "scores.parquet", "tables/*.csv", "tables/*.tex", "tables/*.html", "figures/*.*", "figures/private/*.*",
    "report.json", "report.html",
)  # fmt: skip


@dataclass
class RunResult:
    """What became of a run.

    Attributes:
        out: folder of the results.
        reused: jobs that were done before.
        done: jobs done by this run.
        failed: (job, message) of those that failed.
        blocked: jobs that need a failed one.
        page, answer: the report and the line that it opens with, if the report was made.
    """

    out: Path
    reused: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)
    blocked: list[Job] = field(default_factory=list)
    page: Path | None = None
    answer: str = ""

    @property
    def complete(self) -> bool:
        """Whether every job is done."""
        return not self.failed and not self.blocked


@contextlib.contextmanager
def claimed(out: str | Path, plan: Plan, exclusive: bool = True) -> Iterator[Path]:
    """Makes `out` the folder of this study, or continues it, and (if `exclusive`) keeps other runs out of it.

    A study that was changed keeps its folder: the jobs that the change does not touch are not done again.

    Raises:
        UnderstudyError: another study's folder, a folder with other things in it, a run is going on, no permission,
            disk full.
    """
    out, study = Path(out), plan.study
    _refuse_foreign(out, study)
    with writing(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError) as error:  # below /proc, on a drive that is gone, a broken link
            raise UnderstudyError(
                f"the folder cannot be made ({error.strerror})", where=out, fix="use another folder: --out FOLDER"
            ) from error
    with locked(out) if exclusive else contextlib.nullcontext():
        identity = {"format": FORMAT, "name": study.name, "hash": study.hash, "study": study.model_dump(mode="json")}
        if exclusive or not _says(out / "study.json", identity):
            write_json(out / "study.json", identity)
        if exclusive or not _is_planned(out / "plan.json", plan):
            write_json(out / "plan.json", {"jobs": [job.as_dict() for job in plan.jobs]})
        yield out


def _says(path: Path, content: dict[str, Any]) -> bool:
    """Whether a file says this already: jobs on many machines must not all write it."""
    return path.is_file() and bool(read_json(path) == content)


def _is_planned(path: Path, plan: Plan) -> bool:
    """Whether the plan on disk has the same jobs (and perhaps estimates, which a single job does not make)."""
    return path.is_file() and [entry["id"] for entry in read_json(path)["jobs"]] == [job.id for job in plan.jobs]


def _refuse_foreign(out: Path, study: Study) -> None:
    stamp = out / "study.json"
    if stamp.is_file():
        found = read_json(stamp)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UnderstudyError(
                "the folder was written by another version of Understudy or by another program",
                where=out.absolute(),
                fix="use another folder: --out FOLDER",
            )
        if found["name"] != study.name:
            raise UnderstudyError(
                f"the folder belongs to the study {found['name']!r}, not to {study.name!r}",
                where=out.absolute(),
                fix="use another folder (--out FOLDER), or give the study its old name",
            )
    elif out.is_file():
        raise UnderstudyError("this is a file, not a folder", where=out.absolute(), fix="use another folder: --out")
    elif out.is_dir() and any(entry.name != "lock" for entry in out.iterdir()):
        raise UnderstudyError(
            "the folder is not empty and holds no study",
            where=out.absolute(),
            fix="use a new or empty folder: --out FOLDER",
        )


def run_plan(
    plan: Plan,
    out: str | Path,
    stages: Mapping[str, StageFunction],
    device: str = "auto",
    progress: bool = True,
    until: str = "report",
    devices: int = 1,
    workers: int | None = 1,
    partial_report: PartialReport | None = None,
    minutes: float | None = None,
) -> RunResult:
    """Runs all jobs that are not done; goes on with the others when one fails.

    A failure is answered by its class (`failures`): a job that ran out of memory is tried again with nothing beside it
    and less at once, one whose process was lost or whose time was up once more from its checkpoint; a full disk ends
    the run; a training that has diverged is not tried again, in this run or the next, as its seed would lead it there
    again.

    Args:
        plan: what to run.
        out: folder of the results, made if it is not there.
        stages: stage name -> function (`stages.STAGES`).
        device: "auto", "cpu", "cuda", ...
        progress: show what is going on, on stderr.
        until: the last stage to run.
        devices: that a generator's training is spread over.
        workers: jobs at once, each in a process of its own; 1: in this process, or in one of its own if `minutes` are
            given; None: by GPUs, cores and jobs.
        partial_report: makes the report of what is there in a folder of results when a job has failed for good.
        minutes: that a job may take; then it is stopped, or killed if it hangs, and continued from its checkpoint once.

    Raises:
        UnderstudyError: the folder cannot be used (see `claimed`), no such stage.
        Interrupted: SIGTERM or SIGINT; running again continues.
    """
    wanted = plan.until(until)
    with claimed(out, plan) as folder:
        result = RunResult(folder)
        clock = Clock(wanted, folder, Console(stderr=True, quiet=not progress))
        jobs = without_diverged(wanted.jobs, result)
        left = [job for job in jobs if read_done(job_folder(folder, job)) is None]
        count, leases = worker_count(workers, left, device, devices)
        if count == 1 and not leases and minutes is None:  # a limit needs a process that can be killed
            run = functools.partial(run_job, jobs=plan.by_id, out=folder, stages=stages, device=device,
                                    progress=progress, devices=devices)  # fmt: skip
            _run_here(jobs, run, result, clock)
        else:
            Pool(jobs, plan.by_id, stages, result, clock, device, count, leases, minutes, devices).run()
        conclude(wanted, result, until, partial_report)
        return result


def conclude(wanted: Plan, result: RunResult, until: str, partial_report: PartialReport | None) -> None:
    """Publishes the reports that are done, and the report of what is there if jobs have failed for good."""
    for job in wanted.jobs:  # of several cohorts each has its own, and the last is the study's
        if job.stage in ("report", "overview") and read_done(job_folder(result.out, job)) is not None:
            page, answer = publish(job, result.out)
            if result.complete and job is wanted.jobs[-1]:
                result.page, result.answer = page, answer
    if result.failed and until == "report" and partial_report and _any_evaluated(result):
        result.page, result.answer = partial_report(result.out)


def without_diverged(jobs: Sequence[Job], result: RunResult) -> list[Job]:
    """The jobs without those that failed as numbers ran away, which are listed as failed, and what needs them."""
    lost: set[str] = set()
    for job in jobs:
        folder = job_folder(result.out, job)
        if any(job_id in lost for _, job_id in job.inputs) and read_done(folder) is None:
            lost.add(job.id)
            result.blocked.append(job)
        elif (failed := read_failed(folder)).get("class") == "nan" and read_done(folder) is None:
            lost.add(job.id)
            again = f"understudy job {job.id[:12]} trains it again as it is; better change its settings or seed"
            result.failed.append((job, f"{failed.get('message', '')}\n  {again}"))
    return [job for job in jobs if job.id not in lost]


def _any_evaluated(result: RunResult) -> bool:
    return any(job.stage == "evaluate" for job in (*result.done, *result.reused))


def _run_here(jobs: Sequence[Job], run: RunJob, result: RunResult, clock: Clock) -> None:
    """Runs jobs one after the other in this process."""
    lost: set[str] = set()  # ids of jobs that failed or need one that did
    full = False
    for number, job in enumerate(jobs, start=1):
        if read_done(job_folder(result.out, job)) is not None:
            result.reused.append(job)
            continue
        if full or any(job_id in lost for _, job_id in job.inputs):
            lost.add(job.id)
            result.blocked.append(job)
            continue
        clock.announce(number, job)
        try:
            done = _with_retries(job, run, clock)
        except Interrupted:
            raise
        except Exception as error:  # reported, recorded in failed.json, and the run ends with an error
            lost.add(job.id)
            kind, message = failure_class(error, job.stage), told(error, job_folder(result.out, job))
            clock.failed(job, kind, message)
            result.failed.append((job, message))
            full = kind == "disk"
        else:
            result.done.append(job)
            clock.finished(job, done)


def _with_retries(job: Job, run: RunJob, clock: Clock) -> dict[str, Any]:
    """Runs a job, once more where that may help."""
    for attempt in itertools.count():
        try:
            return run(job)
        except Exception as error:
            kind = failure_class(error, job.stage)
            if isinstance(error, Interrupted) or attempt >= RETRIES.get(kind, 0):
                raise
            first = (str(error) or type(error).__name__).splitlines()[0]
        release_memory()  # not while the exception is handled: it keeps what fills the memory
        clock.say(f"{job.name}: {first}; {AGAIN.get(kind, 'it is tried again')}")
    raise AssertionError("counted without end")


def publish(report: Job, out: Path) -> tuple[Path, str]:
    """Puts a copy of the finished report where the user looks for it; returns its path and one-line answer.

    That of one of several cohorts stands in a folder of this name below the study's.
    """
    from understudy.report.folder import remove_former

    folder, out = job_folder(out, report), out / report.local.get("publish", "")
    sources = [path for pattern in PUBLISHED for path in sorted(folder.glob(pattern))]
    remove_former(out, {source.relative_to(folder).as_posix() for source in sources})
    for source in sources:
        with atomic_path(out / source.relative_to(folder)) as temporary:
            shutil.copyfile(source, temporary)
    return out / "report.html", str((read_done(folder) or {})["results"].get("answer", ""))


class Clock:
    """Announces jobs with what they and the rest of the study will take, corrected by what earlier jobs took."""

    def __init__(self, plan: Plan, out: Path, console: Console) -> None:
        self.console, self.total = console, len(plan.jobs)
        self._left = [job for job in plan.jobs if read_done(job_folder(out, job)) is None]
        self._estimated: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        self._beside = False  # other jobs run at the same time
        kept = self.total - len(self._left)
        if kept:
            console.print(f"{kept} of {self.total} jobs are done already")

    def _seconds(self, job: Job) -> float:
        """The estimate, scaled by what earlier jobs of the stage took."""
        if self._estimated.get(job.stage):
            return job.seconds * self._taken[job.stage] / self._estimated[job.stage]
        return job.seconds

    def left(self) -> list[tuple[Job, float]]:
        """Jobs that are not done and their estimated seconds."""
        return [(job, self._seconds(job)) for job in self._left]

    def say(self, text: str) -> None:
        """Prints a line."""
        self._print(f"[yellow]{escape(text)}[/yellow]")

    def tell(self, text: str) -> None:
        """Prints what must be seen also where no progress is wanted."""
        if self.console.quiet:
            sys.stderr.write(f"{text}\n")
        else:
            self.console.print(escape(text), style="dim", highlight=False, soft_wrap=True)

    def failed(self, job: Job, kind: str, message: str) -> None:
        """Says at once that a job failed for good."""
        self._left = [other for other in self._left if other.id != job.id]
        first = message.splitlines()[0] if message else kind
        words = f"failed ({kind.replace('_', ' ')}): {job.name}: {first}"
        self._print(f"[bold red]{escape(words)}[/bold red]")

    def announce(self, number: int, job: Job, workers: int = 1) -> None:
        """Prints the line above a job's own progress, or that one of several workers has begun it."""
        self._beside = workers > 1
        left = elapsed([replace(other, seconds=seconds) for other, seconds in self.left()], workers)
        times = f" - about {duration(self._seconds(job))}, whole study {duration(left)}" if left else ""
        if self._beside and self.console.is_terminal:  # the display below has them
            times = ""
        self._print(f"[bold]\\[{number}/{self.total}][/bold] {escape(job.name)}[dim]{times}[/dim]")

    def _print(self, text: str) -> None:
        """A line, which no file or pipe cuts at 80 columns."""
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def finished(self, job: Job, done: Mapping[str, Any], named: bool = False) -> None:
        """Learns how long a job took; says its name too if others run beside it, or if `named`."""
        self._left.remove(job)
        if not done["restarts"]:
            self._estimated[job.stage] = self._estimated.get(job.stage, 0.0) + job.seconds
            self._taken[job.stage] = self._taken.get(job.stage, 0.0) + float(done["seconds"])
        name = f"{escape(job.name)}: " if self._beside or named else ""
        self._print(f"      [dim]{name}done in {duration(done['seconds'])}[/dim]")


def duration(seconds: float | None) -> str:
    """E.g. "12 s", "3 min 20 s", "2 h 05 min", "3 d 4 h"; "" for None and NaN."""
    if seconds is None or math.isnan(seconds):
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
