"""Signals of limited bandwidth in StyleGAN 3 (Karras et al. 2021, sec. 3 and appendix C): the input, the low-pass
filters, and the nonlinearity between two filters.

A leaky ReLU creates frequencies above the sampling rate. It is therefore applied to a signal of a higher rate, and
what it created is removed by the filter that leads back. The high-rate signal is never assembled here: it is made as
`down` x `down` interleaved planes. Where `up` equals `down` each plane is one small convolution of the low-rate
signal, and a second small convolution leads from the plane to the output, so nothing is multiplied by an inserted
zero, nothing is computed that decimation drops, and separable and radial filters cost the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from understudy.generators.networks.layers import SLOPE, Dense, pointwise

Taps = NDArray[np.float64]
_Pair = tuple[int, int]  # along the rows and the columns


class Band(NamedTuple):
    """Place of a layer's output in the schedule (Karras et al. 2021, appendix C.1); rates in samples per image."""

    cutoff: float
    half_width: float  # of the transition band
    rate: int
    size: int  # edge in samples, with the margin
    channels: int


def lowpass(taps: int, cutoff: float, half_width: float, rate: float, radial: bool = False) -> Taps:
    """Windowed ideal low-pass filter with a sum of 1, symmetric.

    Args:
        taps: length, samples. cutoff: where it passes half, cycles per image.
        half_width: of the transition band, cycles per image; sets the Kaiser window.
        rate: sampling rate, samples per image.
        radial: the same in every direction (ideal filter: a jinc) instead of along the two axes (sinc).

    Returns:
        [taps] to be applied along both axes, or [taps, taps] if radial.
    """
    from scipy import signal, special  # half a second, which only a network that is built is worth

    if not radial:
        separable: Taps = signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
        return separable
    position = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot.outer(position, position)
    # Transform of a disc: cutoff * J1(2 pi cutoff r) / r, whose limit at r = 0 (odd lengths) is pi cutoff^2.
    safe = np.where(radius == 0, 1.0, radius)
    jinc = np.where(radius == 0, np.pi * cutoff**2, cutoff * special.j1(2 * np.pi * cutoff * radius) / safe)
    attenuation = signal.kaiser_atten(taps, 2 * half_width / (rate / 2))
    window = np.kaiser(taps, signal.kaiser_beta(attenuation))
    filtered: Taps = jinc * np.outer(window, window)
    return filtered / filtered.sum()


def _along_both(filter_: Taps) -> Taps:
    return np.outer(filter_, filter_) if filter_.ndim == 1 else filter_


def _correlate(x: Tensor, kernel: Tensor, before: _Pair, shape: _Pair, stride: int = 1) -> Tensor:
    """Every channel of x [N, C, H, W] correlated with kernel [C, 1, K, K]: [N, C, *shape], every `stride`-th position
    from `before` zeros before the first row and column on."""
    padding, surplus = [], []
    for lead, count, size in zip(before, shape, x.shape[2:], strict=True):
        last = (count - 1) * stride + kernel.shape[-1] - lead - size  # zeros behind the last row
        # Convolutions pad both sides alike, so outputs are added in front until there is enough behind.
        surplus.append(max(0, math.ceil(-lead / stride), math.ceil((last - lead) / stride)))
        padding.append(lead + surplus[-1] * stride)
    y = F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])
    top, left = surplus
    return y[:, :, top : top + shape[0], left : left + shape[1]]


class Resampling:
    """The linear parts around a nonlinearity, [N, C, size_in, size_in] -> planes -> [N, C, size_out, size_out].

    Plane (a, b) holds the samples (down * m + a, down * n + b) of the high-rate signal. The low-rate signal counts as
    zero outside its edge. The output is centred on the input; what is left over on either side is cropped.

    Args:
        up_filter: [taps] at the high rate, symmetric, for both axes. down_filter: [taps] or [taps, taps], likewise.
        up, down: rate of the high-rate signal over that of the input, of the output; up is a multiple of down.
        size_in, size_out: edges in pixels.
        gain: of the way up, beyond the up^2 that makes good for the inserted zeros.
    """

    def __init__(
        self, up_filter: Taps, down_filter: Taps, up: int, down: int, size_in: int, size_out: int, gain: float = 1.0
    ) -> None:  # fmt: skip
        if up % down or len(down_filter) % down or len(up_filter) % up:
            raise ValueError(
                f"up {up} must be a multiple of down {down}, and the filters of {len(up_filter)} and"
                f" {len(down_filter)} taps multiples of these"
            )
        self.up, self.down, self.size_out = up, down, size_out
        self.edge = size_out - 1 + len(down_filter) // down  # of a plane
        length = down * self.edge  # of the high-rate signal that the output sees
        lead = (length - size_in * up + len(up_filter) - 1 + up) // 2  # zeros before it
        last = (length + len(up_filter) - 2 - lead) // up  # row of the input that it sees last
        self.crop = (max(0, -(lead // up)), max(0, size_in - 1 - last))
        self.lead, self.size_in = lead + up * self.crop[0], size_in - sum(self.crop)
        self._filters = {"rise": _along_both(up_filter) * (up**2 * gain), "fall": _along_both(down_filter)}
        phases = [self._filters["rise"][a::up, b::up] for a in range(up) for b in range(up)]
        self.gain = max(float(np.abs(phase).sum()) for phase in phases)
        self._kernels: dict[Any, Tensor] = {}

    def planes(self) -> list[tuple[int, int]]:
        """Names (a, b) of the planes."""
        return [(a, b) for a in range(self.down) for b in range(self.down)]

    def _kernel(self, name: str, rows: int, columns: int, step: int, like: Tensor, turned: bool = False) -> Tensor:
        """[C, 1, K, K]: every `step`-th tap of a filter from (rows, columns) on, for every channel of `like`."""
        key = (name, rows, columns, step, turned, like.shape[1], like.dtype, like.device)
        if key not in self._kernels:
            taps = self._filters[name][rows::step, columns::step]
            taps = np.ascontiguousarray(taps[::-1, ::-1] if turned else taps)
            kernel = torch.from_numpy(taps).to(like.device, like.dtype)
            self._kernels[key] = kernel.expand(like.shape[1], 1, *taps.shape).contiguous()
        return self._kernels[key]

    def _phase(self, position: int, step: int) -> tuple[int, int]:
        """Sample step * m + position is the sum of filter[first + step * s] * signal[m + s - before], signal being
        the input with step / up - 1 zeros after each sample: (first, before)."""
        first = (self.lead - position) % step
        return first, (self.lead - position - first) // step

    def rise(self, x: Tensor, a: int, b: int) -> Tensor:
        """[N, C, size_in, size_in] -> plane (a, b), [N, C, edge, edge]."""
        ratio = self.up // self.down
        if ratio == 1:
            return self._samples(x, (a, b), (self.edge, self.edge))
        shape = (*x.shape[:2], self.edge, self.edge)
        plane = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for r in range(ratio):
            for s in range(ratio):
                part = plane[:, :, r::ratio, s::ratio]
                first = (self.down * r + a, self.down * s + b)
                part.copy_(self._samples(x, first, (part.shape[2], part.shape[3])))
        return plane

    def _samples(self, x: Tensor, first: _Pair, shape: _Pair) -> Tensor:
        """Every `up`-th sample of the high-rate signal in both directions from `first` on, [N, C, *shape]."""
        (i, top), (j, left) = (self._phase(position, self.up) for position in first)
        return _correlate(x, self._kernel("rise", i, j, self.up, x), (top, left), shape)

    def rise_transposed(self, plane: Tensor, a: int, b: int) -> Tensor:
        """The transpose of `rise`."""
        (i, top), (j, left) = (self._phase(position, self.down) for position in (a, b))
        kernel = self._kernel("rise", i, j, self.down, plane, turned=True)
        reach, shape = kernel.shape[-1] - 1, (self.size_in, self.size_in)
        return _correlate(plane, kernel, (reach - top, reach - left), shape, self.up // self.down)

    def fall(self, plane: Tensor, a: int, b: int) -> Tensor:
        """What plane (a, b) contributes to the output [N, C, size_out, size_out]."""
        shape = (self.size_out, self.size_out)
        return _correlate(plane, self._kernel("fall", a, b, self.down, plane), (0, 0), shape)

    def fall_transposed(self, x: Tensor, a: int, b: int) -> Tensor:
        """The transpose of `fall`."""
        kernel = self._kernel("fall", a, b, self.down, x, turned=True)
        reach = kernel.shape[-1] - 1
        return _correlate(x, kernel, (reach, reach), (self.edge, self.edge))


def _mask(x: Tensor, plane: Tensor, clamp: float | None) -> Tensor:
    """x times the slope of the nonlinearity whose result is `plane`; overwrites x."""
    torch.ops.aten.leaky_relu_backward.grad_input(x, plane, SLOPE, True, grad_input=x)
    if clamp is not None:
        torch.ops.aten.hardtanh_backward.grad_input(x, plane, -clamp, clamp, grad_input=x)
    return x


def _sum(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total += part
    return total


class _Filtered(torch.autograd.Function):
    """x -> output. With `planes`, the results of an earlier call, its derivative in the direction x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, way: Resampling, clamp: float | None, *planes: Tensor) -> Tensor:
        ctx.way, ctx.clamp, kept = way, clamp, list(planes)

        def contributions() -> Iterator[Tensor]:
            for index, (a, b) in enumerate(way.planes()):
                plane = way.rise(x, a, b)
                if planes:
                    plane = _mask(plane, planes[index], clamp)
                else:
                    plane = F.leaky_relu(plane, SLOPE, inplace=True)
                    plane = plane if clamp is None else F.hardtanh(plane, -clamp, clamp, inplace=True)
                    if ctx.needs_input_grad[0]:
                        kept.append(plane)
                yield way.fall(plane, a, b)

        total = _sum(contributions())
        ctx.save_for_backward(*kept)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        planes = ctx.saved_tensors
        x: Tensor = _Transposed.apply(grads[0], ctx.way, ctx.clamp, *planes)  # type: ignore[no-untyped-call]
        return (x, *[None] * (len(ctx.needs_input_grad) - 1))


class _Transposed(torch.autograd.Function):
    """Gradient of the output -> gradient of x: the transpose of `_Filtered` with `planes`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, way: Resampling, clamp: float | None, *planes: Tensor) -> Tensor:
        ctx.way, ctx.clamp = way, clamp
        ctx.save_for_backward(*planes)
        # The gradient of an expanded sum has no memory format of its own.
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return _sum(
            way.rise_transposed(_mask(way.fall_transposed(gradient, a, b), plane, clamp), a, b)
            for (a, b), plane in zip(way.planes(), planes, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        planes = ctx.saved_tensors
        x: Tensor = _Filtered.apply(grads[0], ctx.way, ctx.clamp, *planes)  # type: ignore[no-untyped-call]
        return (x, *[None] * (2 + len(planes)))


def filtered_lrelu(x: Tensor, way: Resampling, clamp: float | None = None) -> Tensor:
    """Up, leaky ReLU, clamp, down: [N, C, size_in, size_in] -> [N, C, size_out, size_out].

    The leaky ReLU's gain sqrt(2) belongs into `way`. Twice differentiable at about the cost of a forward pass each.

    Args:
        clamp: largest absolute value between the filters, None for no limit.
    """
    if any(way.crop):
        before, after = way.crop
        x = x[:, :, before : x.shape[2] - after, before : x.shape[3] - after]
    x = x.contiguous(memory_format=torch.channels_last)
    # A limit that nothing can reach costs two passes over the planes; asking a GPU would cost more.
    if clamp is not None and x.device.type == "cpu" and _largest(x) * way.gain < clamp:
        clamp = None
    filtered: Tensor = _Filtered.apply(x, way, clamp)  # type: ignore[no-untyped-call]
    return filtered


@torch.no_grad()
def _largest(x: Tensor) -> float:
    low, high = torch.aminmax(x)
    return max(-float(low), float(high))


class FourierInput(nn.Module):
    """w [N, w_dim] -> mixed plane waves, float32 [N, C, size, size], turned and shifted by w (appendix C.1, F.5).

    Attributes:
        transform: [3, 3], position in the image -> position in the pattern, homogeneous, in units of the image's
            edge: change its first two rows to move what the network draws.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor
    position: Tensor

    def __init__(self, band: Band, w_dim: int) -> None:
        super().__init__()
        self.band = band
        channels = band.channels
        direction = torch.randn(channels, 2)
        square = direction.square().sum(dim=1, keepdim=True)
        # Uniform in the disc: exp(-|d|^2 / 2) of a normal pair d is uniform in [0, 1], and so is the squared radius.
        freqs = direction / (square.sqrt() * (square / 4).exp()) * band.cutoff
        self.register_buffer("freqs", freqs)  # cycles per image, (x, y)
        self.register_buffer("phases", torch.rand(channels) - 0.5)  # cycles
        self.register_buffer("transform", torch.eye(3))
        position = (torch.arange(band.size) + 0.5 - band.size / 2) / band.rate
        self.register_buffer("position", position, persistent=False)
        self.affine = Dense(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.weight = nn.Parameter(torch.randn(channels, channels))

    def forward(self, w: Tensor) -> Tensor:
        cos, sin, x, y = self.affine(w).unbind(1)
        norm = (cos.square() + sin.square()).rsqrt()
        # [N, 2, 2] and [N, 2, 1]; the shift is in units of the turned pattern, before it is turned.
        rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2) * norm[:, None, None]
        shift = torch.stack([x, y], dim=1) * norm[:, None]
        shift = rotation @ (self.transform[:2, 2] - shift)[:, :, None]
        freqs = self.freqs @ (rotation @ self.transform[:2, :2])  # [N, C, 2]
        phases = self.phases + (self.freqs @ shift)[:, :, 0]  # [N, C]
        # Waves that the rate cannot carry fade out.
        room = self.band.rate / 2 - self.band.cutoff
        amplitude = (1 - (freqs.norm(dim=2) - self.band.cutoff) / room).clamp(0, 1)  # [N, C]
        columns = self.position[:, None] * freqs[:, None, :, 0]  # [N, W, C]
        rows = self.position[:, None] * freqs[:, None, :, 1] + phases[:, None]  # [N, H, C]
        waves = ((columns[:, None] + rows[:, :, None]) * (2 * math.pi)).sin()  # [N, H, W, C]
        waves = (waves * amplitude[:, None, None]).permute(0, 3, 1, 2)
        return pointwise(waves, self.weight * (1 / math.sqrt(len(self.weight))))


def blur_images(images: Tensor, sigma: float) -> Tensor:
    """Images [N, C, H, W] filtered by 2^-(d / sigma)^2, d in pixels up to 3 sigma, zeros outside (appendix F.1).

    `sigma` is where the kernel has fallen to a half, as in the paper's code. Below a third of a pixel nothing happens.
    """
    reach = math.floor(sigma * 3)
    if reach == 0:
        return images
    for axis in (-1, -2):
        matrix = _toeplitz(images.shape[axis], sigma, reach).to(images)
        images = F.linear(images.transpose(axis, -1), matrix).transpose(axis, -1)
    return images


def _toeplitz(edge: int, sigma: float, reach: int) -> Tensor:
    """Matrix [edge, edge] of the kernel of `blur_images` along a line."""
    weight = np.exp2(-np.square(np.arange(-reach, reach + 1) / sigma))
    offset = np.subtract.outer(np.arange(edge), np.arange(edge))
    matrix = np.where(np.abs(offset) <= reach, np.exp2(-np.square(offset / sigma)), 0) / weight.sum()
    return torch.from_numpy(matrix)
