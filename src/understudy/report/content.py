"""Everything that a report says, made once: the page, `report.json` and the files are written from it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from understudy.metrics.overlap import apply_policy
from understudy.report.data import ReportData
from understudy.report.plots import panels as figures
from understudy.report.plots.curves import fraction_panels, ratio_panels
from understudy.report.plots.finetune import finetune_panels, finetune_table
from understudy.report.plots.forest import forest_panels
from understudy.report.plots.style import NARROW, PANEL, Panel
from understudy.report.sections.annotations import AnnotationSection, make_annotation_section
from understudy.report.sections.answer import Answer, make_answer
from understudy.report.sections.audit import AuditSection, make_audit_section
from understudy.report.sections.correlation import CorrelationSection, make_correlation_section
from understudy.report.sections.gallery import Gallery, make_gallery
from understudy.report.sections.quality import QualitySection, make_quality_section
from understudy.report.sections.quarantine import Quarantine, cost_panels, cost_table, job_table, make_quarantine
from understudy.report.sections.verdicts import Verdict, make_verdicts
from understudy.report.tables.quality import quality_table, reading_table, recipe_table
from understudy.report.tables.results import Table, patient_means, result_tables, summaries, usable_rows


@dataclass(frozen=True)
class Content:
    """What a report says.

    Attributes:
        data, rows: what it is made from, and the rows that are complete.
        means, summary: of these rows by patient; of all metrics with intervals.
        answer, verdicts: on the study and on each generator.
        tables: of the page, by key, but those of the sections below.
        gallery, quality, audit, annotation, correlation, quarantine: the sections.
        panels: name of a place on the page -> its plots.
        training: generator -> the plots of its training.
    """

    data: ReportData
    rows: pd.DataFrame
    means: pd.DataFrame
    summary: pd.DataFrame
    answer: Answer
    verdicts: list[Verdict]
    tables: dict[str, Table]
    gallery: Gallery
    quality: QualitySection
    audit: AuditSection
    annotation: AnnotationSection
    correlation: CorrelationSection
    quarantine: Quarantine
    panels: dict[str, list[Panel]]
    training: dict[str, list[Panel]]

    @property
    def every_table(self) -> list[Table]:
        """All tables, in the order of the page."""
        parts = (self.quality.tables, self.correlation.tables, self.audit.tables, self.annotation.tables)
        return [*self.tables.values(), *(table for part in parts for table in part)]

    @property
    def every_panel(self) -> list[Panel]:
        """All plots that have files."""
        parts = [*self.panels.values(), *(entry.panels for entry in self.audit.entries)]
        parts += [self.annotation.areas, self.annotation.maps, self.correlation.panels, *self.training.values()]
        return [panel for part in parts for panel in part if panel.key]


def make_content(data: ReportData) -> Content:
    """Computes and draws everything.

    Raises:
        UnderstudyError: rows without the columns of raw results.
    """
    rows, left_out = usable_rows(data)
    scored = apply_policy(rows) if len(rows) else rows
    answer = make_answer(data, scored, left_out)
    summary, means = summaries(data, rows), _means(data, rows)
    gallery, audit, quarantine = make_gallery(data), make_audit_section(data), make_quarantine(data)
    annotation = make_annotation_section(data)
    others = (
        quality_table(data),
        reading_table(data),
        recipe_table(data),
        cost_table(data),
        quarantine.table,
        finetune_table(data, summary),
        job_table(data),
    )
    made = [*result_tables(data, rows, summary, answer), *(t for t in others if t is not None)]
    tables = {table.key: table for table in made}
    panels = {
        "forest": forest_panels(answer, data.margin),
        "annotations": [p for p in gallery.panels if not (annotation.areas and p.key.startswith("areas_"))],
        "ratio": ratio_panels(data, rows, summary),
        "fraction": fraction_panels(data, rows, summary),
        "finetune": finetune_panels(data, summary),
        "patients": _patient_panels(data, means, summary),
        "segmenters": figures.segmenter_curves(data),
        "cost": cost_panels(tables.get("cost")),
    }
    return Content(
        data,
        rows,
        means,
        summary,
        answer,
        make_verdicts(data, scored, answer, audit.numbers),
        tables,
        gallery,
        make_quality_section(data),
        audit,
        annotation,
        make_correlation_section(data),
        quarantine,
        panels,
        _training_panels(data, gallery),
    )


def _means(data: ReportData, rows: pd.DataFrame) -> pd.DataFrame:
    return patient_means(data, rows) if len(rows) else pd.DataFrame(columns=["setting", "class_name"])


def _training_panels(data: ReportData, gallery: Gallery) -> dict[str, list[Panel]]:
    shares: dict[str, float] = next((n["with_class"] for n in gallery.numbers if n["kind"] == "real"), {})
    return {
        name: figures.generator_curves(name, path, shares, data.shown(name))
        for name, path in data.generator_histories.items()
    }


def _patient_panels(data: ReportData, means: pd.DataFrame, summary: pd.DataFrame) -> list[Panel]:
    if means.empty:
        return []
    shown = len(data.class_names) + (len(data.class_names) > 1) + (means["site"].nunique() > 1)
    width = (NARROW if shown == 4 else PANEL)[0]
    return figures.patient_dots(data, means, summary, width) + figures.site_dots(data, means, width)
