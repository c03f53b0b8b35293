"""The jobs that report: one for each cohort, and the overview of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.study.config.grid import baseline
from understudy.study.config.schema import Study, preset, presets
from understudy.study.engine.jobs import Job, job_of


def report_job(study: Study, jobs: list[Job], name: str, whole: Study) -> Job:
    """The report on one cohort; `name` is that of its folder below the study's, "" for the study's own."""
    spec = {
        "title": study.report.title or f"Understudy: {study.name}",
        "study": study.as_data(),
        "study_hash": study.hash,
        "baseline": baseline(study),
        "command": _command(whole),
    }
    if study.report.reading is not None:
        spec["reading"] = _read_reading(study.report.reading)
    local = {"publish": name} if name else {}
    return job_of("report", "report", spec, [(job.stage, job.id) for job in jobs], **local)


def _read_reading(path: Path) -> dict[str, Any]:
    """The readers' answers that the report shows: small, so the report's specification holds them.

    Raises:
        UnderstudyError: no such file, or not one of `understudy reading analyse`.
    """
    content: dict[str, Any] = read_json(path)
    known = {"source", "n", "called_real", "called_synthetic"}
    if not isinstance(content, dict) or not all(known <= row.keys() for row in content.get("rows") or [{}]):
        raise UnderstudyError(
            "not the result of a reading study", where=path, fix="give the table6.json of `understudy reading analyse`"
        )
    return content


def overview_job(study: Study, reports: list[tuple[str, str]]) -> Job:
    """The page above the reports of several cohorts."""
    spec = {
        "title": study.report.title or f"Understudy: {study.name}",
        "study": study.as_data(),
        "study_hash": study.hash,
        "command": _command(study),
    }
    return job_of("overview", "overview", spec, reports)


def _command(study: Study) -> str:
    """What runs the study again: by the preset's name if it is one unchanged, else by a file with its content."""
    if study.name in presets() and Study.model_validate(preset(study.name)).hash == study.hash:
        return f"understudy run {study.name}"
    return f"understudy run {study.name}.yaml"
