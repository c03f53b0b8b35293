"""Commands on a study, in the order in which one needs them: init, check, plan, run, status, job, report, ..."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Argument, Option

from understudy.cli import base
from understudy.errors import UnderstudyError
from understudy.names import duration, size

if TYPE_CHECKING:
    from understudy.study.engine.run import RunResult

SITES = 12  # that `plan` names in a line


@base.app.command()
def init(folder: Path = Argument(..., help="Folder of patients: BraTS, nnU-Net, BIDS, or other names.")) -> None:
    """Print a commented study file for a folder of patients: understudy init FOLDER > my-study.yaml."""
    from understudy.study.init import suggest_study

    print(suggest_study(folder), end="")


@base.app.command()
def check(
    source: Path = Argument(..., help="Folder of a cohort, or a study file that describes one."),
    as_json: bool = base.JsonOption,
    quiet: bool = base.QuietOption,
) -> None:
    """List what is wrong with a cohort, by doing all that `run` does to prepare it except writing the slices.

    Exit status 1 if `run` would stop.
    """
    from understudy.study.check import check_source

    found = check_source(source, progress=not quiet)
    header = ["severity", "patient", "file", "problem", "what to do"]
    rows = [[p.severity, p.patient, p.file.name, p.problem, p.fix] for one in found for p in one.checked.problems]
    if as_json:
        base.print_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        if rows:
            base.print_table(header, rows)
        print("\n".join(one.summary() for one in found))
    base.exit_with(any(one.stops for one in found))


@base.app.command()
def doctor(
    study: str = Argument("", metavar="[STUDY]", help="Also time the generators of this study, in their own sizes."),
    out: Path | None = base.OutOption,
    device: str = base.DeviceOption,
    as_json: bool = base.JsonOption,
) -> None:
    """Look at this machine: PyTorch, devices, limits, disk, and whether each network computes here what it should.

    Exit status 1 if something will fail. Send the table with a question to the developers.
    """
    from understudy.study import doctor as looked

    loaded = base.study_of(study) if study else None
    folder = base.results_folder(loaded, out) if loaded else out
    found = looked.examine(device, folder, loaded)
    colours = {"good": "green", "note": "yellow", "bad": "red"}
    if as_json:
        base.print_json(looked.as_rows(found))
    else:
        rows = [[one.topic, one.found, f"[{colours[one.state]}]{one.state}[/]", one.advice] for one in found]
        base.print_table(["topic", "found", "", "what to do"], rows, markup=(2,))
    base.exit_with(any(one.state == "bad" for one in found))


@base.app.command()
def plan(
    study: str = base.StudyArgument,
    out: Path | None = base.OutOption,
    device: str = base.DeviceOption,
    speed: str = Option("", help="Of another machine: operations a second, a100, h100, rtx4090, rtx3090."),
    workers: str = Option("auto", help="Jobs at once: a number, or auto: as `run` here, 1 with --speed."),
    calibrate: bool = Option(False, "--calibrate", help="Measure this machine's speed again."),
    every: bool = Option(False, "--list", help="Show every job, however many."),
    as_json: bool = base.JsonOption,
) -> None:
    """Show the jobs of a study, about how much time and disk they take, and what a change of the study file redoes."""
    from understudy.study.engine.preview import preview_study

    loaded, asked = base.study_of(study), _workers(workers)
    folder = base.results_folder(loaded, out)
    found = preview_study(loaded, folder, device, speed, asked, calibrate)
    if as_json:
        base.print_json(found)
        return
    jobs = found["list"]
    if every or len(jobs) <= 60:
        rows = [[job["id"][:12], job["name"], job["state"], *_cost(job)] for job in jobs]
        base.print_table(["id", "job", "state", "about", "disk"], rows)
    else:
        rows = [[stage, row["jobs"], row["done"], *_cost(row)] for stage, row in found["stages"].items()]
        base.print_table(["stage", "jobs", "done", "about", "disk"], rows)
    for name, cohort in found["cohorts"].items():
        print(_who(name, cohort))
    print(f"{found['settings']} settings, each trained {'once' if loaded.repeats == 1 else f'{loaded.repeats} times'}")
    if (diff := found["diff"]) is not None:
        for entry in diff["changed"]:
            texts = [json.dumps(entry[when]) for when in ("before", "after")]
            before, after = (text if len(text) <= 60 else f"{text[:57]}..." for text in texts)
            print(f"changed: {entry['field']}: {before} -> {after}")
        more = f", {diff['new']} new" if diff["new"] else ""
        more += f", {diff['dropped']} that are done are no longer needed" if diff["dropped"] else ""
        done = diff["redo"] + diff["kept"]
        print(f"of {done} jobs that were done, {diff['redo']} will be done again and {diff['kept']} kept{more}")
    for warning in found["warnings"]:
        print(f"warning: {warning}")
    left = sum(job["state"] != "done" for job in jobs)
    print(
        f"{left} of {len(jobs)} jobs to do: about {duration(found['elapsed_seconds'])} with {found['workers']} at once"
        f" ({duration(3600 * found['gpu_hours'])} of training and sampling, all jobs added up) and"
        f" {size(found['disk_bytes'])} of disk in {folder}\nestimated {found['calibration']['words']}"
    )


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UnderstudyError(f"--workers is {text!r}", fix="give a number from 1, or auto")
    return int(text)


def _cost(row: dict[str, Any]) -> list[str]:
    return [duration(row["seconds"]), size(row["disk_bytes"])]


def _who(name: str, cohort: dict[str, Any]) -> str:
    """E.g. "brats2020: of 369 patients 250 train, 63 validate, 56 test; by site site1 13/3/2, ..."."""
    text = (
        f"{name + ': ' if name else ''}of {cohort['patients'] + cohort['left_out']} patients {cohort['train']} train,"
    )
    text += f" {cohort['val']} validate, {cohort['test']} test"
    text += f", {cohort['left_out']} are left out" if cohort["left_out"] else ""
    sites = [f"{site or 'unknown'} {n['train']}/{n['val']}/{n['test']}" for site, n in cohort["sites"].items()]
    if any(cohort["sites"]):
        more = f" and {len(sites) - SITES} more" if len(sites) > SITES else ""
        text += f"; by site {', '.join(sites[:SITES])}{more}"
    return text


@base.app.command()
def run(
    study: str = base.StudyArgument,
    out: Path | None = base.OutOption,
    device: str = base.DeviceOption,
    devices: int = base.DevicesOption,
    workers: str = Option("auto", help="Jobs at once: a number, or auto: one a GPU, or one a core."),
    quiet: bool = base.QuietOption,
    until: str = Option(
        "report",
        help="Stop after this stage: phantom, prepare, generator, sample, audit, segmenter, evaluate, quality,"
        " annotations, report (overview too).",
    ),
    job_minutes: float | None = Option(
        None, min=0.01, help="Stop a job that takes longer, with its checkpoint; it continues once, then it fails."
    ),
    cluster: str = Option("", help="Run by Snakemake: slurm (a queue) or local; see `cluster` of the study file."),
    dry_run: bool = Option(False, "--dry-run", help="With --cluster: only show what the queue would get."),
    repair: bool = Option(False, "--repair", help="Redo jobs whose files are damaged, and what depends on them."),
    as_json: bool = base.JsonOption,
) -> None:
    """Run a study, or continue it: what is done is not done again. Exit status 1 if a job failed."""
    if cluster or dry_run:
        base.one_of("--cluster", cluster, ["slurm", "local"])
    for option, given, field in (
        ("--devices", devices > 1, "stages: {generator: {gpus: ...}}"), ("--job-minutes", job_minutes, "minutes: ..."),
    ):  # fmt: skip
        if cluster and given:
            fix = f"say `cluster: {{{field}}}` in the study file"
            raise UnderstudyError(f"{option} does not go with --cluster", fix=fix)
    from understudy.study.engine import cluster as queue
    from understudy.study.engine.run import run_study

    loaded, count = base.study_of(study), _workers(workers)
    folder = base.results_folder(loaded, out)
    if loaded.audit is not None and not quiet and not (folder / "plan.json").is_file():
        sys.stderr.write(
            "note: are slices to be released? Then agree on the thresholds before the search for copies is done:"
            " understudy release template forms\n"
        )
    if not cluster:
        ran = run_study(loaded, folder, device, not quiet, until, devices, count, job_minutes, again=repair)
        print_result(ran, as_json)
    elif dry_run:
        rows, lines = queue.dry_run(loaded, folder, cluster, device, until, count)  # type: ignore[arg-type]  # checked
        base.print_table(["stage", "jobs", "cores", "MB", "GPUs", "minutes", "and"], rows)
        print("\n".join(lines))
    else:
        ran = queue.run_on_cluster(loaded, folder, cluster, device, not quiet, until, count, repair)  # type: ignore[arg-type]
        print_result(ran, as_json)


@base.app.command()
def status(
    out: Path = base.ResultsArgument,
    verify: bool = Option(False, "--verify", help="Read every file of the finished jobs and of the report."),
    as_json: bool = base.JsonOption,
) -> None:
    """Show which jobs of a study are done, running, stopped, failed, waiting or damaged.

    Exit status 1 if one is damaged.
    """
    from understudy.study.engine.jobs import saved_jobs, study_status
    from understudy.study.engine.publish import damaged_copies

    table = study_status(out, verify)
    copies = damaged_copies(saved_jobs(out), out) if verify else []
    damaged = bool(copies) or bool((table["state"] == "damaged").any())
    if as_json:
        print(table.to_json(orient="records", indent=2))
        base.exit_with(damaged)
        return
    colours = {
        "done": "green", "running": "cyan", "stopped": "yellow", "failed": "red", "waiting": "dim", "damaged": "red",
    }  # fmt: skip
    rows = [
        [row["id"][:12], row["name"], f"[{colours[row['state']]}]{row['state']}[/]", duration(row["seconds"]),
         f"{row['failure']}: {row['detail']}" if row["failure"] else row["detail"]]
        for row in table.to_dict(orient="records")
    ]  # fmt: skip
    base.print_table(["id", "job", "state", "time", ""], rows, markup=(2,))
    counts = table["state"].value_counts()
    print(", ".join(f"{counts[state]} {state}" for state in colours if state in counts))
    if copies:
        print(f"the published report is damaged ({copies[0]}); run the study again, which publishes it anew")
    base.exit_with(damaged)


@base.app.command()
def job(
    job_id: str = Argument(..., metavar="ID", help="Start of a job's id, as `understudy plan` shows it."),
    study: str = Option("", help="Study file or preset [default: the plan in --out]."),
    out: Path | None = base.OutOption,
    device: str = base.DeviceOption,
    devices: int = base.DevicesOption,
    nodes: int = Option(1, min=1, help="Machines of --devices each; start by torchrun or srun, one process a device."),
    minutes: float | None = Option(
        None,
        help="Stop after so many minutes with a checkpoint and status 75 (to be continued), as SIGUSR1 and"
        " SIGTERM do; give a queue's limit less what a checkpoint takes.",
    ),
    quiet: bool = base.QuietOption,
) -> base.Said | None:
    """Run one job of a study, or continue it: for queues of clusters, and for a job that failed.

    Exit status 0 if the job is done, 1 if it failed, 75 if it was stopped and is to be continued.
    """
    if minutes is not None and minutes <= 0:
        raise UnderstudyError(f"--minutes is {minutes:g}", fix="give a number above 0")
    if not study and out is None:
        fix = "give --study FILE, or --out FOLDER of a study that was run or planned there"
        raise UnderstudyError("neither a study nor a folder of results is given", fix=fix)
    from understudy.study.engine.run import run_one

    loaded = base.study_of(study) if study else None
    folder = base.results_folder(loaded, out) if loaded else Path(str(out))
    if (ran := run_one(job_id, folder, loaded, device, devices, nodes, not quiet, minutes)) is None:
        return None
    found, done = ran
    words = f"{found.name}: done in {duration(done['seconds'])}, at most {done['peak_rss_mb']:,.0f} MB of memory"
    return base.Said(words, {"id": found.id, "name": found.name, **done})


@base.app.command()
def report(out: Path = base.ResultsArgument, as_json: bool = base.JsonOption) -> None:
    """Make a study's report again from what is done so far."""
    from understudy.report.conclusion import in_terminal
    from understudy.study.stages.report import report_again

    page, answer = report_again(out)
    if as_json:
        base.print_json({"report": str(page), "conclusion": answer})
        return
    print(f"{in_terminal(answer, str(out))}\n{page}")


@base.app.command()
def sheets(
    results: Path = base.ResultsArgument,
    out: Path | None = Option(None, "--out", "-o", help="New folder [default: RESULTS/sheets]."),
) -> base.Said:
    """Write reporting sheets, filled in with what the study knows, and BibTeX of what it used."""
    from understudy.report.sheets import write_sheets

    written = write_sheets(results, out if out is not None else results / "sheets")
    words = "\n".join([*map(str, written), "fill in what is empty, and check what is not"])
    return base.Said(words, {"files": [str(path) for path in written]})


@base.app.command()
def preset(name: str = Argument("quickstart", help="quickstart, quickstart-five, workstation or paper.")) -> None:
    """Print a built-in study, to start a study file from."""
    from understudy.study.config.schema import preset_text

    print(preset_text(name), end="")


def print_result(result: RunResult, as_json: bool = False) -> None:
    """The report and its answer, or what failed: then the exit status is 1."""
    from understudy.report.conclusion import in_terminal

    if as_json:
        base.print_json({
            "complete": result.complete, "out": str(result.out), "report": result.page and str(result.page),
            "conclusion": result.answer, "done": len(result.done), "reused": len(result.reused),
            "failed": [{"job": job.name, "message": message} for job, message in result.failed],
            "blocked": [job.name for job in result.blocked],
        })  # fmt: skip
        base.exit_with(not result.complete)
        return

    messages: dict[str, list[str]] = {}
    for failed, message in result.failed:
        messages.setdefault(message, []).append(failed.name)
    for message, names in messages.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        base.print_error(f"{message}\n  job: {names[0]}{others}")
    if result.page is not None:
        what = "report of what is there, with what is missing" if result.failed else "report"
        print(f"{in_terminal(result.answer, str(result.out))}\n{what}: {result.page}")
    elif not result.failed:
        count, before = len(result.done), len(result.reused)
        print(f"{count} job{'s' * (count != 1)} done, {before} were done before; results in {result.out}")
    if result.failed:
        count, waiting = len(result.failed), len(result.blocked)
        blocked = f"; {waiting} job{'s' * (waiting != 1)} waiting for them" if waiting else ""
        sys.stderr.write(
            f"{count} job{'s' * (count != 1)} failed{blocked}. What is done is kept in {result.out};"
            f" run the same command again to continue, or `understudy report {result.out}` for what is there.\n"
        )
    base.exit_with(not result.complete)
