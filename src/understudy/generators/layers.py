"""Layers that the GANs share: equalised-rate dense and convolutional layers, and resampling by [1, 3, 3, 1].

All weights are stored near N(0, 1) and scaled at run time (Karras et al. 2018, sec. 4.1), so that Adam moves every
layer at the same relative speed. Activations may be bfloat16: weights are kept in float32 and cast where they meet
the activations. The gain sqrt(2) of the leaky ReLU is folded into what comes before it, which is exact because the
leaky ReLU is positively homogeneous, and saves a pass over the activations.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU, everywhere
GAIN = math.sqrt(2)  # keeps the variance through a leaky ReLU (He)
_TAPS = (1.0, 3.0, 3.0, 1.0)  # the resampling filter of StyleGAN 2, along each axis, before normalisation


@cache
def _kernel(gain: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, 3, 3, 1] x [1, 3, 3, 1] as [4, 4] that sums to `gain`."""
    taps = torch.tensor(_TAPS, device=device) / sum(_TAPS)
    return (torch.outer(taps, taps) * gain).to(dtype)


@cache
def _doubling(edge: int, device: torch.device) -> Tensor:
    """Matrix [2 edge, edge] that doubles a line: 1/4 and 3/4 of the two nearest pixels, zeros outside."""
    matrix = torch.zeros(2 * edge, edge + 2)
    for i in range(edge + 1):  # between the pixels i - 1 and i of the line, which start at column 1
        for row, near in ((2 * i - 1, 0.75), (2 * i, 0.25)):
            if 0 <= row < 2 * edge:
                matrix[row, i], matrix[row, i + 1] = near, 1 - near
    return matrix[:, 1:-1].contiguous().to(device)


class _Blur(torch.autograd.Function):
    """Depthwise [1, 3, 3, 1] filter with zeros around. The filter is symmetric and linear, so its gradient is itself
    with the complementary padding; torch's own second derivative of depthwise convolutions loops over channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: int, gain: float) -> Tensor:
        ctx.padding, ctx.gain = padding, gain
        kernel = _kernel(gain, x.dtype, x.device).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Blur.apply(grads[0], 3 - ctx.padding, ctx.gain), None, None  # type: ignore[no-untyped-call]


def blur(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """x [N, C, H, W] filtered by [1, 3, 3, 1] along both axes; each axis changes by 2 * padding - 3 pixels."""
    blurred: Tensor = _Blur.apply(x, padding, gain)  # type: ignore[no-untyped-call]
    return blurred


class _Decimate(torch.autograd.Function):
    """Every second position of the depthwise [1, 3, 3, 1] filter; its gradient is `_Spread`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kernel = _kernel(1.0, x.dtype, x.device).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        spread: Tensor = _Spread.apply(grads[0])  # type: ignore[no-untyped-call]
        return spread


class _Spread(torch.autograd.Function):
    """The transpose of `_Decimate`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kernel = _kernel(1.0, x.dtype, x.device).expand(x.shape[1], 1, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return downsample(grads[0])


def downsample(x: Tensor) -> Tensor:
    """x [N, C, 2H, 2H] -> [N, C, H, H]: the [1, 3, 3, 1] filter, computed only where it is kept."""
    halved: Tensor = _Decimate.apply(x)  # type: ignore[no-untyped-call]
    return halved


def upsample(x: Tensor) -> Tensor:
    """x float32 [N, C, H, H] -> [N, C, 2H, 2H]: zeros between the pixels, then the [1, 3, 3, 1] filter.

    As two products with a banded matrix: for the few channels of an image depthwise convolutions are slower.
    """
    matrix = _doubling(x.shape[-1], x.device).to(x.dtype)
    return F.linear(F.linear(x, matrix).mT.contiguous(), matrix).mT


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of x [N, I, H, W] (channels-last) by weight [O, I] as one matrix product, channels-last."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def normalise_second_moment(x: Tensor) -> Tensor:
    """x [N, C] scaled to a mean square of 1 in every row."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def limit(x: Tensor, bound: float | None) -> Tensor:
    """x clamped to [-bound, bound]. Not by `clamp`, whose gradient takes 20 times as long on a CPU."""
    return x if bound is None else F.hardtanh(x, -bound, bound)


class Dense(nn.Module):
    """y = W x / sqrt(inputs) + b with an equalised learning rate, [N, inputs] -> [N, outputs].

    Args:
        rate: learning-rate multiplier; stored weights are larger by 1 / rate, and so learn `rate` times as fast.
        bias: initial bias.
        activate: leaky ReLU with gain sqrt(2) behind it.
    """

    def __init__(
        self, inputs: int, outputs: int, activate: bool = False, rate: float = 1.0, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.activate, self.rate = activate, rate
        self.scale = rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        gain = GAIN if self.activate else 1.0
        # Scaling the few rows of x spares the gradient of the weights a pass, which scaling the product would cost.
        y = F.linear(x * (self.scale * gain), self.weight, self.bias * (self.rate * gain))
        return F.leaky_relu(y, SLOPE) if self.activate else y

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, activate={self.activate}, rate={self.rate}"


class Conv(nn.Module):
    """Convolution with an equalised learning rate, [N, inputs, H, W] -> [N, outputs, H/s, W/s], s = 2 if `down`.

    Downsampling filters first and then takes every second position inside the convolution; the two keep one padding,
    so that a 3x3 kernel sees exactly what it would see with the filter folded into it (at a quarter of the products).

    Args:
        gain: of the output, e.g. sqrt(1/2) where two branches are added.
        clamp: largest absolute value of the output for gain 1, None for no limit.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        down: bool = False,
        bias: bool = True,
        activate: bool = True,
        gain: float = 1.0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.down, self.activate = down, activate
        self.gain = gain * (GAIN if activate else 1.0)
        self.scale = self.gain / math.sqrt(inputs * kernel**2)
        self.clamp = None if clamp is None else clamp * gain

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """dtype: of the factors of the products, that of x if None."""
        held, dtype = x.dtype, dtype or x.dtype
        weight = self.weight * self.scale
        bias = None if self.bias is None else self.bias * self.gain
        padding = self.weight.shape[-1] // 2
        if padding == 0:  # few products, so in the type of x
            bias = None if bias is None else bias.to(held)
            y = pointwise(downsample(x) if self.down else x, weight.flatten(1).to(held), bias)
        else:
            x = blur(x, padding + 1) if self.down else x
            bias = None if bias is None else bias.to(dtype)
            stride, padding = (2, 0) if self.down else (1, padding)
            y = F.conv2d(x.to(dtype), weight.to(dtype), bias, stride, padding).to(held)
        y = F.leaky_relu(y, SLOPE, inplace=True) if self.activate else y
        return limit(y, self.clamp)

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        return f"{inputs}, {outputs}, {kernel}, down={self.down}, activate={self.activate}"


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style (Karras et al. 2020, eq. 1-3).

    The style scales the activations instead of the weights: conv(x * s, w) * d equals the convolution by the
    modulated and demodulated weights, and is one plain convolution for the batch instead of one for each sample.
    Only 1x1 kernels (the image layers) are modulated themselves, for one batched matrix product.

    Args:
        demodulate: normalise each output channel by d = 1 / ||w * s|| (eq. 3); without, the weights are scaled by
            1 / sqrt(inputs).
        up: double the resolution (transposed convolution, then the [1, 3, 3, 1] filter).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, w_dim: int, up: bool = False, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.up, self.demodulate = up, demodulate

    def forward(self, x: Tensor, w: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        """x [N, I, H, W], w [N, w_dim] -> the convolution [N, O, ...] still to be multiplied by the demodulation
        [N, O, 1, 1] (None without), so that the caller can fuse it with what follows."""
        style = self.affine(w)  # [N, I]
        scale: Tensor | None = None
        weight: Tensor = self.weight
        if self.demodulate:
            energy = weight.square().sum(dim=(2, 3))  # [O, I]
            scale = (F.linear(style.square(), energy) + 1e-8).rsqrt()[:, :, None, None]
        else:
            style = style * (1 / math.sqrt(weight.shape[1] * weight.shape[2] * weight.shape[3]))
        if weight.shape[-1] == 1:  # the few rows of a 1x1 kernel: modulating them spares a pass over x
            kernels = (weight.flatten(1) * style[:, None, :]).to(x.dtype)  # [N, O, I]
            n, channels, height, width = x.shape
            # A view of channels-last activations, and so is its gradient; the product is contiguous.
            rows = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
            return torch.bmm(kernels, rows.mT).view(n, -1, height, width), scale
        held, dtype = x.dtype, dtype or x.dtype
        x = (x * style[:, :, None, None].to(held)).to(dtype)
        weight = weight.to(dtype)
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2).to(held)
            return blur(x, padding=1, gain=4.0), scale
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2).to(held), scale

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        return f"{inputs}, {outputs}, {kernel}, up={self.up}, demodulate={self.demodulate}"


class MinibatchDeviation(nn.Module):
    """Appends `maps` channels with the mean standard deviation of groups of samples (Karras et al. 2018, sec. 3).

    Sample n belongs to group n mod (N / group). N must be a multiple of the group size, or smaller than it.
    """

    def __init__(self, group: int, maps: int) -> None:
        super().__init__()
        self.group, self.maps = group, maps

    def forward(self, x: Tensor, batches: int = 1) -> Tensor:
        """batches: independent batches of one size in x, e.g. 2 for real and synthetic ones at once."""
        if batches > 1:
            return torch.cat([self(part) for part in x.chunk(batches)])
        n, c, h, w = x.shape
        size = min(self.group, n)
        y = x.float().reshape(size, n // size, self.maps, c // self.maps, h, w)
        y = y - y.mean(dim=0)
        y = (y.square().mean(dim=0) + 1e-8).sqrt().mean(dim=(2, 3, 4))  # [N / size, maps]
        y = y.repeat(size, 1)[:, :, None, None].expand(n, self.maps, h, w)
        return torch.cat([x, y.to(x.dtype)], dim=1)
