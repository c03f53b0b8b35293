"""A second opinion on the closest pairs, for display: structural similarity and normalised mutual information.

Only the few pairs that a gallery shows are scored. Flags come from the exact correlations of `similarity`; these two
numbers help a reader to see whether a pair is alike in structure (SSIM) or up to a change of contrast (NMI).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SIGMA, TRUNCATE = 1.5, 3.5  # of Wang et al. 2004: a window of 11 x 11 pixels
K1, K2, RANGE = 0.01, 0.03, 255.0
BINS = 32  # of the joint histogram: 8 grey levels wide

Pixels = NDArray[np.uint8]


def ssim(x: Pixels, y: Pixels) -> float:
    """Mean structural similarity of two slices, over pixels and channels (Wang et al. 2004, Gaussian window).

    Args:
        x, y: uint8 [C, H, W], at least 11 x 11 pixels. Windows that reach over the edge do not count.

    Returns:
        1 for equal slices, about 0 for unrelated ones; at least -1.
    """
    a, b = x.astype(np.float64), y.astype(np.float64)
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    cov = _blur(a * b) - mean_a * mean_b
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    score = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    score /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    edge = int(TRUNCATE * SIGMA + 0.5)
    return float(score[:, edge:-edge, edge:-edge].mean())


def _blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return gaussian_filter(x, (0, SIGMA, SIGMA), truncate=TRUNCATE)


def normalised_mutual_information(x: Pixels, y: Pixels) -> float:
    """(H(x) + H(y)) / H(x, y) of the grey levels in 32 bins, averaged over channels (Studholme et al. 1999).

    Args:
        x, y: uint8 [C, H, W].

    Returns:
        2 if each determines the other, 1 if they are independent; NaN where both are constant in every channel.
    """
    values = [v for a, b in zip(x, y, strict=True) if not np.isnan(v := _nmi(a, b))]
    return float(np.mean(values)) if values else float("nan")


def _nmi(x: Pixels, y: Pixels) -> float:
    codes = x.astype(np.int64) * BINS // 256 * BINS + y.astype(np.int64) * BINS // 256
    joint = np.bincount(codes.ravel(), minlength=BINS * BINS).reshape(BINS, BINS) / x.size
    whole = _entropy(joint)
    return (_entropy(joint.sum(1)) + _entropy(joint.sum(0))) / whole if whole > 0 else float("nan")


def _entropy(p: NDArray[np.float64]) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def rerank(query: Pixels, candidates: Pixels) -> pd.DataFrame:
    """Scores a query's candidates, the one most alike in structure first.

    Args:
        query: uint8 [C, H, W]; under its transform, if the search found one.
        candidates: uint8 [n, C, H, W].

    Returns:
        Columns `candidate` (position in `candidates`), `ssim`, `nmi`; falling `ssim`, equal ones in the order given.
    """
    rows = [(i, ssim(query, c), normalised_mutual_information(query, c)) for i, c in enumerate(candidates)]
    table = pd.DataFrame(rows, columns=["candidate", "ssim", "nmi"])
    return table.sort_values("ssim", ascending=False, kind="stable", ignore_index=True)
