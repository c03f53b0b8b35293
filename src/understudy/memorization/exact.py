"""Exact comparison of a tile of queries with a tile of training slices.

Products of int8 pixels are exact integers, and covariances are made of them: the best partner does not depend on tiles,
threads or machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.memorization.views import Pixels, Terms, View, inverse, transform

Ints = NDArray[np.int64]

TERMS = 1 << 16  # of an int32 product of int8: 2^16 x 2^14 = 2^30; 131,072 background pixels would overflow
FLOAT_TERMS = 1 << 10  # of a float32 product: 2^10 x 2^14 = 2^24, up to which float32 holds every integer
FLOAT_PIXELS = 370_727  # floor(2^18.5): covariances of at most n^2 2^16 <= 2^53 are computed in float64,
MAX_PIXELS = 11_863_283  # up to floor(2^23.5) in int64
CHUNK = 1 << 15  # pairs that a thread scores at a time: 256 KiB of float64, and torch opens no threads of its own


def signed(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels 0..255 as int8 -128..127 (one bit turned over)."""
    return (pixels ^ 128).view(torch.int8)


def product(a: torch.Tensor, b: torch.Tensor, exact_kernel: bool | None = None) -> torch.Tensor:
    """All dot products of int8 vectors [m, K] and [n, K], exactly: int32 [m, n], int64 for K above 65,536.

    By `torch._int_mm` if `exact_kernel`; None asks `kernel_is_exact`.
    """
    if exact_kernel is None:
        exact_kernel = kernel_is_exact(a.device)
    multiply = _integer_product if exact_kernel else _float_product
    if a.shape[1] <= TERMS:
        return multiply(a, b)
    total = torch.zeros((len(a), len(b)), dtype=torch.int64, device=a.device)
    for start in range(0, a.shape[1], TERMS):
        piece = slice(start, start + TERMS)
        total += multiply(a[:, piece].contiguous(), b[:, piece].contiguous())
    return total


def _integer_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    m, n = len(a), len(b)
    if a.device.type == "cpu" and a.shape[1] > 1:  # vectors of one pixel: torch 2.13 returns garbage
        return torch._int_mm(a, b.t())

    def padded(x: torch.Tensor, least: int) -> torch.Tensor:  # cuBLAS: sizes in multiples of 16, more than 16 rows
        rows, columns = (-(-size // 16) * 16 for size in (max(len(x), least), x.shape[1]))
        return torch.nn.functional.pad(x, (0, columns - x.shape[1], 0, rows - len(x))).contiguous()

    return torch._int_mm(padded(a, 32), padded(b, 16).t())[:m, :n]


def _float_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((len(a), len(b)), dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], FLOAT_TERMS):
        piece = slice(start, start + FLOAT_TERMS)
        total += (a[:, piece].float() @ b[:, piece].float().t()).to(torch.int32)
    return total


@lru_cache
def kernel_is_exact(device: torch.device) -> bool:
    """Whether `torch._int_mm` exists on the device and is right on the worst cases: all low, all high, mixed.

    A processor without VNNI may saturate its 16-bit intermediate sums.
    """
    generator = torch.Generator().manual_seed(0)
    for m, n, terms in ((1, 1, TERMS), (7, 8, 1), (33, 17, 1000), (64, 128, 4096)):
        noise = torch.randint(0, 2, (2, max(m, n), terms), generator=generator) * 255 - 128
        low, high = torch.full_like(noise[0], -128), torch.full_like(noise[0], 127)
        for a, b in ((noise[0], noise[1]), (noise[0], noise[0]), (low, low), (high, high), (high, low)):
            a, b = a[:m].to(torch.int8), b[:n].to(torch.int8)
            try:
                found = _integer_product(a.to(device), b.to(device)).cpu()
            except (RuntimeError, NotImplementedError, AttributeError):  # no such kernel in this build
                return False
            if not torch.equal(found.double(), a.double() @ b.double().t()):
                return False
    return True


class Best(NamedTuple):
    """The best partner of every query within a tile."""

    key: torch.Tensor  # cov / sd(y) or Dice; -inf without a partner
    value: torch.Tensor  # the exact covariance, or the number of agreeing pixels
    column: torch.Tensor  # in the tile

    @classmethod
    def of(cls, key: torch.Tensor, value: torch.Tensor) -> Best:
        """The largest key [m, n] of every row; the first column on ties, as `torch.max` documents."""
        largest, column = key.max(1)
        return cls(largest, value.gather(1, column[:, None])[:, 0].to(torch.int64), column)


class Side(NamedTuple):
    """Slices of one side of a tile."""

    pixels: torch.Tensor  # int8 [C, n, P]
    sums: torch.Tensor  # of each channel [C, n]
    with_mean: torch.Tensor  # covariance with the mean training image [n]
    variances: Ints  # of every view [V, n]
    scale: torch.Tensor  # 1 / standard deviation [V, n], 0 for constant ones


class Correlations:
    """Compares images in some views; `mean`: the mean training image, uint8 [C, H, W]."""

    def __init__(self, views: Sequence[View], mean: Pixels, device: torch.device) -> None:
        self.covariances, self.device = [view.covariance for view in views], device
        self.mean = signed(torch.from_numpy(mean)).to(device)
        self.channels, self.pixels = len(mean), mean[0].size
        wide = self.mean.long()
        self.mean_mean = wide.numel() * int((wide * wide).sum()) - int(wide.sum()) ** 2

    def side(self, pixels: torch.Tensor, k: int) -> Side:
        """Slices int8 [C, n, P] with all that covariances are made of, beside the mean image of the inverse of `k`."""
        mean = transform(self.mean, inverse(k)).flatten(1).contiguous()

        def dots(other: torch.Tensor) -> torch.Tensor:  # of each channel with an image [C, P]
            return torch.stack([product(c, o[None])[:, 0].long() for c, o in zip(pixels, other, strict=True)])

        sums, squares = dots(torch.ones_like(mean)), [_squares(channel) for channel in pixels]
        with_mean = dots(mean).sum(0) * (self.channels * self.pixels) - sums.sum(0) * mean.long().sum()
        terms = Terms(self.pixels, squares, sums, sums, with_mean, with_mean, self.mean_mean)
        found = [covariance(terms) for covariance in self.covariances]
        variances = torch.stack(found) if found else sums[:0]
        scale = torch.where(variances > 0, 1 / variances.clamp(min=1).double().sqrt(), 0.0)
        dtype = torch.float64 if self.channels * self.pixels <= FLOAT_PIXELS else torch.int64
        return Side(pixels, sums.to(dtype), with_mean.to(dtype), variances.cpu().numpy(), scale)

    def best(self, x: Side, y: Side, barred: torch.Tensor | None) -> list[Best]:
        """The best of y for every one of x, in each view; `barred` bool [m, n] must not be matched."""
        dots = [product(a, b) for a, b in zip(x.pixels, y.pixels, strict=True)]  # of each channel, [m, n]
        m, n = dots[0].shape
        step = max(1, CHUNK // n)

        def score(start: int) -> list[Best]:
            rows = slice(start, start + step)
            part = [dot[rows].to(x.sums.dtype) for dot in dots]
            sums, with_mean = x.sums[:, rows, None], x.with_mean[rows, None]
            terms = Terms(self.pixels, part, sums, y.sums[:, None], with_mean, y.with_mean, self.mean_mean)
            found = []
            for covariance, scale in zip(self.covariances, y.scale, strict=True):
                value = covariance(terms)
                key = value * scale
                key[:, scale == 0] = -torch.inf  # constant training slices
                if barred is not None:
                    key.masked_fill_(barred[rows], -torch.inf)
                found.append(Best.of(key, value))
            return found

        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        with ThreadPoolExecutor(threads) as pool:
            pieces = list(pool.map(score, range(0, m, step)))
        return [Best(*(torch.cat(field) for field in zip(*piece, strict=True))) for piece in zip(*pieces, strict=True)]


def _squares(pixels: torch.Tensor) -> torch.Tensor:
    if pixels.device.type != "cpu":
        return pixels.int().square().sum(1)
    values = pixels.numpy()  # 14 times as fast as torch on a CPU
    return torch.from_numpy(np.einsum("np,np->n", values, values, dtype=np.int64))


class Annotations:
    """The annotated ones among queries with labels uint8 [n, P], for their Dice with training slices."""

    def __init__(self, labels: torch.Tensor, classes: int) -> None:
        members = (labels != 0).any(1).nonzero()[:, 0]
        kept = labels[members]
        self.members: Ints = members.cpu().numpy()
        self.area = (kept != 0).sum(1).double()
        self.layers = []  # class, the pixels where it occurs, int8 [m, those pixels]
        for k in range(1, classes + 1):
            mask = kept == k
            columns = mask.any(0).nonzero()[:, 0]
            if len(columns):
                self.layers.append((k, columns, mask[:, columns].to(torch.int8)))

    def best(self, labels: torch.Tensor, barred: torch.Tensor | None) -> Best:
        """The best Dice of every member with labels uint8 [n, P]: 2 sum_k |x = k and y = k| / (|x| + |y|)."""
        agreeing = torch.zeros((len(self.members), len(labels)), dtype=torch.int64, device=labels.device)
        for k, columns, layer in self.layers:
            agreeing += product(layer, (labels[:, columns] == k).to(torch.int8))
        area = (labels != 0).sum(1).double()
        key = 2 * agreeing / (self.area[:, None] + area)
        key[:, area == 0] = -torch.inf  # empty ones never match
        if barred is not None:
            key.masked_fill_(barred[self.members], -torch.inf)
        return Best.of(key, agreeing)
