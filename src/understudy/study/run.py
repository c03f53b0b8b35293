"""Runs a study on this machine: its jobs one after the other, in an order in which all inputs are there."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from understudy.errors import Interrupted, UnderstudyError
from understudy.files import atomic_path, read_json, write_json, writing
from understudy.study.jobs import Job, StageFunction, job_folder, locked, read_done, run_job
from understudy.study.plan import Plan
from understudy.study.schema import Study

FORMAT = "understudy-study-1"
PUBLISHED = ("report.html", "report.json", "scores.parquet", "tables/*.csv")  # copied to the study's folder


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
        except (
            FileNotFoundError,
            FileExistsError,
        ) as error:  # below /proc, on a drive that is gone, a broken link
            raise UnderstudyError(
                f"the folder cannot be made ({error.strerror})",
                where=out,
                fix="use another folder: --out FOLDER",
            ) from error
    with locked(out) if exclusive else contextlib.nullcontext():
        identity = {
            "format": FORMAT,
            "name": study.name,
            "hash": study.hash,
            "study": study.model_dump(mode="json"),
        }
        write_json(out / "study.json", identity)
        if exclusive or not _is_planned(out / "plan.json", plan):
            write_json(out / "plan.json", {"jobs": [job.as_dict() for job in plan.jobs]})
        yield out


def _is_planned(path: Path, plan: Plan) -> bool:
    """Whether the plan on disk has the same jobs (and perhaps estimates, which a single job does not make)."""
    return path.is_file() and [entry["id"] for entry in read_json(path)["jobs"]] == [
        job.id for job in plan.jobs
    ]


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
        raise UnderstudyError(
            "this is a file, not a folder", where=out.absolute(), fix="use another folder: --out"
        )
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
) -> RunResult:
    """Runs all jobs that are not done; goes on with the others when one fails.

    Args:
        plan: what to run.
        out: folder of the results, made if it is not there.
        stages: stage name -> function (`stages.STAGES`).
        device: "auto", "cpu", "cuda", ...
        progress: show what is going on, on stderr.
        until: the last stage to run.
        devices: that a generator's training is spread over.

    Raises:
        UnderstudyError: the folder cannot be used (see `claimed`), no such stage.
        Interrupted: SIGTERM or SIGINT; running again continues.
    """
    wanted = plan.until(until)
    with claimed(out, plan) as folder:
        result = RunResult(folder)
        clock = _Clock(wanted, folder, Console(stderr=True, quiet=not progress))
        lost: set[str] = set()  # ids of jobs that failed or need one that did
        for number, job in enumerate(wanted.jobs, start=1):
            if any(job_id in lost for _, job_id in job.inputs):
                lost.add(job.id)
                result.blocked.append(job)
                continue
            if read_done(job_folder(folder, job)) is not None:
                result.reused.append(job)
                continue
            clock.announce(number, job)
            try:
                done = run_job(job, plan.by_id, folder, stages, device, progress, devices)
            except Interrupted:
                raise
            except Exception as error:  # reported, recorded in failed.json, and the run ends with an error
                lost.add(job.id)
                result.failed.append((job, _report_failure(job, error)))
            else:
                result.done.append(job)
                clock.finished(job, done)
        for job in wanted.jobs:  # of several cohorts each has its own, and the last is the study's
            if job.stage in ("report", "overview") and read_done(job_folder(folder, job)) is not None:
                page, answer = publish(job, folder)
                if result.complete and job is wanted.jobs[-1]:
                    result.page, result.answer = page, answer
        return result


def publish(report: Job, out: Path) -> tuple[Path, str]:
    """Puts a copy of the finished report where the user looks for it; returns its path and one-line answer.

    That of one of several cohorts stands in a folder of this name below the study's.
    """
    folder, out = job_folder(out, report), out / report.local.get("publish", "")
    for source in (path for pattern in PUBLISHED for path in sorted(folder.glob(pattern))):
        with atomic_path(out / source.relative_to(folder)) as temporary:
            shutil.copyfile(source, temporary)
    return out / "report.html", str((read_done(folder) or {})["results"].get("answer", ""))


def _report_failure(job: Job, error: Exception) -> str:
    """Says at once what went wrong; errors that the user cannot mend come with their traceback."""
    if isinstance(error, UnderstudyError):
        return error.message
    sys.stderr.write(f"job {job.name} failed:\n")
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


class _Clock:
    """Announces jobs with what they and the rest of the study will take, corrected by what earlier jobs took."""

    def __init__(self, plan: Plan, out: Path, console: Console) -> None:
        self._console, self._total = console, len(plan.jobs)
        self._left = [job for job in plan.jobs if read_done(job_folder(out, job)) is None]
        self._estimated: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        kept = self._total - len(self._left)
        if kept:
            console.print(f"{kept} of {self._total} jobs are done already")

    def _seconds(self, job: Job) -> float:
        """The estimate, scaled by what earlier jobs of the stage took."""
        if self._estimated.get(job.stage):
            return job.seconds * self._taken[job.stage] / self._estimated[job.stage]
        return job.seconds

    def announce(self, number: int, job: Job) -> None:
        """Prints the line above a job's own progress."""
        left = sum(self._seconds(other) for other in self._left)
        times = f" - about {duration(self._seconds(job))}, whole study {duration(left)}" if left else ""
        self._console.print(f"[bold]\\[{number}/{self._total}][/bold] {escape(job.name)}[dim]{times}[/dim]")

    def finished(self, job: Job, done: Mapping[str, Any]) -> None:
        """Learns how long a job took."""
        self._left.remove(job)
        if not done["restarts"]:
            self._estimated[job.stage] = self._estimated.get(job.stage, 0.0) + job.seconds
            self._taken[job.stage] = self._taken.get(job.stage, 0.0) + float(done["seconds"])
        self._console.print(f"      [dim]done in {duration(done['seconds'])}[/dim]")


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
