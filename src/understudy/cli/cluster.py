"""`understudy run --cluster`: the jobs of a study through Snakemake."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from understudy.cli.base import out_of, print_table, study_of, workers_of
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.study.engine.cluster import Kind
    from understudy.study.engine.plan import Plan


def run_cluster(
    source: str, out: Path | None, kind: str, device: str, devices: int, workers: str, quiet: bool, until: str,
    dry_run: bool, job_minutes: float | None,
) -> None:  # fmt: skip
    """Runs the study, or shows what would be run."""
    from understudy.cli.study import print_result
    from understudy.study.engine.cluster import KINDS, run_on_cluster
    from understudy.study.engine.estimate import estimated
    from understudy.study.engine.plan import make_plan
    from understudy.study.stages.report import report_again

    if kind not in KINDS:
        raise UnderstudyError(f"--cluster is {kind!r}", fix=f"use {' or '.join(KINDS)}")
    if devices > 1:
        raise UnderstudyError(
            "--devices is of one machine's own run",
            fix="say `cluster: {stages: {generator: {gpus: ...}}}` in the study file",
        )
    if job_minutes is not None:
        raise UnderstudyError(
            "--job-minutes is of one machine's own run", fix="say `cluster: {minutes: ...}` in the study file"
        )
    study, at_once = study_of(source), workers_of(workers)
    folder, plan = out_of(study, out), make_plan(study)
    if dry_run:
        show(plan, folder, kind, device, until, at_once)
        return
    here = "auto" if kind == "slurm" else device  # this machine need not have what the queue's have
    result = run_on_cluster(estimated(plan, here), folder, kind, device, not quiet, until, at_once, report_again)
    print_result(result)
    if not result.complete:
        raise typer.Exit(1)


def show(plan: Plan, out: Path, kind: Kind, device: str, until: str, at_once: int | None) -> None:
    """Prints what would be given to the queue; writes nothing."""
    from understudy.study.engine.cluster import arguments, queue_plan, queue_table
    from understudy.study.engine.jobs import job_folder, read_done

    config, wanted = plan.study.cluster, plan.until(until).jobs
    left = [job for job in wanted if read_done(job_folder(out, job)) is None]
    content = queue_plan(left, out.absolute(), config, kind, device, {})
    header = ["stage", "jobs", "cores", "MB", "GPUs", "minutes", "and"]
    print_table(header, queue_table(content))
    again = f"queued again at most {config.requeues} times after a time limit, {config.retries} times when lost"
    print(f"{len(left)} of {len(wanted)} jobs to do; {again}")
    if content["container"]:
        print(f"in the container: {shlex.join(content['container'])}")
    words = arguments(plan.study.name, out.absolute(), config, kind, at_once, content)
    print(shlex.join(["snakemake", *words]))
