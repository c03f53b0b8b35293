"""Fused layers: first and second derivatives against finite differences, values against torch's own operations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.generators.networks.resampling import blur, downsample
from understudy.generators.ops import fused


def rand(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    values = torch.randn(shape, dtype=torch.float64)
    return values.contiguous(memory_format=layout).requires_grad_()


def check(function: fused.Any, *inputs: Tensor | None) -> None:
    """First and second derivatives of the squares of a function, so that both depend on its output."""
    torch.manual_seed(1)
    assert torch.autograd.gradcheck(lambda *x: function(*x).square(), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: function(*x).square(), inputs)


@pytest.mark.parametrize("activate", [True, False])
def test_dense(activate: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = rand(3, 4), rand(2, 4), rand(2)
    check(lambda *a: fused.dense(*a, scale=0.7, rate=0.3, activate=activate), x, weight, bias)
    expected = 0.7 * x @ weight.T + 0.3 * bias
    expected = F.leaky_relu(expected, 0.2) if activate else expected
    torch.testing.assert_close(fused.dense(x, weight, bias, 0.7, 0.3, activate), expected)


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize(("size", "down"), [(1, False), (1, True), (3, False), (3, True)])
def test_convolution(size: int, down: bool, clamp: float | None) -> None:
    torch.manual_seed(0)
    x, weight, bias = rand(2, 2, 4, 4, layout=torch.channels_last), rand(3, 2, size, size), rand(3)
    options = fused.Convolution(0.7, 0.3, True, clamp, down, torch.float64)
    check(lambda *a: fused.convolution(*a, options), x, weight, bias)
    linear = options._replace(activate=False)
    check(lambda *a: fused.convolution(*a, None, linear), x, weight)
    filtered = (downsample(x) if size == 1 else blur(x, 2)) if down else x
    stride, padding = (2, 0) if down and size == 3 else (1, 0 if down else size // 2)
    expected = F.leaky_relu(F.conv2d(filtered, weight * 0.7, bias * 0.3, stride, padding), 0.2)
    expected = expected if clamp is None else expected.clamp(-clamp, clamp)
    torch.testing.assert_close(fused.convolution(x, weight, bias, options), expected)


@pytest.mark.parametrize("up", [True, False])
def test_modulated(up: bool) -> None:
    torch.manual_seed(0)
    x, weight, style = rand(2, 2, 3, 3, layout=torch.channels_last), rand(3, 2, 3, 3), rand(2, 2)
    check(lambda *a: fused.modulated(*a, up, torch.float64), x, weight, style)
    found = fused.modulated(x, weight, style, up, torch.float64)
    for i in range(2):
        kernel = weight * style[i][None, :, None, None]
        plain = F.conv2d(x[i : i + 1], kernel, padding=1)
        if up:
            plain = blur(F.conv_transpose2d(x[i : i + 1], kernel.transpose(0, 1), stride=2), 1, 4.0)
        torch.testing.assert_close(found[i : i + 1], plain)


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_noisy_activation(clamp: float | None) -> None:
    torch.manual_seed(0)
    x, scale, strength, bias = rand(2, 3, 2, 2, layout=torch.channels_last), rand(2, 3), rand(), rand(3)
    noise = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    for maps in (noise, noise[0, 0]):
        check(lambda x, d, s, b, n=maps: fused.noisy_activation(x, d, n, s, b, clamp), x, scale, strength, bias)
    expected = x * scale[:, :, None, None] + 2**0.5 * (strength * noise + bias[:, None, None])
    expected = F.leaky_relu(expected, 0.2)
    expected = expected if clamp is None else expected.clamp(-clamp, clamp)
    torch.testing.assert_close(fused.noisy_activation(x, scale, noise, strength, bias, clamp), expected)


def test_image_product() -> None:
    torch.manual_seed(0)
    x, kernels, bias = rand(2, 3, 2, 2, layout=torch.channels_last), rand(2, 4, 3), rand(4)
    check(lambda *a: fused.image_product(*a, clamp=0.5), x, kernels, bias)
    expected = (torch.einsum("nihw,noi->nohw", x, kernels) + bias[:, None, None]).clamp(-0.5, 0.5)
    torch.testing.assert_close(fused.image_product(x, kernels, bias, 0.5), expected)


def test_weight_gradients_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight, bias = rand(3, 4), rand(2, 4), rand(2)
    y = fused.dense(x, weight, bias, 1.0, 1.0, True).square().sum()
    wanted: list[bool] = []
    asked = fused._weights_wanted
    monkeypatch.setattr(fused, "_weights_wanted", lambda: wanted.append(asked()) or wanted[-1])
    inside = fused.input_gradient(y, x)
    assert not any(wanted)
    (outside,) = torch.autograd.grad(y, x, create_graph=True)
    torch.testing.assert_close(inside, outside)
    inside.square().sum().backward()  # derivatives of the gradient by the weights are not left out
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    assert not fused._inputs_only


def test_leaving_out_weight_gradients_does_not_reach_other_threads() -> None:
    weight, bias = rand(2, 4), rand(2)

    def backward_elsewhere(gradient: Tensor) -> None:
        """In the middle of a pass without gradients by weights, another thread does a whole one with them."""
        with ThreadPoolExecutor(1) as pool:
            other = fused.dense(rand(3, 4), weight, bias, 1.0, 1.0, True).sum()
            pool.submit(other.backward).result()

    x = rand(3, 4)
    y = fused.dense(x, rand(2, 4), rand(2), 1.0, 1.0, True)
    y.register_hook(backward_elsewhere)
    fused.input_gradient(y.square().sum(), x)
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
