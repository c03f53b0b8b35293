"""Filters against SciPy, and their derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch
from scipy.ndimage import convolve1d

from understudy.generators.ops.resampling import blur, downsample, gaussian_blur, smooth, upsample


def test_resampling_equals_a_convolution_by_1331() -> None:
    x = torch.randn(2, 3, 8, 8)
    taps = np.array([1, 3, 3, 1]) / 8
    spread = np.zeros((2, 3, 20, 20))
    spread[:, :, 2:18:2, 2:18:2] = x.numpy()
    wide = convolve1d(convolve1d(spread, 2 * taps, axis=2, mode="constant"), 2 * taps, axis=3, mode="constant")
    np.testing.assert_allclose(upsample(x).numpy(), wide[:, :, 1:17, 1:17], atol=1e-5)
    assert blur(x, padding=2).shape == (2, 3, 9, 9)
    narrow = convolve1d(convolve1d(x.numpy(), taps, axis=2, mode="constant"), taps, axis=3, mode="constant")
    np.testing.assert_allclose(downsample(x).numpy(), narrow[:, :, ::2, ::2], atol=1e-5)


def test_downsampling_has_the_right_first_and_second_derivatives() -> None:
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: downsample(y).square(), x)
    assert torch.autograd.gradgradcheck(lambda y: downsample(y).square(), x)


@pytest.mark.parametrize("padding", [1, 2])
def test_blur_has_the_right_first_and_second_derivatives(padding: int) -> None:
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: blur(y, padding).square(), x)
    assert torch.autograd.gradgradcheck(lambda y: blur(y, padding).square(), x)


def test_smooth_is_the_121_filter_with_the_right_derivatives() -> None:
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    taps = np.array([1, 2, 1]) / 4
    expected = convolve1d(convolve1d(x.detach().numpy(), taps, 2, mode="constant"), taps, 3, mode="constant")
    np.testing.assert_allclose(smooth(x).detach().numpy(), expected, atol=1e-6)
    assert torch.autograd.gradcheck(lambda y: smooth(y).square(), x)
    assert torch.autograd.gradgradcheck(lambda y: smooth(y).square(), x)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 10.0])
def test_blur_is_a_convolution_by_powers_of_two(sigma: float) -> None:
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reach = math.floor(3 * sigma)
    line = 2.0 ** -((np.arange(-reach, reach + 1) / sigma) ** 2)
    line /= line.sum()
    expected = [
        [scipy.signal.convolve2d(image, np.outer(line, line), mode="same") for image in sample]
        for sample in (images.numpy() if reach <= 12 else np.pad(images.numpy(), [(0, 0)] * 2 + [(32, 32)] * 2))
    ]
    crop = slice(None) if reach <= 12 else slice(32, -32)
    np.testing.assert_allclose(gaussian_blur(images, sigma), np.array(expected)[..., crop, crop], atol=1e-12)


def test_no_blur_below_a_third_of_a_pixel() -> None:
    images = torch.ones(1, 1, 4, 4)
    assert gaussian_blur(images, 0.3) is images
