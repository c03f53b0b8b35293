"""The filtered leaky ReLU of StyleGAN 3 (Karras et al. 2021, sec. 3 and app. C), and its low-pass filters.

A leaky ReLU creates frequencies above the sampling rate. It is therefore applied to a signal of a higher rate, and
what it created is removed by the filter that leads back. The high-rate signal is made as `down` x `down` interleaved
planes. Where `up` equals `down` each plane is one small convolution of the low-rate signal, and a second one leads from
the plane to the output: no product by an inserted zero, nothing computed that decimation drops.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from understudy.generators.ops.fused import SLOPE, fused_on

Taps = NDArray[np.float64]
_Pair = tuple[int, int]  # along the rows and the columns


def lowpass(taps: int, cutoff: float, half_width: float, rate: float, radial: bool = False) -> Taps:
    """Windowed ideal low-pass filter with a sum of 1: [taps] for both axes, or [taps, taps] if radial.

    Args:
        cutoff: where it passes half, cycles per image.
        half_width: of the transition band, cycles per image; sets the Kaiser window.
        rate: sampling rate, samples per image.
        radial: the same in every direction (ideal filter: a jinc) instead of along the two axes (sinc).
    """
    from scipy import signal, special  # half a second, which only a network that is built is worth

    if not radial:
        separable: Taps = signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
        return separable
    position = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot.outer(position, position)
    # transform of a disc: cutoff * J1(2 pi cutoff r) / r, whose limit at r = 0 (odd lengths) is pi cutoff^2
    safe = np.where(radius == 0, 1.0, radius)
    jinc = np.where(radius == 0, np.pi * cutoff**2, cutoff * special.j1(2 * np.pi * cutoff * radius) / safe)
    window = np.kaiser(taps, signal.kaiser_beta(signal.kaiser_atten(taps, 2 * half_width / (rate / 2))))
    filtered: Taps = jinc * np.outer(window, window)
    return filtered / filtered.sum()


def filtered_lrelu(x: Tensor, resampling: Resampling, clamp: float | None = None) -> Tensor:
    """Up, leaky ReLU, clamp (between the filters), down: [N, C, size_in, size_in] -> [N, C, size_out, size_out].

    The leaky ReLU's gain sqrt(2) belongs into `resampling`. Twice differentiable at about a forward pass each.
    """
    if not fused_on(x):
        return plain_filtered_lrelu(x, resampling, clamp)
    if any(resampling.crop):
        before, after = resampling.crop
        x = x[:, :, before : x.shape[2] - after, before : x.shape[3] - after]
    x = x.contiguous(memory_format=torch.channels_last)
    # A limit that nothing can reach costs two passes over the planes; asking a GPU would cost more.
    if clamp is not None and x.device.type == "cpu":
        low, high = torch.aminmax(x.detach())
        if max(-float(low), float(high)) * resampling.gain < clamp:
            clamp = None
    filtered: Tensor = _Filtered.apply(x, resampling, clamp)  # type: ignore[no-untyped-call]
    return filtered


def plain_filtered_lrelu(x: Tensor, resampling: Resampling, clamp: float | None = None) -> Tensor:
    """The reference of `filtered_lrelu`: zeros inserted, filtered, leaky ReLU, clamped, filtered, decimated."""
    n, c, h, w = x.shape
    up, down = resampling.up, resampling.down
    rise, fall = (torch.from_numpy(taps).to(x).flip(0, 1) for taps in (resampling.rise_taps, resampling.fall_taps))
    wide = x.new_zeros(n, c, h, up, w, up)
    wide[:, :, :, 0, :, 0] = x
    total = (resampling.size_out - 1) * down + 1 - h * up + len(rise) + len(fall) - 2
    before = (total + up) // 2
    y = F.pad(wide.reshape(n, c, h * up, w * up), [before, total - before] * 2)
    y = F.leaky_relu(F.conv2d(y, rise.expand(c, 1, *rise.shape), groups=c), SLOPE)
    y = y if clamp is None else y.clamp(-clamp, clamp)
    return F.conv2d(y, fall.expand(c, 1, *fall.shape), groups=c)[:, :, ::down, ::down]


class Resampling:
    """The linear parts around a nonlinearity, [N, C, size_in, size_in] -> planes -> [N, C, size_out, size_out].

    Plane (a, b) holds the samples (down * m + a, down * n + b) of the high-rate signal. The low-rate signal counts as
    zero outside its edges. The output is centred on the input; what is left over on either side is cropped.

    Args:
        up_filter: [taps] at the high rate, symmetric, for both axes. down_filter: [taps] or [taps, taps], likewise.
        up, down: rate of the high-rate signal over that of the input, of the output; up is a multiple of down.
        size_in, size_out: width and height in pixels.
        gain: of the way up, beyond the up^2 that makes good for the inserted zeros.
    """

    def __init__(
        self, up_filter: Taps, down_filter: Taps, up: int, down: int, size_in: int, size_out: int, gain: float = 1.0
    ) -> None:
        if up % down or len(down_filter) % down or len(up_filter) % up:
            raise ValueError(f"up {up} must be a multiple of down {down}, and the lengths of the filters of these")
        self.up, self.down, self.size_out = up, down, size_out
        self.plane_size = size_out - 1 + len(down_filter) // down
        length = down * self.plane_size  # of the high-rate signal that the output depends on
        lead = (length - size_in * up + len(up_filter) - 1 + up) // 2  # zeros before it
        last = (length + len(up_filter) - 2 - lead) // up  # last row of the input that it depends on
        self.crop = (max(0, -(lead // up)), max(0, size_in - 1 - last))
        self.lead, self.size_in = lead + up * self.crop[0], size_in - sum(self.crop)
        self.rise_taps = np.outer(up_filter, up_filter) * (up**2 * gain)
        self.fall_taps = np.outer(down_filter, down_filter) if down_filter.ndim == 1 else down_filter
        phases = [self.rise_taps[a::up, b::up] for a in range(up) for b in range(up)]
        self.gain = max(float(np.abs(phase).sum()) for phase in phases)
        self.planes: list[_Pair] = [(a, b) for a in range(down) for b in range(down)]
        self._kernels: dict[Any, Tensor] = {}

    def _kernel(self, rise: bool, first: _Pair, step: int, like: Tensor, turned: bool = False) -> Tensor:
        """[C, 1, K, K]: every `step`-th tap of a filter from `first` on, for every channel of `like`."""
        key = (rise, first, step, turned, like.shape[1], like.dtype, like.device)
        if key not in self._kernels:
            taps = (self.rise_taps if rise else self.fall_taps)[first[0] :: step, first[1] :: step]
            taps = np.ascontiguousarray(taps[::-1, ::-1] if turned else taps)
            kernel = torch.from_numpy(taps).to(like.device, like.dtype)
            self._kernels[key] = kernel.expand(like.shape[1], 1, *taps.shape).contiguous()
        return self._kernels[key]

    def _phase(self, position: int, step: int) -> _Pair:
        """Sample step * m + position is the sum of filter[first + step * s] * signal[m + s - before], signal being
        the input with step / up - 1 zeros after each sample: (first, before)."""
        first = (self.lead - position) % step
        return first, (self.lead - position - first) // step

    def rise(self, x: Tensor, a: int, b: int) -> Tensor:
        """[N, C, size_in, size_in] -> plane (a, b), [N, C, plane_size, plane_size]."""
        ratio = self.up // self.down
        size = (self.plane_size, self.plane_size)
        if ratio == 1:
            return self._samples(x, (a, b), size)
        plane = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for r in range(ratio):
            for s in range(ratio):
                part = plane[:, :, r::ratio, s::ratio]
                first = (self.down * r + a, self.down * s + b)
                part.copy_(self._samples(x, first, (part.shape[2], part.shape[3])))
        return plane

    def _samples(self, x: Tensor, position: _Pair, shape: _Pair) -> Tensor:
        """Every `up`-th sample of the high-rate signal in both directions from `position` on, [N, C, *shape]."""
        (i, top), (j, left) = (self._phase(p, self.up) for p in position)
        return _correlate(x, self._kernel(True, (i, j), self.up, x), (top, left), shape)

    def rise_transposed(self, plane: Tensor, a: int, b: int) -> Tensor:
        """The transpose of `rise`."""
        (i, top), (j, left) = (self._phase(p, self.down) for p in (a, b))
        kernel = self._kernel(True, (i, j), self.down, plane, turned=True)
        reach, shape = kernel.shape[-1] - 1, (self.size_in, self.size_in)
        return _correlate(plane, kernel, (reach - top, reach - left), shape, self.up // self.down)

    def fall(self, plane: Tensor, a: int, b: int) -> Tensor:
        """What plane (a, b) contributes to the output [N, C, size_out, size_out]."""
        return _correlate(plane, self._kernel(False, (a, b), self.down, plane), (0, 0), (self.size_out, self.size_out))

    def fall_transposed(self, x: Tensor, a: int, b: int) -> Tensor:
        """The transpose of `fall`."""
        kernel = self._kernel(False, (a, b), self.down, x, turned=True)
        reach = kernel.shape[-1] - 1
        return _correlate(x, kernel, (reach, reach), (self.plane_size, self.plane_size))


def _correlate(x: Tensor, kernel: Tensor, before: _Pair, shape: _Pair, stride: int = 1) -> Tensor:
    """Every channel of x [N, C, H, W] correlated with kernel [C, 1, K, K]: [N, C, *shape], every `stride`-th position
    from `before` zeros before the first row and column on."""
    padding, surplus = [], []
    for lead, count, size in zip(before, shape, x.shape[2:], strict=True):
        last = (count - 1) * stride + kernel.shape[-1] - lead - size  # zeros behind the last row
        # convolutions pad both sides alike, so outputs are added in front until there is enough behind
        surplus.append(max(0, math.ceil(-lead / stride), math.ceil((last - lead) / stride)))
        padding.append(lead + surplus[-1] * stride)
    y = F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])
    top, left = surplus
    return y[:, :, top : top + shape[0], left : left + shape[1]]


def _mask(x: Tensor, plane: Tensor, clamp: float | None) -> Tensor:
    """x times the slope of the nonlinearity whose result is `plane`; overwrites x."""
    torch.ops.aten.leaky_relu_backward.grad_input(x, plane, SLOPE, True, grad_input=x)
    if clamp is not None:
        torch.ops.aten.hardtanh_backward.grad_input(x, plane, -clamp, clamp, grad_input=x)
    return x


def _sum(parts: Iterator[Tensor]) -> Tensor:
    return functools.reduce(operator.iadd, parts)  # in place


class _Filtered(torch.autograd.Function):
    """x -> output. With `planes`, the results of an earlier call, its derivative in the direction x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, resampling: Resampling, clamp: float | None, *planes: Tensor) -> Tensor:
        ctx.resampling, ctx.clamp, kept = resampling, clamp, list(planes)

        def contributions() -> Iterator[Tensor]:
            for index, (a, b) in enumerate(resampling.planes):
                plane = resampling.rise(x, a, b)
                if planes:
                    plane = _mask(plane, planes[index], clamp)
                else:
                    plane = F.leaky_relu(plane, SLOPE, inplace=True)
                    plane = plane if clamp is None else F.hardtanh(plane, -clamp, clamp, inplace=True)
                    if ctx.needs_input_grad[0]:
                        kept.append(plane)
                yield resampling.fall(plane, a, b)

        total = _sum(contributions())
        ctx.save_for_backward(*kept)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        planes = ctx.saved_tensors
        x: Tensor = _Transposed.apply(grads[0], ctx.resampling, ctx.clamp, *planes)  # type: ignore[no-untyped-call]
        return (x, *[None] * (len(ctx.needs_input_grad) - 1))


class _Transposed(torch.autograd.Function):
    """Gradient of the output -> gradient of x: the transpose of `_Filtered` with `planes`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, resampling: Resampling, clamp: float | None, *planes: Tensor) -> Tensor:
        ctx.resampling, ctx.clamp = resampling, clamp
        ctx.save_for_backward(*planes)
        # the gradient of an expanded sum has no memory format of its own
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return _sum(
            resampling.rise_transposed(_mask(resampling.fall_transposed(gradient, a, b), plane, clamp), a, b)
            for (a, b), plane in zip(resampling.planes, planes, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        planes = ctx.saved_tensors
        x: Tensor = _Filtered.apply(grads[0], ctx.resampling, ctx.clamp, *planes)  # type: ignore[no-untyped-call]
        return (x, *[None] * (2 + len(planes)))
