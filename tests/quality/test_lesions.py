"""Measures of annotations against SciPy slice by slice, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from understudy.quality.lesions import GRID, measure_lesions
from understudy.quality.weighted import Sorted, ratio, variation


def blobs(seed: int, n: int = 4, edge: int = 24, classes: int = 3) -> np.ndarray:
    """Labels with pieces, holes and stray pixels; the first slice is empty."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(n, classes, edge, edge)), (0, 0, 1.5, 1.5))
    labels = np.where(smooth.max(1) > 0.12, smooth.argmax(1) + 1, 0).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.01] = 2
    labels[0] = 0
    return labels


def slow_borders(labels: np.ndarray, k: int) -> np.ndarray:
    out = np.zeros((k, k))
    padded = np.pad(labels, 1)
    for (y, x), a in np.ndenumerate(padded):
        for v, u in ((y + 1, x), (y, x + 1)):
            if v < padded.shape[0] and u < padded.shape[1] and padded[v, u] != a:
                out[a, padded[v, u]] += 1
                out[padded[v, u], a] += 1
    return out


def slow_eccentricity(piece: np.ndarray) -> float:
    """From the covariance of many points spread evenly over every pixel's square."""
    inner = (np.arange(20) + 0.5) / 20
    y, x = np.nonzero(piece)
    ys, xs = (a[:, None] + b.ravel() for a, b in zip((y, x), np.meshgrid(inner, inner), strict=True))
    points = np.stack([ys.ravel(), xs.ravel()])
    low, high = np.linalg.eigvalsh(np.cov(points))
    return float(np.sqrt(1 - low / high)) if high - low > 1e-9 else 0.0


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_slice_is_as_scipy_counts_it(seed: int) -> None:
    labels = blobs(seed)
    found = measure_lesions(labels, 3)
    for i, k in np.ndindex(len(labels), 4):
        mask = labels[i] == k + 1 if k < 3 else labels[i] > 0
        pieces, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        assert found.area[i, k] == mask.sum()
        assert found.components[i, k] == count
        assert found.stray[i, k] == (sizes == 1).sum()
        filled = ndimage.binary_fill_holes(mask)
        assert found.holes[i, k] == ndimage.label(filled & ~mask)[1]
        perimeter = slow_borders(mask.astype(int), 2)[0, 1]
        if not count:
            assert np.isnan(found.compactness[i, k])
            assert np.isnan(found.eccentricity[i, k])
            continue
        assert found.compactness[i, k] == pytest.approx(4 * np.pi * mask.sum() / perimeter**2)
        largest = pieces == sizes.argmax() + 1
        assert found.eccentricity[i, k] == pytest.approx(slow_eccentricity(largest), abs=0.05)
    for i in range(len(labels)):
        assert np.array_equal(found.borders[i], slow_borders(labels[i], 4))


def test_shapes_in_closed_form() -> None:
    labels = np.zeros((3, 16, 16), np.uint8)
    labels[0, 2:6, 2:6] = 1
    labels[1, 3:5, 1:9] = 1  # 2 x 8: variances 4/12 and 64/12
    labels[2, 4:9, 4:9] = 2
    labels[2, 6, 6] = 1  # a core in the middle
    found = measure_lesions(labels, 2)
    assert found.compactness[0, 0] == pytest.approx(np.pi / 4)
    assert found.eccentricity[0, 0] == 0
    assert found.eccentricity[1, 0] == pytest.approx(np.sqrt(1 - 4 / 64))
    assert found.holes[2].tolist() == [0, 1, 0]
    assert found.stray[2].tolist() == [1, 0, 0]
    assert found.borders[2].tolist() == [[0, 0, 20], [0, 0, 4], [20, 4, 0]]


def test_maps_keep_the_area() -> None:
    for edge in (16, 24, 50, 64):
        labels = blobs(3, edge=edge)
        maps = measure_lesions(labels, 3).maps
        g = min(GRID, edge)
        assert maps.shape == (4, 3, g, g)
        rows = np.bincount(np.arange(edge) * g // edge)
        pixels = maps * rows[:, None] * rows
        assert pixels.sum((2, 3)) == pytest.approx(np.stack([(labels == k).sum((1, 2)) for k in (1, 2, 3)], 1))
    assert measure_lesions(blobs(3, edge=32), 3).maps[:, 0] == pytest.approx((blobs(3, edge=32) == 1).astype(float))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_distances_are_scipys_under_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 40, 2)
    x, y = rng.integers(0, 9, n) / 2, rng.integers(0, 12, m) / 2  # many ties
    units, weights = rng.integers(0, 3, n), np.array([0.0, 1.0, 3.0])
    weights[units[0]] += 1
    both = Sorted(np.concatenate([x, y]), np.concatenate([units, 3 + np.arange(m)]))
    drawn = np.repeat(x, weights[units].astype(int))
    wasserstein, largest = both.gap(np.append(weights, np.zeros(m)), np.append(np.zeros(3), np.ones(m)))
    assert wasserstein == pytest.approx(stats.wasserstein_distance(drawn, y), abs=1e-12)
    assert largest == pytest.approx(stats.ks_2samp(drawn, y).statistic, abs=1e-12)
    shares = np.array([0.1, 0.5, 0.9])
    wanted = np.quantile(drawn, shares, method="inverted_cdf")
    assert Sorted(x, units).quantiles(weights, shares) == pytest.approx(wanted)


def test_undefined_stays_undefined() -> None:
    none, unit = np.full(2, np.nan), np.zeros(2, np.int64)
    both = Sorted(np.concatenate([none, np.ones(2)]), np.concatenate([unit, unit + 1]))
    assert np.isnan(both.gap(np.array([1.0, 0]), np.array([0, 1.0]))[0])
    assert np.isnan(Sorted(none, unit).quantiles(np.ones(1), np.array([0.5]))).all()
    assert np.isnan(ratio(np.zeros(1), np.zeros(1), np.ones((1, 1)))).all()
    assert np.isnan(variation(np.zeros(3), np.ones(3)))
    assert variation(np.array([1.0, 0]), np.array([0, 5.0])) == 1
