"""Layers against the operations that they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from understudy.generators.networks.layers import (
    MinibatchDeviation,
    ModulatedConv,
    ScaledConv,
    pixel_norm,
    squared_norms,
)
from understudy.generators.ops.fused import modulated


@pytest.mark.parametrize("size", [1, 3])
def test_scaling_activations_equals_modulating_weights(size: int) -> None:
    """Against eq. 1 and 3 of StyleGAN 2 written for one sample at a time."""
    torch.manual_seed(0)
    layers = [ModulatedConv(6, outputs, size, w_dim=4) for outputs in (5, 7)]
    x, w = torch.randn(3, 6, 8, 8), torch.randn(3, 4)
    styles = [layer.affine(w) for layer in layers]
    norms = squared_norms([layer.weight for layer in layers], styles).split([5, 7], dim=1)
    for layer, style, norm in zip(layers, styles, norms, strict=True):
        found = modulated(x, layer.weight, style, False, x.dtype) * norm.rsqrt()[:, :, None, None]
        for i in range(3):
            weight = layer.weight * style[i][None, :, None, None]
            weight = weight / torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)
            expected = F.conv2d(x[i : i + 1], weight, padding=size // 2)[0]
            torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=1e-4)


def test_minibatch_deviation_takes_strided_groups() -> None:
    x = torch.randn(8, 6, 2, 2)
    out = MinibatchDeviation(group=4, maps=2)(x)
    assert torch.equal(out[:, :6], x)
    for n in range(8):
        members = x[n % 2 :: 2]  # [4, 6, 2, 2]: samples n mod 2
        deviation = (members.var(dim=0, correction=0) + 1e-8).sqrt()
        for m in range(2):
            expected = deviation[3 * m : 3 * m + 3].mean()
            torch.testing.assert_close(out[n, 6 + m], expected.expand(2, 2))


def test_deviation_of_two_batches_at_once_is_that_of_each() -> None:
    x = torch.randn(8, 6, 2, 2).contiguous(memory_format=torch.channels_last)
    layer = MinibatchDeviation(group=2, maps=3)
    expected = torch.cat([layer(part) for part in x.chunk(2)])
    torch.testing.assert_close(layer(x, batches=2), expected)


@pytest.mark.parametrize("resample", ["", "up", "down"])
def test_resampling_convolutions_equal_their_two_steps(resample: str) -> None:
    layer = ScaledConv(3, 5, resample=resample)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 8, 8)
    y = x.repeat_interleave(2, 2).repeat_interleave(2, 3) if resample == "up" else x
    y = F.conv2d(y, layer.weight * (2 / 27) ** 0.5, padding=1)  # He: gain sqrt(2), 3 * 9 inputs
    y = F.avg_pool2d(y, 2) if resample == "down" else y
    y = F.leaky_relu(y + layer.bias[:, None, None], 0.2)
    torch.testing.assert_close(layer(x), y, atol=1e-5, rtol=1e-5)


def test_pixel_norm_has_unit_mean_square_and_the_right_gradient() -> None:
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    mean = x.square().mean(dim=1)
    # Not exactly 1: the official networks add 1e-8 to the mean square.
    torch.testing.assert_close(pixel_norm(x).square().mean(dim=1), mean / (mean + 1e-8), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(pixel_norm, x)
