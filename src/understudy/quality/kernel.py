"""The kernel distance (KID; Binkowski et al. 2018, 1801.01401): unbiased at any number of slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError


def kernel_distance(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    rng: np.random.Generator,
    subsets: int = 100,
    size: int = 1000,
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x'y / d + 1)^3.

    Args:
        first, second: features [n1, d] and [n2, d].
        rng: draws the subsets.
        subsets: how many, each without replacement.
        size: slices of each side in a subset; fewer where a side has fewer. If all are taken on both sides one subset
            is enough and is all there is.

    Returns:
        Mean and standard deviation over subsets (NaN for one subset).

    Raises:
        UnderstudyError: fewer than two slices on a side.
    """
    m = min(size, len(first), len(second))
    if m < 2:
        raise UnderstudyError("a kernel distance needs two slices on each side", fix="give more slices")
    if m == len(first) == len(second):
        subsets = 1
    found = []
    for _ in range(subsets):
        rows1, rows2 = (np.sort(rng.choice(len(x), m, replace=False)) for x in (first, second))
        found.append(_unbiased(np.asarray(first[rows1], np.float64), np.asarray(second[rows2], np.float64)))
    return float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else float("nan")


def _unbiased(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The estimate of one subset, [m, d] each: pairs of a slice with itself do not count."""
    m, d = x.shape
    xx, yy, xy = (_cubed(a @ b.T / d + 1) for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def _cubed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * values * values  # several times faster than a power
