"""What a plan says before anything runs: jobs, cost, who is in which part, what a change redoes, what may go wrong."""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.generators.registry import plugin_type
from understudy.io.files import read_json
from understudy.names import duration, size
from understudy.study.config.grid import settings
from understudy.study.config.schema import Study
from understudy.study.engine.estimate import estimated
from understudy.study.engine.jobs import State, job_folder, not_done, read_done, saved_jobs, state_of
from understudy.study.engine.machine import Calibration, calibrated, cores, gpus, stated
from understudy.study.engine.plan import Plan, elapsed, make_plan
from understudy.study.engine.pool import worker_count
from understudy.study.registry import STAGES

LONG = 86400  # seconds of a study from which on its plan says how it would be shorter


def preview_study(
    study: Study, out: Path, device: str = "auto", speed: str = "", workers: int | None = None, calibrate: bool = False
) -> dict[str, Any]:
    """What a study will do and cost here, or on a machine of another `speed` (`machine.stated`): see `preview`.

    `workers` None: as many as a run would have, or 1 with `speed`; `calibrate`: measure this machine's speed again.
    """
    plan = make_plan(study)
    if speed:
        calibration = stated(speed)
        return preview(estimated(plan, calibration=calibration), out, calibration, workers or 1)
    return preview(*estimated_here(plan, out, device, workers, calibrate))


def estimated_here(
    plan: Plan, out: Path, device: str = "auto", workers: int | None = None, calibrate: bool = False
) -> tuple[Plan, Path, Calibration, int]:
    """The plan with estimates for a run on this machine, its folder, the speed, and how many workers it would have."""
    calibration = calibrated(device, again=calibrate)
    plan = estimated(plan, calibration=calibration)
    # as a run would choose, were all GPUs free
    all_gpus, left = gpus() if device in ("auto", "cuda") else [], not_done(plan.jobs, out)
    likely = len(all_gpus) or worker_count(None, left, "cpu" if device == "auto" else device, 1)[0]
    count = workers or likely
    if count > 1 and not calibration.gpu:  # which divide the cores between them
        calibration = calibrated(device, calibrate, max(1, cores() // count))
        plan = estimated(plan, calibration=calibration)
    return plan, out, calibration, count


def preview(plan: Plan, out: Path, calibration: Calibration, workers: int = 1) -> dict[str, Any]:
    """What is known of a plan with estimates and the folder that it is or will be run in, as plain JSON values."""
    states: dict[str, State] = {job.id: state_of(job_folder(out, job)) for job in plan.jobs}
    left = [job for job in plan.jobs if states[job.id] != "done"]
    stages: dict[str, dict[str, float]] = {}  # in the order of the stages
    for stage in STAGES:
        count = sum(job.stage == stage for job in plan.jobs)
        todo = [job for job in left if job.stage == stage]
        costs = {name: sum(getattr(job, name) for job in todo) for name in ("seconds", "disk_bytes")}
        if count:
            stages[stage] = {"jobs": count, "done": count - len(todo), **costs}
    cells = [  # with the cohort's name in front where there are several
        f"{name}: {setting.id}" if name else setting.id
        for name, part in plan.study.parts().items()
        for setting in settings(part)
    ]
    disk_bytes = sum(job.disk_bytes for job in left)
    accelerated = sum(job.seconds for job in left if STAGES[job.stage].on_gpu)
    speed = {"speed": calibration.speed, "device": calibration.device, "measured": calibration.measured or None}
    cohorts = {
        name: {
            "patients": facts.patients, **facts.counts, "left_out": len(facts.sites) - facts.patients,
            "sites": facts.by_site(), "channels": facts.channels,
            "classes": [entry.name for entry in facts.classes[1:]], "grid": list(facts.shape),
        }
        for name, facts in plan.facts.items()
    }  # fmt: skip
    fields = ("stage", "name", "seconds", "disk_bytes")
    return {
        "jobs": {stage: row["jobs"] for stage, row in stages.items()},
        "stages": stages,
        "settings": len(cells),
        "repeats": plan.study.repeats,
        "seconds": sum(job.seconds for job in left),
        "workers": workers,
        "elapsed_seconds": round(elapsed(left, workers), 1),
        "gpu_hours": round(accelerated / 3600, 3),
        "disk_bytes": disk_bytes,
        "calibration": {**speed, "words": calibration.words},
        "cohorts": cohorts,
        "diff": difference(plan, out, states),
        "study_hash": plan.study.hash,
        "setting_ids": cells,
        "warnings": warnings(plan, out, disk_bytes, elapsed(left, workers)),
        "list": [{"id": j.id, "state": states[j.id], **{name: getattr(j, name) for name in fields}} for j in plan.jobs],
    }


def difference(plan: Plan, out: Path, states: Mapping[str, State]) -> dict[str, Any] | None:
    """How the study differs from the one that was last run in the folder; None where none was.

    `redo` are jobs that were done and whose result no longer counts, `kept` those that are done and still count, `new`
    those that the old study did not have, `dropped` done ones that nothing needs any more.
    """
    if not ((out / "study.json").is_file() and (out / "plan.json").is_file()):
        return None
    before = {job.name: job for job in saved_jobs(out)}
    gone = [job for job in before.values() if job.id not in plan.by_id]
    old = {job.name for job in gone if read_done(job_folder(out, job)) is not None}
    names = {job.name for job in plan.jobs}
    redo = [job.name for job in plan.jobs if states[job.id] != "done" and job.name in old]
    return {
        "changed": changed_fields(read_json(out / "study.json")["study"], plan.study.model_dump(mode="json")),
        "redo": len(redo),
        "redo_names": redo,
        "kept": sum(state == "done" for state in states.values()),
        "new": len(names - before.keys()),
        "dropped": len(old - names),
    }


def changed_fields(before: Any, after: Any, path: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Fields of the study file whose value differs, with both values; a field that is not there is None.

    Example:
        >>> changed_fields({"a": {"b": 1}}, {"a": {"b": 2}})
        [{'field': 'a.b', 'before': 1, 'after': 2}]
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = dict.fromkeys([*before, *after])
        return [entry for key in keys for entry in changed_fields(before.get(key), after.get(key), (*path, str(key)))]
    return [] if before == after else [{"field": ".".join(path), "before": before, "after": after}]


def patient_warnings(plan: Plan) -> list[str]:
    """Where there are too few patients for a part of the split, and what that does."""
    found = []
    effects = {"test": "intervals will be wide or missing", "train": "networks learn little from so few"}
    for name, facts in plan.facts.items():
        where = f"cohort {name}: " if name else ""
        if not facts.counts["val"]:
            found.append(f"{where}no patient validates: the last weights of a segmenter are kept, not the best")
        for part, why in effects.items():
            if (few := facts.counts[part]) < 5:
                found.append(f"{where}only {few} patient{'s' * (few != 1)} for {part}ing: {why}")
    return found


def warnings(plan: Plan, out: Path, disk_bytes: float, seconds: float = 0.0) -> list[str]:
    """What is allowed and will most likely disappoint."""
    found = patient_warnings(plan)
    wanted = plan.study.ratios.real_slices if plan.study.ratios is not None else 0
    for name, facts in plan.facts.items():
        about = round(facts.counts["train"] * facts.slices_each)
        if wanted > about:  # more than there can be the plan refuses
            where = f"cohort {name}: " if name else ""
            found.append(f"{where}`ratios` want {wanted:,} real slices; about {about:,} will pass the slice rule")
    plugins = {job.spec["name"]: job.spec["plugin"]["name"] for job in plan.jobs if "plugin" in job.spec}
    if untold := sorted(name for name, plugin in plugins.items() if not plugin_type(plugin).tells_cost):
        found.append(f"how long the plug-in {', '.join(untold)} takes is not known: it counts as no time at all")
    if seconds > LONG:
        longest = max(plan.jobs, key=lambda job: job.seconds)
        found.append(
            f"that is {duration(seconds)}; the longest job ({longest.name}) takes {duration(longest.seconds)}. Shorter:"
            " `recipe: quick` or `training: {max_minutes: 60}` of each generator and fewer `samples` of it, fewer"
            " `samples` in each segmenter's training, `slices: {resolution: ...}` of half the edge (a quarter of the"
            " time), fewer generators or `repeats`; or a machine with a GPU (--speed tells how long there)"
        )
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    with contextlib.suppress(OSError):  # a file system that does not say
        free = shutil.disk_usage(place).free
        if free < 1.1 * disk_bytes:
            found.append(f"about {size(disk_bytes)} are needed and {size(free)} are free in {out.absolute()}")
    return found
