"""The section on copies: what the page says with audits, without, and that none is shown without its controls."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from understudy.errors import UnderstudyError
from understudy.io.files import write_json
from understudy.report.data import ReportData
from understudy.report.sections.audit import make_audit_section

DETECTION = {"name": "exact", "must": True, "copies": 50, "rate": 1.0, "low": 0.9, "high": 1.0}
NUMBERS: dict[str, Any] = {
    "format": "understudy-audit-1",
    "verdict": {"kind": "no_sign", "headline": "No sign of copying.", "sentences": ["So."], "limits": ["Not all."]},
    "refusal": None,
    "rule": {"quantile": 0.99},
    "null": {"thresholds": {"stacked": 0.9}},
    "flags": {"count": 3, "judged": 300, "rate": 0.01, "low": 0.0, "high": 0.03, "residual": 0.0, "certain": 0},
    "patients": {"hit": 2, "of": 9, "worst": ["patient 1", 2]},
    "controls": {"detection": [DETECTION], "false_alarms": {"rate": 0.01}},
    "within": {"compared": 100, "count": 1, "rate": 0.01, "expected": 0.01},
    "histograms": {
        "stacked": {
            "edges": [0.5, 0.75, 1.0],
            "counts": {"synthetic": [5, 1], "held-out": [6, 0], "noise 5 %": [0, 4]},
        }
    },
    "membership": {"auc": 0.6, "words": "The weights give training patients away."},
}  # fmt: skip


def section(tmp_path: Path, **audits: dict[str, Any]) -> Any:
    for name, numbers in audits.items():
        write_json(tmp_path / name / "audit.json", numbers)
    return make_audit_section(ReportData("t", {}, pd.DataFrame(), audits={n: tmp_path / n for n in audits}))


def test_without_an_audit_the_page_says_so(tmp_path: Path) -> None:
    found = section(tmp_path)
    assert (found.kind, found.css, found.entries) == ("", "warn", [])
    assert "Not examined" in found.title


def test_the_worst_verdict_of_all_generators_is_the_card(tmp_path: Path) -> None:
    bad = copy.deepcopy(NUMBERS)
    bad["verdict"] |= {"kind": "copies_found", "headline": "Copies found."}
    found = section(tmp_path, good=NUMBERS, bad=bad)
    assert found.kind == "copies_found"
    assert found.text == "bad: Copies found."
    summary, controls = found.tables
    assert [row[0] for row in summary.body] == ["good", "bad"]
    assert controls.header == ["Planted copy", "Found (95\u00a0% interval)"]  # the same for both: shown once
    assert "median" in found.entries[0].panels[0].alt
    assert "histograms" not in found.numbers["good"]


def test_flags_beside_few_patients_are_said_in_the_table(tmp_path: Path) -> None:
    heaped = copy.deepcopy(NUMBERS)
    heaped["concentration"] = {"found": True, "patients": 1, "p": 1e-5}
    two = copy.deepcopy(NUMBERS)
    two["concentration"] = {"found": True, "patients": 2, "p": 1e-5}
    spread = copy.deepcopy(NUMBERS)
    spread["concentration"] = {"found": False, "patients": 1, "p": 0.4}
    summary = section(tmp_path, one=heaped, two=two, spread=spread, older=NUMBERS).tables[0]
    at = summary.header.index("Most at one patient")
    assert [row[at] for row in summary.body] == ["2, concentrated", "2, concentrated on 2", "2", "2"]
    assert summary.frame["concentrated"].tolist() == [True, True, False, None]


def test_zeros_of_an_audit_that_can_flag_nothing_are_not_shown(tmp_path: Path) -> None:
    """With fewer held-out slices than it takes to flag one, "0 of 100" would look like a clean set."""
    few = copy.deepcopy(NUMBERS)
    few["null"] |= {"slices": 60, "slices_needed": 99}
    enough = copy.deepcopy(NUMBERS)
    enough["null"] |= {"slices": 99, "slices_needed": 99}
    summary = section(tmp_path, few=few, enough=enough).tables[0]
    assert set(summary.body[0][1:7]) == {"–"}
    assert "–" not in summary.body[1][1:7]
    assert "too few slices of new patients to judge few" in summary.note
    assert summary.frame["flagged"].notna().all()


def test_controls_that_differ_are_shown_for_each(tmp_path: Path) -> None:
    other = copy.deepcopy(NUMBERS)
    other["controls"]["detection"][0]["rate"] = 0.5
    assert section(tmp_path, a=NUMBERS, b=other).tables[1].header == ["Planted copy", "a", "b"]


def test_a_refusal_is_shown_and_an_audit_without_controls_is_not(tmp_path: Path) -> None:
    told = {"verdict": {"kind": "cannot_tell", "headline": "Cannot tell: nobody is held out.", "sentences": [],
                        "limits": []}, "refusal": "nobody is held out"}  # fmt: skip
    found = section(tmp_path, a=told)
    assert (found.css, found.text, found.tables) == ("open", "Cannot tell: nobody is held out.", [])
    with pytest.raises(UnderstudyError, match="without its controls"):
        section(tmp_path, a={**NUMBERS, "controls": None})


def test_the_words_tell_the_quantile_of_the_audit(tmp_path: Path) -> None:
    strict = copy.deepcopy(NUMBERS)
    strict["rule"]["quantile"], strict["within"]["expected"] = 0.995, 0.005
    found = section(tmp_path, a=strict)
    told = [found.entries[0].within, found.entries[0].panels[0].alt, found.tables[0].note]
    assert all("99.5\u00a0%" in text and "99\u00a0%" not in text for text in told)
    assert "50 training slices" in found.tables[1].note
