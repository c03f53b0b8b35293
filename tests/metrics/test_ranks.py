"""Ranks against closed forms and a loop over resamples."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made_rows import scored_rows
from scipy import stats

from understudy.errors import UnderstudyError
from understudy.metrics.ranks import ranks


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
    out = ranks(table, ["a", "b"], collapsed="out")
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
