"""The page above the reports of several cohorts: each one's answer, and their tables in one with a column `cohort`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from understudy.errors import UnderstudyError
from understudy.files import atomic_path, read_json, write_text


def write_overview(folders: Mapping[str, Path], spec: Mapping[str, Any], out: Path) -> Path:
    """Writes `report.html`, `report.json`, `scores.parquet` and `tables/*.csv` of several cohorts together.

    Args:
        folders: cohort -> folder of its report; beside the page stands a folder of each cohort's name with a copy.
        spec: of the job: title, study (plain JSON values), study_hash, command.
        out: folder, made if absent.

    Returns:
        The path of `report.html`.

    Raises:
        UnderstudyError: a folder without a report, disk full, no permission.
    """
    reports = {name: _report_of(folder) for name, folder in folders.items()}
    answers = {name: str(report["answer"]["headline"]) for name, report in reports.items()}
    tables = _tables(folders)
    for key, frame in tables.items():
        write_text(out / "tables" / f"{key}.csv", frame.to_csv(index=False))
    scores = pd.concat(
        [pd.read_parquet(folder / "scores.parquet").assign(cohort=name) for name, folder in folders.items()],
        ignore_index=True,
    )
    with atomic_path(out / "scores.parquet") as temporary:
        scores.to_parquet(temporary, index=False)
    headline = " ".join(f"{name}: {answer}" for name, answer in answers.items())
    content = {
        "title": spec["title"],
        "command": spec["command"],
        "study": spec["study"],
        "study_hash": spec["study_hash"],
        "answer": {"headline": headline, "cohorts": {name: r["answer"] for name, r in reports.items()}},
    }
    write_text(out / "report.json", json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(out / "report.html", _page(spec, answers, tables))
    return out / "report.html"


def _report_of(folder: Path) -> dict[str, Any]:
    if not (folder / "report.json").is_file():
        raise UnderstudyError(
            "there is no report of this cohort", where=folder, fix="run its report first: understudy run"
        )
    return dict(read_json(folder / "report.json"))


def _tables(folders: Mapping[str, Path]) -> dict[str, pd.DataFrame]:
    """Table's key -> the rows of all cohorts that have it, each with its cohort in front."""
    found: dict[str, list[pd.DataFrame]] = {}
    for name, folder in folders.items():
        for path in sorted((folder / "tables").glob("*.csv")):
            if path.stat().st_size > 1:
                frame = pd.read_csv(path, keep_default_na=False, dtype=str)
                frame.insert(0, "cohort", name, allow_duplicates=True)
                found.setdefault(path.stem, []).append(frame)
    return {key: pd.concat(frames, ignore_index=True).fillna("") for key, frames in sorted(found.items())}


def _page(spec: Mapping[str, Any], answers: Mapping[str, str], tables: Mapping[str, pd.DataFrame]) -> str:
    environment = Environment(
        loader=PackageLoader("understudy.report", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = files("understudy.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    return environment.get_template("overview.html.j2").render(
        title=spec["title"], command=spec["command"], style=style, answers=answers, tables=list(tables)
    )
