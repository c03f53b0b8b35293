"""`understudy plan`: what a study will do and cost, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.base import (
    DeviceOption,
    OutOption,
    StudyArgument,
    app,
    megabytes,
    out_of,
    print_table,
    study_of,
    workers_of,
)

if TYPE_CHECKING:
    from understudy.study.engine.calibration import Calibration
    from understudy.study.engine.plan import Plan

LISTED = 60  # jobs that are listed one by one without being asked for
SITES = 12  # sites that are named in a line


SpeedOption = Annotated[
    str,
    typer.Option(
        help="Estimate for another machine: operations a second of large convolutions, e.g. 2.5e14, or a100, h100,"
        " rtx4090, rtx3090."
    ),
]


@app.command()
def plan(
    study: StudyArgument,
    out: OutOption = None,
    device: DeviceOption = "auto",
    speed: SpeedOption = "",
    workers: Annotated[
        str,
        typer.Option(
            help="Jobs at once, for the time that it takes: a number, or auto: as `understudy run` on this machine, and"
            " 1 with --speed."
        ),
    ] = "auto",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine's speed anew; else it is measured once.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--list", help="Every job, however many; else stages if they are many.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the jobs of a study, about how much time and disk they take, and what a change of the study file redoes."""
    from understudy.study.engine.plan import make_plan
    from understudy.study.engine.preview import preview
    from understudy.study.engine.run import duration

    loaded, asked = study_of(study), workers_of(workers)
    folder = out_of(loaded, out)
    planned, calibration, count = _estimated(make_plan(loaded), folder, device, speed, asked, calibrate)
    found = preview(planned, folder, calibration, count)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    jobs = found["list"]
    if every or len(jobs) <= LISTED:
        print_table(
            ["id", "job", "state", "about", "disk"],
            [[j["id"][:12], j["name"], j["state"], duration(j["seconds"]), megabytes(j["disk_bytes"])] for j in jobs],
        )
    else:
        _print_stages(found)
    for name, cohort in found["cohorts"].items():
        print(_who(name, cohort))
    times = "once" if loaded.repeats == 1 else f"{loaded.repeats} times"
    print(f"{found['settings']} settings, each trained {times}")
    _print_difference(found["diff"])
    for warning in found["warnings"]:
        print(f"warning: {warning}")
    left = sum(j["state"] != "done" for j in jobs)
    print(
        f"{left} of {len(jobs)} jobs to do: about {duration(found['elapsed_seconds'])}"
        f" with {count} at once ({duration(3600 * found['gpu_hours'])} of training and sampling, all jobs added up) and"
        f" {megabytes(found['disk_bytes'])} of disk in {folder}"
        f"\nestimated {calibration.words}"
    )


def _estimated(
    plan: Plan, out: Path, device: str, speed: str, workers: int | None, calibrate: bool
) -> tuple[Plan, Calibration, int]:
    """The plan with its estimates, the speed they are reckoned with, and the jobs that run at once."""
    from understudy.study.engine.calibration import calibrated, stated
    from understudy.study.engine.estimate import estimated
    from understudy.study.engine.pool import cores, likely_workers
    from understudy.study.engine.status import state_in

    if speed:
        calibration = stated(speed)
        return estimated(plan, calibration=calibration), calibration, workers or 1
    calibration = calibrated(device, again=calibrate)
    plan = estimated(plan, calibration=calibration)
    left = [job for job in plan.jobs if state_in(out, job) != "done"]
    count = workers or likely_workers(left, device)
    if count > 1 and not calibration.gpu:  # which divide the cores between them
        calibration = calibrated(device, calibrate, max(1, cores() // count))
        plan = estimated(plan, calibration=calibration)
    return plan, calibration, count


def _print_stages(found: dict[str, Any]) -> None:
    from understudy.study.engine.run import duration

    rows: dict[str, list[float]] = {}
    for job in found["list"]:
        row = rows.setdefault(job["stage"], [0, 0, 0.0, 0.0])
        row[0] += 1
        if job["state"] == "done":
            row[1] += 1
        else:
            row[2] += job["seconds"]
            row[3] += job["disk_bytes"]
    header = ["stage", "jobs", "done", "about", "disk"]
    print_table(header, [[stage, n, done, duration(s), megabytes(b)] for stage, (n, done, s, b) in rows.items()])


def _who(name: str, cohort: dict[str, Any]) -> str:
    """E.g. "brats2020: 250 patients train, 63 validate, 56 test; site1 13/3/2, ..."."""
    parts = ("train", "val", "test")
    counts = [f"{cohort[part]} {word}" for part, word in zip(parts, ("train", "validate", "test"), strict=True)]
    text = f"{name + ': ' if name else ''}of {cohort['patients'] + cohort['left_out']} patients {', '.join(counts)}"
    if cohort["left_out"]:
        text += f", {cohort['left_out']} are left out"
    sites = cohort["sites"]
    if any(sites):
        named = [f"{site or 'unknown'} {'/'.join(str(n[p]) for p in parts)}" for site, n in sites.items()]
        more = f" and {len(named) - SITES} more" if len(named) > SITES else ""
        text += f"; by site {', '.join(named[:SITES])}{more}"
    return text


def _print_difference(diff: dict[str, Any] | None) -> None:
    if diff is None:
        return
    for entry in diff["changed"]:
        print(f"changed: {entry['field']}: {_short(entry['before'])} -> {_short(entry['after'])}")
    more = f", {diff['new']} new" if diff["new"] else ""
    more += f", {diff['dropped']} that are done are no longer needed" if diff["dropped"] else ""
    print(f"{diff['redo']} jobs to redo, {diff['kept']} kept{more}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
