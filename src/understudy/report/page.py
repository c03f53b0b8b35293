"""The report: one self-contained HTML page, the same numbers as JSON, and every table as CSV."""

from __future__ import annotations

import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.files import write_text, writing
from understudy.metrics.empties import apply_policy
from understudy.report import figures
from understudy.report.annotation_section import AnnotationSection, make_annotation_section
from understudy.report.answer import (
    FEWEST_PATIENTS,
    POOREST_BASELINE,
    Answer,
    Comparison,
    best,
    interval,
    make_answer,
    primary,
    value,
)
from understudy.report.audit_section import AuditSection, make_audit_section
from understudy.report.beside import COHORTS, dataset_of
from understudy.report.curves import fraction_panels, ratio_panels, ratio_sentences
from understudy.report.data import ReportData, Setting, count, duration, number, percent, plain
from understudy.report.finetune_curve import finetune_panels, finetune_table
from understudy.report.gallery import Gallery, make_gallery, segmentations
from understudy.report.health import faults, health_lines
from understudy.report.latex import latex
from understudy.report.machine import report_numbers
from understudy.report.pictures import colours
from understudy.report.plots import NARROW, PANEL, Panel
from understudy.report.published import contradictions
from understudy.report.quality_section import QualitySection, make_quality_section
from understudy.report.quality_tables import quality_table, reading_table, recipe_table
from understudy.report.quarantine import Quarantine, cost_panels, cost_table, job_table, make_quarantine
from understudy.report.setting_pictures import sample_rows, setting_sheets
from understudy.report.table import collapsed_of
from understudy.report.tables import (
    Table,
    patient_means,
    reading_note,
    result_tables,
    summaries,
    usable_rows,
)
from understudy.report.verdicts import Verdict, make_verdicts
from understudy.slices import SliceSet

__all__ = ["ReportData", "Setting", "build_report"]

MOST_ROWS = 14  # of relative Dice shown at once; of a larger grid those that differ from the yardstick in their slices


def build_report(data: ReportData, out: Path) -> Path:
    """Writes `report.html`, `report.json`, `tables/*.csv` and the same as LaTeX, `tables/*.tex`.

    Args:
        data: what to report; parts that are missing are named on the page.
        out: folder, made if absent.

    Returns:
        The path of `report.html`.

    Raises:
        UnderstudyError: rows without the columns of raw results, disk full, no permission.
    """
    rows, left_out = usable_rows(data)
    scored = apply_policy(rows) if len(rows) else rows
    answer = make_answer(data, scored, left_out)
    summary = summaries(data, rows)
    tables = result_tables(data, rows, summary, answer)
    gallery, quarantine = make_gallery(data), make_quarantine(data)
    quality, audit = make_quality_section(data), make_audit_section(data)
    annotation = make_annotation_section(data)
    verdicts = make_verdicts(data, scored, answer, audit.numbers)
    others = (
        quality_table(data),
        reading_table(data),
        recipe_table(data),
        cost_table(data),
        quarantine.table,
        finetune_table(data, summary),
    )
    tables += [table for table in (*others, job_table(data)) if table is not None]
    page = _page(
        data, rows, summary, answer, tables, gallery, quality, audit, annotation, verdicts, quarantine
    )
    tables = [*tables, *quality.tables, *audit.tables, *annotation.tables]
    numbers = report_numbers(data, summary, answer, tables, gallery, audit, quality, verdicts, quarantine)
    out = Path(out)
    with writing(out):
        (out / "tables").mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_text(out / "tables" / f"{table.key}.csv", table.frame.to_csv(index=False))
        write_text(out / "tables" / f"{table.key}.tex", latex(table))
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


def _page(
    data: ReportData,
    rows: pd.DataFrame,
    summary: pd.DataFrame,
    answer: Answer,
    tables: list[Table],
    gallery: Gallery,
    quality: QualitySection,
    audit: AuditSection,
    annotation: AnnotationSection,
    verdicts: list[Verdict],
    quarantine: Quarantine,
) -> str:
    means = patient_means(data, rows) if len(rows) else pd.DataFrame(columns=["setting", "class_name"])
    cases, heads, missing = segmentations(data, means, answer.comparisons)
    real_shares: dict[str, float] = next(
        (n["with_class"] for n in gallery.numbers if n["kind"] == "real"), {}
    )
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            title=data.hide(data.title),
            style=files("understudy.report").joinpath("templates/report.css").read_text(encoding="utf-8"),
            answer=answer,
            figures_of=_key_figures(answer),
            forest=_forest(answer, data.margin),
            some_settings=len(data.closest(figures.MOST_SETTINGS)) < len(data.settings),
            rule={"fewest": FEWEST_PATIENTS, "poorest": POOREST_BASELINE, "margin": data.margin},
            facts=_facts(data, gallery),
            gallery=gallery,
            quality=quality,
            audit=audit,
            annotation=annotation,
            annotation_panels=[
                p for p in gallery.panels if not (annotation.areas and p.alt.startswith("Area of"))
            ],
            legend=list(zip(gallery.classes, colours(len(gallery.classes)), strict=True)),
            generator_panels={
                name: figures.generator_curves(name, path, real_shares)
                for name, path in data.generator_histories.items()
            },
            verdicts=verdicts,
            alarm=_alarm(verdicts),
            quarantine=quarantine,
            cohort_of_paper=COHORTS.get(dataset_of(data), ""),
            contradictions=contradictions() if dataset_of(data) else [],
            cost_panels=cost_panels(next((t for t in tables if t.key == "cost"), None)),
            collapsed=quarantine.sentences + _collapsed(data) + faults(data),
            health=health_lines(data),
            ratio_panels=ratio_panels(data, rows, summary),
            ratio_sentences=ratio_sentences(data, answer),
            fraction_panels=fraction_panels(data, rows, summary),
            finetune_panels=finetune_panels(data, summary),
            sample_rows=sample_rows(gallery),
            setting_sheets=setting_sheets(data, means),
            segmenter_panels=figures.segmenter_curves(data),
            cases=cases,
            case_heads=heads,
            case_missing=missing,
            patient_panels=_patient_panels(data, means, summary) if len(means) else [],
            tables={t.key: t for t in tables},
            reading_note=reading_note(data, summary),
            jobs=next((t for t in tables if t.key == "jobs"), None),
            study=yaml.safe_dump(data.hide(plain(data.study)), sort_keys=False, allow_unicode=True),
            provenance=_flat(data.hide(data.provenance)),
            problems=data.hide(data.problems),
            command=data.hide(str(data.provenance.get("command", "understudy run study.yaml"))),
            version=__version__,
        )
    )


def _alarm(verdicts: list[Verdict]) -> str:
    """What must be read together with the headline: copies that were found, or that nobody looked for them."""
    copies = [v.generator for v in verdicts if v.copy.kind == "copies_found"]
    if copies:
        return f"Copies of patients were found among the slices of {', '.join(copies)}: do not release them."
    unseen = [v.generator for v in verdicts if v.copy.kind == "not_audited"]
    if unseen:
        return f"Nobody has searched the slices of {', '.join(unseen)} for copies of patients: do not release them yet."
    return ""


def _collapsed(data: ReportData) -> list[str]:
    """Trainings that broke down: they stay in every mean, and the reader must know."""
    said = []
    for setting in data.settings:
        broken = sorted(repeat for name, repeat in data.collapsed if name == setting.id)
        if not broken:
            continue
        of = collapsed_of(data, setting)[1]
        reasons = {
            str(data.runs.get((setting.id, r), {}).get("collapse") or "it finds nothing") for r in broken
        }
        which = count(len(broken), "repeat").split()[1] + " " + ", ".join(str(r + 1) for r in broken)
        said.append(
            f"{len(broken)} of {count(of, 'training')} of “{setting.label}” collapsed"
            f" ({which}: {'; '.join(sorted(reasons))}). All count in every mean; the tables say what it is without."
        )
    return said


def _patient_panels(data: ReportData, means: pd.DataFrame, summary: pd.DataFrame) -> list[Panel]:
    count_of_panels = len(data.class_names) + (len(data.class_names) > 1) + (means["site"].nunique() > 1)
    width = (NARROW if count_of_panels == 4 else PANEL)[0]
    return figures.patient_dots(data, means, summary, width) + figures.site_dots(data, means, width)


def _key_figures(answer: Answer) -> list[dict[str, str]]:
    """The four numbers beside the verdict."""
    top = best(primary(answer.comparisons, "synthetic"))
    both = best(primary(answer.comparisons, "both"))
    found = []
    for comparison, words in ((top, "Synthetic only"), (both, "Real + synthetic")):
        if comparison is not None:
            found.append(
                {
                    "value": value(comparison.relative),
                    "name": f"{words}: relative Dice",
                    "more": f"95\u00a0% interval {interval(comparison.relative)}",
                }
            )
    if top is not None and answer.baseline is not None:
        base = answer.baseline
        found.append(
            {
                "value": f"{top.missed} of {top.present}",
                "name": "Tumours missed, synthetic only",
                "more": f"real slices: {base.missed} of {base.present}",
            }
        )
    if not math.isnan(answer.baseline_dice):
        found.append(
            {
                "value": number(answer.baseline_dice, 2),
                "name": "The yardstick: mean Dice with real slices",
                "more": f"{count(answer.patients, 'test patient')}, {count(answer.repeats, 'training')} each",
            }
        )
    return found


def _forest(answer: Answer, margin: float) -> dict[str, Any] | None:
    """Relative Dice with intervals as positions in percent of the axis; None without comparisons."""
    shown: list[Comparison] = [
        c
        for c in answer.comparisons
        if not math.isnan(c.relative.value)
        and c.setting.training != "ratio"  # these have curves of their own
    ]
    if not shown:
        return None
    ends = [v for c in shown for v in (c.relative.value, c.relative.high) if math.isfinite(v)]
    top = min(max([1.1, *ends]) + 0.05, 2.5)

    def place(share: float) -> float:
        return round(100 * min(max(share, 0.0), top) / top, 2)

    rows = []
    first = [c for c in shown if c.primary] if len(shown) > MOST_ROWS else shown
    for c in [*first, *(c for c in shown if c not in first)]:
        low, high = (v if math.isfinite(v) else c.relative.value for v in (c.relative.low, c.relative.high))
        rows.append(
            {
                "label": c.setting.label,
                "kind": c.setting.training,
                "colour": c.setting.colour,
                "low": place(low),
                "width": round(place(high) - place(low), 2),
                "at": place(c.relative.value),
                "text": value(c.relative),
                "interval": interval(c.relative),
            }
        )
    step = 0.25 if top <= 1.5 else 0.5
    ticks = [step * i for i in range(int(top / step) + 1)]
    return {
        "rows": rows[: len(first)],
        "more": rows[len(first) :],
        "ticks": [{"at": place(t), "text": percent(t)} for t in ticks],
        "one": place(1.0),
        "zone": place(1 - margin),
        "zone_text": percent(1 - margin),
    }


def _facts(data: ReportData, gallery: Gallery) -> list[tuple[str, str]]:
    """The study in a few words each: who, what, how often."""
    facts = []
    for path in [data.slices] if data.slices else []:
        try:
            slices = SliceSet.open(path, cache_bytes=0)
        except UnderstudyError:
            continue
        index = slices.index
        if "split" in index:
            parts = index.groupby("split")["subject"].nunique()
            shown = [
                f"{parts[s]} {w}" for s, w in (("train", "training"), ("val", "validation")) if parts.get(s)
            ]
            if not data.scores.empty:
                shown.append(f"{data.scores['subject'].nunique()} test")
            facts.append(("Patients", ", ".join(shown)))
            facts.append(("Real training slices", f"{int((index['split'] == 'train').sum()):,}"))
        sites = index["site"].replace("", pd.NA).nunique() if "site" in index else 0
        facts.append(("Hospitals", str(sites) if sites else "not known"))
        facts.append(
            ("Slices", f"{slices.resolution} × {slices.resolution} pixels; {', '.join(slices.channels)}")
        )
        facts.append(("Classes", ", ".join(slices.class_names)))
    made = [n for n in gallery.numbers if n["kind"] == "synthetic"]
    if made:
        facts.append(("Synthetic slices", ", ".join(f"{n['slices']:,} ({n['short']})" for n in made)))
    networks = sorted(set(map(str, data.scores["segmenter"]))) if len(data.scores) else []
    if networks:
        repeats = data.scores.groupby("setting")["repeat"].nunique().max()
        facts.append(("Segmentation", f"{', '.join(networks)}; {count(int(repeats), 'training')} a setting"))
    return facts


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
