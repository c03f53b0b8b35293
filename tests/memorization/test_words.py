"""What a verdict says: the numbers that matter, what to do next, and nothing that does not follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made import ALARMS, CONCENTRATED, FOUND, MISSED, NAN, findings

from understudy.memorization.controls import Controls
from understudy.memorization.verdict import Verdict
from understudy.memorization.words import missed_copies, points, verdict


def said_of(flags: dict[str, Any] | None = None, **facts: Any) -> Verdict:
    return verdict(findings(flags or {}, **facts))


def told(said: Verdict, part: str) -> str:
    """The sentences with this part."""
    return " ".join(s for s in (said.headline, *said.sentences) if part in s)


def test_no_sign() -> None:
    said = said_of()
    assert said.kind == "no_sign"
    assert "10 of 1,000 synthetic slices (1 %)" in said.headline
    assert "shift 1 pixel: 20 %" in said.limits[0]
    assert "patient 1" in told(said, "3 of 20 training patients")


@pytest.mark.parametrize(
    ("flags", "facts", "numbers"),
    [
        ({"low": 0.2, "rate": 0.3}, {}, "chance alone would give 1 %"),
        ({"certain": 1}, {}, "1 synthetic slice is nearer"),
        ({"low": 0.02, "rate": 0.03}, {}, "12 held-out patients"),
        ({"certain": 5}, {"slices": 60}, "60 held-out slices"),
        ({"certain": 5}, {"patients": 4}, "4 held-out patients"),
        ({}, {"controls": Controls((replace(FOUND, rate=0.5),), ALARMS)}, "50 % of the exact copies, 90 % needed"),
        ({"judged": 10, "skipped": 140}, {}, "140 of 150 synthetic slices"),
        ({"certain": 3}, {"controls": Controls((FOUND,), replace(ALARMS, certain=2))}, "2 slices of new patients"),
        ({}, {"controls": Controls((FOUND,), replace(ALARMS, rate=NAN)), "slices": 110}, "110 held-out slices"),
        ({}, {"concentration": CONCENTRATED}, "concentrated on one training patient of 20"),
    ],
)
def test_each_headline_has_its_numbers_and_what_to_do(
    flags: dict[str, Any], facts: dict[str, Any], numbers: str
) -> None:
    said = said_of(flags, **facts)
    assert numbers in said.headline
    if said.kind == "cannot_tell":
        steps = ("audit again", "Audit again", "train the generator longer", "before release")
        assert any(step in said.headline for step in steps)
    else:
        assert "understudy screen" in said.sentences[-1]


def test_an_audit_that_can_flag_nothing_claims_nothing() -> None:
    """60 held-out slices: p cannot reach 1 %, so that no flag, no rate and no bound means anything."""
    said = " ".join(said_of({"count": 0, "rate": 0.0, "bound": 0.015, "wilson_high": 0.004}, slices=60).sentences)
    assert "none could be flagged" in said
    for claim in ("1.5 %", "percentage points", "fewer than chance", "Test of the search"):
        assert claim not in said


def test_a_missed_kind_of_copy_is_told_in_words() -> None:
    gamma = replace(FOUND, name="gamma 0.7", rate=0.4)
    assert "40 % of the copies with changed contrast (gamma 0.7)" in missed_copies(Controls((FOUND, gamma), ALARMS))


@pytest.mark.parametrize(
    ("low", "high", "direction"), [(0.02, 0.04, "more than"), (-0.01, -0.005, "fewer than"), (-0.01, 0.01, "no clear")]
)
def test_a_difference_from_chance_has_a_direction(low: float, high: float, direction: str) -> None:
    said = said_of({"excess": (low + high) / 2, "excess_low": low, "excess_high": high})
    assert f"(flagged), {direction}" in told(said, "percentage points")


def test_one_is_singular() -> None:
    said = said_of({"certain": 1, "strict": 1, "skipped": 2, "faint": 1, "faint_count": 1})
    text = " ".join([said.headline, *said.sentences])
    assert not any(wrong in text for wrong in ("1 slices", "1 synthetic slices", "1 patients", "1 of them are"))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, "22 of 22 flagged slices"),
        ({"patients": 2, "p": 1e-9}, "Concentrated on 2 training patients"),
        ({"p": 0.3}, "No more concentrated"),
        ({"flagged": 3, "smallest_p": 0.02, "p": 0.02}, "3 flagged slices and 8 held-out patients"),
        ({"p": 0.0}, "p below 0.0001"),
    ],
)
def test_how_flags_are_spread(changes: dict[str, Any], part: str) -> None:
    assert told(said_of(concentration=replace(CONCENTRATED, **changes)), part)


def test_a_screened_set_is_not_called_free_of_copies() -> None:
    said = said_of({"count": 0, "rate": 0.0, "wilson_high": 0.004}, screened=True)
    assert said.kind == "no_sign"
    assert "nothing about the generator" in said.headline
    assert not told(said, "fewer than chance")
    assert not told(said, "95 % bound")


def test_no_flag_is_not_no_risk_and_fewer_than_chance_is_said() -> None:
    said = said_of({"count": 0, "rate": 0.0, "bound": 0.003, "wilson_high": 0.004})
    assert told(said, "0.30 %")
    assert told(said, "fewer than chance")


def test_points_have_no_negative_zero() -> None:
    assert [points(x).split()[0] for x in (-0.0001, 0.0, 0.032, NAN)] == ["+0.0", "+0.0", "+3.2", "–"]


def test_planted_copies_that_are_missed_are_limits_only_where_something_could_be_flagged() -> None:
    assert MISSED.name in said_of().limits[0]
    assert not any(MISSED.name in limit for limit in said_of(slices=60).limits)
