"""Runs a study on this machine: its jobs one after the other, or several at once (`pool`), each after its inputs."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import read_json, write_json, writing
from understudy.io.seals import Damaged, sealed
from understudy.runtime.checkpoints import time_limit
from understudy.runtime.memory import release_memory
from understudy.study.config.schema import FORMAT, Study
from understudy.study.engine.display import RunLog, RunResult
from understudy.study.engine.execute import run_job
from understudy.study.engine.failures import failure_message
from understudy.study.engine.jobs import (
    Job,
    StageFunction,
    find_job,
    job_folder,
    locked,
    not_done,
    read_done,
    read_quietly,
    saved_jobs,
    sweep,
)
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.engine.pool import Outcome, Pool, Schedule, without_diverged, worker_count
from understudy.study.engine.preview import estimated_here
from understudy.study.engine.publish import AGAIN, REPORTS, damaged_copies, link_results, publish
from understudy.study.engine.repair import refuse_damaged, repair
from understudy.study.registry import stage_functions
from understudy.study.stages.report import report_again

log = logging.getLogger(__name__)


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
    again: bool = False,
) -> RunResult:
    """Runs all jobs that are not done; goes on with the others when one fails.

    A job that ran out of memory is tried again alone, with smaller batches; one whose process was lost or whose time
    was up continues once from its checkpoint; a full disk ends the run; a training that diverged is not tried again,
    now or in the next run, as the same seed would diverge again. The report then shows what is there.

    Args:
        out: folder of the results, made if it is not there.
        progress: show what is going on, on stderr.
        until: the last stage to run.
        devices: number of devices of each generator's training.
        workers: jobs at once, each in its own process; 1: in this process (but for `minutes`); None: by GPUs and cores.
        minutes: time limit of a job; then it is stopped, or killed if it hangs, and continued from its checkpoint once.
        stages: stage name -> function, in place of the usual ones.
        again: do damaged jobs again, and what depends on them (`repair`), rather than stop.

    Raises:
        Damaged: a finished job's files are not as it left them.
        UnderstudyError: the folder cannot be used (see `claimed`), no such stage or devices.
        Interrupted: SIGTERM or SIGINT; running again continues.
    """
    if devices > 1:
        usable_devices(device, devices)
    plan = study if isinstance(study, Plan) else estimated_here(make_plan(study), Path(out), device, workers)[0]
    wanted, table = plan.until(until), stages or stage_functions()
    if (seen := _looked_at(wanted, Path(out))) is not None:
        return seen
    with claimed(out, plan) as folder:
        (repair if again else refuse_damaged)(plan.jobs, folder)
        result, log = RunResult(folder), RunLog(wanted, folder, progress)
        schedule = Schedule(without_diverged(wanted.jobs, result), result, log)
        schedule.workers, gpus = worker_count(workers, schedule.waiting, device, devices)
        run = functools.partial(run_job, jobs=plan.by_id, out=folder, stages=table, device=device, devices=devices)
        if schedule.workers > 1 or gpus or minutes is not None:  # a limit needs a process that can be killed
            Pool(schedule, functools.partial(run, progress=False, minutes=minutes), gpus, minutes).run_all()
        else:
            while ready := schedule.ready():
                job = ready[0]
                schedule.begin(job)
                try:
                    outcome = Outcome(job, run(job, progress=progress))
                except Interrupted:
                    raise
                except Exception as error:  # recorded in failed.json by `run_job`
                    outcome = Outcome.of_error(job, error, folder)
                if outcome.done is None:  # not while the exception is handled: it keeps what fills the memory
                    release_memory()
                schedule.end(outcome)
        result.blocked += schedule.waiting
        conclude(wanted, result, until, partly=stages is None)
        return result


def _looked_at(wanted: Plan, out: Path) -> RunResult | None:
    """The result of a finished study in a folder that cannot be written (a closed disk, an archive), without a lock.

    None where there is something to do, or the folder can be written.
    """
    if not (out / "study.json").is_file() or os.access(out, os.W_OK) or not_done(wanted.jobs, out):
        return None
    refuse_damaged(wanted.jobs, out)
    result, last = RunResult(out, reused=list(wanted.jobs)), wanted.jobs[-1]
    place = out / last.local.get("publish", "")
    if wrong := damaged_copies(wanted.jobs, out):
        raise Damaged(f"the published report is damaged: {wrong[0]}", out, AGAIN)
    if (place / "report.html").is_file():
        result.page = place / "report.html"
        result.answer = (read_done(job_folder(out, last)) or {})["results"].get("answer", {})
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
    """Runs one job of a study (None: of the plan that was last run in `out`), or continues it; see `run_job`.

    Args:
        job_id: start of its id, or the name of its folder.
        devices, nodes: of a generator's training; with nodes this process is one of those of torchrun or srun.

    Returns:
        The job and the content of its `done.json`; None in a process that takes part in another's job.
    """
    with time_limit(minutes), contextlib.ExitStack() as stack:
        plan = None if study is None else make_plan(study)
        jobs: Sequence[Job] = saved_jobs(out) if plan is None else plan.jobs
        job, by_id, rank = find_job(jobs, job_id, str(out)), {entry.id: entry for entry in jobs}, 0
        if devices * nodes > 1:
            if job.stage != "generator":
                what = f"`{job.name}` is not the training of a generator and uses one device"
                raise UnderstudyError(what, fix="use one device and one node")
            rank = usable_devices(device, devices, nodes)
        if plan is not None and rank == 0:
            stack.enter_context(claimed(out, plan, exclusive=False))
        show = progress and rank == 0
        try:
            done = run_job(job, by_id, out, stage_functions(), device, show, devices, nodes, rank=rank)
        except Exception as error:  # recorded in the job's folder
            if rank or isinstance(error, UnderstudyError | Interrupted):
                raise
            raise UnderstudyError(failure_message(error, job_folder(out, job))) from error
        return None if rank else (job, done)


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

    A study that was changed keeps its folder: the jobs that the change does not touch are not done again. An error for
    another study's folder, one with other things in it, a run that is going on, a missing permission, ...
    """
    out, study = Path(out), plan.study
    stamp, planned, another = out / "study.json", out / "plan.json", "use another folder: --out FOLDER"
    what, entries = "", [entry.name for entry in out.iterdir()] if out.is_dir() else []
    if "name" not in read_quietly(stamp) and any(job_folder(out, job).is_dir() for job in plan.jobs):
        log.warning("study.json in %s is lost or damaged, and is written anew", out)
    elif stamp.is_file():
        found = read_json(stamp)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            what = "the folder was written by another version of Understudy or by another program"
        elif found["name"] != study.name:
            what = f"the folder belongs to the study {found['name']!r}, not to {study.name!r}"
    elif out.is_file():
        what = "this is a file, not a folder"
    # Listed before the stamp was looked for: another run that has begun meanwhile writes it before all else.
    elif any(name != "lock" and not name.startswith(".study.json.") for name in entries):
        what = "the folder is not empty and holds no study"
    if what:
        raise UnderstudyError(what, where=out.absolute(), fix=another)
    with writing(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError) as error:  # below /proc, on a drive that is gone, a broken link
            raise UnderstudyError(f"the folder cannot be made ({error.strerror})", where=out, fix=another) from error
    with locked(out) if exclusive else contextlib.nullcontext():
        if exclusive:
            sweep(out)
        # Jobs on many machines (not `exclusive`) must not all write what the files say already; and a plan with
        # estimates must not be replaced by that of a single job, which makes none.
        identity = {"format": FORMAT, "name": study.name, "hash": study.hash, "study": study.model_dump(mode="json")}
        if exclusive or not (stamp.is_file() and read_json(stamp) == identity):
            write_json(stamp, identity)
        ids, held = [job.id for job in plan.jobs], read_quietly(planned)
        if exclusive or [job["id"] for job in held.get("jobs", ())] != ids or held.get("study") != study.hash:
            write_json(planned, sealed({"study": study.hash, "jobs": [job.as_dict() for job in plan.jobs]}))
        yield out


def conclude(wanted: Plan, result: RunResult, until: str, partly: bool = True) -> None:
    """Copies the reports that are done to where the user looks for them; makes one of what is there (if `partly`) when
    jobs have failed for good."""
    link_results(wanted.jobs, wanted.cohort_of, result.out)
    for job in wanted.jobs:  # of several cohorts each has its own, and the last is the study's
        folder, place = job_folder(result.out, job), result.out / job.local.get("publish", "")
        if job.stage not in REPORTS or (done := read_done(folder)) is None:
            continue
        publish(folder, place)
        if result.complete and job is wanted.jobs[-1]:
            result.page, result.answer = place / "report.html", done["results"].get("answer", {})
    evaluated = any(job.stage == "evaluate" for job in (*result.done, *result.reused))
    if partly and result.failed and until == "report" and evaluated:
        try:
            result.page, result.answer = report_again(result.out)
        except Damaged as error:  # which often is what the failed ones say
            result.failed.append((wanted.jobs[-1], str(error)))
