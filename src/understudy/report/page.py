"""The report: one self-contained HTML page, the same numbers as JSON, every table and every figure as files."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from understudy import __version__
from understudy.io.files import write_text, writing
from understudy.names import duration
from understudy.report.content import Content, make_content
from understudy.report.data import ReportData, Setting, number, percent, plain
from understudy.report.folder import write_files
from understudy.report.machine import report_numbers
from understudy.report.plots import panels as figures
from understudy.report.plots.curves import ratio_sentences
from understudy.report.plots.settings import sample_rows, setting_sheets
from understudy.report.plots.slices import colours
from understudy.report.published import contradictions
from understudy.report.sections import opening
from understudy.report.sections.answer import FEWEST_PATIENTS, POOREST_BASELINE
from understudy.report.sections.health import faults, health_lines
from understudy.report.sections.segmentations import segmentations
from understudy.report.tables.beside import COHORTS, dataset_of
from understudy.report.tables.results import reading_note

__all__ = ["ReportData", "Setting", "build_report"]


def build_report(data: ReportData, out: Path) -> Path:
    """Writes `report.html`, `report.json`, and all tables and figures as files.

    Args:
        data: what to report; parts that are missing are named on the page.
        out: folder, made if absent: `tables/` (CSV, LaTeX, HTML), `figures/` (SVG, PNG), and in `figures/private/`
            those that show slices.

    Returns:
        The path of `report.html`.

    Raises:
        UnderstudyError: rows without the columns of raw results, disk full, no permission.
    """
    content, out = make_content(data), Path(out)
    pictures = _pictures(content)
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(_opening(content) | pictures | _evidence(content) | _results(content) | _run(content))
    )
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    written = write_files(content, pictures["cases"], pictures["case_heads"], pictures["setting_sheets"], out)
    numbers = report_numbers(content, written)
    write_text(out / "report.json", json.dumps(numbers, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(out / "report.html", page)
    return out / "report.html"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("understudy.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, duration=duration)
    environment.tests["paper_table"] = lambda key: re.match(r"table\d_", key) is not None
    return environment


def _opening(content: Content) -> dict[str, Any]:
    """What the head of the page and its first section show."""
    data, answer = content.data, content.answer
    return {
        "data": data,
        "title": data.hide(data.title),
        "style": files("understudy.report").joinpath("templates/report.css").read_text(encoding="utf-8"),
        "answer": answer,
        "verdicts": content.verdicts,
        "alarm": opening.alarm(content.verdicts),
        "strength": opening.strength(answer),
        "figures_of": opening.key_figures(answer),
        "forest": opening.forest(answer, data.margin),
        "rule": {"fewest": FEWEST_PATIENTS, "poorest": POOREST_BASELINE, "margin": data.margin},
        "facts": opening.facts(data, content.gallery),
        "collapsed": content.quarantine.sentences + opening.collapsed(data) + faults(data),
    }


def _pictures(content: Content) -> dict[str, Any]:
    """Slices, annotations and segmentations."""
    data, gallery = content.data, content.gallery
    cases, heads, missing = segmentations(data, content.means, content.answer.comparisons)
    return {
        "gallery": gallery,
        "legend": list(zip(gallery.classes, colours(len(gallery.classes)), strict=True)),
        "sample_rows": sample_rows(gallery),
        "annotation": content.annotation,
        "annotation_panels": content.panels["annotations"],
        "cases": cases,
        "case_heads": heads,
        "case_missing": missing,
        "setting_sheets": setting_sheets(data, content.means),
    }


def _evidence(content: Content) -> dict[str, Any]:
    """Image quality, copies, and how many real slices it takes."""
    return {
        "quality": content.quality,
        "correlation": content.correlation,
        "audit": content.audit,
        "ratio_panels": content.panels["ratio"],
        "ratio_sentences": ratio_sentences(content.data, content.answer),
        "fraction_panels": content.panels["fraction"],
        "finetune_panels": content.panels["finetune"],
    }


def _results(content: Content) -> dict[str, Any]:
    """Results patient by patient, all tables, and those of the paper."""
    data = content.data
    named = dataset_of(data)
    return {
        "tables": content.tables,
        "patient_panels": content.panels["patients"],
        "some_settings": len(data.closest(figures.MOST_SETTINGS)) < len(data.settings),
        "reading_note": reading_note(data, content.summary),
        "cohort_of_paper": COHORTS.get(named, ""),
        "contradictions": contradictions() if named else [],
    }


def _run(content: Content) -> dict[str, Any]:
    """Trainings, jobs, cost and where everything comes from."""
    data = content.data
    provenance = data.hide(data.provenance)
    return {
        "generator_panels": content.training,
        "health": health_lines(data),
        "segmenter_panels": content.panels["segmenters"],
        "quarantine": content.quarantine,
        "cost_panels": content.panels["cost"],
        "jobs": content.tables.get("jobs"),
        "study": yaml.safe_dump(data.hide(plain(data.study)), sort_keys=False, allow_unicode=True),
        "provenance": _flat({k: v for k, v in provenance.items() if k != "seeds"}),
        "seeds": _flat(provenance.get("seeds", {})),
        "problems": data.hide(data.problems),
        "command": data.hide(str(provenance.get("command", "understudy run study.yaml"))),
        "version": __version__,
    }


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested values as (name, text), the command left out: it has a place of its own."""
    if isinstance(value, dict):
        parts = [(f"{name} · {key}" if name else str(key), inner) for key, inner in value.items()]
        return [line for key, inner in parts if key != "command" for line in _flat(inner, key)]
    if isinstance(value, list | tuple) and any(isinstance(inner, dict) for inner in value):
        parts = [(f"{name} {i}" if len(value) > 1 else name, inner) for i, inner in enumerate(value, start=1)]
        return [line for key, inner in parts for line in _flat(inner, key)]
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = re.sub(r"\b([0-9a-f]{16})[0-9a-f]{48}\b", r"\1…", text)  # hashes in full are in report.json
    return [(name, text)]
