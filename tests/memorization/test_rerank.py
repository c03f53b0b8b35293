"""SSIM against MONAI's, mutual information against closed forms, and their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric

from understudy.memorization.rerank import normalised_mutual_information, rerank, ssim


def noisy(seed: int, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (2, size, size), dtype=np.uint8)
    return x, np.clip(x * 0.7 + rng.normal(20, 30, x.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", [0, 1])
def test_ssim_equals_monai(seed: int) -> None:
    x, y = noisy(seed)
    metric = SSIMMetric(spatial_dims=2, data_range=255, win_size=11, kernel_sigma=1.5)
    expected = metric(*(torch.from_numpy(v[None].astype(np.float64)) for v in (x, y))).item()
    assert ssim(x, y) == pytest.approx(expected, abs=1e-4)
    assert ssim(x, y) == ssim(y, x)


def test_ssim_of_constants_in_closed_form() -> None:
    x, y = np.full((1, 16, 16), 100, np.uint8), np.full((1, 16, 16), 50, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(x, y) == pytest.approx((2 * 100 * 50 + c1) / (100**2 + 50**2 + c1), rel=1e-9)
    assert ssim(x, x) == pytest.approx(1, abs=1e-12)


def test_nmi_in_closed_form() -> None:
    halves = np.zeros((1, 8, 8), np.uint8)
    halves[:, :4] = 200
    across = halves.transpose(0, 2, 1)
    assert normalised_mutual_information(halves, halves) == pytest.approx(2)
    assert normalised_mutual_information(halves, 255 - halves) == pytest.approx(2)  # any one-to-one contrast
    assert normalised_mutual_information(halves, across) == pytest.approx(1)  # independent
    corner = np.zeros((1, 8, 8), np.uint8)
    corner[:, :4, :4] = 90  # (1/4, 1/4, 1/2) jointly with the halves
    joint, one, two = 1.5 * np.log(2), np.log(2), 0.25 * np.log(4) + 0.75 * np.log(4 / 3)
    assert normalised_mutual_information(halves, corner) == pytest.approx((one + two) / joint)
    assert np.isnan(normalised_mutual_information(halves * 0, halves * 0))


def test_rerank_puts_the_most_alike_first() -> None:
    x, y = noisy(3)
    table = rerank(x, np.stack([noisy(4)[0], y, x, 255 - x]))
    assert table.candidate.tolist()[:2] == [2, 1]
    assert table.ssim[0] == pytest.approx(1)
    assert table.set_index("candidate").nmi[3] == pytest.approx(2)
    assert table.ssim.is_monotonic_decreasing
