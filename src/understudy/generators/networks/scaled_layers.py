"""Layers that Progressive GAN and StyleGAN 1 share: equalised-rate layers with He's gain, [1, 2, 1] blur, pixel norm.

As in `layers`, weights are stored near N(0, 1) and scaled at run time, and may be cast where they meet activations.
Unlike there, the leaky ReLU has no gain: all of it is in the weights, none on the bias.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.generators.networks.layers import GAIN, SLOPE, at_least_float, pointwise


class _PixelNorm(torch.autograd.Function):
    """In half the passes that autograd would take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scale = at_least_float(x).square().mean(dim=1, keepdim=True).add_(1e-8).rsqrt_().to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = (grads[0] * y).mean(dim=1, keepdim=True)
        return torch.addcmul(grads[0], y, along, value=-1).mul_(scale)


def pixel_norm(x: Tensor) -> Tensor:
    """x [N, C, ...] scaled to a mean square of 1 over the channels of every pixel (Karras et al. 2018, sec. 4.2)."""
    y: Tensor = _PixelNorm.apply(x)  # type: ignore[no-untyped-call]
    return y


class _Blur(torch.autograd.Function):
    """Depthwise [1, 2, 1] with zeros around: a symmetric matrix, so it is its own gradient. (torch's own second
    derivative of depthwise convolutions loops over the channels.)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kernel = _blur_kernel(x.dtype, x.device).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(x, kernel, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return blur(grads[0])


@cache
def _blur_kernel(dtype: torch.dtype, device: torch.device) -> Tensor:
    taps = torch.tensor([1.0, 2.0, 1.0], device=device) / 4
    return torch.outer(taps, taps).to(dtype)


def blur(x: Tensor) -> Tensor:
    """x [N, C, H, W] filtered by [1, 2, 1] / 4 along both axes, zeros outside (Karras et al. 2019, app. C)."""
    y: Tensor = _Blur.apply(x)  # type: ignore[no-untyped-call]
    return y


@cache
def _widening(scale: float, mirrored: bool, device: torch.device) -> Tensor:
    """Matrix [16, 9] from a 3x3 kernel to the 4x4 one that is both it and a 2x2 box of height `scale`."""
    line = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])
    matrix = torch.kron(line, line) * scale
    return (matrix.flip(0).contiguous() if mirrored else matrix).to(device)


class ScaledConv(nn.Module):
    """Convolution with an equalised learning rate (Karras et al. 2018, sec. 4.1), and bias.

    Resampling is folded into the kernel: nearest-neighbour enlargement and a 3x3 convolution are together one 4x4
    transposed convolution with stride 2, a 3x3 convolution and 2x2 averaging are one 4x4 convolution with stride 2,
    both at 4/9 of the products.

    Args:
        resample: "up" enlarges first, "down" averages behind. gain: of the weights; sqrt(2) before a leaky ReLU.
        activate: leaky ReLU behind it. bias: False leaves bias (and activation) to the caller.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, resample: str = "", bias: bool = True, activate: bool = True
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.resample, self.activate = resample, activate and bias
        self.scale = (GAIN if activate else 1.0) / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """x [N, I, H, W] -> [N, O, H', W'] in the type of x; dtype: of the factors of the products."""
        held, dtype = x.dtype, dtype or x.dtype
        outputs, inputs, kernel, _ = self.weight.shape
        if kernel == 1:  # few products, so in the type of x
            weight = (self.weight.flatten(1) * self.scale).to(held)
            y = pointwise(x, weight, None if self.bias is None else self.bias.to(held))
            return F.leaky_relu(y, SLOPE) if self.activate else y
        bias = None if self.bias is None else self.bias.to(dtype)
        if not self.resample:
            y = F.conv2d(x.to(dtype), (self.weight * self.scale).to(dtype), bias, padding=1)
        else:
            scale = self.scale / (4 if self.resample == "down" else 1)
            matrix = _widening(scale, self.resample == "up", x.device).to(self.weight.dtype)
            kernels = F.linear(self.weight.flatten(2), matrix).view(outputs, inputs, 4, 4).to(dtype)
            if self.resample == "down":
                y = F.conv2d(x.to(dtype), kernels, bias, stride=2, padding=1)
            else:  # a transposed convolution reads its kernel backwards, which `mirrored` undoes
                y = F.conv_transpose2d(x.to(dtype), kernels.transpose(0, 1), bias, stride=2, padding=1)
        y = y.to(held)
        return F.leaky_relu(y, SLOPE, inplace=True) if self.activate else y

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        return f"{inputs}, {outputs}, {kernel}, resample={self.resample!r}, activate={self.activate}"


class ScaledDense(nn.Module):
    """Dense layer with an equalised learning rate, [N, inputs] -> [N, outputs].

    Unlike `layers.Dense` it has the gain of the leaky ReLU in the weights alone, not on the bias.

    Args:
        rate: learning-rate multiplier; stored weights are larger by 1 / rate, and so learn `rate` times as fast.
    """

    def __init__(self, inputs: int, outputs: int, activate: bool = False, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.activate, self.rate = activate, rate
        self.scale = rate * (GAIN if activate else 1.0) / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x * self.scale, self.weight, self.bias * self.rate)
        return F.leaky_relu(y, SLOPE) if self.activate else y

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, activate={self.activate}, rate={self.rate}"
