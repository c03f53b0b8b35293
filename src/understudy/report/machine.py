"""The report for machines: `report.json`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from understudy import __version__
from understudy.metrics.statistics import MEAN
from understudy.report.answer import Answer, Comparison
from understudy.report.audit_section import AuditSection
from understudy.report.data import ReportData, plain
from understudy.report.gallery import Gallery
from understudy.report.quality_section import QualitySection
from understudy.report.quarantine import Quarantine
from understudy.report.table import Table
from understudy.report.verdicts import Verdict

FORMAT = "understudy-report-1"


def report_numbers(
    data: ReportData,
    summary: pd.DataFrame,
    answer: Answer,
    tables: list[Table],
    gallery: Gallery,
    audit: AuditSection,
    quality: QualitySection,
    verdicts: list[Verdict],
    quarantine: Quarantine,
) -> dict[str, Any]:
    """The page for machines; `verdicts` is documented at `Verdict.as_numbers` and `Part`."""
    content = {
        "format": FORMAT,
        "software_version": __version__,
        "title": data.hide(data.title),
        "internal": True,
        "verdicts": [v.as_numbers() for v in verdicts],
        "memorization_audited": bool(audit.entries),
        "memorization": audit.numbers,
        "answer": {
            "verdict": answer.verdict,
            "headline": answer.headline,
            "sentences": answer.sentences,
            "evidence": answer.evidence,
            "reasons": answer.reasons,
            "baseline": answer.baseline.setting.id if answer.baseline else None,
            "baseline_dice": answer.baseline_dice,
            "patients": answer.patients,
            "repeats": answer.repeats,
            "margin": data.margin,
            "left_out": answer.left_out,
            "comparisons": [_as_numbers(c) for c in answer.comparisons],
        },
        "quality": data.hide(quality.numbers),
        "settings": [vars(s) for s in data.settings],
        "failed": data.hide(quarantine.failed),
        "missing_trainings": quarantine.missing,
        "collapsed": [{"setting": s, "repeat": r} for s, r in sorted(data.collapsed)],
        "generator_health": data.generator_health,
        "mean_name": MEAN,
        "summary": summary,
        "tables": {t.key: t.frame for t in tables},
        "annotations": [
            {k: v for k, v in n.items() if k not in ("areas", "code_distance")} for n in gallery.numbers
        ],
        "study": data.hide(plain(data.study)),
        "provenance": data.hide(plain(data.provenance)),
        "problems": data.hide(plain(data.problems)),
        "missing": gallery.missing,
    }
    numbers: dict[str, Any] = plain(content)
    return numbers


def _as_numbers(comparison: Comparison) -> dict[str, Any]:
    r = comparison.relative
    return {
        "setting": comparison.setting.id,
        "label": comparison.setting.label,
        "base": comparison.base.id,
        "relative_dice": r.value,
        "low": r.low,
        "high": r.high,
        "missed": comparison.missed,
        "present": comparison.present,
        "false_alarms": comparison.false_alarms,
        "absent": comparison.absent,
        "primary": comparison.primary,
    }
