"""The bootstrap against loops over resamples, closed forms and scipy."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from understudy.errors import UnderstudyError
from understudy.metrics.bootstrap import (
    drawn_weights,
    holm,
    mean_interval,
    per_patient,
    per_repeat,
    sign_flip,
    weighted_means,
)


def naive_mean(data: np.ndarray, patients: np.ndarray, repeats: np.ndarray) -> float:
    """The mean over the patients and repeats actually drawn, as written in the paper: class by class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mean of nothing is NaN, as wanted
        drawn = np.repeat(np.repeat(data, patients, axis=0), repeats, axis=1)
        return float(np.nanmean(np.nanmean(np.nanmean(drawn, axis=0), axis=1)))


SCORES = st.one_of(st.floats(0, 1), st.just(math.nan), st.just(math.inf))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_weighted_means_equal_a_loop_over_what_was_drawn(data: st.DataObject) -> None:
    n, r, c = (data.draw(st.integers(1, k)) for k in (5, 3, 3))
    values = data.draw(arrays(np.float64, (n, r, c), elements=SCORES))
    patients, repeats = drawn_weights(n, r, 20, data.draw(st.integers(0, 99)))
    ours = weighted_means(values, patients, repeats)
    expected = [naive_mean(values, p.astype(int), q.astype(int)) for p, q in zip(patients, repeats, strict=True)]
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_draws_have_the_right_size_and_follow_the_seed() -> None:
    patients, repeats = drawn_weights(7, 3, 500, 1)
    assert set(patients.sum(1)) == {7}
    assert set(repeats.sum(1)) == {3}
    assert np.array_equal(patients, drawn_weights(7, 10, 500, 1)[0])  # the same patients whatever the repeats
    assert not np.array_equal(patients, drawn_weights(7, 3, 500, 2)[0])
    assert not np.array_equal(repeats, drawn_weights(7, 3, 500, 1, stream=2)[1])


def test_interval_of_patients_equals_scipy() -> None:
    values = np.random.default_rng(0).beta(5, 1.2, 40)  # skewed as Dice is
    ours = mean_interval(values)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=30_000, method="percentile", rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)  # Monte Carlo error of a 2.5 % quantile
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    assert (ours.n_patients, ours.n_repeats, ours.level) == (40, 1, 0.95)


def test_hierarchical_spread_has_its_closed_form() -> None:
    """For score = patient effect + repeat effect, bootstrap variance = var(patients) / P + var(repeats) / R."""
    rng = np.random.default_rng(1)
    of_patient, of_repeat = rng.normal(0.8, 0.05, 60), rng.normal(0, 0.03, 20)
    e = mean_interval(of_patient[:, None] + of_repeat)
    sd = math.sqrt(of_patient.var() / 60 + of_repeat.var() / 20)
    assert e.high - e.low == pytest.approx(2 * 1.96 * sd, rel=0.04)
    patients_only = mean_interval(of_patient)
    assert e.high - e.low > 1.2 * (patients_only.high - patients_only.low)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Simulation, 40 patients and 10 models; drawing single scores would cover half as often."""
    rng, inside, narrow = np.random.default_rng(11), [], []
    for _ in range(300):
        patient, model = rng.normal(0, 0.06, (40, 1)), rng.normal(0, 0.03, 10)
        data = 0.8 + patient + model + rng.normal(0, 0.02, (40, 10))
        e = mean_interval(data, resamples=500)
        inside.append(e.low <= 0.8 <= e.high)
        narrow.append(abs(data.mean() - 0.8) <= 1.96 * data.std() / math.sqrt(data.size))
    assert 0.89 <= np.mean(inside) <= 0.98
    assert np.mean(narrow) < 0.6


def test_equal_scores_have_no_interval_and_levels_nest() -> None:
    e = mean_interval(np.full((6, 2), 0.7))
    assert (e.value, e.low, e.high) == pytest.approx((0.7, 0.7, 0.7))
    values = np.random.default_rng(2).random(30)
    wide, narrow = mean_interval(values, level=0.99), mean_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(2).random((30, 4, 3))
    first = mean_interval(values, seed=5)
    drawn_weights.cache_clear()
    assert first == mean_interval(values, seed=5)
    assert first != mean_interval(values, seed=6)


def test_means_of_repeats_and_patients() -> None:
    values = np.array([[[0.2, math.nan], [0.4, 0.8]], [[0.6, 0.5], [0.8, 0.0]]])  # [patient, repeat, class]
    np.testing.assert_allclose(per_repeat(values), [(0.4 + 0.5) / 2, (0.6 + 0.4) / 2])
    np.testing.assert_allclose(per_patient(values), [(0.2 + 0.4 + 0.8) / 3, (0.6 + 0.5 + 0.8) / 4])


def test_no_scores_are_refused() -> None:
    with pytest.raises(UnderstudyError, match="no scores"):
        mean_interval([])


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
