"""Resampling of images [N, C, H, W]: box and nearest neighbour, the filters [1, 2, 1] and [1, 3, 3, 1], and a Gaussian.

The filters of activations are linear, and the gradient of each is another one of this file: so they are exact to any
order of derivatives, and fast (torch's own second derivative of depthwise convolutions loops over the channels).
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def shrink(images: Tensor, factor: int) -> Tensor:
    """[N, C, H, W] -> [N, C, H / factor, W / factor], box filter."""
    return F.avg_pool2d(images, factor) if factor > 1 else images


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Nearest neighbour: [N, C, H, W] -> [N, C, H * factor, W * factor]."""
    return F.interpolate(images, scale_factor=factor) if factor > 1 else images


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Map, transpose: Map) -> Tensor:
        ctx.maps = forward, transpose
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        forward, transpose = ctx.maps
        return _linear(grads[0], transpose, forward), None, None


def _linear(x: Tensor, forward: Map, transpose: Map) -> Tensor:
    """forward(x), a linear map whose gradient is its transpose."""
    if not torch.is_grad_enabled():
        return forward(x)
    y: Tensor = _Linear.apply(x, forward, transpose)  # type: ignore[no-untyped-call]
    return y


@cache
def _kernel(taps: tuple[int, ...], channels: int, gain: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The filter along both axes, which sums to `gain`, [channels, 1, K, K]: an expanded one is copied each time."""
    line = torch.tensor(taps, dtype=torch.float32, device=device) / sum(taps)  # [K]
    return (torch.outer(line, line) * gain).to(dtype).repeat(channels, 1, 1, 1)


def _depthwise(x: Tensor, taps: tuple[int, ...], padding: int, gain: float = 1.0, stride: int = 1) -> Tensor:
    kernel = _kernel(taps, x.shape[1], gain, x.dtype, x.device)
    return F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


def _spread(x: Tensor) -> Tensor:
    kernel = _kernel((1, 3, 3, 1), x.shape[1], 1.0, x.dtype, x.device)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


_decimate = partial(_depthwise, taps=(1, 3, 3, 1), padding=1, stride=2)
_smooth = partial(_depthwise, taps=(1, 2, 1), padding=1)


def smooth(x: Tensor) -> Tensor:
    """Filter [1, 2, 1] / 4 along both axes, zeros outside (Karras et al. 2019, app. C); its own transpose."""
    return _linear(x, _smooth, _smooth)


def blur(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Filter [1, 3, 3, 1] / 8 along both axes, zeros outside; each axis changes by 2 * padding - 3 pixels."""
    forward = partial(_depthwise, taps=(1, 3, 3, 1), padding=padding, gain=gain)
    return _linear(x, forward, partial(_depthwise, taps=(1, 3, 3, 1), padding=3 - padding, gain=gain))


def downsample(x: Tensor) -> Tensor:
    """[N, C, 2H, 2H] -> [N, C, H, H]: the [1, 3, 3, 1] filter, computed only where it is kept."""
    return _linear(x, _decimate, _spread)


def spread(x: Tensor) -> Tensor:
    """[N, C, H, H] -> [N, C, 2H, 2H]: the transpose of `downsample`."""
    return _linear(x, _spread, _decimate)


@cache
def _doubling(size: int, device: torch.device) -> Tensor:
    """Matrix [2 size, size] that doubles a line: 1/4 and 3/4 of the two nearest pixels, zeros outside."""
    matrix = torch.zeros(2 * size, size + 2)
    for i in range(size + 1):  # between the pixels i - 1 and i of the line, which start at column 1
        for row, near in ((2 * i - 1, 0.75), (2 * i, 0.25)):
            if 0 <= row < 2 * size:
                matrix[row, i], matrix[row, i + 1] = near, 1 - near
    return matrix[:, 1:-1].contiguous().to(device)


def upsample(x: Tensor) -> Tensor:
    """[N, C, H, H] -> [N, C, 2H, 2H]: zeros between the pixels, then the [1, 3, 3, 1] filter.

    As two products with a banded matrix: for the few channels of an image depthwise convolutions are slower.
    """
    matrix = _doubling(x.shape[-1], x.device).to(x.dtype)
    return F.linear(F.linear(x, matrix).mT.contiguous(), matrix).mT  # columns, then rows


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Filter 2^-(d / sigma)^2, d in pixels up to 3 sigma, zeros outside (Karras et al. 2021, app. F.1).

    `sigma` is where the kernel has fallen to a half, as in the paper's code. Below a third of a pixel nothing happens.
    """
    reach = math.floor(sigma * 3)
    if reach == 0:
        return images
    total = np.exp2(-np.square(np.arange(-reach, reach + 1) / sigma)).sum()
    for axis in (-1, -2):
        offset = np.subtract.outer(*[np.arange(images.shape[axis])] * 2)  # [size, size], pixels
        matrix = np.where(np.abs(offset) <= reach, np.exp2(-np.square(offset / sigma)), 0) / total
        images = F.linear(images.transpose(axis, -1), torch.from_numpy(matrix).to(images)).transpose(axis, -1)
    return images
