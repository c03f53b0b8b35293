"""The section on copies: what the page says with audits, without, and that none is shown without its controls."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from understudy.errors import UnderstudyError
from understudy.io.files import write_json
from understudy.report.content import Section, read_audits
from understudy.report.data import ReportData
from understudy.report.sections.copies import card, copies

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


def data_of(tmp_path: Path, audits: dict[str, dict[str, Any]]) -> ReportData:
    for name, numbers in audits.items():
        write_json(tmp_path / name / "audit.json", numbers)
    return ReportData("t", {}, pd.DataFrame(), audits={n: tmp_path / n for n in audits})


def section(tmp_path: Path, **audits: dict[str, Any]) -> Section:
    data = data_of(tmp_path, audits)
    return copies(data, read_audits(data))


def card_of(tmp_path: Path, **audits: dict[str, Any]) -> tuple[str, str, str]:
    """Title, text, class."""
    data = data_of(tmp_path, audits)
    return card(data, read_audits(data))


def test_without_an_audit_the_page_says_so(tmp_path: Path) -> None:
    title, _, css = card_of(tmp_path)
    assert css == "warn"
    assert "Not examined" in title
    assert section(tmp_path).numbers["memorization_audited"] is False


def test_the_worst_verdict_of_all_generators_is_the_card(tmp_path: Path) -> None:
    bad = copy.deepcopy(NUMBERS)
    bad["verdict"] |= {"kind": "copies_found", "headline": "Copies found."}
    assert card_of(tmp_path, good=NUMBERS, bad=bad)[1:] == ("bad: Copies found.", "no")
    found = section(tmp_path, good=NUMBERS, bad=bad)
    summary, controls = found.every_table
    assert [row[0] for row in summary.body] == ["good", "bad"]
    assert controls.header == ["Planted copy", "Found (95\u00a0% interval)"]  # the same for both: shown once
    assert "median" in found.every_panel[0].alt
    assert "histograms" not in found.numbers["memorization"]["good"]


def test_flags_beside_few_patients_are_said_in_the_table(tmp_path: Path) -> None:
    near = copy.deepcopy(NUMBERS)
    near["concentration"] = {"found": True, "patients": 1, "p": 1e-5}
    two = copy.deepcopy(NUMBERS)
    two["concentration"] = {"found": True, "patients": 2, "p": 1e-5}
    spread = copy.deepcopy(NUMBERS)
    spread["concentration"] = {"found": False, "patients": 1, "p": 0.4}
    summary = section(tmp_path, one=near, two=two, spread=spread, older=NUMBERS).every_table[0]
    at = summary.header.index("Most at one patient")
    assert [row[at] for row in summary.body] == ["2, concentrated", "2, concentrated on 2", "2", "2"]
    assert summary.frame["concentrated"].tolist() == [True, True, False, None]


def test_zeros_of_an_audit_that_can_flag_nothing_are_not_shown(tmp_path: Path) -> None:
    """With fewer held-out slices than it takes to flag one, "0 of 100" would look like a clean set."""
    few = copy.deepcopy(NUMBERS)
    few["null"] |= {"slices": 60, "slices_needed": 99}
    enough = copy.deepcopy(NUMBERS)
    enough["null"] |= {"slices": 99, "slices_needed": 99}
    summary = section(tmp_path, few=few, enough=enough).every_table[0]
    assert set(summary.body[0][1:7]) == {"–"}
    assert "–" not in summary.body[1][1:7]
    assert "few" in summary.note.split("–:")[1]
    assert summary.frame["flagged"].notna().all()


def test_controls_that_differ_are_shown_for_each(tmp_path: Path) -> None:
    other = copy.deepcopy(NUMBERS)
    other["controls"]["detection"][0]["rate"] = 0.5
    assert section(tmp_path, a=NUMBERS, b=other).every_table[1].header == ["Planted copy", "a", "b"]


def test_a_refusal_is_shown_and_an_audit_without_controls_is_not(tmp_path: Path) -> None:
    told = {"verdict": {"kind": "cannot_tell", "headline": "Cannot tell: nobody is held out.", "sentences": [],
                        "limits": []}, "refusal": "nobody is held out"}  # fmt: skip
    assert card_of(tmp_path, a=told)[1:] == ("Cannot tell: nobody is held out.", "open")
    assert section(tmp_path, a=told).every_table == []
    with pytest.raises(UnderstudyError, match="controls"):
        section(tmp_path, a={**NUMBERS, "controls": None})


def test_the_words_tell_the_quantile_of_the_audit(tmp_path: Path) -> None:
    strict = copy.deepcopy(NUMBERS)
    strict["rule"]["quantile"], strict["within"]["expected"] = 0.995, 0.005
    found = section(tmp_path, a=strict)
    (repeats,) = [b for b in found.blocks if isinstance(b, str) and "Repeats" in b]
    told = [repeats, found.every_panel[0].alt, found.every_table[0].note]
    assert all("99.5\u00a0%" in text and "99\u00a0%" not in text for text in told)
    assert "50 training slices" in found.every_table[1].note
