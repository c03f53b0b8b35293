"""Filters and filtered nonlinearity against SciPy and the definition by inserted zeros."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch

from understudy.generators.ops.filtered_lrelu import Resampling, filtered_lrelu, lowpass, plain_filtered_lrelu

# (size_in, size_out, up, down, taps up, taps down, radial): those of the paper's layers, and an unusual ratio
CASES = [
    (11, 9, 2, 2, 12, 12, False),  # the paddings of configuration T are odd
    (10, 8, 2, 2, 12, 12, True),
    (14, 10, 4, 2, 24, 12, False),
    (13, 10, 4, 2, 24, 12, True),
    (24, 8, 2, 2, 12, 12, False),  # cropped
    (9, 12, 8, 2, 16, 8, False),
    (9, 20, 3, 3, 9, 6, False),
]


def case(number: int, gain: float = 1.5) -> Resampling:
    size_in, size_out, up, down, taps_up, taps_down, radial = CASES[number]
    rise, fall = lowpass(taps_up, 1.0, 0.8, 6.0), lowpass(taps_down, 1.1, 0.7, 6.0, radial)
    return Resampling(rise, fall, up, down, size_in, size_out, gain)


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.parametrize("clamp", [0.4, 100.0])
def test_equals_the_definition(number: int, clamp: float) -> None:
    resampling = case(number)
    rng = torch.Generator().manual_seed(number)
    x = torch.randn(2, 3, CASES[number][0], CASES[number][0], dtype=torch.float64, generator=rng)
    x.requires_grad_()
    ours, theirs = filtered_lrelu(x, resampling, clamp), plain_filtered_lrelu(x, resampling, clamp)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn(ours.shape, dtype=torch.float64, generator=rng)
    gradients = [torch.autograd.grad((y * direction).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("number", [0, 3, 4])
@pytest.mark.parametrize("clamp", [0.2, None])
def test_first_and_second_derivatives(number: int, clamp: float | None) -> None:
    resampling = case(number)
    x = torch.randn(1, 2, *[CASES[number][0]] * 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: filtered_lrelu(x, resampling, clamp), x, fast_mode=True)
    # Linear in the gradient that comes in, and piecewise linear in x.
    assert torch.autograd.gradgradcheck(lambda x: filtered_lrelu(x, resampling, clamp), x, fast_mode=True)


def test_second_derivative_equals_the_definition() -> None:
    resampling = case(2)
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(1, 2, 14, 14, dtype=torch.float64, generator=rng).requires_grad_()
    direction = torch.randn(1, 2, 10, 10, dtype=torch.float64, generator=rng).requires_grad_()
    found = []
    for y in (filtered_lrelu(x, resampling, 0.5), plain_filtered_lrelu(x, resampling, 0.5)):
        (gradient,) = torch.autograd.grad(y, x, direction, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), direction)[0])
    torch.testing.assert_close(*found)


def test_a_limit_out_of_reach_changes_nothing() -> None:
    resampling = case(0)
    x = torch.randn(2, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    largest = float(x.abs().max()) * resampling.gain
    assert torch.equal(filtered_lrelu(x, resampling, largest * 1.01), filtered_lrelu(x, resampling, None))


def test_rates_must_fit() -> None:
    with pytest.raises(ValueError, match="multiple of down 2"):
        Resampling(np.ones(12), np.ones(12), 3, 2, 10, 10)


@pytest.mark.parametrize(("cutoff", "half_width"), [(2.0, 6.0), (8.0, 1.5)])
def test_axis_filter_is_scipys(cutoff: float, half_width: float) -> None:
    expected = scipy.signal.firwin(12, cutoff, width=2 * half_width, fs=64)
    np.testing.assert_array_equal(lowpass(12, cutoff, half_width, 64), expected)


@pytest.mark.parametrize("taps", [12, 13])
def test_radial_filter_is_a_windowed_jinc(taps: int) -> None:
    cutoff, half_width, rate = 3.0, 2.0, 32.0
    found = lowpass(taps, cutoff, half_width, rate, radial=True)
    np.testing.assert_allclose(found.sum(), 1)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(found, found[::-1, ::-1])
    # The jinc is the transform of the disc of radius `cutoff`: here by Bessel's integral instead.
    beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, 2 * half_width / (rate / 2)))
    window = scipy.signal.get_window(("kaiser", beta), taps, fftbins=False)
    position = (np.arange(taps) - (taps - 1) / 2) / rate
    steps = (np.arange(400) + 0.5) / 400 * cutoff
    radius = np.hypot.outer(position, position)[..., None]
    disc = (scipy.special.j0(2 * np.pi * radius * steps) * steps).sum(axis=-1) * np.outer(window, window)
    np.testing.assert_allclose(found, disc / disc.sum(), atol=1e-5 * found.max())
