"""Distances between features of synthetic and of real slices: Frechet and kernel distance, neighbourhoods; the
inception score. All in float64. Arguments: (synthetic, real), features [n, d].
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import log_softmax

from understudy.errors import UnderstudyError

Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]

BLOCK = 4096  # rows that are turned into float64 at a time
_SAME = 1e-12  # squared distances below this share of the squared lengths are rounding: the same vector


def moments(features: AnyFloats) -> tuple[Floats, Floats]:
    """Mean [d] and unbiased covariance [d, d] of vectors [n, d], which may be a file mapped into memory.

    Raises:
        UnderstudyError: fewer than two vectors.
    """
    if len(features) < 2:
        raise UnderstudyError(f"a covariance needs two slices, not {len(features)}", fix="give more slices")
    d, count = features.shape[1], 0
    mean, scatter = np.zeros(d), np.zeros((d, d))
    for start in range(0, len(features), BLOCK):
        block = np.asarray(features[start : start + BLOCK], np.float64)
        own, total = block.mean(axis=0), count + len(block)
        block = block - own
        # sums of outer products of deviations (Chan et al. 1979): features far from zero lose no digits
        step = own - mean
        mean = mean + step * (len(block) / total)
        scatter += block.T @ block + np.outer(step, step) * (count * len(block) / total)
        count = total
    return mean, scatter / (count - 1)


def frechet_distance(mean1: Floats, cov1: Floats, mean2: Floats, cov2: Floats) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2) of two Gaussians (Heusel et al. 2017, eq. 6).

    Means [d], covariances symmetric, positive semidefinite [d, d].
    """
    # with S1 = L L' the product S1 S2 has the eigenvalues of the symmetric L' S2 L: no matrix root is needed
    try:
        factor = linalg.cholesky(cov1, lower=True, check_finite=True)
    except linalg.LinAlgError:  # not of full rank: fewer slices than dimensions, or features that are always the same
        values, vectors = linalg.eigh(cov1)
        factor = vectors * np.sqrt(values.clip(min=0))
    inner = factor.T @ cov2 @ factor
    root = float(np.sqrt(linalg.eigvalsh((inner + inner.T) / 2).clip(min=0)).sum())
    step = mean1 - mean2
    return float(max(0.0, step @ step + np.trace(cov1) + np.trace(cov2) - 2 * root))


def between_features(synthetic: AnyFloats, real: AnyFloats) -> float:
    """The Frechet distance between features [m, d] and [n, d]: FID with Inception's (Heusel et al. 2017, 1706.08500).

    Fewer slices than dimensions bias it upwards by a third and more; with fewer than two it raises `UnderstudyError`.
    """
    if max(len(synthetic), len(real)) >= real.shape[1] or min(len(synthetic), len(real)) < 2:
        return frechet_distance(*moments(real), *moments(synthetic))
    # tr (S1 S2)^(1/2) is the sum of the singular values of the n x m matrix of products of centred features
    x, y = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    step = x.mean(axis=0) - y.mean(axis=0)
    x = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    y = (y - y.mean(axis=0)) / np.sqrt(len(y) - 1)
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(max(0.0, step @ step + (x * x).sum() + (y * y).sum() - 2 * root))


def extrapolated(synthetic: AnyFloats, real: AnyFloats, rng: np.random.Generator) -> tuple[float, float]:
    """The Frechet distance at infinitely many slices, and its standard error (Chong & Forsyth 2020).

    The intercept of a regression on 1/n of the distances of random subsets of n slices of each side. Subsets share
    slices, so the error is somewhat too small; below the dimension the bias is not quite linear in 1/n. Raises
    `UnderstudyError` for fewer than 20 slices on a side.
    """
    most = min(len(synthetic), len(real))
    if most < 20:
        raise UnderstudyError(f"{most} slices are too few to extrapolate from", fix="give at least 20 on each side")
    least = max(10, round(0.2 * most))
    sizes = np.unique(np.round(1 / np.linspace(1 / most, 1 / least, 15)).astype(int))  # evenly spaced in 1/n
    found = []
    for n in sizes:
        of_real, of_synthetic = (x[np.sort(rng.choice(len(x), n, replace=False))] for x in (real, synthetic))
        found.append(between_features(of_synthetic, of_real))
    x, y = 1 / sizes, np.array(found)
    design = np.stack([np.ones_like(x), x], axis=1)
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ coefficients
    variance = residual @ residual / (len(y) - 2) * np.linalg.inv(design.T @ design)
    return float(coefficients[0]), float(np.sqrt(variance[0, 0]))


def kernel_distance(
    synthetic: AnyFloats, real: AnyFloats, rng: np.random.Generator, subsets: int = 100, size: int = 1000
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x'y / d + 1)^3: KID (Binkowski et al. 2018, 1801.01401).

    Mean and standard deviation (NaN for one) over random subsets of at most `size` slices of each side; one subset if
    it holds all slices. Raises `UnderstudyError` for fewer than two slices on a side.
    """
    m, d = min(size, len(synthetic), len(real)), real.shape[1]
    if m < 2:
        raise UnderstudyError("a kernel distance needs two slices on each side", fix="give more slices")
    if m == len(synthetic) == len(real):
        subsets = 1

    def kernel(a: Floats, b: Floats) -> Floats:
        values = a @ b.T / d + 1
        return values * values * values  # several times faster than a power

    found = []
    for _ in range(subsets):
        rows = [np.sort(rng.choice(len(side), m, replace=False)) for side in (real, synthetic)]
        x, y = np.asarray(real[rows[0]], np.float64), np.asarray(synthetic[rows[1]], np.float64)
        xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
        # pairs of a slice with itself do not count
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (m * (m - 1))
        found.append(float(within - 2 * xy.mean()))
    return float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else float("nan")


def neighbourhoods(synthetic: AnyFloats, real: AnyFloats, k: int = 5, chunk_bytes: int = 256 << 20) -> dict[str, float]:
    """Precision, recall (Kynkaanniemi et al. 2019, 1904.06991), density, coverage (Naeem et al. 2020, 2002.09797).

    A slice's ball reaches to its k-th nearest neighbour among its own kind, itself not counted, border included.
    `chunk_bytes` of memory are for distances. Raises `UnderstudyError` for k slices or fewer on a side.

    Returns:
        Shares of synthetic slices within a real one's ball (precision), of real ones within a synthetic one's
        (recall); balls that hold a synthetic slice on average, divided by k (density); share of real balls that hold
        one (coverage).
    """
    if min(len(real), len(synthetic)) <= k:
        what = f"{k} neighbours need more than {k} slices on each side, not {len(real)} and {len(synthetic)}"
        raise UnderstudyError(what, fix="give more slices or fewer neighbours")
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
    return {
        "precision": float((within_real > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(within_real.mean() / k),
        "coverage": float(covered.mean()),
    }


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


def inception_score(logits: AnyFloats, rng: np.random.Generator, splits: int = 10) -> tuple[float, float]:
    """exp of the mean divergence of slices' class probabilities from their mean (Salimans et al. 2016, 1606.03498).

    Of logits [n, classes] of synthetic slices: it looks at no real slice, and on MR slices is about 2 whatever the
    generator. Mean and standard deviation (NaN for one) over `splits` parts of the shuffled slices. Raises
    `UnderstudyError` for fewer slices than parts.
    """
    if len(logits) < splits:
        what = f"{len(logits)} slices cannot be scored in {splits} parts"
        raise UnderstudyError(what, fix="give more slices or fewer parts")
    logs = log_softmax(np.asarray(logits, np.float64)[rng.permutation(len(logits))], axis=1)
    scores = []
    for part in np.array_split(logs, splits):
        p = np.exp(part)
        scores.append(np.exp((p * (part - np.log(p.mean(axis=0)))).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores)) if splits > 1 else float("nan")
