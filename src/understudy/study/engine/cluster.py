"""Runs a study's jobs through Snakemake: on a cluster by SLURM, or on this machine as on a cluster.

Below OUT/cluster lie `jobs.json` (what is left of the plan, and the resources of each stage), a copy of our
`Snakefile`, stamps that tell Snakemake what is over, and its logs. Whether a job is done says its `done.json`, as
everywhere: only jobs that are not done are given to Snakemake, and its own memory (`.snakemake`) decides nothing.
"""

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import write_json, write_text, writing
from understudy.runtime.checkpoints import StopRequest
from understudy.study.config.cluster import ClusterConfig
from understudy.study.config.schema import Study
from understudy.study.engine import slurm
from understudy.study.engine.display import RunLog, RunResult
from understudy.study.engine.estimate import estimated
from understudy.study.engine.jobs import Job, is_locked, job_folder, not_done, read_done, read_failed
from understudy.study.engine.machine import cores, gpus
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.engine.pool import without_diverged
from understudy.study.engine.run import claimed, conclude

Kind = Literal["slurm", "local"]
STEP = [sys.executable, "-m", "understudy.study.engine.cluster_step"]
PATIENCE = 300.0  # seconds that jobs of an earlier run, or of this one, have to save their state and leave


def run_on_cluster(
    study: Study | Plan,
    out: str | Path,
    kind: Kind,
    device: str = "auto",
    progress: bool = True,
    until: str = "report",
    at_once: int | None = None,
) -> RunResult:
    """Runs all jobs that are not done, as `run_study` does, with the resources of the study's section `cluster`.

    Args:
        out: folder of the results, which all machines of the cluster see.
        kind: "slurm", or "local": one job a core of this machine.
        at_once: jobs at once; None: `max_jobs` of the study file, or this machine's cores.
    """
    check_tools(kind)
    here = "auto" if kind == "slurm" else device  # this machine need not have the queue's devices
    plan = study if isinstance(study, Plan) else estimated(make_plan(study), here)
    wanted, config = plan.until(until), plan.study.cluster
    with claimed(out, plan) as folder:
        folder = folder.absolute()
        result, log = RunResult(folder), RunLog(wanted, folder, progress)
        jobs = without_diverged(wanted.jobs, result)
        left = not_done(jobs, folder)
        ids = {job.id for job in left}
        result.reused = [job for job in jobs if job.id not in ids]
        if left:
            running = settle(plan.study.name, folder, left, kind, log)
            content = queue_plan(left, folder, config, kind, device, running)
            place = folder / "cluster"
            with writing(place):
                for old in ("stamps", ".snakemake/incomplete", ".snakemake/metadata", ".snakemake/locks"):
                    shutil.rmtree(place / old, ignore_errors=True)
                (place / "stamps").mkdir(parents=True)
            write_json(place / "jobs.json", content)
            write_text(place / "Snakefile", Path(__file__).with_name("Snakefile").read_text(encoding="utf-8"))
            words = arguments(plan.study.name, folder, config, kind, at_once, content)
            collect(left, result, folder, _run_snakemake(words, left, folder, kind, log))
        conclude(wanted, result, until)
        return result


def dry_run(
    study: Study, out: Path, kind: Kind, device: str, until: str, at_once: int | None
) -> tuple[list[list[Any]], list[str]]:
    """What would be given to the queue: rows of stage, jobs, cores, MB, GPUs, minutes, more options; further lines."""
    config, out, wanted = study.cluster, out.absolute(), make_plan(study).until(until).jobs
    left = not_done(wanted, out)
    content = queue_plan(left, out, config, kind, device, {})
    rows = []
    for stage, asked in content["stages"].items():
        count = sum(job["stage"] == stage for job in content["jobs"].values())
        named = {k: v for k, v in asked["resources"].items() if k not in ("runtime", "gpu")}
        more = ", ".join(f"{name.removeprefix('slurm_')} {value}" for name, value in named.items())
        sizes = [asked["threads"], asked["memory_mb"], asked["gpus"], asked["resources"]["runtime"]]
        rows.append([stage, count, *sizes, more])
    again = f"queued again at most {config.requeues} times after a time limit, {config.retries} times when lost"
    lines = [f"{len(left)} of {len(wanted)} jobs to do; {again}"]
    if content["container"]:
        lines.append(f"in the container: {shlex.join(content['container'])}")
    return rows, [*lines, shlex.join(["snakemake", *arguments(study.name, out, config, kind, at_once, content)])]


def check_tools(kind: Kind) -> None:
    """Refuses to start without what is needed."""
    for module in ["snakemake"] + (["snakemake_executor_plugin_slurm"] if kind == "slurm" else []):
        if importlib.util.find_spec(module) is None:
            what = f"--cluster {kind} needs {module.replace('_', '-')}"
            raise UnderstudyError(what, fix="pip install 'understudy-mri[cluster]'")
    if kind == "slurm" and shutil.which("sbatch") is None:
        raise UnderstudyError("there is no command sbatch on this machine", fix=slurm.NO_SLURM)


def settle(study: str, out: Path, left: Sequence[Job], kind: Kind, log: RunLog) -> dict[str, str]:
    """Takes the waiting jobs of an earlier run, whose Snakemake was killed, out of the queue; its running ones go on:
    folder's name -> SLURM's number of the job that runs in it, for whose end the job that follows waits."""
    running: dict[str, str] = {}
    if kind == "slurm":
        found = slurm.queued(slurm.name_of(study, out))
        running = {job.folder: job.number for job in found if job.state == "RUNNING" and job.folder}
        others = [job for job in found if job.folder not in running]
        slurm.cancel(others)
        if found:
            log.warn(f"of an earlier run {len(running)} jobs still run, {len(others)} were cancelled")
    mine = [job for job in left if job.folder_name not in running]
    end = 0.0
    while busy := [job for job in mine if is_locked(job_folder(out, job))]:
        if not end:
            end = time.monotonic() + PATIENCE
            log.warn(f"{len(busy)} jobs of an earlier run are saving their state")
        if time.monotonic() > end:
            fix = "wait until it has finished, or stop it; its folder's file `lock` names it"
            raise UnderstudyError(f"another process works at `{busy[0].name}`", job_folder(out, busy[0]), fix)
        time.sleep(0.2)
    return running


def queue_plan(
    left: Sequence[Job], out: Path, config: ClusterConfig, kind: Kind, device: str, running: Mapping[str, str]
) -> dict[str, Any]:
    """What the Snakefile and the jobs' processes read: the jobs that are left, and the resources of each stage."""
    ids = {job.id: job.folder_name for job in left}
    here = gpus() if kind == "local" and device in ("auto", "cuda") else []
    jobs = {}
    for job in left:
        options = ["--open-mode=append", *config.of(job.stage).sbatch]
        if job.folder_name in running:
            options.append(f"--dependency=afterany:{running[job.folder_name]}")
        jobs[job.folder_name] = {
            "stage": job.stage,
            "after": sorted({ids[before] for _, before in job.inputs if before in ids}),
            "sbatch": shlex.join(options) if kind == "slurm" else "",
        }
    return {
        "jobs": jobs,
        "stages": {job.stage: stage_plan(job.stage, config, kind, bool(here)) for job in left},
        "step": shlex.join([*STEP, str(out)]),
        "device": device,
        "gpus": here,
        "container": [*shlex.split(config.container_command), config.container] if config.container else [],
        "requeues": config.requeues,
    }


def stage_plan(stage: str, config: ClusterConfig, kind: Kind, gpus_here: bool) -> dict[str, Any]:
    """The resources of a stage's jobs, in Snakemake's names."""
    asked = config.of(stage)
    # on this machine one core each, so that there is one job a core, unless the study file says more
    threads = asked.cpus if kind == "slurm" or "cpus" in asked.model_fields_set else 1
    found: dict[str, Any] = {"runtime": math.ceil(asked.minutes)}
    if asked.gpus and (kind == "slurm" or gpus_here):
        found["gpu"] = asked.gpus
    if kind == "slurm":
        named = {"slurm_partition": asked.partition, "slurm_account": config.account}
        named |= {"qos": config.qos, "constraint": config.constraint}
        found |= {name: value for name, value in named.items() if value}
    limits = {"memory_mb": asked.memory_mb, "gpus": found.get("gpu", 0), "stop_minutes": config.stop_minutes(stage)}
    return {"threads": threads, **limits, "resources": found}


def arguments(
    study: str, out: Path, config: ClusterConfig, kind: Kind, at_once: int | None, content: Mapping[str, Any]
) -> list[str]:
    """Snakemake's arguments."""
    place = out / "cluster"
    words = ["--snakefile", str(place / "Snakefile"), "--directory", str(place), "--nolock", "--keep-going"]
    words += ["--rerun-incomplete", "--rerun-triggers", "mtime", "--scheduler", "greedy", "--nocolor"]
    words += ["--executor", kind, "--workflow-profile", "none", "--retries", str(config.retries)]
    words += ["--profile", config.profile] if config.profile else []
    if kind == "local":
        words += ["--cores", str(at_once or cores()), "--latency-wait", "5"]
        return words + (["--resources", f"gpu={len(content['gpus'])}"] if content["gpus"] else [])
    words += ["--jobs", str(at_once or config.max_jobs), "--latency-wait", str(config.latency_seconds)]
    words += ["--slurm-jobname-prefix", slurm.name_of(study, out), "--slurm-requeue"]
    words += ["--slurm-logdir", str(place / "logs"), "--slurm-keep-successful-logs"]
    words += ["--slurm-init-seconds-before-status-checks", str(config.status_seconds)]
    return [*words, "--slurm-status-command", "sacct" if slurm.keeps_accounts() else "squeue"]


def _run_snakemake(words: Sequence[str], left: Sequence[Job], out: Path, kind: Kind, log: RunLog) -> int:
    """Runs Snakemake and tells what becomes of the jobs; gives its exit status. `Interrupted` if it was killed."""
    orphaned = signal.SIGINT if kind == "slurm" else signal.SIGKILL
    with StopRequest() as stop, writing(out), open(out / "cluster" / "snakemake.log", "ab") as output:
        process = subprocess.Popen(
            [*STEP, "snakemake", str(os.getpid()), str(int(orphaned)), *words], cwd=out / "cluster",
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        waiting = list(left)
        try:
            while process.poll() is None and not stop.requested:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                for job in list(waiting):
                    if (done := read_done(job_folder(out, job))) is not None:
                        waiting.remove(job)
                        log.finished(job, done, named=True)
        finally:
            if process.poll() is None:
                # SIGINT: Snakemake takes its jobs out of the queue, or they get it themselves, and save their state
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if kind == "local" else os.kill)(process.pid, signal.SIGINT)
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    if stop.requested:
        raise Interrupted("stopped; the jobs save their state and leave the queue")
    if process.returncode < 0:
        end = time.monotonic() + PATIENCE  # until its jobs on this machine have seen it and saved their state
        while kind == "local" and time.monotonic() < end and any(is_locked(job_folder(out, job)) for job in left):
            time.sleep(0.2)
        raise Interrupted(f"Snakemake was ended by {signal.Signals(-process.returncode).name}")
    return process.returncode


def collect(left: Sequence[Job], result: RunResult, out: Path, status: int) -> None:
    """Sorts the jobs into done, failed and blocked by their folders; an error if Snakemake failed before any job."""
    log = out / "cluster" / "snakemake.log"
    hint = f"\n  where: {log}\n  what to do: look for its name there; logs of its tries are in {log.parent / 'logs'}"
    lost = {job.id for job, _ in result.failed} | {job.id for job in result.blocked}
    recorded = bool(result.failed)  # whether one of them says why it failed
    for job in left:
        if read_done(job_folder(out, job)) is not None:
            result.done.append(job)
            continue
        if any(before in lost for _, before in job.inputs):
            result.blocked.append(job)
        else:
            failed = read_failed(job_folder(out, job))
            recorded |= bool(failed)
            message = failed.get("message") or "the queue did not run it to its end"
            result.failed.append((job, f"{message}{'' if failed else hint}"))
        lost.add(job.id)
    if status and result.failed and not recorded and not result.done:
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        end = "\n    ".join(["", *[line for line in text.splitlines() if line.strip()][-8:]])
        fix = "correct the section `cluster` of the study file, or ask the cluster's support with this message"
        raise UnderstudyError(f"Snakemake ran none of the jobs: {end}", where=log, fix=fix)
