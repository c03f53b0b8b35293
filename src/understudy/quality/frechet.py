"""The Frechet distance between two sets of features (FID with Inception's; Heusel et al. 2017, 1706.08500).

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). The last trace needs no matrix root: with S1 = L L' the product S1 S2
has the eigenvalues of the symmetric L' S2 L. Fewer slices than dimensions bias the distance upwards by a third and more
(facts/evaluation 1.2); then there is only the extrapolation to infinitely many (Chong & Forsyth 2020, 1911.07023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from understudy.errors import UnderstudyError
from understudy.quality.moments import Floats, Moments

POINTS = 15  # sizes of subsets that an extrapolation regresses on
SMALLEST_SHARE = 0.2  # of the slices, in the smallest subset


def frechet_distance(mean1: Floats, cov1: Floats, mean2: Floats, cov2: Floats) -> float:
    """The distance between two Gaussians, means [d] and covariances [d, d]; float64 throughout."""
    step = mean1 - mean2
    root = _root_trace(cov1, cov2)
    return float(max(0.0, step @ step + np.trace(cov1) + np.trace(cov2) - 2 * root))


def _root_trace(cov1: Floats, cov2: Floats) -> float:
    """tr (S1 S2)^(1/2) for symmetric positive semidefinite S1, S2."""
    try:
        factor = linalg.cholesky(cov1, lower=True, check_finite=True)
    except linalg.LinAlgError:  # not of full rank: fewer slices than dimensions, or features that are always the same
        values, vectors = linalg.eigh(cov1)
        factor = vectors * np.sqrt(values.clip(min=0))
    inner = factor.T @ cov2 @ factor
    return float(np.sqrt(linalg.eigvalsh((inner + inner.T) / 2).clip(min=0)).sum())


def between_moments(first: Moments, second: Moments) -> float:
    """The distance between two collections."""
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


def between_features(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """The distance between features [n1, d] and [n2, d].

    With fewer slices than dimensions tr (S1 S2)^(1/2) is the sum of the singular values of the n1 x n2 matrix of
    products of centred features, which is smaller than the covariances and just as exact.
    """
    if min(len(first), len(second)) < 2:
        raise UnderstudyError("a Frechet distance needs two slices on each side", fix="give more slices")
    if max(len(first), len(second)) >= first.shape[1]:
        return between_moments(Moments.of(first), Moments.of(second))
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    step = a.mean(axis=0) - b.mean(axis=0)
    a = (a - a.mean(axis=0)) / np.sqrt(len(a) - 1)
    b = (b - b.mean(axis=0)) / np.sqrt(len(b) - 1)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(max(0.0, step @ step + (a * a).sum() + (b * b).sum() - 2 * root))


@dataclass(frozen=True)
class Extrapolated:
    """The distance at infinitely many slices.

    Attributes:
        value: intercept of the regression on 1/n.
        error: its standard error.
        sizes, distances: the points.
    """

    value: float
    error: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def extrapolated(
    first: NDArray[np.floating], second: NDArray[np.floating], rng: np.random.Generator, points: int = POINTS
) -> Extrapolated:
    """Regresses the distance of random subsets of n slices of each side on 1/n.

    The standard error is that of the regression. Subsets share slices, so it is somewhat too small; and below the
    dimension the bias is not quite linear in 1/n.

    Raises:
        UnderstudyError: fewer than 20 slices on a side.
    """
    most = min(len(first), len(second))
    if most < 20:
        raise UnderstudyError(f"{most} slices are too few to extrapolate from", fix="give at least 20 on each side")
    least = max(10, round(SMALLEST_SHARE * most))
    sizes = np.unique(np.round(1 / np.linspace(1 / most, 1 / least, points)).astype(int))
    found = []
    for n in sizes:
        rows1, rows2 = (np.sort(rng.choice(len(x), n, replace=False)) for x in (first, second))
        found.append(between_features(first[rows1], second[rows2]))
    x, y = 1 / sizes, np.array(found)
    design = np.stack([np.ones_like(x), x], axis=1)
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ coefficients
    variance = residual @ residual / (len(y) - 2) * np.linalg.inv(design.T @ design)
    return Extrapolated(
        float(coefficients[0]), float(np.sqrt(variance[0, 0])), tuple(map(int, sizes)), tuple(map(float, y))
    )
