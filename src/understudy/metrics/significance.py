"""Tests of paired differences between patients, and the adjustment for their number."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import wilcoxon

from understudy.metrics.bootstrap import RESAMPLES, Floats

EXACT_UP_TO = 13  # patients: 2^13 = 8192 sign patterns are fewer than the random ones


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment of p values (family-wise error); NaN stay NaN and do not count as tests."""
    p = np.asarray(p_values, np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def sign_flip(differences: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p value of mean difference 0 when every sign was as likely: exact for up to 13 values, else random.

    NaN for no values.
    """
    d = np.asarray(differences, np.float64)
    n = len(d)
    if n == 0:
        return float("nan")
    observed = abs(d.sum()) * (1 - 1e-12)  # ties must count, whatever the order of summation
    if n <= EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ d) >= observed))
    signs = np.random.default_rng([seed, 3]).integers(0, 2, (resamples, n)) * 2.0 - 1.0
    return float((1 + np.count_nonzero(np.abs(signs @ d) >= observed)) / (resamples + 1))


def signed_rank(differences: Floats) -> float:
    """Two-sided p value of Wilcoxon's signed-rank test; 1 if all differences are 0, NaN for no values."""
    if not len(differences):
        return float("nan")
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0
