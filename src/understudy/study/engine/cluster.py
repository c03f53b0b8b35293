"""Runs a study's jobs through Snakemake: on a cluster by SLURM, or on this machine as on a cluster.

Below OUT/cluster lie `jobs.json` (what is left of the plan, and what each stage asks for), a copy of our `Snakefile`,
stamps that tell Snakemake what is over, and its logs. What is done says `done.json` of each job, as everywhere: only
jobs that are not done are given to Snakemake, and its own memory (`.snakemake`) decides nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import write_json, write_text, writing
from understudy.runtime.checkpoints import StopRequest
from understudy.study.config.cluster import ClusterConfig
from understudy.study.engine import cluster_step, slurm
from understudy.study.engine.jobs import Job, is_locked, job_folder, read_done, read_failed
from understudy.study.engine.leases import gpus
from understudy.study.engine.plan import Plan
from understudy.study.engine.pool import PartialReport, cores
from understudy.study.engine.run import Clock, RunResult, claimed, conclude, without_diverged

Kind = Literal["slurm", "local"]
KINDS: tuple[Kind, ...] = ("slurm", "local")
PATIENCE = 300.0  # seconds that jobs of an earlier run, or of this one, have to save their state and leave


def run_on_cluster(
    plan: Plan,
    out: str | Path,
    kind: Kind,
    device: str = "auto",
    progress: bool = True,
    until: str = "report",
    at_once: int | None = None,
    partial_report: PartialReport | None = None,
) -> RunResult:
    """Runs all jobs that are not done, as `run_plan` does; what each asks of the queue says `plan.study.cluster`.

    Args:
        plan: what to run.
        out: folder of the results, which all machines of the cluster see.
        kind: "slurm", or "local": one job a core of this machine.
        device: "auto", "cpu", "cuda", ...
        progress: show what is going on, on stderr.
        until: the last stage to run.
        at_once: jobs at once; None: `max_jobs` of the study file, or this machine's cores.
        partial_report: makes the report of what is there in a folder of results when a job has failed for good.

    Raises:
        UnderstudyError: the folder cannot be used (see `claimed`), Snakemake or SLURM is missing or refuses the plan.
        Interrupted: SIGTERM or SIGINT, or Snakemake was killed; running again continues.
    """
    check_tools(kind)
    wanted = plan.until(until)
    with claimed(out, plan) as folder:
        folder = folder.absolute()
        result = RunResult(folder)
        clock = Clock(wanted, folder, Console(stderr=True, quiet=not progress))
        jobs = without_diverged(wanted.jobs, result)
        result.reused = [job for job in jobs if read_done(job_folder(folder, job)) is not None]
        left = [job for job in jobs if job not in result.reused]
        if left:
            running = settle(plan.study.name, folder, left, kind, clock)
            content = queue_plan(left, folder, plan.study.cluster, kind, device, running)
            write_files(folder, content)
            words = arguments(plan.study.name, folder, plan.study.cluster, kind, at_once, content)
            status = _snakemake(words, left, folder, kind, clock)
            collect(left, result, folder, status)
        conclude(wanted, result, until, partial_report)
        return result


def check_tools(kind: Kind) -> None:
    """Refuses to start without what is needed.

    Raises:
        UnderstudyError: says what is missing.
    """
    wanted = ["snakemake"] + (["snakemake_executor_plugin_slurm"] if kind == "slurm" else [])
    for module in wanted:
        if importlib.util.find_spec(module) is None:
            raise UnderstudyError(
                f"--cluster {kind} needs {module.replace('_', '-')}", fix="pip install 'understudy-mri[cluster]'"
            )
    if kind == "slurm" and shutil.which("sbatch") is None:
        raise UnderstudyError(
            "there is no command sbatch on this machine",
            fix="start the study where jobs are sent to SLURM from (a login node), or use --cluster local",
        )


def settle(study: str, out: Path, left: Sequence[Job], kind: Kind, clock: Clock) -> dict[str, str]:
    """Deals with what an earlier run, whose Snakemake was killed, has left.

    Its waiting jobs leave the queue. Its running ones go on: the job that follows one waits for its end.

    Returns:
        Folder's name -> SLURM's number of the job that runs in it.

    Raises:
        UnderstudyError: somebody works in a job's folder and does not stop.
    """
    running: dict[str, str] = {}
    if kind == "slurm":
        found = slurm.queued(slurm.name_of(study, out))
        running = {job.folder: job.number for job in found if job.state == "RUNNING" and job.folder}
        others = [job for job in found if job.folder not in running]
        slurm.cancel(others)
        if found:
            clock.say(
                f"of an earlier run {len(running)} jobs still run and are waited for; {len(others)} were cancelled"
            )
    mine = [job for job in left if job.folder_name not in running]
    end, told = time.monotonic() + PATIENCE, False
    while busy := [job for job in mine if is_locked(job_folder(out, job))]:
        if time.monotonic() > end:
            raise UnderstudyError(
                f"another process works at `{busy[0].name}`",
                where=job_folder(out, busy[0]),
                fix="wait until it has finished, or stop it; its folder's file `lock` names it",
            )
        if not told:
            clock.say(f"{len(busy)} jobs of an earlier run are saving their state")
            told = True
        time.sleep(0.2)
    return running


def queue_plan(
    left: Sequence[Job], out: Path, config: ClusterConfig, kind: Kind, device: str, running: Mapping[str, str]
) -> dict[str, Any]:
    """What the Snakefile and the jobs' processes read: the jobs that are left, and what each stage asks for."""
    ids = {job.id: job.folder_name for job in left}
    here = gpus() if kind == "local" and device in ("auto", "cuda") else []
    jobs = {}
    for job in left:
        options = list(config.of(job.stage).sbatch)
        if job.folder_name in running:
            options.append(f"--dependency=afterany:{running[job.folder_name]}")
        jobs[job.folder_name] = {
            "stage": job.stage,
            "after": sorted({ids[before] for _, before in job.inputs if before in ids}),
            "sbatch": shlex.join(["--open-mode=append", *options]) if kind == "slurm" else "",
        }
    container = [*shlex.split(config.container_command), config.container] if config.container else []
    stages = dict.fromkeys(job.stage for job in left)
    return {
        "jobs": jobs,
        "stages": {stage: stage_plan(stage, config, kind, bool(here)) for stage in stages},
        "step": cluster_step.shell_words(out),
        "device": device,
        "gpus": here,
        "container": container,
        "requeues": config.requeues,
    }


def stage_plan(stage: str, config: ClusterConfig, kind: Kind, gpus_here: bool) -> dict[str, Any]:
    """What jobs of a stage ask for, in Snakemake's names."""
    asked = config.of(stage)
    own = config.stages.get(stage)
    threads = asked.cpus
    if kind == "local":  # one core each, so that there is one job a core, unless the study file says more
        threads = (own.cpus if own else None) or config.cpus or 1
    found: dict[str, Any] = {"runtime": math.ceil(asked.minutes)}
    if asked.gpus and (kind == "slurm" or gpus_here):
        found["gpu"] = asked.gpus
    if kind == "slurm":
        named = {
            "slurm_partition": asked.partition,
            "slurm_account": config.account,
            "qos": config.qos,
            "constraint": config.constraint,
        }
        found |= {name: value for name, value in named.items() if value}
    return {
        "threads": threads,
        "memory_mb": asked.memory_mb,
        "gpus": found.get("gpu", 0),
        "stop_minutes": config.stop_minutes(stage),
        "resources": found,
    }


def write_files(out: Path, content: Mapping[str, Any]) -> None:
    """Writes OUT/cluster anew: the plan, the Snakefile, no stamps."""
    place = out / "cluster"
    with writing(place):
        for old in ("stamps", ".snakemake/incomplete", ".snakemake/metadata", ".snakemake/locks"):
            shutil.rmtree(place / old, ignore_errors=True)
        (place / "stamps").mkdir(parents=True)
    write_json(place / "jobs.json", dict(content))
    write_text(place / "Snakefile", snakefile())


def snakefile() -> str:
    """The text of our Snakefile."""
    return (resources.files("understudy.study.engine") / "Snakefile").read_text(encoding="utf-8")


def arguments(
    study: str, out: Path, config: ClusterConfig, kind: Kind, at_once: int | None, content: Mapping[str, Any]
) -> list[str]:
    """Snakemake's arguments."""
    place = out / "cluster"
    words = ["--snakefile", str(place / "Snakefile"), "--directory", str(place), "--nolock", "--keep-going"]
    words += ["--rerun-incomplete", "--rerun-triggers", "mtime", "--scheduler", "greedy", "--nocolor"]
    words += ["--executor", kind, "--workflow-profile", "none", "--retries", str(config.retries)]
    if config.profile:
        words += ["--profile", config.profile]
    if kind == "local":
        words += ["--cores", str(at_once or cores()), "--latency-wait", "5"]
        return words + (["--resources", f"gpu={len(content['gpus'])}"] if content["gpus"] else [])
    words += ["--jobs", str(at_once or config.max_jobs), "--latency-wait", str(config.latency_seconds)]
    words += ["--slurm-jobname-prefix", slurm.name_of(study, out), "--slurm-requeue"]
    words += ["--slurm-logdir", str(place / "logs"), "--slurm-keep-successful-logs"]
    words += ["--slurm-init-seconds-before-status-checks", str(config.status_seconds)]
    return [*words, "--slurm-status-command", "sacct" if slurm.keeps_accounts() else "squeue"]


def _snakemake(words: Sequence[str], left: Sequence[Job], out: Path, kind: Kind, clock: Clock) -> int:
    """Runs Snakemake and tells what becomes of the jobs; gives its exit status.

    Raises:
        Interrupted: this process was asked to stop, or Snakemake was killed.
    """
    orphaned = signal.SIGINT if kind == "slurm" else signal.SIGKILL
    module = [sys.executable, "-m", "understudy.study.engine.snakemake_process", str(os.getpid()), str(int(orphaned))]
    with StopRequest() as stop, _log(out) as log:
        process = subprocess.Popen(
            [*module, *words], cwd=out / "cluster", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        waiting = list(left)
        try:
            while process.poll() is None and not stop.requested:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                waiting = _tell(waiting, out, clock)
        finally:
            if process.poll() is None:
                _stop(process, kind)
    if stop.requested:
        raise Interrupted("stopped; the jobs save their state and leave the queue")
    if process.returncode < 0:
        _wait_until_free(left, out, kind)
        raise Interrupted(f"Snakemake was ended by {signal.Signals(-process.returncode).name}")
    return process.returncode


def _tell(waiting: Sequence[Job], out: Path, clock: Clock) -> list[Job]:
    """Says which jobs are done now; gives the others."""
    others = []
    for job in waiting:
        done = read_done(job_folder(out, job))
        if done is None:
            others.append(job)
        else:
            clock.finished(job, done, named=True)
    return others


@contextlib.contextmanager
def _log(out: Path) -> Iterator[Any]:
    with writing(out), open(out / "cluster" / "snakemake.log", "ab") as log:
        yield log


def _stop(process: subprocess.Popen[bytes], kind: Kind) -> None:
    """SIGINT: Snakemake takes its jobs out of the queue, or they get the signal themselves, and save their state."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if kind == "local" else os.kill)(process.pid, signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_free(left: Sequence[Job], out: Path, kind: Kind) -> None:
    """Until jobs on this machine, whose Snakemake is gone, have seen it and saved their state."""
    end = time.monotonic() + PATIENCE
    while kind == "local" and time.monotonic() < end and any(is_locked(job_folder(out, job)) for job in left):
        time.sleep(0.2)


def collect(left: Sequence[Job], result: RunResult, out: Path, status: int) -> None:
    """Sorts the jobs into done, failed and blocked by what their folders say.

    Raises:
        UnderstudyError: Snakemake failed before it ran any job.
    """
    lost = {job.id for job, _ in result.failed} | {job.id for job in result.blocked}
    unsaid: list[Job] = []
    for job in left:
        folder = job_folder(out, job)
        if read_done(folder) is not None:
            result.done.append(job)
        elif any(before in lost for _, before in job.inputs):
            lost.add(job.id)
            result.blocked.append(job)
        else:
            lost.add(job.id)
            failed = read_failed(folder)
            unsaid += [] if failed else [job]
            result.failed.append((job, str(failed.get("message") or "the queue did not run it to its end")))
    log = out / "cluster" / "snakemake.log"
    if status and unsaid and not result.done and len(unsaid) == len(result.failed):
        raise UnderstudyError(
            f"Snakemake ran none of the jobs: {last_words(log)}",
            where=log,
            fix="correct the section `cluster` of the study file, or ask the cluster's people with this message",
        )
    hint = f"\n  where: {log}\n  what to do: look for its name there; logs of its tries are in {log.parent / 'logs'}"
    result.failed = [(job, text + (hint if job in unsaid else "")) for job, text in result.failed]


def last_words(log: Path, lines: int = 8) -> str:
    """The end of a log."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n    ".join(["", *[line for line in text.splitlines() if line.strip()][-lines:]])


def queue_table(content: Mapping[str, Any]) -> list[list[Any]]:
    """Stage, jobs and what each asks for: what `--dry-run` shows."""
    rows = []
    for stage, asked in content["stages"].items():
        count = sum(job["stage"] == stage for job in content["jobs"].values())
        named = {k: v for k, v in asked["resources"].items() if k not in ("runtime", "gpu")}
        more = [f"{name.removeprefix('slurm_')} {value}" for name, value in named.items()]
        rows.append([stage, count, asked["threads"], asked["memory_mb"], asked["gpus"],
                     asked["resources"]["runtime"], ", ".join(more)])  # fmt: skip
    return rows
