"""Runs a study on this machine: its jobs one after the other, or several at once (`pool`), each after its inputs."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import atomic_path, read_json, write_json, writing
from understudy.runtime.checkpoints import time_limit
from understudy.runtime.memory import release_memory
from understudy.study.config.schema import Study
from understudy.study.engine.display import RunLog, RunResult
from understudy.study.engine.estimate import estimated
from understudy.study.engine.execute import run_job
from understudy.study.engine.failures import RETRIES, RETRY_WORDS, failure_class, failure_message
from understudy.study.engine.jobs import (
    Job,
    StageFunction,
    find_job,
    job_folder,
    locked,
    read_done,
    read_failed,
    saved_jobs,
)
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.engine.pool import Pool, worker_count
from understudy.study.registry import stage_functions
from understudy.study.stages.report import report_again

FORMAT = "understudy-study-1"
PUBLISHED = ["scores.parquet", "report.json", "report.html", "figures/*.*", "figures/private/*.*", "tables/*.csv"]
PUBLISHED += ["tables/*.tex", "tables/*.html"]  # copied to the study's folder


def run_study(
    study: Study | Plan,
    out: str | Path,
    device: str = "auto",
    progress: bool = True,
    until: str = "report",
    devices: int = 1,
    workers: int | None = 1,
    minutes: float | None = None,
    stages: Mapping[str, StageFunction] | None = None,
) -> RunResult:
    """Runs all jobs that are not done; goes on with the others when one fails.

    A job that ran out of memory is tried again alone, with smaller batches; one whose process was lost or whose time
    was up continues once from its checkpoint; a full disk ends the run; a training that diverged is not tried again,
    now or in the next run, as the same seed would diverge again. The report then shows what is there.

    Args:
        study: what to run, or its plan.
        out: folder of the results, made if it is not there.
        device: "auto", "cpu", "cuda", ...
        progress: show what is going on, on stderr.
        until: the last stage to run.
        devices: number of devices of each generator's training.
        workers: jobs at once, each in a process of its own; 1: in this process (but for `minutes`); None: by GPUs,
            cores and jobs.
        minutes: time limit of a job; then it is stopped, or killed if it hangs, and continued from its checkpoint once.
        stages: stage name -> function, in place of the usual ones.

    Raises:
        UnderstudyError: the folder cannot be used (see `claimed`), no such stage or devices.
        Interrupted: SIGTERM or SIGINT; running again continues.
    """
    if devices > 1:
        usable_devices(device, devices)
    partial_report, stages = stages is None, stages or stage_functions()
    plan = study if isinstance(study, Plan) else estimated(make_plan(study), device)
    wanted = plan.until(until)
    with claimed(out, plan) as folder:
        result, log = RunResult(folder), RunLog(wanted, folder, progress)
        jobs = without_diverged(wanted.jobs, result)
        left = [job for job in jobs if read_done(job_folder(folder, job)) is None]
        count, gpus = worker_count(workers, left, device, devices)
        if count > 1 or gpus or minutes is not None:  # a limit needs a process that can be killed
            Pool(jobs, plan.by_id, stages, result, log, device, count, gpus, minutes, devices).run()
            jobs = []
        failed_or_blocked: set[str] = set()  # ids of jobs
        disk_full = False
        for number, job in enumerate(jobs, start=1):
            if read_done(job_folder(folder, job)) is not None:
                result.reused.append(job)
                continue
            if disk_full or any(before in failed_or_blocked for _, before in job.inputs):
                failed_or_blocked.add(job.id)
                result.blocked.append(job)
                continue
            log.announce(number, job)
            for attempt in itertools.count(1):
                try:
                    done = run_job(job, plan.by_id, folder, stages, device, progress, devices)
                    result.done.append(job)
                    log.finished(job, done)
                    break
                except Interrupted:
                    raise
                except Exception as error:  # recorded in failed.json by `run_job`
                    kind, message = failure_class(error, job.stage), failure_message(error, job_folder(folder, job))
                release_memory()  # not while the exception is handled: it keeps what fills the memory
                if attempt <= RETRIES.get(kind, 0):
                    log.warn(f"{job.name}: {message.splitlines()[0]}; {RETRY_WORDS[kind]}")
                    continue
                failed_or_blocked.add(job.id)
                log.failed(job, kind, message)
                result.failed.append((job, message))
                disk_full = kind == "disk"
                break
        conclude(wanted, result, until, partly=partial_report)
        return result


def run_one(
    job_id: str,
    out: Path,
    study: Study | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    progress: bool = True,
    minutes: float | None = None,
) -> tuple[Job, dict[str, Any]] | None:
    """Runs one job of a study, or continues it.

    Args:
        job_id: start of its id, or the name of its folder.
        study: whose job it is; None: the plan that was last run in `out`.
        devices, nodes: of a generator's training; with nodes this process is one of those of torchrun or srun.
        minutes: after which it is stopped with a checkpoint.

    Returns:
        The job and the content of its `done.json`; None in a process that takes part in another's job.

    Raises:
        UnderstudyError: no such job, it failed, an input is not done, another process runs it.
        Interrupted: SIGTERM, SIGINT, SIGUSR1 or the time limit; running it again continues.
    """
    with time_limit(minutes):
        place: contextlib.AbstractContextManager[Path] = contextlib.nullcontext(out)
        jobs: Sequence[Job]
        if study is None:
            jobs = saved_jobs(out)
        else:
            plan = make_plan(study)
            jobs, place = plan.jobs, claimed(out, plan, exclusive=False)
        job, by_id = find_job(jobs, job_id, str(out)), {entry.id: entry for entry in jobs}
        if devices * nodes > 1:
            if job.stage != "generator":
                what = f"`{job.name}` is not the training of a generator and uses one device"
                raise UnderstudyError(what, fix="leave --devices and --nodes out")
            if (rank := usable_devices(device, devices, nodes)) > 0:
                run_job(job, by_id, out, stage_functions(), device, False, devices, nodes, rank=rank)
                return None
        with place:
            try:
                return job, run_job(job, by_id, out, stage_functions(), device, progress, devices, nodes)
            except (UnderstudyError, Interrupted):
                raise
            except Exception as error:  # recorded in the job's folder
                raise UnderstudyError(failure_message(error, job_folder(out, job))) from error


def usable_devices(device: str, devices: int, nodes: int | None = None) -> int:
    """Refuses devices that are not there; gives this process's rank among those of a launcher, 0 without one."""
    from understudy.generators.training.distributed import check_devices, started

    rank, world = started()
    if nodes is None and world > 1:  # they would all run the whole study
        fix = "start it without (--devices starts processes of its own), or one generator by `understudy job ID`"
        raise UnderstudyError(f"torchrun or srun has started {world} processes of the whole study", fix=fix)
    check_devices(device, devices, nodes or 1)
    return rank


@contextlib.contextmanager
def claimed(out: str | Path, plan: Plan, exclusive: bool = True) -> Iterator[Path]:
    """Makes `out` the folder of this study, or continues it, and (if `exclusive`) keeps other runs out of it.

    A study that was changed keeps its folder: the jobs that the change does not touch are not done again.

    Raises:
        UnderstudyError: another study's folder, one with other things in it, a run is going on, no permission, ...
    """
    out, study = Path(out), plan.study
    stamp, planned, another = out / "study.json", out / "plan.json", "use another folder: --out FOLDER"
    if stamp.is_file():
        found = read_json(stamp)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            what = "the folder was written by another version of Understudy or by another program"
            raise UnderstudyError(what, where=out.absolute(), fix=another)
        if found["name"] != study.name:
            what = f"the folder belongs to the study {found['name']!r}, not to {study.name!r}"
            raise UnderstudyError(what, where=out.absolute(), fix=f"{another}, or give the study its old name")
    elif out.is_file():
        raise UnderstudyError("this is a file, not a folder", where=out.absolute(), fix=another)
    elif out.is_dir() and any(entry.name != "lock" for entry in out.iterdir()):
        raise UnderstudyError("the folder is not empty and holds no study", where=out.absolute(), fix=another)
    with writing(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError) as error:  # below /proc, on a drive that is gone, a broken link
            raise UnderstudyError(f"the folder cannot be made ({error.strerror})", where=out, fix=another) from error
    with locked(out) if exclusive else contextlib.nullcontext():
        # Jobs on many machines (not `exclusive`) must not all write what the files say already; and a plan with
        # estimates must not be replaced by that of a single job, which makes none.
        identity = {"format": FORMAT, "name": study.name, "hash": study.hash, "study": study.model_dump(mode="json")}
        if exclusive or not (stamp.is_file() and read_json(stamp) == identity):
            write_json(stamp, identity)
        ids = [job.id for job in plan.jobs]
        if exclusive or not (planned.is_file() and [job["id"] for job in read_json(planned)["jobs"]] == ids):
            write_json(planned, {"jobs": [job.as_dict() for job in plan.jobs]})
        yield out


def without_diverged(jobs: Sequence[Job], result: RunResult) -> list[Job]:
    """The jobs without those whose training diverged, which are listed as failed, and without what needs them."""
    lost: set[str] = set()
    for job in jobs:
        folder = job_folder(result.out, job)
        if read_done(folder) is not None:
            continue
        if any(before in lost for _, before in job.inputs):
            lost.add(job.id)
            result.blocked.append(job)
        elif (failed := read_failed(folder)).get("class") == "nan":
            lost.add(job.id)
            again = f"understudy job {job.id[:12]} trains it again as it is; better change its settings or seed"
            result.failed.append((job, f"{failed.get('message', '')}\n  {again}"))
    return [job for job in jobs if job.id not in lost]


def conclude(wanted: Plan, result: RunResult, until: str, partly: bool = True) -> None:
    """Publishes the reports that are done; makes one of what is there (if `partly`) when jobs have failed for good."""
    for job in wanted.jobs:  # of several cohorts each has its own, and the last is the study's
        if job.stage in ("report", "overview") and read_done(job_folder(result.out, job)) is not None:
            page, answer = publish(job, result.out)
            if result.complete and job is wanted.jobs[-1]:
                result.page, result.answer = page, answer
    evaluated = any(job.stage == "evaluate" for job in (*result.done, *result.reused))
    if partly and result.failed and until == "report" and evaluated:
        result.page, result.answer = report_again(result.out)


def publish(report: Job, out: Path) -> tuple[Path, str]:
    """Copies the finished report to where the user looks for it; returns its path and one-line answer."""
    from understudy.report.folder import remove_former

    folder, out = job_folder(out, report), out / report.local.get("publish", "")
    sources = [path for pattern in PUBLISHED for path in sorted(folder.glob(pattern))]
    remove_former(out, {source.relative_to(folder).as_posix() for source in sources})
    for source in sources:
        with atomic_path(out / source.relative_to(folder)) as temporary:
            shutil.copyfile(source, temporary)
    return out / "report.html", str((read_done(folder) or {})["results"].get("answer", ""))
