"""p-values: against the definition, their rate on exchangeable slices, bootstrap, tail; intervals against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from understudy.errors import UnderstudyError
from understudy.memorization.conformal import (
    Null,
    clustered_wilson,
    p_values,
    slices_needed,
    tail_p_values,
    threshold,
    upper_bound,
    wilson,
)


def by_definition(slice_scores: np.ndarray, held: np.ndarray) -> float:
    """The minimum-rank p-value of one slice, recomputed from scratch among held-out slices and itself."""
    pool = np.vstack([held, slice_scores])
    pool = np.where(np.isnan(pool), -np.inf, pool)
    ranks = np.stack([(pool[:, v][None] >= pool[:, v][:, None]).sum(1) for v in range(pool.shape[1])], 1)
    best = ranks.min(axis=1)
    return float((best <= best[-1]).mean())


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_p_values_are_those_of_the_definition(seed: int, views: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    null = Null(rng.normal(size=(n, views)), rng.integers(0, 3, n) if n > 9 else np.zeros(n, np.int64))
    scores = rng.normal(0.5, 1.5, size=(7, views))
    scores[0, 0] = np.nan
    expected = [by_definition(s, null.scores) for s in scores]
    assert p_values(scores, null).by_slice == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_ties_never_make_p_values_smaller(seed: int) -> None:
    rng = np.random.default_rng(seed)
    null = Null(rng.integers(0, 4, (20, 2)).astype(float), np.arange(20))
    scores = rng.integers(0, 5, (9, 2)).astype(float)
    exact = np.array([by_definition(s, null.scores) for s in scores])
    assert (p_values(scores, null).by_slice >= exact - 1e-12).all()


def test_two_views_keep_the_rate_of_one() -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(60):
        null = Null(rng.normal(size=(199, 2)), np.arange(199))
        rates.append(p_values(rng.normal(size=(400, 2)), null).flagged(0.95).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.008)


def test_the_smallest_p_and_the_stricter_one_by_patient() -> None:
    null = Null(np.linspace(0, 1, 30)[:, None], np.repeat(np.arange(3), 10))
    found = p_values(np.array([[2.0], [0.98], [0.5], [np.nan]]), null)
    assert found.by_slice == pytest.approx([1 / 31, 2 / 31, 16 / 31, 1])
    assert found.by_patient == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])
    assert null.smallest_p == 1 / 31


def test_what_lies_above_the_threshold_is_flagged_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    null = Null(rng.normal(size=(250, 1)), np.arange(250))
    scores = rng.normal(size=(3000, 1))
    limit = threshold(null.scores[:, 0], 0.99)
    assert (p_values(scores, null).flagged(0.99) == (scores[:, 0] > limit)).all()
    assert slices_needed(0.99) == 99
    assert slices_needed(0.95) == 19
    assert np.isnan(threshold(null.scores[:98, 0], 0.99))
    assert not p_values(scores + 9, Null(null.scores[:98], np.arange(98))).flagged(0.99).any()


def test_resampled_rates_move_with_the_patients() -> None:
    """One patient holds all large scores: without them the threshold falls, so the interval is wide."""
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(300, 1))
    patients = np.repeat(np.arange(10), 30)
    scores[patients == 0] += 4
    synthetic = np.full((200, 1), 3.0) + rng.normal(0, 0.1, (200, 1))
    drawn = p_values(synthetic, Null(scores, patients)).resampled_rates(0.99, 500, 0)
    assert drawn.min() == 0
    assert drawn.max() == 1
    alone = p_values(synthetic, Null(scores, np.arange(300))).resampled_rates(0.99, 500, 0)
    assert alone.max() < 0.2
    again = p_values(synthetic, Null(scores, patients)).resampled_rates(0.99, 500, 0)
    assert (again == drawn).all()


def test_the_tail_is_on_the_safe_side_of_an_exponential_one_and_nothing_near_it_is_certain() -> None:
    rng = np.random.default_rng(3)
    held = np.tanh(1 + rng.exponential(0.1, (2000, 1)))
    null = Null(held, np.repeat(np.arange(40), 50))
    z = np.array([1.3, 1.6, 2.0])
    true = np.exp(-(z - 1) / 0.1)
    found = tail_p_values(np.tanh(z)[:, None], null, 500, 0)
    assert (found >= true).all()
    assert (found[:2] < 30 * true[:2]).all()
    assert tail_p_values(np.array([[1.0], [np.nan], [0.2]]), null, 500, 0) == pytest.approx([0, 1, 1], abs=1e-9)


def test_scores_of_other_views_are_refused() -> None:
    with pytest.raises(UnderstudyError, match="views"):
        p_values(np.zeros((3, 1)), Null(np.zeros((3, 2)), np.zeros(3, np.int64)))


def test_left_out_patients_are_gone() -> None:
    null = Null(np.arange(6.0)[:, None], np.array([0, 0, 1, 1, 2, 2]))
    left = null.without(np.array([False, True, False]))
    assert left.scores[:, 0].tolist() == [0, 1, 4, 5]
    assert left.patients.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("hits", "n"), [(0, 50), (3, 50), (25, 50), (50, 50), (1, 100_000)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    theirs = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    exact = binomtest(hits, n, alternative="less").proportion_ci(0.95, method="exact")
    assert upper_bound(hits, n) == pytest.approx(exact.high, rel=1e-9)


def test_no_hit_of_many_leaves_three_in_n() -> None:
    assert upper_bound(0, 100_000) == pytest.approx(3.0e-5, rel=0.01)


def test_clusters_that_hit_together_count_as_one() -> None:
    hits, clusters = np.repeat([True, False] * 5, 20), np.repeat(np.arange(10), 20)
    assert clustered_wilson(hits, clusters) == pytest.approx(wilson(4.5, 9), abs=0.02)
    alone = np.arange(200)
    assert clustered_wilson(hits, alone) == pytest.approx(wilson(100, 200), abs=0.002)
    assert clustered_wilson(np.ones(200, bool), clusters) == wilson(10, 10)
