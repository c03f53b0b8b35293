"""Tables and comparisons of settings, from rows made by formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from made_rows import scored_rows
from scipy import stats

from understudy.errors import UnderstudyError
from understudy.metrics.overlap import DISTANCES, apply_policy
from understudy.metrics.scores import class_names, flag, region_names
from understudy.metrics.statistics import compare, cube, paired_difference, ranks, relative_dice, summarise

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
            **{c: [0.0, math.nan, 2.0, math.nan] for c in DISTANCES},
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
    with pytest.raises(UnderstudyError, match="3 duplicate"):
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


# --- regions and collapsed runs

DICE = np.random.default_rng(0).uniform(0.4, 0.9, (6, 3, 4))  # two classes, then two regions


def with_regions(collapsed: tuple[int, ...] = ()) -> pd.DataFrame:
    return scored_rows("s", DICE, ["NCR", "ED"], ["WT", "TC"], collapsed)


def test_regions_stand_beside_the_classes_and_out_of_the_mean() -> None:
    rows = with_regions()
    assert class_names(rows) == ["NCR", "ED"]
    assert region_names(rows) == ["WT", "TC"]
    assert cube(rows, "s").classes == ("NCR", "ED")
    assert cube(rows, "s", classes=["WT"]).values == pytest.approx(DICE[:, :, 2:3])
    table = summarise(rows, ("dice",)).set_index("class_name")
    assert list(table.index) == ["NCR", "ED", "WT", "TC", "foreground", "mean"]
    assert table.loc["mean", "value"] == pytest.approx(DICE[:, :, :2].mean())
    assert table.loc["TC", "value"] == pytest.approx(DICE[:, :, 3].mean())
    assert table["region"].tolist() == [False, False, True, True, False, False]


def test_rows_of_an_older_version_count_as_before() -> None:
    old = scored_rows("old", DICE[:, :, :2]).drop(columns=["region", "collapsed"])
    mixed = pd.concat([old, with_regions(collapsed=(1,))])
    assert not flag(old, "region").any()
    assert class_names(old) == class_names(mixed) == ["NCR", "ED"]
    assert flag(mixed, "collapsed").sum() == 6 * 5
    assert cube(mixed, "old").values == pytest.approx(DICE[:, :, :2])
    assert relative_dice(mixed, "s", "old").value == pytest.approx(1)
    assert list(summarise(mixed, ("dice",))["n_collapsed"].unique()) == [0, 1]


def test_both_means_are_given_where_runs_collapsed() -> None:
    dice = DICE.copy()
    dice[:, 2] = 0.02
    rows = scored_rows("s", dice, ["NCR", "ED"], ["WT", "TC"], collapsed=(2,))
    mean = summarise(rows, ("dice",)).set_index("class_name").loc["mean"]
    assert mean["value"] == pytest.approx(dice[:, :, :2].mean())
    assert (mean["n_repeats"], mean["n_collapsed"]) == (3, 1)
    assert mean["value_without_collapsed"] == pytest.approx(dice[:, :2, :2].mean())
    assert mean["sd_without_collapsed"] == pytest.approx(dice[:, :2, :2].mean((0, 2)).std())
    assert mean["sd"] > 5 * mean["sd_without_collapsed"]
    base = scored_rows("real", DICE, ["NCR", "ED"], ["WT", "TC"])
    both = pd.concat([rows, base])
    assert compare(both, "real").loc[0, "difference"] < -0.1
    out = compare(both[~flag(both, "collapsed")], "real").loc[0]
    assert out["difference"] == pytest.approx(DICE[:, :2, :2].mean() - DICE[:, :, :2].mean())
    assert out["n_repeats"] == 2


def test_nothing_is_left_out_without_a_word() -> None:
    rows = with_regions(collapsed=(0, 1, 2))
    mean = summarise(rows, ("dice",)).set_index("class_name").loc["mean"]
    assert mean["value"] == pytest.approx(DICE[:, :, :2].mean())
    assert np.isnan(mean["value_without_collapsed"])


# --- ranks


def several(**dice: np.ndarray) -> pd.DataFrame:
    return pd.concat([scored_rows(name, values) for name, values in dice.items()])


def noisy(seed: int, mean: float, patients: int = 30, repeats: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return mean + 0.02 * rng.standard_normal((patients, repeats, 2))


def test_clear_winners_have_their_ranks_for_certain() -> None:
    table = several(c=noisy(0, 0.5), a=noisy(1, 0.9), b=noisy(2, 0.7))
    found = ranks(table, ["a", "b", "c"])
    assert found["setting"].tolist() == ["a", "b", "c"]
    assert found["rank"].tolist() == found["expected_rank"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found[["p_rank_1", "p_rank_2", "p_rank_3"]], np.eye(3))
    assert ranks(table, ["a", "b", "c"], metric="hd")["setting"].tolist() == ["a", "b", "c"]  # less is better


def test_probability_of_the_first_rank_has_its_closed_form() -> None:
    """Two models on the same patients: P(a first) = Phi(mean / standard error of the paired difference)."""
    base = np.random.default_rng(3).uniform(0.3, 0.9, (60, 1, 1))
    step = np.random.default_rng(4).normal(0.004, 0.03, (60, 1, 1))
    table = pd.concat([scored_rows(n, v, ["lesion"]) for n, v in (("a", base + step), ("b", base))])
    found = ranks(table, ["a", "b"]).set_index("setting")
    expected = stats.norm.cdf(step.mean() / (step.std() / math.sqrt(60)))
    assert 0.6 < expected < 0.95
    assert found.loc["a", "p_rank_1"] == pytest.approx(expected, abs=0.02)
    assert found.loc["a", "expected_rank"] == pytest.approx(1 + found.loc["b", "p_rank_1"])


def test_ranks_equal_a_loop_over_resamples() -> None:
    dice = {n: noisy(i, 0.7 + 0.004 * i, 9, 1 + i % 3) for i, n in enumerate("abcd")}
    found = ranks(several(**dice), list(dice)).set_index("setting")
    rng, counts = np.random.default_rng(7), np.zeros((4, 4))
    for _ in range(3000):
        p = rng.integers(0, 9, 9)
        means = [v[p][:, rng.integers(0, v.shape[1], v.shape[1])].mean() for v in dice.values()]
        counts[np.arange(4), stats.rankdata(-np.array(means)).astype(int) - 1] += 1
    shares = found.loc[list(dice), [f"p_rank_{k}" for k in (1, 2, 3, 4)]].to_numpy()
    np.testing.assert_allclose(shares, counts / 3000, atol=0.035)
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(found.loc[list(dice), "expected_rank"], shares @ np.arange(1, 5))


def test_ties_share_their_ranks_and_the_order_of_the_call_does_not_matter() -> None:
    same = noisy(5, 0.6)
    table = several(x=same, y=same, z=noisy(6, 0.3))
    found = ranks(table, ["z", "y", "x"])
    pd.testing.assert_frame_equal(found, ranks(table, ["x", "y", "z"]))
    assert found["rank"].tolist() == [1.5, 1.5, 3]
    assert found["p_rank_1"].tolist() == found["p_rank_2"].tolist() == [0.5, 0.5, 0]
    assert found["rank_low"].tolist() == found["rank_high"].tolist() == [1.5, 1.5, 3]


def test_a_collapsed_run_counts_unless_it_is_left_out() -> None:
    good, other = noisy(8, 0.8, repeats=3), noisy(9, 0.7, repeats=3)
    good[:, 1] = 0.01
    table = pd.concat([scored_rows("a", good, collapsed=[1]), scored_rows("b", other)])
    assert ranks(table, ["a", "b"])["setting"].tolist() == ["b", "a"]
    out = ranks(table[~flag(table, "collapsed")], ["a", "b"])
    assert out["setting"].tolist() == ["a", "b"]
    assert out["n_repeats"].tolist() == [2, 3]


def test_undefined_resamples_are_counted_and_infinite_scores_come_last() -> None:
    table = several(a=noisy(1, 0.9, 3), b=noisy(2, 0.7, 3))
    table.loc[(table.setting == "a") & (table.subject != "p00"), "hd"] = math.nan
    found = ranks(table, ["a", "b"], metric="hd", resamples=1000)
    assert found["resamples"].iloc[0] == pytest.approx(1000 * (1 - (2 / 3) ** 3), abs=60)
    table.loc[table.setting == "a", "hd"] = math.inf
    assert ranks(table, ["a", "b"], metric="hd")["setting"].tolist() == ["b", "a"]


def test_what_cannot_be_ranked_is_refused() -> None:
    table = several(a=noisy(0, 0.5), b=noisy(1, 0.5, patients=29))
    for chosen in (["a"], ["a", "a"]):
        with pytest.raises(UnderstudyError, match="cannot be ranked"):
            ranks(table, chosen)
    with pytest.raises(UnderstudyError, match="same patients: 1 differ"):
        ranks(table, ["a", "b"])
    with pytest.raises(UnderstudyError, match="no results of the setting"):
        ranks(table, ["a", "c"])
