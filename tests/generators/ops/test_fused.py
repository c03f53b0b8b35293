"""Fused layers: first and second derivatives against finite differences, values against torch's own operations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy.generators.networks import stylegan2, stylegan3
from understudy.generators.ops import filtered_lrelu, fused


def rand(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    values = torch.randn(shape, dtype=torch.float64)
    return values.contiguous(memory_format=layout).requires_grad_()


def check(function: Any, *inputs: Tensor | None) -> None:
    """First and second derivatives of the squares of a function, so that both depend on its output."""
    torch.manual_seed(1)
    assert torch.autograd.gradcheck(lambda *x: function(*x).square(), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: function(*x).square(), inputs)


@pytest.mark.parametrize("activate", [True, False])
def test_dense(activate: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = rand(3, 4), rand(2, 4), rand(2)
    check(lambda *a: fused.dense(*a, scale=0.7, rate=0.3, activate=activate), x, weight, bias)
    arguments = (x, weight, bias, 0.7, 0.3, activate)
    torch.testing.assert_close(fused.dense(*arguments), fused.plain_dense(*arguments))


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize(("size", "down"), [(1, False), (1, True), (3, False), (3, True)])
def test_convolution(size: int, down: bool, clamp: float | None) -> None:
    torch.manual_seed(0)
    x, weight, bias = rand(2, 2, 4, 4, layout=torch.channels_last), rand(3, 2, size, size), rand(3)
    options = fused.Convolution(0.7, 0.3, True, clamp, down, torch.float64)
    check(lambda *a: fused.convolution(*a, options), x, weight, bias)
    linear = options._replace(activate=False)
    check(lambda *a: fused.convolution(*a, None, linear), x, weight)
    expected = fused.plain_convolution(x, weight, bias, options)
    torch.testing.assert_close(fused.convolution(x, weight, bias, options), expected)


@pytest.mark.parametrize("up", [True, False])
def test_modulated(up: bool) -> None:
    torch.manual_seed(0)
    x, weight, style = rand(2, 2, 3, 3, layout=torch.channels_last), rand(3, 2, 3, 3), rand(2, 2)
    check(lambda *a: fused.modulated(*a, up, torch.float64), x, weight, style)
    found = fused.modulated(x, weight, style, up, torch.float64)
    torch.testing.assert_close(found, fused.plain_modulated(x, weight, style, up, torch.float64))


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_noisy_activation(clamp: float | None) -> None:
    torch.manual_seed(0)
    x, scale, strength, bias = rand(2, 3, 2, 2, layout=torch.channels_last), rand(2, 3), rand(), rand(3)
    noise = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    for maps in (noise, noise[0, 0]):
        check(lambda x, d, s, b, n=maps: fused.noisy_activation(x, d, n, s, b, clamp), x, scale, strength, bias)
    arguments = (x, scale, noise, strength, bias, clamp)
    torch.testing.assert_close(fused.noisy_activation(*arguments), fused.plain_noisy_activation(*arguments))


def test_image_product() -> None:
    torch.manual_seed(0)
    x, kernels, bias = rand(2, 3, 2, 2, layout=torch.channels_last), rand(2, 4, 3), rand(4)
    check(lambda *a: fused.image_product(*a, clamp=0.5), x, kernels, bias)
    expected = fused.plain_image_product(x, kernels, bias, 0.5)
    torch.testing.assert_close(fused.image_product(x, kernels, bias, 0.5), expected)


@pytest.mark.parametrize("model", [stylegan2, stylegan3], ids=["StyleGAN 2", "StyleGAN 3"])
def test_where_the_nodes_do_not_run_the_references_do(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, scores and gradients, first and second derivatives, by both."""
    kind = model.StyleGan2Config if model is stylegan2 else model.StyleGan3Config
    own = {"num_layers": 4, "margin": 4, "mapping_layers": 1} if model is stylegan3 else {"mapping_layers": 1}
    network = model.build(kind(resolution=16, channels=3, z_dim=8, w_dim=8, channel_base=64, channel_max=8, **own))
    inputs = network.generator.draw(4, torch.Generator().manual_seed(0), 0.0)
    found = []
    for fused_here in (True, False):
        if not fused_here:
            for module in (fused, filtered_lrelu):
                monkeypatch.setattr(module, "fused_on", lambda x: False)
        network.zero_grad()
        images = network.generator.synthesise(inputs)
        real = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        gradient = fused.input_gradient(network.discriminator(real).sum(), real)
        (network.discriminator(images).square().mean() + gradient.square().sum()).backward()
        found.append([images, gradient, *(p.grad for p in network.parameters())])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)


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
