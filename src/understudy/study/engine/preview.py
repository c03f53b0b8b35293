"""What a plan says before anything runs: jobs, cost, who is in which part, what a change redoes, what may go wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.io.files import read_json
from understudy.study.config.grid import settings
from understudy.study.config.schema import Study
from understudy.study.engine.calibration import Calibration
from understudy.study.engine.identity import STAGE_VERSIONS
from understudy.study.engine.jobs import Job, State
from understudy.study.engine.plan import ACCELERATED, Plan
from understudy.study.engine.schedule import elapsed
from understudy.study.engine.status import jobs_of, state_in
from understudy.study.facts import Facts

SPARE = 1.1  # of the disk space that a study needs should be free


def preview(plan: Plan, out: Path, calibration: Calibration, workers: int = 1) -> dict[str, Any]:
    """All of it as plain JSON values, from a plan with estimates and the folder that it is or will be run in.

    Args:
        workers: jobs at once, of which `elapsed_seconds` is told.
    """
    begun = set(os.listdir(out / "jobs")) if (out / "jobs").is_dir() else set()
    states: dict[str, State] = {
        job.id: state_in(out, job) if job.folder_name in begun else "waiting" for job in plan.jobs
    }
    left = [job for job in plan.jobs if states[job.id] != "done"]
    accelerated = sum(job.seconds for job in left if job.stage in ACCELERATED)
    cells = setting_ids(plan.study)
    found: dict[str, Any] = {
        "jobs": {stage: row["jobs"] for stage, row in by_stage(plan.jobs, states).items()},
        "settings": len(cells),
        "repeats": plan.study.repeats,
        "seconds": sum(job.seconds for job in left),
        "workers": workers,
        "elapsed_seconds": round(elapsed(left, workers), 1),
        "gpu_hours": round(accelerated / 3600, 3),
        "disk_bytes": sum(job.disk_bytes for job in left),
        "calibration": {
            "speed": calibration.speed,
            "device": calibration.device,
            "measured": calibration.measured or None,
            "words": calibration.words,
        },
        "cohorts": {name: _cohort(facts) for name, facts in plan.facts.items()},
        "diff": difference(plan, out, states),
        "study_hash": plan.study.hash,
        "setting_ids": cells,
    }
    found["warnings"] = warnings(plan, out, found["disk_bytes"])
    found["list"] = [
        {"id": j.id, "stage": j.stage, "name": j.name, "state": states[j.id], "seconds": j.seconds,
         "disk_bytes": j.disk_bytes}
        for j in plan.jobs
    ]  # fmt: skip
    return found


def setting_ids(study: Study) -> list[str]:
    """Ids of the settings, with the cohort's name in front where there are several."""
    return [
        f"{name}: {setting.id}" if name else setting.id
        for name, part in study.parts().items()
        for setting in settings(part)
    ]


def by_stage(jobs: Sequence[Job], states: Mapping[str, State]) -> dict[str, dict[str, float]]:
    """Stage -> jobs, done, and seconds and disk_bytes of those that are not."""
    found: dict[str, dict[str, float]] = {}
    for stage in STAGE_VERSIONS:
        mine = [job for job in jobs if job.stage == stage]
        left = [job for job in mine if states[job.id] != "done"]
        if mine:
            found[stage] = {
                "jobs": len(mine),
                "done": len(mine) - len(left),
                "seconds": sum(job.seconds for job in left),
                "disk_bytes": sum(job.disk_bytes for job in left),
            }
    return found


def _cohort(facts: Facts) -> dict[str, Any]:
    return {
        "patients": facts.patients,
        **facts.counts,
        "left_out": len(facts.sites) - facts.patients,
        "sites": facts.by_site(),
        "channels": facts.channels,
        "classes": [entry.name for entry in facts.classes[1:]],
        "grid": list(facts.shape),
    }


def difference(plan: Plan, out: Path, states: Mapping[str, State]) -> dict[str, Any] | None:
    """How the study differs from the one that was last run in the folder; None where none was.

    `redo` are jobs that were done and whose result no longer counts, `kept` those that are done and still count, `new`
    those that the old study did not have, `dropped` done ones that nothing needs any more.
    """
    if not ((out / "study.json").is_file() and (out / "plan.json").is_file()):
        return None
    before = {job.name: job for job in jobs_of(out)}
    old = {name for name, job in before.items() if job.id not in plan.by_id and state_in(out, job) == "done"}
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


def warnings(plan: Plan, out: Path, disk_bytes: float) -> list[str]:
    """What is allowed and will most likely disappoint."""
    found = []
    for name, facts in plan.facts.items():
        where = f"cohort {name}: " if name else ""
        if not facts.counts["val"]:
            found.append(f"{where}no patient validates: the last weights of a segmenter are kept, not the best")
        if facts.counts["test"] < 5:
            tested = f"{facts.counts['test']} patient{'s' if facts.counts['test'] > 1 else ''}"
            found.append(f"{where}only {tested} for testing: intervals will be wide or missing")
        found += _short_of_slices(where, plan, facts)
    plugged = sorted({job.spec["name"] for job in plan.jobs if "plugin" in job.spec})
    if plugged:
        found.append(f"how long the plug-in {', '.join(plugged)} takes is not known: it counts as no time at all")
    free = _free_bytes(out)
    if free is not None and free < SPARE * disk_bytes:
        found.append(
            f"about {disk_bytes / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free in {out.absolute()}"
        )
    return found


def _short_of_slices(where: str, plan: Plan, facts: Facts) -> list[str]:
    """A ratio study of more real slices than there will most likely be; more than there can be the plan refuses."""
    wanted = plan.study.ratios.real_slices if plan.study.ratios is not None else 0
    about = round(facts.counts["train"] * facts.slices_each)
    if wanted <= about:
        return []
    return [f"{where}`ratios` want {wanted:,} real slices; about {about:,} will pass the slice rule"]


def _free_bytes(out: Path) -> int | None:
    """Free on the disk of a folder that may not be there yet."""
    for folder in (out.absolute(), *out.absolute().parents):
        if folder.is_dir():
            try:
                return shutil.disk_usage(folder).free
            except OSError:  # a file system that does not say
                return None
    return None
