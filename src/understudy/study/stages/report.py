"""The last stages of a study: the report of what is done, and the page above the reports of several cohorts."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, read_json, sha256_file, write_json
from understudy.study.engine.execute import software
from understudy.study.engine.jobs import Context, Job, job_folder, plain_name, read_done, read_failed, state_of
from understudy.study.engine.status import memory_words

_Done = dict[str, list[tuple[dict[str, Any], Path]]]
"""stage -> (spec, folder) of the jobs that are done"""


def report(context: Context) -> dict[str, Any]:
    """Writes `report.html`, `report.json`, `tables/` and all raw rows as `scores.parquet`."""
    folders = [folder for entries in context.inputs.values() for folder in entries]
    cells = [spec["cell"] for spec, _ in _done_by_stage(folders).get("evaluate", [])]
    page = write_report(context.spec, folders, cells, context.folder)
    return {"page_sha256": sha256_file(page), "answer": answer_of(page.with_name("report.json"))}


def write_report(
    spec: dict[str, Any],
    folders: list[Path],
    planned: list[dict[str, Any]],
    out: Path,
    jobs: pd.DataFrame | None = None,
) -> Path:
    """Builds the report of what is done.

    Args:
        spec: of the report job.
        folders: of the study's jobs; those that are not done are listed, not read.
        planned: cells of all evaluations that the study asks for, so that the report can say which have no scores.
        out: folder for the pages and tables.
        jobs: the job table, if it knows more than the folders do.

    Raises:
        UnderstudyError: nothing was evaluated yet.
    """
    from understudy.report.page import ReportData, build_report

    done = _done_by_stage(folders)
    if "evaluate" not in done:
        raise _nothing_evaluated(out)
    scores = pd.concat([pd.read_parquet(f / "scores.parquet") for _, f in done["evaluate"]], ignore_index=True)
    with atomic_path(out / "scores.parquet") as temporary:
        scores.to_parquet(temporary, index=False)
    ((prepared_spec, prepared),) = done["prepare"]
    data = ReportData(
        title=spec["title"],
        study=spec["study"],
        scores=scores,
        slices=prepared / "slices",
        volumes=prepared / "volumes",
        baseline=spec["baseline"],
        reading=_reading(spec, out),
        correlation=_correlation(folders, out),
        planned=pd.DataFrame(planned),
        jobs=_job_table(folders) if jobs is None else jobs,
        provenance=_provenance(spec, prepared_spec, prepared, done),
        problems=read_json(prepared / "problems.json"),
        **_of_generators(done),
        **_of_segmenters(done),
    )
    return build_report(data, out)


def _of_generators(done: _Done) -> dict[str, Any]:
    """Fields of the report's data that have an entry a generator: slices, measurements, audits, trainings."""
    trained = {
        plain_name(read_json(folder / "spec.json")["name"]).removeprefix("generator "): folder
        for _, folder in done.get("generator", [])
    }
    results = {name: (read_done(folder) or {})["results"] for name, folder in trained.items()}

    def by_name(stage: str, below: str = "") -> dict[str, Path]:
        return {spec["name"]: folder / below for spec, folder in done.get(stage, [])}

    return {
        "synthetic": by_name("sample", "slices"),
        "quality": by_name("quality", "quality.json"),
        "audits": by_name("audit"),
        "annotations": by_name("annotations", "annotations.json"),
        "generator_histories": {name: f / "model" / "history.jsonl" for name, f in trained.items()},
        "generator_health": {name: r["health"] for name, r in results.items() if "health" in r},
    }


def _of_segmenters(done: _Done) -> dict[str, Any]:
    """Fields with an entry a training of a segmenter: histories and predictions."""

    def by_cell(stage: str, below: str) -> dict[tuple[str, int], Path]:
        return {
            (spec["cell"]["setting"], spec["cell"]["repeat"]): folder / below for spec, folder in done.get(stage, [])
        }

    return {
        "segmenter_histories": by_cell("segmenter", "model/history.jsonl"),
        "predictions": by_cell("evaluate", "predictions"),
    }


def _reading(spec: dict[str, Any], out: Path) -> Path | None:
    """Folder with the Table 6 that the study file names, None without one."""
    if "reading" not in spec:
        return None
    (out / "reading").mkdir(parents=True, exist_ok=True)
    write_json(out / "reading" / "table6.json", spec["reading"])
    return out / "reading"


def _correlation(folders: list[Path], out: Path) -> Path | None:
    """Folder with the correlation of metrics with Dice over generators, None if there is nothing of both."""
    from understudy.study.correlate import correlate_jobs, write_correlations

    done = {str(read_json(f / "spec.json")["id"]): f for f in folders if read_done(f) is not None}
    found = correlate_jobs(done)
    if found is None:
        return None
    write_correlations(found, out / "correlation")
    return out / "correlation"


def _done_by_stage(folders: list[Path]) -> _Done:
    done: _Done = {}
    for folder in folders:
        if read_done(folder) is not None:
            job = read_json(folder / "spec.json")
            done.setdefault(job["stage"], []).append((job["spec"], folder))
    return done


def overview(context: Context) -> dict[str, Any]:
    """Writes the page, `report.json` and the tables above the reports of several cohorts."""
    from understudy.report.overview import write_overview

    page = write_overview({name: f for name, (f,) in context.inputs.items()}, context.spec, context.folder)
    return {"page_sha256": sha256_file(page), "answer": answer_of(page.with_name("report.json"))}


def report_again(out: str | Path) -> tuple[Path, str]:
    """Makes the report of the study in a folder from what is done so far; returns its path and its answer.

    In a study with several cohorts these are all made anew, but for those of which nothing was evaluated yet.

    Raises:
        UnderstudyError: the folder holds no study, or nothing was evaluated yet.
    """
    from understudy.report.overview import write_overview
    from understudy.study.engine.jobs import saved_jobs
    from understudy.study.engine.status import study_status

    out, jobs = Path(out), {job.id: job for job in saved_jobs(out)}
    planned, table = [job for job in jobs.values() if job.stage == "report"], study_status(out)
    above = next((job for job in jobs.values() if job.stage == "overview"), None)
    if above is None:
        (only,) = planned
        page = write_report(only.spec, _folders_of(only, jobs, out), _cells_of(only, jobs), out, table)
        return page, answer_of(out / "report.json")
    made = {}
    for job in planned:
        folders = _folders_of(job, jobs, out)
        if "evaluate" in _done_by_stage(folders):
            name = str(job.local["publish"])
            own = table[table["id"].isin([job_id for _, job_id in job.inputs])]
            made[name] = write_report(job.spec, folders, _cells_of(job, jobs), out / name, own).parent
    if not made:
        raise _nothing_evaluated(out)
    return write_overview(made, above.spec, out), answer_of(out / "report.json")


def _folders_of(report: Job, jobs: dict[str, Job], out: Path) -> list[Path]:
    """Folders of the jobs that a report is about."""
    return [job_folder(out, jobs[job_id]) for _, job_id in report.inputs]


def _cells_of(report: Job, jobs: dict[str, Job]) -> list[dict[str, Any]]:
    """Cells of the evaluations that a report is about, done or not."""
    return [jobs[job_id].spec["cell"] for stage, job_id in report.inputs if stage == "evaluate"]


def _nothing_evaluated(out: Path) -> UnderstudyError:
    return UnderstudyError(
        "no test patient has been evaluated yet", where=out, fix="finish at least one evaluation: understudy run"
    )


def answer_of(path: Path) -> str:
    """The answer that a report opens with, in one line: useful or not, and what is wrong with releasing the slices."""
    answer = read_json(path)["answer"]
    return f"{answer['headline']} {answer.get('alarm', '')}".strip()


def _job_table(folders: list[Path]) -> pd.DataFrame:
    rows = []
    for folder in folders:
        job, account = read_json(folder / "spec.json"), read_done(folder) or {}
        rows.append(
            {
                "stage": job["stage"],
                "id": job["id"],
                "name": job["name"],
                "seconds": account.get("seconds"),
                "peak_rss_mb": account.get("peak_rss_mb"),
                "state": state_of(folder),
                "failure": read_failed(folder).get("class", ""),
                "message": read_failed(folder).get("message", ""),
                "memory": memory_words(account),
            }
        )
    return pd.DataFrame(rows)


def _provenance(spec: dict[str, Any], prepared_spec: dict[str, Any], prepared: Path, done: _Done) -> dict[str, Any]:
    """What was run on what: versions, seeds, and hashes of inputs and data."""
    accounts = [read_done(folder) or {} for entries in done.values() for _, folder in entries]
    versions = {json.dumps(a["software"], sort_keys=True) for a in accounts}
    results = (read_done(prepared) or {})["results"]
    seeds = {"study": spec["study"]["seed"], "split": prepared_spec["split"]["seed"]}
    for stage, entries in done.items():
        for own, folder in entries:
            seed = own.get("seed", own.get("training", {}).get("seed") if stage != "evaluate" else None)
            if seed is not None:
                seeds[str(read_json(folder / "spec.json")["name"])] = seed
    return {
        "command": spec["command"],
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "software": software(),
        "software_of_jobs": [json.loads(entry) for entry in sorted(versions)],
        "torch_threads": sorted({a["torch_threads"] for a in accounts if a["torch_threads"]}),
        "study_hash": spec["study_hash"],
        "seeds": seeds,
        "input_hashes": {
            "cohort": prepared_spec.get("content", "phantom"),
            "slices": results["content_hash"],
            **{
                f"synthetic {s['name']}": (read_done(f) or {})["results"]["content_hash"]
                for s, f in done.get("sample", [])
            },
        },
    }
