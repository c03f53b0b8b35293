"""Resampling by the filter [1, 3, 3, 1], as StyleGAN 2 does it: exact to any order of derivatives.

The filter is symmetric and linear, so the gradient of each operation is another one of this file.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_TAPS = (1.0, 3.0, 3.0, 1.0)  # along each axis, before normalisation


@cache
def _kernel(channels: int, gain: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, 3, 3, 1] x [1, 3, 3, 1] that sums to `gain`, as [channels, 1, 4, 4]: an expanded one is copied each time."""
    taps = torch.tensor(_TAPS, device=device) / sum(_TAPS)
    return (torch.outer(taps, taps) * gain).to(dtype).repeat(channels, 1, 1, 1)


@cache
def _doubling(edge: int, device: torch.device) -> Tensor:
    """Matrix [2 edge, edge] that doubles a line: 1/4 and 3/4 of the two nearest pixels, zeros outside."""
    matrix = torch.zeros(2 * edge, edge + 2)
    for i in range(edge + 1):  # between the pixels i - 1 and i of the line, which start at column 1
        for row, near in ((2 * i - 1, 0.75), (2 * i, 0.25)):
            if 0 <= row < 2 * edge:
                matrix[row, i], matrix[row, i + 1] = near, 1 - near
    return matrix[:, 1:-1].contiguous().to(device)


def _filter(x: Tensor, padding: int, gain: float) -> Tensor:
    kernel = _kernel(x.shape[1], gain, x.dtype, x.device)
    return F.conv2d(x, kernel, padding=padding, groups=x.shape[1])


def _decimate(x: Tensor) -> Tensor:
    kernel = _kernel(x.shape[1], 1.0, x.dtype, x.device)
    return F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def _spread(x: Tensor) -> Tensor:
    kernel = _kernel(x.shape[1], 1.0, x.dtype, x.device)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class _Blur(torch.autograd.Function):
    """Depthwise [1, 3, 3, 1] filter with zeros around; its gradient is itself with the complementary padding.
    torch's own second derivative of depthwise convolutions loops over channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: int, gain: float) -> Tensor:
        ctx.padding, ctx.gain = padding, gain
        return _filter(x, padding, gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return blur(grads[0], 3 - ctx.padding, ctx.gain), None, None


class _Decimate(torch.autograd.Function):
    """Every second position of the depthwise [1, 3, 3, 1] filter; its gradient is `_Spread`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _decimate(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return spread(grads[0])


class _Spread(torch.autograd.Function):
    """The transpose of `_Decimate`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _spread(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return downsample(grads[0])


def blur(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """x [N, C, H, W] filtered by [1, 3, 3, 1] along both axes; each axis changes by 2 * padding - 3 pixels."""
    if not torch.is_grad_enabled():
        return _filter(x, padding, gain)
    blurred: Tensor = _Blur.apply(x, padding, gain)  # type: ignore[no-untyped-call]
    return blurred


def downsample(x: Tensor) -> Tensor:
    """x [N, C, 2H, 2H] -> [N, C, H, H]: the [1, 3, 3, 1] filter, computed only where it is kept."""
    if not torch.is_grad_enabled():
        return _decimate(x)
    halved: Tensor = _Decimate.apply(x)  # type: ignore[no-untyped-call]
    return halved


def spread(x: Tensor) -> Tensor:
    """x [N, C, H, H] -> [N, C, 2H, 2H]: the transpose of `downsample`."""
    if not torch.is_grad_enabled():
        return _spread(x)
    doubled: Tensor = _Spread.apply(x)  # type: ignore[no-untyped-call]
    return doubled


def upsample(x: Tensor) -> Tensor:
    """x float32 [N, C, H, H] -> [N, C, 2H, 2H]: zeros between the pixels, then the [1, 3, 3, 1] filter.

    As two products with a banded matrix: for the few channels of an image depthwise convolutions are slower.
    """
    matrix = _doubling(x.shape[-1], x.device).to(x.dtype)
    return F.linear(F.linear(x, matrix).mT.contiguous(), matrix).mT
