"""Rank correlations against SciPy, exact p values against all orders, intervals by what is drawn."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from understudy.metrics.association import (
    FEWEST_RUNS,
    Association,
    associate,
    correlations,
    draw,
    kendall,
    permutation_p,
    smallest_p,
    spearman,
)


def found_of(x: np.ndarray, y: np.ndarray, runs: np.ndarray, resamples: int, seed: int = 0) -> Association:
    return associate(x, y, runs, draw(y, runs, resamples, seed), resamples, seed)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=30))
def test_both_are_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(v, float) for v in zip(*pairs, strict=True))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(spearman(x, y))
        assert math.isnan(kendall(x, y))
        return
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_p_is_that_of_all_orders() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=6), rng.normal(size=6)
    reached = abs(stats.spearmanr(x, y).statistic)
    every = [abs(stats.spearmanr(x, y[list(order)]).statistic) >= reached - 1e-12 for order in permutations(range(6))]
    assert permutation_p(x, y, 10, rng) == pytest.approx(np.mean(every))


def test_five_models_reach_one_in_sixty_at_best() -> None:
    x = np.arange(5.0)
    rng = np.random.default_rng(0)
    assert permutation_p(x, x**3, 10, rng) == pytest.approx(1 / 60)
    assert smallest_p(5) == pytest.approx(1 / 60)
    assert permutation_p(x, np.array([1.0, 0, 2, 3, 4]), 10, rng) > 0.05


def test_chance_is_not_found() -> None:
    """Of 150 unrelated metrics about 5 % have p < 0.05, and about 95 % of intervals hold 0."""
    rng = np.random.default_rng(1)
    found = [found_of(rng.normal(size=20), rng.normal(size=(20, 1)), np.arange(20), 150, i) for i in range(150)]
    assert 0.01 < np.mean([f.p < 0.05 for f in found]) < 0.10
    assert 0.88 < np.mean([f.low <= 0 <= f.high for f in found]) <= 1


def test_snapshots_of_the_same_training_are_not_new_ones() -> None:
    """Every training copied tenfold: the interval must stay as wide as with one snapshot each."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=8)
    y = x + rng.normal(size=8)
    once = found_of(x, y[:, None], np.arange(8), 500)
    copies = np.repeat(x, 10), np.repeat(y, 10)[:, None]
    together = found_of(*copies, np.repeat(np.arange(8), 10), 500)
    apart = found_of(*copies, np.arange(80), 500)
    assert together.high - together.low > 0.7 * (once.high - once.low)
    assert apart.high - apart.low < 0.6 * (together.high - together.low)
    assert FEWEST_RUNS <= 8


def test_patients_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    quality = np.linspace(0, 1, 12)
    few = quality[:, None] + 3 * rng.normal(size=(12, 4))
    few += quality[:, None] - few.mean(1, keepdims=True)  # the means are as good as exact
    drawn = found_of(quality, few, np.arange(12), 400)
    fixed = found_of(quality, few.mean(1, keepdims=True), np.arange(12), 400)
    assert drawn.spearman == pytest.approx(fixed.spearman) == pytest.approx(1)
    assert drawn.high - drawn.low > fixed.high - fixed.low + 0.1


def test_within_trainings() -> None:
    """Two trainings, each against the common trend: all together up, within each down."""
    x = np.array([1.0, 2, 3, 11, 12, 13])
    y = np.array([3.0, 2, 1, 13, 12, 11])
    found = found_of(x, y[:, None], np.array([0, 0, 0, 1, 1, 1]), 100)
    assert found.spearman > 0.3
    assert found.within == -1


def test_two_trainings_that_differ_are_no_evidence_within() -> None:
    """A step between two trainings, noise within: p is tiny, p_within uniform."""
    rng = np.random.default_rng(5)
    runs = np.repeat([0, 1], 8)
    found = [found_of(20 * runs + rng.normal(size=16), (20 * runs + rng.normal(size=16))[:, None], runs, 100, i)
             for i in range(60)]  # fmt: skip
    assert np.mean([f.p < 0.05 for f in found]) > 0.9
    assert np.mean([f.p_within < 0.05 for f in found]) < 0.15
    assert found_of(np.arange(16.0), np.arange(16.0)[:, None], runs, 400).p_within < 0.01


def test_resampled_correlations_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 5, 14).astype(float), rng.random((14, 3))
    x[3] = np.nan
    runs = rng.integers(0, 6, 14)
    draws = draw(y, runs, 40)
    a, b = correlations(np.where(draws.rows >= 0, x[draws.rows], np.nan), draws.dice)
    for i, rows in enumerate(draws.rows):
        some = (rows >= 0) & ~np.isnan(x[rows])
        u, v = x[rows[some]], draws.dice[i, some]
        assert a[i] == pytest.approx(spearman(u, v), nan_ok=True)
        assert b[i] == pytest.approx(kendall(u, v), nan_ok=True)


def test_undefined() -> None:
    few = found_of(np.array([1.0, 2, np.nan, 3]), np.ones((4, 1)), np.zeros(4, np.int64), 100)
    assert few.n == 3
    assert math.isnan(few.spearman)
    gaps = np.array([[1.0, np.nan], [2, np.nan], [np.nan, 3], [np.nan, 4]])  # two studies with other patients
    found = found_of(np.arange(4.0), gaps, np.array([0, 0, 1, 1]), 100)
    assert found.spearman == 1
