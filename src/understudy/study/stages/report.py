"""The stages `report` and `overview`: the report of what is done, and the page above the reports of several cohorts."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, read_json, sha256_file, write_json
from understudy.io.seals import REPAIR, Damaged, check_sealed
from understudy.metrics.scores import read_scores
from understudy.names import size
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.memory import physical_memory
from understudy.study.config.grid import baseline
from understudy.study.config.schema import Study, preset, presets
from understudy.study.engine.execute import software
from understudy.study.engine.jobs import Context, Job, job_folder, job_of, read_done, saved_jobs, study_status
from understudy.study.engine.publish import seal_published

_Done = dict[str, list[tuple[dict[str, Any], Path]]]  # stage -> (spec, folder) of the jobs that are done
_COLUMNS = ["stage", "id", "name", "seconds", "peak_rss_mb", "state", "failure", "message", "memory"]


def report_job(study: Study, jobs: list[Job], name: str, whole: Study) -> Job:
    """The report on one cohort; `name` is that of its folder below the study's, "" for the study's own."""
    spec = {**_about(study, whole), "baseline": baseline(study)}
    if (path := study.report.reading) is not None:  # small, so the specification holds it
        content: Any = read_json(path)
        known = {"source", "n", "called_real", "called_synthetic"}
        if not isinstance(content, dict) or not all(known <= row.keys() for row in content.get("rows") or [{}]):
            fix = "give the table6.json of `understudy reading analyse`"
            raise UnderstudyError("not the result of a reading study", where=path, fix=fix)
        spec["reading"] = content
    local = {"publish": name} if name else {}
    return job_of("report", "report", spec, [(job.stage, job.id) for job in jobs], **local)


def overview_job(study: Study, reports: list[tuple[str, str]]) -> Job:
    """The page above the reports of several cohorts."""
    return job_of("overview", "overview", _about(study, study), reports)


def _about(study: Study, whole: Study) -> dict[str, Any]:
    # What runs the study again: a preset's name if it is one unchanged, else a file with its content.
    name = whole.name
    if name not in presets() or Study.model_validate(preset(name)).hash != whole.hash:
        name = f"{name}.yaml"
    about = {"title": study.report.title or f"Understudy: {study.name}", "command": f"understudy run {name}"}
    return {**about, "study": study.as_data(), "study_hash": study.hash}


def report(context: Context) -> dict[str, Any]:
    """Writes `report.html`, `report.json`, `tables/` and all raw rows as `scores.parquet`."""
    folders = [folder for entries in context.inputs.values() for folder in entries]
    cells = [spec["cell"] for spec, _ in _done_by_stage(folders).get("evaluate", [])]
    page = _write_report(context.spec, folders, cells, context.folder, study_status(context.folder.parents[1]))
    return {"page_sha256": sha256_file(page), "answer": answer_of(page)}


def overview(context: Context) -> dict[str, Any]:
    """Writes the page, `report.json` and the tables above the reports of several cohorts."""
    from understudy.report.overview import write_overview

    page = write_overview({name: f for name, (f,) in context.inputs.items()}, context.spec, context.folder)
    return {"page_sha256": sha256_file(page), "answer": answer_of(page)}


def report_again(out: str | Path) -> tuple[Path, dict[str, str]]:
    """Makes the report from what is done so far; returns its path and its answer. An error if nothing was evaluated.

    With several cohorts all reports are made anew, but for those of which nothing was evaluated yet.
    """
    from understudy.report.overview import write_overview

    out, table = Path(out), study_status(out)
    for row in table[table["state"] == "damaged"].to_dict(orient="records")[:1]:
        raise Damaged(f"the job `{row['name']}` is damaged: {row['detail']}", where=out, fix=REPAIR)
    jobs = {job.id: job for job in saved_jobs(out)}
    above = next((job for job in jobs.values() if job.stage == "overview"), None)
    made = {}
    for job in (job for job in jobs.values() if job.stage == "report"):
        name = str(job.local["publish"]) if above is not None else ""
        folders = [job_folder(out, jobs[job_id]) for _, job_id in job.inputs]
        if above is None or "evaluate" in _done_by_stage(folders):
            cells = [jobs[job_id].spec["cell"] for stage, job_id in job.inputs if stage == "evaluate"]
            made[name] = _write_report(job.spec, folders, cells, out / name, table)
    if not made:
        raise _nothing_evaluated(out)
    if above is None:
        page = made[""]
    else:
        page = write_overview({name: page.parent for name, page in made.items()}, above.spec, out)
    for place in {page.parent, *(page.parent for page in made.values())}:
        seal_published(place)
    return page, answer_of(page)


def answer_of(page: Path) -> dict[str, str]:
    """The four lines that a report opens with (`report.conclusion`)."""
    return dict(read_json(page.with_name("report.json"))["answer"]["conclusion"])


def _write_report(
    spec: dict[str, Any], folders: list[Path], planned: list[dict[str, Any]], out: Path, status: "pd.DataFrame"
) -> Path:
    """Builds the report of what is done, from the report job's spec, and folders and status of the study's jobs.

    `planned`: cells of all evaluations that the study asks for, so that the report can say which have no scores.
    """
    from understudy.report.page import ReportData, build_report
    from understudy.study.correlate import correlate_jobs, write_correlations

    done = _done_by_stage(folders)
    if "evaluate" not in done:
        raise _nothing_evaluated(out)
    scores = pd.concat([read_scores(f / "scores.parquet") for _, f in done["evaluate"]], ignore_index=True)
    with atomic_path(out / "scores.parquet") as temporary:
        scores.to_parquet(temporary, index=False)
    if "reading" in spec:
        (out / "reading").mkdir(parents=True, exist_ok=True)
        write_json(out / "reading" / "table6.json", spec["reading"])
    correlations = correlate_jobs(folder for entries in done.values() for _, folder in entries)
    if correlations is not None:
        write_correlations(correlations, out / "correlation")

    names = status["stage"] + "-" + status["id"].str[:12]  # of the jobs' folders
    ((prepared_spec, prepared),) = done["prepare"]
    data = ReportData(
        **{name: spec[name] for name in ("title", "study", "baseline")},
        scores=scores,
        slices=prepared / "slices",
        volumes=prepared / "volumes",
        reading=out / "reading" if "reading" in spec else None,
        correlation=out / "correlation" if correlations is not None else None,
        planned=pd.DataFrame(planned),
        jobs=status.loc[names.isin([folder.name for folder in folders]), _COLUMNS],
        provenance=_provenance(spec, prepared_spec, prepared, done),
        problems=read_json(prepared / "problems.json"),
        **_files(done),
    )
    return build_report(data, out)


def _files(done: _Done) -> dict[str, Any]:
    """Fields of the report's data that have an entry a generator or a training of a segmenter."""

    def by_name(stage: str, below: str = "") -> dict[str, Path]:  # generator -> file
        return {job["name"]: folder / below for job, folder in done.get(stage, [])}

    def by_cell(stage: str, below: str) -> dict[tuple[str, int], Path]:  # setting and repeat -> file
        cells = [(job["cell"], folder) for job, folder in done.get(stage, [])]
        return {(cell["setting"], cell["repeat"]): folder / below for cell, folder in cells}

    # by the names of jobs: an ensemble has several trainings, "stylegan2, member 2"
    histories, health, stopping = dict[str, Path](), dict[str, Any](), dict[str, Any]()
    for _, folder in done.get("generator", []):
        name = read_json(folder / "spec.json")["name"].split("generator ", 1)[-1]
        histories[name] = folder / "model" / "history.jsonl"
        if "health" in (found := (read_done(folder) or {})["results"]):
            health[name] = found["health"]
        if "stopping" in found:
            stopping[name] = found["stopping"]
    return {
        "synthetic": by_name("sample", "slices"),
        "quality": by_name("quality", "quality.json"),
        "audits": by_name("audit"),
        "leaks": _leaks(done),
        "annotations": by_name("annotations", "annotations.json"),
        "generator_histories": histories,
        "generator_health": health,
        "generator_stopping": stopping,
        "segmenter_histories": by_cell("segmenter", "model/history.jsonl"),
        "predictions": by_cell("evaluate", "predictions"),
    }


def _leaks(done: _Done) -> dict[str, dict[str, Any]]:
    """Generator -> copies of held-out patients among its slices, `how`: "with" or "without" these the Dice is."""
    found = {}
    for job, folder in done.get("audit", []):
        if (leaks := read_json(folder / "audit.json").get("leaks")) and leaks["parts"]:
            found[job["name"]] = {**leaks, "how": "with"}
    for job, folder in done.get("sample", []):
        if (path := folder / "leaks.json").is_file() and (leaks := read_json(path))["parts"]:
            found[job["name"]] = {**leaks, "how": "without"}
    return found


def _done_by_stage(folders: list[Path]) -> _Done:
    done: _Done = {}
    for folder in (folder for folder in folders if read_done(folder) is not None):
        check_sealed(folder)
        job = read_json(folder / "spec.json")
        done.setdefault(job["stage"], []).append((job["spec"], folder))
    return done


def _nothing_evaluated(out: Path) -> UnderstudyError:
    return UnderstudyError("no test patient has been evaluated yet", out, "finish one evaluation: understudy run")


def _provenance(spec: dict[str, Any], prepared_spec: dict[str, Any], prepared: Path, done: _Done) -> dict[str, Any]:
    """What was run on what: versions, seeds, and hashes of inputs and data."""
    accounts = {folder: read_done(folder) or {} for entries in done.values() for _, folder in entries}
    versions = {json.dumps(a["software"], sort_keys=True) for a in accounts.values()}
    seeds = {"study": spec["study"]["seed"], "split": prepared_spec["split"]["seed"]}
    for stage, entries in done.items():
        for own, folder in entries:
            seed = own.get("seed", own.get("training", {}).get("seed") if stage != "evaluate" else None)
            if seed is not None:
                seeds[str(read_json(folder / "spec.json")["name"])] = seed
    sets = {"slices": prepared, **{f"synthetic {job['name']}": folder for job, folder in done.get("sample", [])}}
    hashes = {"cohort": prepared_spec.get("content", "phantom")}
    hashes |= {name: accounts[folder]["results"]["content_hash"] for name, folder in sets.items()}
    return {
        "command": spec["command"], "study_hash": spec["study_hash"], "seeds": seeds, "input_hashes": hashes,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "memory": size(physical_memory()),
        "devices": sorted({a["device"] for a in accounts.values() if a.get("device")}),  # and precision, of the jobs
        "software": software(),
        "software_of_jobs": [json.loads(entry) for entry in sorted(versions)],
        "torch_threads": sorted({a["torch_threads"] for a in accounts.values() if a["torch_threads"]}),
    }  # fmt: skip
