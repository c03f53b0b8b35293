"""The verdict: each of its rules, on rows made to meet it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from understudy.metrics.overlap import DISTANCES, apply_policy
from understudy.report.answer import Answer, make_answer
from understudy.report.data import ReportData, count, number, percent


def rows(setting: str, training: str, dice: list[float], **more: Any) -> list[dict[str, Any]]:
    """One class, one row a patient with 1000 true voxels and the Dice asked for."""
    made = []
    for n, d in enumerate(dice):
        tp = round(1000 * d)  # predicted volume = true volume, so Dice = tp / 1000
        for name in ("lesion", "foreground"):
            made.append(
                {"setting": setting, "training": training, "generator": "" if training == "real" else "gan",
                 "segmenter": "unet", "augmentation": True, "repeat": 0, "subject": f"{n:03}", "site": "AB"[n % 2],
                 "class_name": name, "scope": "whole", "tp": tp, "fp": (1000 - tp) * (d > 0), "fn": 1000 - tp,
                 "truth_voxels": 1000, "predicted_voxels": 1000 * (d > 0), "truth_empty": False,
                 "predicted_empty": d == 0, **dict.fromkeys(DISTANCES, 1.0), "diagonal_mm": 9.0,
                 **more}
            )  # fmt: skip
    return made


def answered(real: list[float], synthetic: list[float], **changes: Any) -> Answer:
    scores = pd.DataFrame(rows("r", "real", real) + rows("s", "synthetic", synthetic))
    data = ReportData(title="", study={}, scores=scores, baseline="r", **changes)
    return make_answer(data, apply_policy(scores), [])


SPREAD = np.linspace(-0.1, 0.1, 40)


@pytest.mark.parametrize(
    ("share", "verdict", "starts"),
    [(1.0, "yes", "Yes"), (0.85, "partly", "Not fully"), (0.5, "no", "No:"), (0.1, "no", "No:")],
)
def test_verdict_follows_the_interval(share: float, verdict: str, starts: str) -> None:
    real = (0.8 + SPREAD).tolist()
    answer = answered(real, [share * d for d in real])
    assert answer.verdict == verdict
    assert answer.headline.startswith(starts)
    assert "40 test patients" in answer.headline


def test_much_more_than_the_real_slices_reach_is_a_warning() -> None:
    real = (0.6 + SPREAD).tolist()
    assert "look whether test patients are among the slices" in answered(real, [1.2 * d for d in real]).headline
    assert "look whether" not in answered(real, [1.02 * d for d in real]).headline


def test_with_copies_of_test_patients_there_is_no_yes() -> None:
    real = (0.8 + SPREAD).tolist()
    leak = {"gan": {"parts": {"3": "test"}, "words": "1 slice is a copy of a test patient: row 3.", "how": "without"}}
    answer = answered(real, real, leaks=leak)
    assert answer.verdict == "withheld"
    said = "Withheld: 1 slice is a copy of a test patient: row 3. Without these slices, synthetic slices reach 100"
    assert answer.headline.startswith(said)


def test_interval_across_the_limit_is_undecided() -> None:
    real = [0.8] * 40
    synthetic = [0.76 + (0.2 if i % 2 else -0.2) for i in range(40)]
    assert answered(real, synthetic).verdict == "undecided"


def test_margin_moves_the_limit() -> None:
    real = (0.8 + SPREAD).tolist()
    synthetic = [0.93 * d for d in real]
    assert answered(real, synthetic, margin=0.05).verdict == "partly"
    assert answered(real, synthetic, margin=0.1).verdict == "yes"


def test_few_patients_get_no_verdict() -> None:
    answer = answered([0.8] * 4, [0.1] * 4)
    assert (answer.verdict, answer.evidence) == ("undecided", "weak")
    assert "4 test patients" in answer.headline


def test_weak_yardstick_gets_no_verdict() -> None:
    answer = answered([0.2] * 40, [0.2] * 40)
    assert (answer.verdict, answer.weak) == ("unanswered", True)
    assert "0.20" in answer.headline
    assert not any("100" in s and "%" in s for s in answer.sentences)  # no share of such a Dice
    assert "synthetic slices only 0.200" in answer.sentences[0]


def test_baseline_of_zero_divides_nothing() -> None:
    answer = answered([0.0] * 8, [0.5] * 8)
    assert answer.verdict == "unanswered"
    assert "∞" not in " ".join([answer.headline, *answer.sentences])


def test_stray_voxels_elsewhere_do_not_count_as_found() -> None:
    """Dice 0 with some voxels predicted beside the tumour: every tumour is missed."""
    scores = pd.DataFrame(
        rows("r", "real", [0.8] * 6)
        + [r | {"fp": 40, "predicted_voxels": 40, "predicted_empty": False} for r in rows("s", "synthetic", [0.0] * 6)]
    )
    data = ReportData(title="", study={}, scores=scores, baseline="r")
    answer = make_answer(data, apply_policy(scores), [])
    (alone,) = answer.comparisons
    assert (alone.relative.value, alone.dice, alone.missed, alone.present) == (0, 0, 6, 6)
    assert "synthetic only 6 of 6" in " ".join(answer.sentences)


def test_a_class_that_no_test_patient_has_is_said() -> None:
    """Its Dice is 1 by the rule for empty masks, and that is in the mean."""
    empty = {"class_name": "necrosis", "tp": 0, "fp": 0, "fn": 0, "truth_voxels": 0, "predicted_voxels": 0,
             "truth_empty": True, "predicted_empty": True}  # fmt: skip
    made = rows("r", "real", [0.6] * 6) + rows("s", "synthetic", [0.5] * 6)
    scores = pd.DataFrame(made + [r | empty for r in made if r["class_name"] == "lesion"])
    answer = make_answer(ReportData(title="", study={}, scores=scores, baseline="r"), apply_policy(scores), [])
    assert answer.baseline_dice == pytest.approx(0.8)
    (told,) = [s for s in answer.sentences if "No test patient has" in s]
    assert "necrosis" in told
    assert not any("No test patient has" in s for s in answered([0.8] * 6, [0.8] * 6).sentences)


def test_more_missed_tumours_are_no_yes() -> None:
    real = [0.8] * 100
    synthetic = [0.0] + [0.82] * 99
    answer = answered(real, synthetic)
    assert answer.verdict == "partly"
    assert "missed" in answer.headline
    assert "real slices 0 of 100; synthetic only 1 of 100" in " ".join(answer.sentences)


def test_adding_slices_is_judged_by_its_own_interval() -> None:
    real = (0.7 + SPREAD).tolist()
    for share, words in ((1.05, "that helped"), (0.9, "that did harm"), (1.0, "no measurable difference")):
        scores = pd.DataFrame(
            rows("r", "real", real)
            + rows("b", "both", [share * d for d in real])
            + rows("s", "synthetic", [0.5 * d for d in real])
        )
        data = ReportData(title="", study={}, scores=scores, baseline="r")
        assert words in " ".join(make_answer(data, apply_policy(scores), []).sentences)


def test_false_alarms_are_counted_where_they_can_happen() -> None:
    empty = {"truth_empty": True, "tp": 0, "fn": 0, "truth_voxels": 0}
    scores = pd.DataFrame(
        rows("r", "real", [0.8] * 10) + rows("s", "synthetic", [0.8] * 10)
        + [r | empty | {"subject": "x", "predicted_empty": True, "fp": 0} for r in rows("r", "real", [0.5])]
        + [r | empty | {"subject": "x", "predicted_empty": False, "fp": 50} for r in rows("s", "synthetic", [0.5])]
    )  # fmt: skip
    answer = make_answer(ReportData(title="", study={}, scores=scores, baseline="r"), apply_policy(scores), [])
    assert "real slices 0 of 1; synthetic only 1 of 1" in answer.sentences[-1]


def test_best_of_several_generators_is_said_to_be_that() -> None:
    real = (0.7 + SPREAD).tolist()
    scores = pd.DataFrame(
        rows("r", "real", real)
        + rows("a", "synthetic", [0.5 * d for d in real], generator="first")
        + rows("b", "synthetic", [0.6 * d for d in real], generator="second")
    )
    answer = make_answer(ReportData(title="", study={}, scores=scores, baseline="r"), apply_policy(scores), [])
    assert "second" in answer.sentences[0]


def test_baseline_is_found_without_being_named() -> None:
    scores = pd.DataFrame(rows("p", "real", [0.5] * 6, augmentation=False) + rows("r", "real", [0.6] * 6))
    found = ReportData(title="", study={}, scores=scores).baseline_setting
    assert found is not None
    assert found.id == "r"


def test_each_network_is_measured_against_itself() -> None:
    real = (0.7 + SPREAD).tolist()
    swin = {"segmenter": "swin"}
    scores = pd.DataFrame(
        rows("r", "real", real)
        + rows("s", "synthetic", [0.5 * d for d in real])
        + rows("wr", "real", [0.8 * d for d in real], **swin)
        + rows("ws", "synthetic", [0.4 * d for d in real], **swin)
    )
    data = ReportData(title="", study={}, scores=scores, baseline="r")
    found = {c.setting.id: c for c in make_answer(data, apply_policy(scores), []).comparisons}
    assert {s: c.base.id for s, c in found.items()} == {"s": "r", "ws": "wr"}
    assert found["ws"].relative.value == pytest.approx(0.5, abs=2e-3)  # voxels are whole numbers
    assert [s.id for s in data.closest(3)] == ["r", "s"]
    assert len(data.closest(4)) == 4


def test_words_for_numbers() -> None:
    assert (number(float("nan")), number(0.71349), number(float("inf"))) == ("–", "0.713", "∞")
    assert (percent(0.875), percent(None), percent(0.0333, 1)) == ("88\u00a0%", "–", "3.3\u00a0%")
    assert (count(1, "patient"), count(1054, "slice")) == ("1 patient", "1,054 slices")
