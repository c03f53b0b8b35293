"""Commands on a study: run, one job, status, report, presets."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.base import (
    ClusterOption,
    DeviceOption,
    DevicesOption,
    NodesOption,
    OutOption,
    QuietOption,
    StudyArgument,
    app,
    complain,
    out_of,
    print_table,
    study_of,
    workers_of,
)
from understudy.errors import Interrupted, UnderstudyError

if TYPE_CHECKING:
    from understudy.study.engine.run import RunResult


UntilOption = Annotated[
    str,
    typer.Option(
        help="Stop after this stage, without side branches it does not need:"
        " phantom, prepare, generator, sample, audit, segmenter, evaluate, quality,"
        " annotations, report (with the overview of several cohorts)."
    ),
]


@app.command()
def run(
    study: StudyArgument,
    out: OutOption = None,
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    workers: Annotated[
        str,
        typer.Option(
            help="Jobs at once, each in a process of its own: a number, or auto: one a GPU, or one a core where"
            " there is work for it. 1: in this process, unless --job-minutes are given."
        ),
    ] = "auto",
    quiet: QuietOption = False,
    until: UntilOption = "report",
    job_minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Stop a job that takes longer, with its checkpoint, and kill one that hangs; it continues once, then"
            " it counts as failed.",
        ),
    ] = None,
    cluster: ClusterOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --cluster: only show what would be given to the queue.")
    ] = False,
) -> None:
    """Run a study, or continue it: what is done is not done again. Exit status 1 if a job failed."""
    if cluster or dry_run:
        from understudy.cli.cluster import run_cluster

        run_cluster(study, out, cluster, device, devices, workers, quiet, until, dry_run, job_minutes)
        return
    from understudy.study.engine.estimate import estimated
    from understudy.study.engine.plan import make_plan
    from understudy.study.engine.run import run_plan
    from understudy.study.stages.report import report_again
    from understudy.study.stages.run import STAGES

    loaded, count = study_of(study), workers_of(workers)
    if devices > 1:
        usable_devices(device, devices)
    planned = estimated(make_plan(loaded), device)
    result = run_plan(
        planned, out_of(loaded, out), STAGES, device, not quiet, until, devices, count, report_again, job_minutes
    )
    print_result(result)
    if not result.complete:
        raise typer.Exit(1)


@app.command()
def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Start of a job's id, as `understudy plan` shows it.")],
    study: Annotated[
        str, typer.Option(help="Study file or preset [default: the plan that was last run in --out].")
    ] = "",
    out: OutOption = None,
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop after so many minutes with a checkpoint and status 75, which means: to be continued by the same"
            " command. Give a queue's limit less what a checkpoint takes. SIGUSR1 and SIGTERM do the same."
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Run one job of a study, or continue it: for queues of clusters, and for a job that failed.

    Ends with 0 if the job is done, 1 if it failed, 75 if it was stopped and is to be continued.
    """
    from understudy.runtime.checkpoints import time_limit

    if minutes is not None and minutes <= 0:
        raise UnderstudyError(f"--minutes is {minutes:g}", fix="give a number above 0")
    with time_limit(minutes):
        _run_job(job_id, study, out, device, devices, nodes, quiet)


def _run_job(job_id: str, study: str, out: Path | None, device: str, devices: int, nodes: int, quiet: bool) -> None:
    from understudy.study.engine.jobs import job_folder, join_job, run_job, told
    from understudy.study.engine.plan import find_job, make_plan
    from understudy.study.engine.run import claimed, duration
    from understudy.study.engine.status import jobs_of
    from understudy.study.stages.run import STAGES

    place: contextlib.AbstractContextManager[Path]
    if study:
        loaded = study_of(study)
        planned, folder = make_plan(loaded), out_of(loaded, out)
        jobs, place = planned.jobs, claimed(folder, planned, exclusive=False)
    elif out is not None:
        jobs, folder, place = tuple(jobs_of(out)), out, contextlib.nullcontext(out)
    else:
        raise UnderstudyError(
            "neither a study nor a folder of results is given",
            fix="give --study FILE, or --out FOLDER of a study that was run or planned there",
        )
    found, by_id = find_job(jobs, job_id, study or str(out)), {entry.id: entry for entry in jobs}
    if devices * nodes > 1:
        if found.stage != "generator":
            raise UnderstudyError(
                f"`{found.name}` is not the training of a generator and uses one device",
                fix="leave --devices and --nodes out",
            )
        if usable_devices(device, devices, nodes) > 0:
            join_job(found, by_id, folder, STAGES, device, devices, nodes)
            return
    with place:
        try:
            done = run_job(found, by_id, folder, STAGES, device, not quiet, devices, nodes)
        except (UnderstudyError, Interrupted):
            raise
        except Exception as error:  # recorded in the job's folder
            complain(told(error, job_folder(folder, found)))
            raise typer.Exit(1) from error
    print(f"{found.name}: done in {duration(done['seconds'])}, at most {done['peak_rss_mb']:,.0f} MB of memory")


@app.command()
def status(
    out: Annotated[Path, typer.Argument(help="Folder of a study's results.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show which jobs of a study are done, running, failed or waiting."""
    from understudy.study.engine.run import duration
    from understudy.study.engine.status import study_status

    table = study_status(out)
    if as_json:
        print(table.to_json(orient="records", indent=2))
        return
    colours = {"done": "green", "running": "cyan", "failed": "red", "waiting": "dim"}
    rows = [
        [
            row["id"][:12],
            row["name"],
            f"[{colours[row['state']]}]{row['state']}[/]",
            duration(row["seconds"]),
            f"{row['failure']}: {row['detail']}" if row["failure"] else row["detail"],
        ]
        for row in table.to_dict(orient="records")
    ]
    print_table(["id", "job", "state", "time", ""], rows, markup=(2,))
    counts = table["state"].value_counts()
    print(", ".join(f"{counts[state]} {state}" for state in colours if state in counts))


@app.command()
def report(out: Annotated[Path, typer.Argument(help="Folder of a study's results.")]) -> None:
    """Make a study's report anew from what is done so far."""
    from understudy.study.stages.report import report_again

    page, answer = report_again(out)
    print(f"{answer}\n{page}" if answer else str(page))


@app.command()
def preset(name: Annotated[str, typer.Argument(help="quickstart, workstation or paper.")] = "quickstart") -> None:
    """Print a built-in study, to start a study file from."""
    from understudy.study.config.schema import preset_text

    print(preset_text(name), end="")


def usable_devices(device: str, devices: int, nodes: int | None = None) -> int:
    """Refuses devices that are not there; gives this process's rank among those of a launcher, 0 without one.

    Without `nodes` a launcher is refused: its processes would all run the whole study.
    """
    from understudy.generators.training.distributed import check_devices, started

    rank, world = started()
    if nodes is None and world > 1:
        raise UnderstudyError(
            f"torchrun or srun has started {world} processes of the whole study",
            fix="start the study by itself (--devices starts processes of its own), or single generators by"
            " `understudy job ID` with --devices and --nodes",
        )
    check_devices(device, devices, nodes or 1)
    return rank


def print_result(result: RunResult) -> None:
    """The report and its answer, or what failed."""
    messages: dict[str, list[str]] = {}
    for failed, message in result.failed:
        messages.setdefault(message, []).append(failed.name)
    for message, names in messages.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        complain(f"{message}\n  job: {names[0]}{others}")
    if result.failed:
        waiting = f"; {_jobs(result.blocked)} waiting for them" if result.blocked else ""
        if result.page is not None:
            print(f"{result.answer}\nreport of what is there, with what is missing: {result.page}")
        sys.stderr.write(
            f"{_jobs(result.failed)} failed{waiting}. What is done is kept in {result.out};"
            f" run the same command again to continue, or `understudy report {result.out}` for what is there.\n"
        )
    elif result.page is not None:
        print(f"{result.answer}\nreport: {result.page}")
    else:
        print(f"{len(result.done)} jobs done, {len(result.reused)} were done before; results in {result.out}")


def _jobs(found: Sequence[object]) -> str:
    return f"{len(found)} job{'' if len(found) == 1 else 's'}"
