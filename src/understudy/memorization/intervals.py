"""Intervals of shares: Wilson's, with fewer effective counts where they come in clusters, and exact bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

Floats = NDArray[np.float64]


def wilson(hits: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of hits of n (Wilson 1927); n may be an effective number. (0, 1) for n = 0."""
    if n <= 0:
        return 0.0, 1.0
    z = float(norm.ppf((1 + level) / 2))
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return (0.0 if hits <= 0 else low), (1.0 if hits >= n else high)


def clustered_wilson(hits: NDArray[np.bool_], clusters: NDArray[np.int64], level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval with the effective number of independent draws when they come in clusters (patients).

    The variance of the share is estimated between clusters; where all or none hit there is nothing to estimate, and
    the number of clusters counts.
    """
    n, share = len(hits), float(np.mean(hits))
    groups = int(clusters.max()) + 1
    if share in (0.0, 1.0):
        return wilson(share * groups, groups, level)
    size = np.bincount(clusters, minlength=groups)
    off = np.bincount(clusters, weights=hits - share, minlength=groups)
    used = int((size > 0).sum())
    variance = (off**2).sum() / n**2 * used / max(1, used - 1)
    effective = min(float(n), max(1.0, share * (1 - share) / variance)) if variance > 0 else float(n)
    return wilson(share * effective, effective, level)


def upper_bound(hits: int, n: int, level: float = 0.95) -> float:
    """One-sided exact upper bound of a share (Clopper & Pearson 1934): 3 / n for no hit of many."""
    return 1.0 if hits >= n else float(beta.ppf(level, hits + 1, n - hits))


def percentiles(drawn: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of resampled values."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
