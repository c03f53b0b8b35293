"""From numbers to words: which verdict follows from what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from understudy.memorization.concentration import Concentration
from understudy.memorization.controls import Controls, Detection, FalseAlarms
from understudy.memorization.verdict import Flags, Hits, percent, points, verdict

NAN = float("nan")
FLAGS = Flags(
    1000, 10, 0.01, 0.001, 0.02, 0.006, 0.018, 0.01, 0.0, -0.009, 0.01, 0.0, -0.01, 0.01, 0.017,
    {"stacked": 0.01, "centred": 0.01}, 0, 0.05, 0, 0,
)  # fmt: skip
HITS = Hits(3, 20, {"patient 1": 6, "patient 2": 3, "patient 3": 1})
ALARMS = FalseAlarms(0.011, 0.0, 0.03, 0.01, 0.0, 0.04, 100, 0.01)
FOUND = Detection("exact", True, 100, 1.0, 0.9, 1.0, {}, {})
MISSED = Detection("shift 1 pixel", False, 100, 0.2, 0.1, 0.3, {}, {})


def said_of(slices: int = 400, patients: int = 12, detection: float = 1.0, **changes: Any) -> Any:
    controls = Controls((replace(FOUND, rate=detection), MISSED), ALARMS)
    return verdict(replace(FLAGS, **changes), HITS, controls, patients, slices, 99, 0.99)


def test_no_sign() -> None:
    said = said_of()
    assert said.kind == "no_sign"
    assert "10 of 1,000 synthetic slices (1 %)" in said.headline
    assert "shift 1 pixel: 20 %" in said.limits[0]
    assert any("3 of 20 training patients; patient 1 has the most, 6" in s for s in said.sentences)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"low": 0.2, "rate": 0.3}, "copies_found", "chance alone would give 1 %"),
        ({"certain": 1}, "copies_found", "1 synthetic slice is nearer"),
        ({"low": 0.02, "rate": 0.03}, "cannot_tell", "12 held-out patients differ"),
        ({"slices": 60, "certain": 5}, "cannot_tell", "60 held-out slices are too few: it takes at least 99"),
        ({"patients": 4, "certain": 5}, "cannot_tell", "4 held-out patients"),
        ({"detection": 0.5}, "cannot_tell", "50 % of the exact copies, 90 % needed"),
        ({"detection": 0.5, "low": 0.5}, "copies_found", "Copies found"),
        ({"judged": 10, "skipped": 140}, "cannot_tell", "140 of 150 synthetic slices are constant or nearly empty"),
        ({"judged": 10, "skipped": 140, "certain": 1}, "copies_found", "1 synthetic slice is nearer"),
    ],
)
def test_each_verdict(changes: dict[str, Any], kind: str, words: str) -> None:
    said = said_of(**changes)
    assert (said.kind, words in said.headline) == (kind, True)
    if kind == "cannot_tell":  # what to do next
        assert any(step in said.headline for step in ("audit again", "Audit again", "train the generator longer"))
    else:
        assert "understudy screen" in said.sentences[-1]


def test_an_audit_that_can_flag_nothing_claims_nothing() -> None:
    """60 held-out slices: p cannot reach 1 %, so that no flag, no rate and no bound means anything."""
    said = " ".join(said_of(slices=60, count=0, rate=0.0, bound=0.015, wilson_high=0.004).sentences)
    assert "none could be flagged" in said
    assert "1.5 %" not in said
    assert "percentage points" not in said
    assert "fewer than chance" not in said
    assert "Test of the search" not in said


def test_a_missed_kind_of_copy_is_told_in_words() -> None:
    gamma = replace(FOUND, name="gamma 0.7", rate=0.4)
    said = verdict(FLAGS, HITS, Controls((FOUND, gamma, MISSED), ALARMS), 12, 400, 99, 0.99)
    assert said.kind == "cannot_tell"
    assert "40 % of the copies with changed contrast (gamma 0.7)" in said.headline


@pytest.mark.parametrize(
    ("low", "high", "direction"), [(0.02, 0.04, "more than"), (-0.01, -0.005, "fewer than"), (-0.01, 0.01, "no clear")]
)
def test_a_difference_from_chance_has_a_direction(low: float, high: float, direction: str) -> None:
    said = said_of(excess=(low + high) / 2, excess_low=low, excess_high=high)
    (told,) = [s for s in said.sentences if "percentage points" in s]
    assert f"(flagged), {direction}" in told


def test_one_is_singular() -> None:
    said = said_of(certain=1, strict=1, skipped=2, faint=1, faint_count=1)
    text = " ".join([said.headline, *said.sentences])
    assert not any(wrong in text for wrong in ("1 slices", "1 synthetic slices", "1 patients", "1 of them are"))


def test_without_a_measured_rate_of_false_alarms_nothing_is_said() -> None:
    unmeasured = Controls((FOUND, MISSED), replace(ALARMS, rate=NAN, low=NAN, high=NAN))
    for low in (0.001, 0.5):
        said = verdict(replace(FLAGS, low=low), HITS, unmeasured, 6, 110, 99, 0.99)
        assert (said.kind, "110 held-out slices are too few" in said.headline) == ("cannot_tell", True)
    assert verdict(replace(FLAGS, certain=1), HITS, unmeasured, 6, 110, 99, 0.99).kind == "copies_found"


def test_nearer_than_chance_explains_counts_only_where_new_patients_are_not() -> None:
    alarmed = Controls((FOUND, MISSED), replace(ALARMS, certain=2))
    said = verdict(replace(FLAGS, certain=3), HITS, alarmed, 12, 400, 99, 0.99)
    assert said.kind == "cannot_tell"
    assert "2 slices of new patients" in said.headline


HEAPED = Concentration(22, 1, 22, 8, 1, 4e-6, 3e-7, 0.3)


@pytest.mark.parametrize(
    ("heaped", "changes", "kind", "words"),
    [
        (HEAPED, {}, "cannot_tell", "Concentrated on one training patient: 22 of 22 flagged slices"),
        (HEAPED, {"certain": 1}, "copies_found", "private/gallery.png before release"),
        (replace(HEAPED, patients=2, p=1e-9), {}, "cannot_tell", "2 training patients"),
        (replace(HEAPED, p=0.3), {}, "no_sign", "No more concentrated on few patients"),
        (
            replace(HEAPED, flagged=3, smallest_p=0.02, p=0.02),
            {},
            "no_sign",
            "3 flagged slices and 8 held-out patients",
        ),
    ],
)
def test_flags_beside_one_patient_keep_a_set_from_passing(
    heaped: Concentration, changes: dict[str, Any], kind: str, words: str
) -> None:
    controls = Controls((FOUND, MISSED), ALARMS)
    said = verdict(replace(FLAGS, **changes), HITS, controls, 12, 400, 99, 0.99, heaped=heaped)
    assert said.kind == kind
    assert any(words in sentence for sentence in said.sentences)
    assert ("private/gallery.png before release" in said.headline) == (kind == "cannot_tell")


def test_a_p_value_too_small_to_read_is_a_bound() -> None:
    controls = Controls((FOUND, MISSED), ALARMS)
    said = verdict(FLAGS, HITS, controls, 12, 400, 99, 0.99, heaped=replace(HEAPED, p=0.0))
    assert any("p below 0.0001 by patient" in sentence for sentence in said.sentences)


def test_a_screened_set_is_not_called_free_of_copies() -> None:
    controls = Controls((FOUND, MISSED), ALARMS)
    none = replace(FLAGS, count=0, rate=0.0, wilson_high=0.004)
    said = verdict(none, HITS, controls, 12, 400, 99, 0.99, screened=True)
    assert said.kind == "no_sign"
    assert "says nothing about the generator" in said.headline
    assert not any("fewer than chance" in s or "95 % bound" in s for s in said.sentences)


def test_points_have_no_negative_zero() -> None:
    assert [points(x) for x in (-0.0001, 0.0, 0.032, NAN)] == [
        "+0.0 percentage points",
        "+0.0 percentage points",
        "+3.2 percentage points",
        "–",
    ]


def test_no_flag_is_not_no_risk_and_fewer_than_chance_is_said() -> None:
    said = said_of(count=0, rate=0.0, bound=0.003, wilson_high=0.004)
    assert any("up to 0.30 % could be too near" in s for s in said.sentences)
    assert any("fewer than chance gives" in s for s in said.sentences)


def test_percentages() -> None:
    shown = [percent(x) for x in (0.0, 1.0, 0.01, 0.0004, 0.0156, 0.354, float("nan"))]
    assert shown == ["0 %", "100 %", "1 %", "0.04 %", "1.6 %", "35 %", "–"]
