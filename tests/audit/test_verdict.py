"""From numbers to words: which verdict follows from what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from understudy.audit.controls import Controls, Detection, FalseAlarms
from understudy.audit.verdict import Flags, Hits, percent, verdict

FLAGS = Flags(
    1000, 10, 0.01, 0.001, 0.02, 0.006, 0.018, 0.01, 0.0, -0.009, 0.01, 0.0, -0.01, 0.01, 0.017,
    {"stacked": 0.01, "centred": 0.01}, 0, 0.05, 0, 0,
)  # fmt: skip
HITS = Hits(3, 20, {"patient 1": 6, "patient 2": 3, "patient 3": 1})
ALARMS = FalseAlarms(0.011, 0.0, 0.03, 0.01, 0.0, 0.04, 100, 0.01)
FOUND = Detection("exact", True, 100, 1.0, 0.9, 1.0, {}, {})
MISSED = Detection("shift 1 pixel", False, 100, 0.2, 0.1, 0.3, {}, {})


def judged(slices: int = 400, patients: int = 12, detection: float = 1.0, **changes: Any) -> Any:
    controls = Controls((replace(FOUND, rate=detection), MISSED), ALARMS)
    return verdict(replace(FLAGS, **changes), HITS, controls, patients, slices, 99, 0.99)


def test_no_sign() -> None:
    said = judged()
    assert said.kind == "no_sign"
    assert "10 of 1,000 synthetic slices (1 %)" in said.headline
    assert "shift 1 pixel 20 %" in said.limits[0]
    assert any("3 of 20 training patients; patient 1, the worst hit, has 6" in s for s in said.sentences)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"low": 0.2, "rate": 0.3}, "copies_found", "chance alone would give 1 %"),
        ({"certain": 1}, "copies_found", "1 synthetic slice lies nearer"),
        ({"low": 0.02, "rate": 0.03}, "cannot_tell", "vary too much"),
        ({"slices": 60, "certain": 5}, "cannot_tell", "takes 99"),
        ({"patients": 4, "certain": 5}, "cannot_tell", "4 held-out patients"),
        ({"detection": 0.5}, "cannot_tell", "misses copies that it has to find (exact)"),
        ({"detection": 0.5, "low": 0.5}, "copies_found", "Copies found"),
    ],
)
def test_each_verdict(changes: dict[str, Any], kind: str, words: str) -> None:
    said = judged(**changes)
    assert (said.kind, words in said.headline) == (kind, True)


def test_no_flag_is_not_no_risk_and_fewer_than_chance_is_said() -> None:
    said = judged(count=0, rate=0.0, bound=0.003, wilson_high=0.004)
    assert any("up to 0.30 % of such slices" in s for s in said.sentences)
    assert any("fewer than chance gives" in s for s in said.sentences)


def test_percentages() -> None:
    shown = [percent(x) for x in (0.0, 1.0, 0.01, 0.0004, 0.0156, 0.354, float("nan"))]
    assert shown == ["0 %", "100 %", "1 %", "0.04 %", "1.6 %", "35 %", "–"]
