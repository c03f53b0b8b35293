"""Tables and comparisons of settings, from rows made by formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from understudy.errors import UnderstudyError
from understudy.metrics.empties import apply_policy
from understudy.metrics.statistics import compare, cube, holm, paired_difference, relative_dice, sign_flip, summarise

CLASSES = ("NCR", "ED")


def rows_of(setting: str, dice: np.ndarray, score: Callable[[float], float] = lambda d: 10 * (1 - d)) -> pd.DataFrame:
    """Scored rows for dice [patients, repeats, classes]; hd is a function of Dice; foreground is always 0.99."""
    table = []
    for p, r, c in np.ndindex(*dice.shape[:2], dice.shape[2] + 1):
        name = (*CLASSES[: dice.shape[2]], "foreground")[c]
        value = 0.99 if name == "foreground" else float(dice[p, r, c])
        table.append(
            {
                "setting": setting,
                "repeat": r,
                "subject": f"p{p:02d}",
                "site": "a",
                "class_name": name,
                "scope": "whole",
                "dice": value,
                "hd": score(value),
                "truth_empty": False,
                "missed": value == 0,
                "false_alarm": False,
            }
        )
    return pd.DataFrame(table)


def scores(seed: int, patients: int = 12, repeats: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 0.95, (patients, repeats, len(CLASSES)))


def test_cube_is_by_name_not_by_order() -> None:
    dice = scores(0)
    shuffled = rows_of("real", dice).sample(frac=1, random_state=3)
    found = cube(shuffled, "real", classes=CLASSES)
    np.testing.assert_array_equal(found.values, dice)
    assert found.patients == tuple(f"p{p:02d}" for p in range(12))
    assert found.repeats == (0, 1, 2)
    assert set(cube(shuffled, "real").classes) == set(CLASSES)


def test_summary_is_the_papers_mean_and_spread() -> None:
    dice = scores(1)
    dice[0, :, 1] = 0  # a class missed by every repeat
    table = summarise(rows_of("real", dice), ("dice", "hd")).set_index(["class_name", "metric"])
    assert list(table.index.unique("class_name")) == [*CLASSES, "foreground", "mean"]
    for k, name in enumerate(CLASSES):
        line = table.loc[(name, "dice")]
        assert line["value"] == pytest.approx(dice[:, :, k].mean())
        assert line["sd"] == pytest.approx(dice[:, :, k].mean(0).std())
        assert line["median"] == pytest.approx(np.median(dice[:, :, k].mean(1)))
        assert line["low"] < line["value"] < line["high"]
    mean = table.loc[("mean", "dice")]
    assert mean["value"] == pytest.approx(dice.mean())
    assert mean["sd"] == pytest.approx(dice.mean((0, 2)).std())
    assert (mean["n_patients"], mean["n_repeats"], mean["present"]) == (12, 3, 72)
    assert (mean["missed"], table.loc[("ED", "dice")]["missed"], mean["undefined"]) == (3, 3, 0)
    assert table.loc[("mean", "hd")]["value"] == pytest.approx(10 * (1 - dice.mean()))
    assert table.loc[("foreground", "dice")]["value"] == pytest.approx(0.99)


def test_undefined_and_infinite_scores_stay_visible() -> None:
    dice = scores(2)
    dice[3, 1, 0] = 0
    dropped = summarise(rows_of("a", dice, lambda d: d if d else math.nan), ("hd",)).set_index("class_name")
    survivors = np.where(dice == 0, np.nan, dice)
    per_class = np.nanmean(survivors, axis=0)  # [repeat, class]
    assert dropped.loc["mean", "value"] == pytest.approx(per_class.mean())
    assert dropped.loc["mean", "undefined"] == 1
    infinite = summarise(rows_of("a", dice, lambda d: d or math.inf), ("hd",)).set_index("class_name")
    assert infinite.loc["NCR", "value"] == math.inf
    assert np.isnan(infinite.loc["NCR", "sd"])
    assert np.isfinite(infinite.loc["NCR", "median"])
    assert infinite.loc["ED", "value"] == pytest.approx(dice[:, :, 1].mean())


def test_summary_of_scored_raw_rows() -> None:
    raw = pd.DataFrame(
        {
            "setting": "s",
            "scope": "whole",
            "class_name": "lesion",
            "subject": ["p1", "p2"] * 2,
            "repeat": [0, 0, 1, 1],
            "tp": [5, 0, 4, 0],
            "fp": [0, 0, 2, 3],
            "fn": [0, 9, 2, 0],
            "truth_empty": [False, False, False, True],
            "predicted_empty": [False, True, False, False],
            **{c: [0.0, math.nan, 2.0, math.nan] for c in ("hd", "hd95_pooled", "hd95_directed")},
            "diagonal_mm": 100.0,
        }
    )
    brats = summarise(apply_policy(raw)).set_index(["class_name", "metric"]).loc["lesion"]
    assert brats.loc["dice", "value"] == pytest.approx((1 + 0 + 2 / 3 + 0) / 4)
    assert brats.loc["hd", "value"] == pytest.approx((0 + 100 + 2 + 100) / 4)
    assert brats.loc["hd", ["present", "missed", "false_alarms", "undefined"]].tolist() == [3, 1, 1, 0]
    paper = summarise(apply_policy(raw, "paper")).set_index(["class_name", "metric"]).loc["lesion"]
    assert paper.loc["hd", "value"] == pytest.approx((0 + 2) / 2)  # the misses have gone
    assert paper.loc["hd", ["missed", "undefined"]].tolist() == [1, 2]


def test_relative_dice_of_a_constant_factor_is_exact() -> None:
    """One repeat each and 0.8 times the Dice in every patient: only a paired interval has no width."""
    dice = scores(3, repeats=1)
    e = relative_dice(pd.concat([rows_of("real", dice), rows_of("syn", 0.8 * dice)]), "syn", "real")
    assert (e.value, e.low, e.high) == pytest.approx((0.8, 0.8, 0.8))
    assert (e.n_patients, e.n_repeats) == (12, 1)


def test_relative_dice_interval_equals_a_loop() -> None:
    a, b = scores(4, 9, 2), scores(5, 9, 3)
    e = relative_dice(pd.concat([rows_of("syn", a), rows_of("real", b)]), "syn", "real", seed=1)
    rng, ratios = np.random.default_rng(8), []
    for _ in range(4000):
        p = rng.integers(0, 9, 9)
        top, bottom = a[p][:, rng.integers(0, 2, 2)].mean(), b[p][:, rng.integers(0, 3, 3)].mean()
        ratios.append(top / bottom)
    assert e.value == pytest.approx(a.mean() / b.mean())
    assert [e.low, e.high] == pytest.approx(np.percentile(ratios, [2.5, 97.5]), abs=0.006)
    assert (e.n_patients, e.n_repeats) == (9, 2)


def test_relative_dice_to_nothing_is_infinite() -> None:
    table = pd.concat([rows_of("syn", scores(6)), rows_of("real", np.zeros((12, 3, 2)))])
    assert relative_dice(table, "syn", "real").value == math.inf


def test_paired_difference_and_its_tests() -> None:
    a, b = scores(7), scores(8) - 0.05
    table = pd.concat([rows_of("syn", a), rows_of("real", b)])
    d = paired_difference(table, "syn", "real")
    by_patient = a.mean((1, 2)) - b.mean((1, 2))
    exact = stats.permutation_test((by_patient,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert d.value == pytest.approx(a.mean() - b.mean())
    assert d.low < d.value < d.high
    assert d.p == pytest.approx(exact.pvalue)
    w = paired_difference(table, "syn", "real", test="wilcoxon")
    assert w.p == pytest.approx(stats.wilcoxon(by_patient).pvalue)
    same = paired_difference(pd.concat([rows_of("syn", a), rows_of("real", a)]), "syn", "real", test="wilcoxon")
    assert (same.value, same.p) == (0, 1)


def test_random_sign_flips_approach_the_exact_test() -> None:
    d = np.random.default_rng(9).normal(0.3, 1, 16)
    exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(d) == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000))
    assert sign_flip(d) == sign_flip(d)
    assert sign_flip(np.full(40, 1.0)) == pytest.approx(1 / 10_001)  # never zero
    assert sign_flip(np.zeros(5)) == 1
    assert np.isnan(sign_flip([]))


@given(p=st.lists(st.floats(0, 1), max_size=8), alpha=st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    rejected = [False] * len(p)
    for step, i in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        if p[i] * (len(p) - step) > alpha:
            break
        rejected[i] = True
    assert (holm(p) <= alpha).tolist() == rejected


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.02, math.nan, 0.5]), [0.04, math.nan, 0.5])


def test_compare_adjusts_over_all_settings() -> None:
    base = scores(10)
    table = pd.concat([rows_of("real", base), rows_of("worse", base - 0.2), rows_of("alike", base[::-1].copy())])
    found = compare(table, "real").set_index("setting")
    assert found.loc["worse", "difference"] == pytest.approx(-0.2)
    assert found.loc["worse", "p"] == pytest.approx(2 / 2**12)
    assert found.loc["worse", "p_holm"] == pytest.approx(4 / 2**12)
    assert found.loc["alike", "p_holm"] == found.loc["alike", "p"] > 0.5
    assert compare(table, "real", ["alike"])["p_holm"].item() == found.loc["alike", "p"]


def test_gaps_are_errors_not_smaller_tables() -> None:
    table = rows_of("real", scores(11))
    with pytest.raises(UnderstudyError, match=r"lacks 1 results.*p04.*ED"):
        cube(table[~((table.subject == "p04") & (table.repeat == 1) & (table.class_name == "ED"))], "real")
    with pytest.raises(UnderstudyError, match="3 results twice"):
        cube(pd.concat([table, table[(table.subject == "p04") & (table.class_name == "ED")]]), "real")
    with pytest.raises(UnderstudyError, match=r"no results of the setting 'synth'[\s\S]*real"):
        cube(table, "synth")
    with pytest.raises(UnderstudyError, match="no columns"):
        cube(table, "real", "hd95_pooled")
    with pytest.raises(UnderstudyError, match="no columns"):
        summarise(table.drop(columns="missed"))
    fewer = rows_of("syn", scores(12, patients=11))
    with pytest.raises(UnderstudyError, match=r"same patients: 1 differ, e.g. p11"):
        relative_dice(pd.concat([table, fewer]), "syn", "real")
