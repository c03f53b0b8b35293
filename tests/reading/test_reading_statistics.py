"""Closed forms, SciPy, and the paper's own counts."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from understudy.cli import app
from understudy.reading import statistics
from understudy.reading.analyse import of_counts
from understudy.reading.statistics import auc, bootstrap, cohen_kappa, difference, fleiss_kappa, rate, signal_detection
from understudy.report.published import published


def test_the_papers_counts_give_the_known_difference_and_interval():
    frame = published(6)
    result = of_counts({r.image: (r.real, r.real + r.synthetic) for r in frame.itertuples()}, margin=0.1)
    d = result["difference"]
    assert [round(100 * d[k], 1) for k in ("value", "low", "high")] == [-0.8, -7.7, 8.1]
    assert (result["called_real"]["real"]["count"], result["called_real"]["synthetic"]["count"]) == (16, 84)
    assert result["called_real"]["real"]["low"] == pytest.approx(0.101, abs=5e-4)
    assert result["called_real"]["synthetic"]["high"] == pytest.approx(0.203, abs=5e-4)
    assert result["criterion"]["high"] < -0.8  # "synthetic" is said to five of six, whatever is shown
    assert result["equivalence"]["holds"]
    assert not of_counts({"real": (16, 100), "x": (84, 500)}, margin=0.05)["equivalence"]["holds"]


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_in_closed_form(counts):
    k, n = counts
    z = stats.norm.ppf(0.975)
    p = k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = rate(k, n)
    assert found.low == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-9)
    assert found.high == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-9)


def test_newcombes_own_example():
    """Newcombe 1998, table II, (a): 56/70 against 48/80 has 0.0524 to 0.3339 by method 10."""
    value, low, high = difference(rate(56, 70), rate(48, 80))
    assert (value, low, high) == (pytest.approx(0.2), pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


def test_auc_is_mann_whitney_and_its_interval_covers():
    rng = np.random.default_rng(0)
    x, y = rng.integers(-5, 6, 40), rng.integers(-4, 7, 30)
    assert auc(x, y)[0] == pytest.approx(stats.mannwhitneyu(y, x).statistic / 1200)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    inside = 0
    for _ in range(400):
        _, low, high = auc(rng.normal(0, 1, 60), rng.normal(1, 1, 60))
        inside += low <= truth <= high
    assert 0.91 <= inside / 400 <= 0.98


def test_signal_detection_of_a_reader_without_bias_and_of_a_guesser():
    d, c = signal_detection(84, 100, 16, 100)
    assert d == pytest.approx(2 * stats.norm.ppf(84.5 / 101))
    assert c == pytest.approx(0, abs=1e-12)
    assert signal_detection(80, 100, 80, 100)[0] == pytest.approx(0)
    assert math.isfinite(signal_detection(100, 100, 0, 100)[0])


def test_kappas_by_hand():
    a, b = list("rrrrssssrs"), list("rrrsssssrr")
    agreed, by_chance = 0.8, 0.5 * 0.5 + 0.5 * 0.5
    assert cohen_kappa(a, b) == pytest.approx((agreed - by_chance) / (1 - by_chance))
    assert cohen_kappa([1, 2, 3], [1, 2, 3]) == 1
    assert math.isnan(cohen_kappa(list("ss"), list("ss")))
    # Fleiss 1971: with two readers close to Cohen's; here the worked example of Fleiss' kappa in closed form
    table = np.array([[0, 14], [7, 7], [14, 0]])
    observed = np.mean([1, (7 * 6 * 2) / (14 * 13), 1])
    assert fleiss_kappa(table) == pytest.approx((observed - 0.5) / 0.5)


def test_the_bootstrap_is_wider_where_slices_of_a_patient_agree():
    called = np.concatenate([np.repeat([1.0, 0.0], 20), np.tile([1.0, 0.0], 20)])[None]
    is_real = np.arange(80) < 40
    alone = bootstrap(called, -called, is_real, list(range(80)))
    by_patient = bootstrap(called, -called, is_real, [*np.repeat(range(4), 10), *range(10, 50)])
    assert by_patient[:, 0].std() > 1.5 * alone[:, 0].std()
    assert alone[:, 0].std() == pytest.approx(math.sqrt(0.25 / 40), rel=0.1)
    assert by_patient[:, 0].std() == pytest.approx(math.sqrt(0.25 / 4), rel=0.1)
    assert alone[:, 2].mean() == pytest.approx(0.5, abs=0.01)


def test_without_clusters_the_bootstrap_of_an_auc_is_as_wide_as_delongs():
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(0, 1, 80), rng.normal(0.8, 1, 80)])[None]
    is_real = np.arange(160) < 80
    drawn = bootstrap((scores < 0).astype(float), scores, is_real, list(range(160)))[:, 2]
    value, low, high = auc(scores[0, is_real], scores[0, ~is_real])
    assert drawn.mean() == pytest.approx(value, abs=0.01)
    assert np.quantile(drawn, 0.975) - np.quantile(drawn, 0.025) == pytest.approx(high - low, rel=0.12)


def test_the_bootstrap_is_what_the_drawn_cases_themselves_give(monkeypatch):
    """Brute force: every sample written out, with the same draws."""
    rng = np.random.default_rng(3)
    called, scores = rng.integers(0, 2, (3, 30)).astype(float), rng.integers(-5, 6, (3, 30)).astype(float)
    unread = rng.random((3, 30)) < 0.2
    called[unread] = scores[unread] = math.nan
    is_real = np.arange(30) < 12
    group = [*np.repeat(range(4), 3), *range(100, 118)]
    kept, true = [], statistics._times_drawn
    monkeypatch.setattr(statistics, "_times_drawn", lambda *a: kept.append(true(*a)) or kept[-1])
    drawn = bootstrap(called, scores, is_real, group, seed=1, resamples=20)
    who, of_patients, of_cases = (times.astype(int) for times in kept)
    assert (who.sum(1) == 3).all()
    assert (of_patients.sum(1) == 4).all()
    for k in range(20):
        readers = np.repeat(range(3), who[k])
        real = np.repeat(range(12), np.repeat(of_patients[k], 3))
        made = np.repeat(range(12, 30), of_cases[k])
        assert drawn[k, 0] == pytest.approx(np.nanmean(called[np.ix_(readers, real)]))
        assert drawn[k, 1] == pytest.approx(np.nanmean(called[np.ix_(readers, made)]))
        areas = [auc(*(scores[r, c][~np.isnan(scores[r, c])] for c in (real, made)))[0] for r in readers]
        assert drawn[k, 2] == pytest.approx(np.mean(areas))


def test_errors_of_d_prime_and_criterion_are_those_of_many_readings():
    rng = np.random.default_rng(5)
    n, m = 200, 150
    drawn = np.array([
        statistics.signal_detection(rng.binomial(n, 0.8), n, rng.binomial(m, 0.3), m) for _ in range(1500)
    ])  # fmt: skip
    told = statistics.detection_errors(160, n, 45, m)
    assert told == pytest.approx(tuple(drawn.std(0)), rel=0.08)
    assert drawn.mean(0)[0] == pytest.approx(stats.norm.ppf(0.8) - stats.norm.ppf(0.3), abs=0.02)


def test_the_worked_example_of_the_documentation_is_what_the_command_prints():
    page = (Path(__file__).parents[2] / "docs" / "reading.md").read_text()
    told = page.split("understudy reading analyse --paper\n```\n\n```text\n")[1].split("```")[0]
    printed = CliRunner().invoke(app, ["reading", "analyse", "--paper"], catch_exceptions=False).output
    assert [line.rstrip() for line in printed.splitlines()] == told.splitlines()
    assert "−0.8 points, 95 % interval −7.7 to +8.1" in told
