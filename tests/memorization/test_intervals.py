"""Intervals of shares against SciPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from understudy.memorization.intervals import clustered_wilson, upper_bound, wilson


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
