"""The report for machines: `report.json`."""

from __future__ import annotations

from typing import Any

from understudy import __version__
from understudy.metrics.statistics import MEAN
from understudy.report.content import Content
from understudy.report.data import plain
from understudy.report.folder import Written
from understudy.report.sections.answer import Comparison
from understudy.report.sections.opening import alarm

FORMAT = "understudy-report-1"


def report_numbers(content: Content, written: list[Written]) -> dict[str, Any]:
    """The page for machines; `verdicts` is documented at `Verdict.as_numbers` and `Part`."""
    data, answer, gallery, quarantine = content.data, content.answer, content.gallery, content.quarantine
    audit, quality = content.audit, content.quality
    found = {
        "format": FORMAT,
        "software_version": __version__,
        "title": data.hide(data.title),
        "internal": True,
        "verdicts": [v.as_numbers() for v in content.verdicts],
        "memorization_audited": bool(audit.entries),
        "memorization": audit.numbers,
        "answer": {
            "verdict": answer.verdict,
            "headline": answer.headline,
            "alarm": alarm(content.verdicts),
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
        "correlation": data.hide(content.correlation.numbers),
        "settings": [vars(s) for s in data.settings],
        "failed": data.hide(quarantine.failed),
        "missing_trainings": quarantine.missing,
        "collapsed": [{"setting": s, "repeat": r} for s, r in sorted(data.collapsed)],
        "generator_health": data.generator_health,
        "mean_name": MEAN,
        "summary": content.summary,
        "tables": {t.key: t.frame for t in content.every_table},
        "annotations": [{k: v for k, v in n.items() if k not in ("areas", "code_distance")} for n in gallery.numbers],
        "study": data.hide(plain(data.study)),
        "provenance": data.hide(plain(data.provenance)),
        "problems": data.hide(plain(data.problems)),
        "missing": gallery.missing,
        "files": [vars(w) for w in written],
    }
    numbers: dict[str, Any] = plain(found)
    return numbers


def _as_numbers(comparison: Comparison) -> dict[str, Any]:
    r = comparison.relative
    return {
        "setting": comparison.setting.id,
        "label": comparison.setting.label,
        "base": comparison.base.id,
        "dice": comparison.dice,
        "relative_dice": r.value,
        "low": r.low,
        "high": r.high,
        "missed": comparison.missed,
        "present": comparison.present,
        "false_alarms": comparison.false_alarms,
        "absent": comparison.absent,
        "primary": comparison.primary,
    }
