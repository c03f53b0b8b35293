"""Which verdict follows from what, and for which reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made import ALARMS, CONCENTRATED, FOUND, MISSED, NAN, findings

from understudy.memorization.controls import Controls
from understudy.memorization.verdict import REASONS, Verdict, reason

MISSING = Controls((replace(FOUND, rate=0.5), MISSED), ALARMS)
UNMEASURED = Controls((FOUND, MISSED), replace(ALARMS, rate=NAN, low=NAN, high=NAN))
ALARMED = Controls((FOUND, MISSED), replace(ALARMS, certain=2))
OTHER = replace(CONCENTRATED, p=0.3)


@pytest.mark.parametrize(
    ("flags", "facts", "why"),
    [
        ({}, {}, "nothing"),
        ({"low": 0.2, "rate": 0.3}, {}, "rate"),
        ({"certain": 1}, {}, "certain"),
        ({"low": 0.02, "rate": 0.03}, {}, "rate_unclear"),
        ({"certain": 5}, {"slices": 60}, "too_few_slices"),
        ({"certain": 5}, {"patients": 4}, "too_few_patients"),
        ({}, {"controls": MISSING}, "copies_missed"),
        ({"low": 0.5}, {"controls": MISSING}, "rate"),
        ({"judged": 10, "skipped": 140}, {}, "mostly_empty"),
        ({"judged": 10, "skipped": 140, "certain": 1}, {}, "certain"),
        ({"low": 0.001}, {"controls": UNMEASURED}, "false_alarms_unknown"),
        ({"low": 0.5}, {"controls": UNMEASURED}, "false_alarms_unknown"),
        ({"certain": 1}, {"controls": UNMEASURED}, "certain"),
        ({"certain": 3}, {"controls": ALARMED}, "new_patients_certain"),
        ({}, {"concentration": CONCENTRATED}, "concentrated"),
        ({"certain": 1}, {"concentration": CONCENTRATED}, "certain"),
        ({}, {"concentration": replace(CONCENTRATED, patients=2, p=1e-9)}, "concentrated"),
        ({}, {"concentration": OTHER}, "nothing"),
        ({}, {"concentration": replace(CONCENTRATED, flagged=3, smallest_p=0.02, p=0.02)}, "nothing"),
        ({"count": 0}, {"screened": True}, "screened"),
    ],
)
def test_each_reason(flags: dict[str, Any], facts: dict[str, Any], why: str) -> None:
    assert reason(findings(flags, **facts)) == why


def test_every_reason_has_a_kind() -> None:
    assert set(REASONS.values()) == {"copies_found", "no_sign", "cannot_tell"}
    assert {why for why, kind in REASONS.items() if kind == "copies_found"} == {"certain", "rate"}
    assert {why for why, kind in REASONS.items() if kind == "no_sign"} == {"screened", "nothing"}


def test_a_verdict_is_short_in_a_notebook() -> None:
    said = Verdict("no_sign", "No sign: 1 < 2.", ["a"] * 9, ["b"] * 9)
    assert repr(said) == "Verdict(no_sign): No sign: 1 < 2."
    assert "1 &lt; 2" in said._repr_html_()
