"""Layers that the GANs share: equalised-rate dense and convolutional layers, modulation, minibatch deviation.

All weights are stored near N(0, 1) and scaled at run time (Karras et al. 2018, sec. 4.1), so that Adam moves every
layer at the same relative speed. Activations may be bfloat16: weights are kept in float32 and cast where they meet
the activations. Each layer is one node of the autograd graph (see `fused`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.generators.ops.fused import GAIN, SLOPE, Convolution, convolution, dense, modulated

__all__ = [
    "GAIN", "SLOPE", "Conv", "Dense", "MinibatchDeviation", "ModulatedConv", "affine_styles", "at_least_float",
    "demodulations", "held_as", "limit", "normalise_second_moment", "pointwise",
]  # fmt: skip


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of x [N, I, H, W] (channels-last) by weight [O, I] as one matrix product, channels-last."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def normalise_second_moment(x: Tensor) -> Tensor:
    """x [N, C] scaled to a mean square of 1 in every row."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def limit(x: Tensor, bound: float | None) -> Tensor:
    """x clamped to [-bound, bound]. Not by `clamp`, whose gradient takes 20 times as long on a CPU."""
    return x if bound is None else F.hardtanh(x, -bound, bound)


def held_as(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Type in which activations are kept between the products in `dtype`: CPUs add and scale bfloat16 slowly."""
    return torch.float32 if device.type == "cpu" and dtype == torch.bfloat16 else dtype


def at_least_float(x: Tensor) -> Tensor:
    """x, half precision turned into float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Dense(nn.Module):
    """y = W x / sqrt(inputs) + b with an equalised learning rate, [N, inputs] -> [N, outputs].

    Args:
        rate: learning-rate multiplier; stored weights are larger by 1 / rate, and so learn `rate` times as fast.
        bias: initial bias.
        activate: leaky ReLU with gain sqrt(2) behind it.
    """

    def __init__(self, inputs: int, outputs: int, activate: bool = False, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.activate, self.rate = activate, rate
        self.scale = rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        gain = GAIN if self.activate else 1.0
        return dense(x, self.weight, self.bias, self.scale * gain, self.rate * gain, self.activate)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, activate={self.activate}, rate={self.rate}"


class Conv(nn.Module):
    """Convolution with an equalised learning rate, [N, inputs, H, W] -> [N, outputs, H/s, W/s], s = 2 if `down`.

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
        options = Convolution(self.scale, self.gain, self.activate, self.clamp, self.down, dtype or x.dtype)
        return convolution(x, self.weight, self.bias, options)

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
        return modulated(x, weight, style, self.up, dtype or x.dtype), scale

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        return f"{inputs}, {outputs}, {kernel}, up={self.up}, demodulate={self.demodulate}"


def affine_styles(groups: list[list[Dense]], ws: Tensor) -> list[tuple[Tensor, ...]]:
    """Styles [N, outputs] of the affine layers in group k by w number k of ws [N, number of groups, w_dim].

    All layers are one batched product, over weights filled up with zeros to one width: in a small network the many
    small products cost more than the zeros.
    """
    sizes = [[len(layer.weight) for layer in group] for group in groups]
    width = max(map(sum, sizes))
    weights, biases = [], []
    for group, size in zip(groups, sizes, strict=True):
        weights += [layer.weight for layer in group] + [ws.new_zeros(width - sum(size), ws.shape[2])]
        biases += [layer.bias for layer in group] + [ws.new_zeros(width - sum(size))]
    weight = torch.cat(weights).view(len(groups), width, -1)
    bias = torch.cat(biases).view(len(groups), 1, width)
    styles = torch.baddbmm(bias, ws.transpose(0, 1), weight.mT, alpha=groups[0][0].scale)  # [groups, N, width]
    return [
        style.split([*size, width - sum(size)], dim=1)[: len(size)]
        for style, size in zip(styles.unbind(0), sizes, strict=True)
    ]


def demodulations(weights: list[Tensor], styles: list[Tensor]) -> list[Tensor]:
    """sqrt(2) / ||w * s|| [N, O] (Karras et al. 2020, eq. 3) of every convolution's weight [O, I, k, k] and style
    [N, I], for all of them at once."""
    taps = torch.cat([w.flatten(0, 1).flatten(1) for w in weights])  # [sum of O I, k k]
    energies = taps.square().sum(1).split([w.shape[0] * w.shape[1] for w in weights])
    squares = torch.cat(styles, dim=1).square().split([w.shape[1] for w in weights], dim=1)
    products = [F.linear(s, e.view(w.shape[:2])) for s, e, w in zip(squares, energies, weights, strict=True)]
    scales = (torch.cat(products, dim=1) + 1e-8).rsqrt() * GAIN
    return list(scales.split([len(w) for w in weights], dim=1))


class MinibatchDeviation(nn.Module):
    """Appends `maps` channels with the mean standard deviation of groups of samples (Karras et al. 2018, sec. 3).

    Sample n belongs to group n mod (N / group). N must be a multiple of the group size, or smaller than it.
    """

    def __init__(self, group: int, maps: int) -> None:
        super().__init__()
        self.group, self.maps = group, maps

    def forward(self, x: Tensor, batches: int = 1) -> Tensor:
        """batches: independent batches of one size in x, e.g. 2 for real and synthetic ones at once."""
        n, c, h, w = x.shape
        size = min(self.group, n // batches)
        y = at_least_float(x).view(batches, size, -1, self.maps, c // self.maps, h, w)
        y = y - y.mean(dim=1, keepdim=True)
        y = (y.square().mean(dim=1) + 1e-8).sqrt().mean(dim=(3, 4, 5))  # [batches, N / size, maps]
        y = y[:, None].expand(-1, size, -1, -1).reshape(n, self.maps, 1, 1).expand(-1, -1, h, w)
        return torch.cat([x, y.to(x.dtype)], dim=1)
