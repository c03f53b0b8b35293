"""Frechet and kernel distance, inception score, neighbourhoods: against torchmetrics, SciPy, closed forms, loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch import nn

from understudy.errors import UnderstudyError
from understudy.quality import distances
from understudy.quality.distances import (
    between_features,
    extrapolated,
    frechet_distance,
    inception_score,
    kernel_distance,
    moments,
    neighbourhoods,
)


def clouds(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two correlated Gaussian clouds, float32 [n, d] and [m, d]."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(0, 1, (d, d)) / np.sqrt(d)
    a = rng.normal(0, 1, (n, d)) @ mix + 3
    b = rng.normal(0, 1.2, (m, d)) @ mix.T + 3.3
    return a.astype(np.float32), b.astype(np.float32)


class Given(nn.Module):
    """An extractor for torchmetrics that finds the features in the pixels, bit for bit."""

    num_features = 24

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, self.num_features)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1).float() / 255)


def rgb(n: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    grey = np.clip(rng.normal(100 + 10 * seed, 40, (n, 1, 8, 8)), 0, 255).astype(np.uint8)
    return torch.from_numpy(grey).repeat(1, 3, 1, 1)


@pytest.fixture(scope="module")
def same_extractor() -> tuple[Given, torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    network = Given().eval()
    real, synthetic = rgb(150, 0), rgb(90, 1)
    with torch.inference_mode():
        return network, real, synthetic, network(real).numpy(), network(synthetic).numpy()


def test_frechet_equals_torchmetrics_with_the_same_extractor(same_extractor: tuple) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    network, real, synthetic, a, b = same_extractor
    theirs = FrechetInceptionDistance(feature=network, input_img_size=(3, 8, 8))
    theirs.update(real, real=True)
    theirs.update(synthetic, real=False)
    assert between_features(b, a) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_kernel_equals_torchmetrics_with_the_same_extractor(same_extractor: tuple) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    network, real, synthetic, a, b = same_extractor
    theirs = KernelInceptionDistance(feature=network, subsets=1, subset_size=90)
    theirs.update(real[:90], real=True)
    theirs.update(synthetic, real=False)
    mine, sd = kernel_distance(b, a[:90], np.random.default_rng(0), size=90)
    assert mine == pytest.approx(float(theirs.compute()[0]), rel=1e-5)  # theirs is float32
    assert math.isnan(sd)


def test_score_equals_torchmetrics_with_the_same_extractor(same_extractor: tuple) -> None:
    from torchmetrics.image.inception import InceptionScore

    network, real, _, a, _ = same_extractor
    theirs = InceptionScore(feature=network, splits=1)
    theirs.update(real)
    mine, _ = inception_score(a, np.random.default_rng(0), splits=1)
    assert mine == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


@pytest.mark.parametrize(("n", "m"), [(60, 80), (9, 80), (9, 7), (2, 2)])
def test_frechet_equals_scipys_matrix_root(n: int, m: int) -> None:
    a, b = clouds(n, m, 12)
    first, second = np.cov(a.T.astype(float)), np.cov(b.T.astype(float))
    root = linalg.sqrtm(first @ second + 0j)
    step = a.mean(0, dtype=float) - b.mean(0, dtype=float)
    expected = step @ step + np.trace(first) + np.trace(second) - 2 * np.trace(root).real
    tolerance = 1e-8 if min(n, m) > 12 else 1e-5  # sqrtm of a singular matrix has lost half of its digits
    assert between_features(b, a) == pytest.approx(expected, rel=tolerance)


def test_frechet_of_gaussians_in_closed_form() -> None:
    # commuting covariances: sum over axes of (m1 - m2)^2 + (s1 - s2)^2, in any rotated frame
    rng = np.random.default_rng(1)
    frame = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    s1, s2, step = rng.uniform(0.1, 3, 6), rng.uniform(0.1, 3, 6), rng.normal(size=6)
    cov1, cov2 = (frame * s1**2) @ frame.T, (frame * s2**2) @ frame.T
    expected = (step**2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet_distance(np.zeros(6), cov1, step, cov2) == pytest.approx(expected, rel=1e-10)
    s1[3:] = 0  # not of full rank
    cov1 = (frame * s1**2) @ frame.T
    expected = (step**2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet_distance(np.zeros(6), cov1, step, cov2) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(step, cov2, step, cov2) == pytest.approx(0, abs=1e-9)


@given(st.integers(1, 9), st.integers(2, 40), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_moments_do_not_depend_on_the_blocks(block: int, count: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(1e4, 1, (count, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "BLOCK", block)
        mean, covariance = moments(features)
    np.testing.assert_allclose(mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.T), rtol=1e-7, atol=1e-9)


def test_extrapolation_takes_the_bias_away() -> None:
    both, _ = clouds(1600, 2, 24, seed=3)  # one distribution: the true distance is 0, the bias is all there is
    few, whole = (between_features(both[800 : 800 + n], both[:n]) for n in (160, 800))
    value, error = extrapolated(both[800:], both[:800], np.random.default_rng(0))
    assert few > whole > 0
    assert abs(value) < whole / 2
    assert 0 < error < whole / 4


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("chunk", [1, 4000, 1 << 20])
def test_neighbourhoods_equal_loops(k: int, chunk: int) -> None:
    a, b = clouds(40, 31, 3)
    b[:4] = a[:4]  # copies
    a[10:20] = a[10]  # blank slices: radius 0
    found = neighbourhoods(b, a, k, chunk_bytes=chunk)
    x, y = a.astype(float), b.astype(float)

    def radius(points: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1]

    ra, rb = [radius(x, i) for i in range(len(x))], [radius(y, i) for i in range(len(y))]
    inside = np.array([[np.linalg.norm(p - q) <= ra[i] for i, p in enumerate(x)] for q in y])
    back = np.array([[np.linalg.norm(p - q) <= rb[j] for j, q in enumerate(y)] for p in x])
    assert found["precision"] == pytest.approx(inside.any(axis=1).mean())
    assert found["recall"] == pytest.approx(back.any(axis=1).mean())
    assert found["density"] == pytest.approx(inside.sum() / (k * len(y)))
    assert found["coverage"] == pytest.approx(inside.any(axis=0).mean())


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    found = []
    for seed in range(40):
        x = np.random.default_rng(seed).normal(size=(80, 6)).astype(np.float32)
        found.append(kernel_distance(x[:40], x[40:], np.random.default_rng(0))[0])
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0 < max(found)


def test_kernel_subsets_spread_around_the_whole() -> None:
    a, b = clouds(300, 300, 6)
    whole, _ = kernel_distance(a, b, np.random.default_rng(0), size=300)
    mean, sd = kernel_distance(a, b, np.random.default_rng(0), subsets=50, size=60)
    assert abs(mean - whole) < 5 * sd / np.sqrt(50)


def test_score_counts_classes() -> None:
    logits = 100 * np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    assert inception_score(logits, np.random.default_rng(0), 1)[0] == pytest.approx(4)
    assert inception_score(np.zeros((40, 4)), np.random.default_rng(0), 4) == pytest.approx((1, 0))


def test_too_few_slices_are_refused() -> None:
    a, b = clouds(5, 1, 4)
    rng = np.random.default_rng(0)
    for broken in (
        lambda: between_features(a, b),
        lambda: kernel_distance(a, b, rng),
        lambda: neighbourhoods(a, a, k=5),
        lambda: inception_score(a, rng, 10),
        lambda: extrapolated(a, a, rng),
        lambda: moments(b),
    ):
        with pytest.raises(UnderstudyError, match=r"slices|few"):
            broken()
