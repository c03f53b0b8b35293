"""Precision, recall, density and coverage from nearest neighbours, in chunks.

Precision and recall: Kynkaanniemi et al. 2019 (1904.06991); density and coverage: Naeem et al. 2020 (2002.09797). A
slice's ball reaches to its k-th nearest neighbour among its own kind, itself not counted, and includes its border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError

Floats = NDArray[np.float64]

CHUNK_BYTES = 256 << 20  # of distances held at a time
_SAME = 1e-12  # squared distances below this share of the squared lengths are rounding: the same vector


@dataclass(frozen=True)
class Neighbourhoods:
    """Shares: of synthetic slices within a real one's ball (precision), of real ones within a synthetic one's (recall),
    balls that hold a synthetic slice on average, divided by k (density), of real balls that hold one (coverage)."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(
    real: NDArray[np.floating], synthetic: NDArray[np.floating], k: int = 5, chunk_bytes: int = CHUNK_BYTES
) -> Neighbourhoods:
    """The four numbers of features [n, d] and [m, d].

    Args:
        real, synthetic: features.
        k: neighbours.
        chunk_bytes: memory for distances; the result does not depend on it.

    Raises:
        UnderstudyError: not more than k slices on a side.
    """
    if min(len(real), len(synthetic)) <= k:
        raise UnderstudyError(
            f"{k} neighbours need more than {k} slices on each side, not {len(real)} and {len(synthetic)}",
            fix="give more slices or fewer neighbours",
        )
    a, b = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    centre = a.mean(axis=0)
    a, b = a - centre, b - centre
    radius_a, radius_b = _radii(a, k, chunk_bytes), _radii(b, k, chunk_bytes)
    within_real = np.zeros(len(b), np.int64)  # balls of real slices that hold a synthetic one
    recalled, covered = np.zeros(len(a), bool), np.zeros(len(a), bool)
    for rows, distances in _squared(a, b, chunk_bytes):
        inside = distances <= radius_a[rows, None]
        within_real += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (distances <= radius_b[None, :]).any(axis=1)
    return Neighbourhoods(
        precision=float((within_real > 0).mean()),
        recall=float(recalled.mean()),
        density=float(within_real.mean() / k),
        coverage=float(covered.mean()),
    )


def _radii(x: Floats, k: int, chunk_bytes: int) -> Floats:
    """Squared distance of each vector to its k-th nearest other one, [n]."""
    out = np.empty(len(x))
    for rows, distances in _squared(x, x, chunk_bytes):
        distances[np.arange(len(rows)), rows] = np.inf  # itself
        out[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return out


def _squared(a: Floats, b: Floats, chunk_bytes: int) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """(rows of a, squared distances [rows, m] to all of b), in chunks; identical vectors have distance exactly 0."""
    lengths_a, lengths_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
    step = max(1, chunk_bytes // (8 * 3 * len(b)))
    for start in range(0, len(a), step):
        rows = np.arange(start, min(start + step, len(a)))
        sums = lengths_a[rows, None] + lengths_b
        distances = sums - 2 * (a[rows] @ b.T)
        distances[distances < _SAME * sums] = 0.0
        yield rows, distances
