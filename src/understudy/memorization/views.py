"""The views of an audit: what is compared between two slices. All from exact integer sums of their pixels.

To add a view, write one function and one line of `VIEWS`: a covariance made of `Terms`, or a change of the slices
before they are compared (say, a blur).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.errors import UnderstudyError

Pixels = NDArray[np.uint8]
AnyPixels = TypeVar("AnyPixels", Pixels, torch.Tensor)


@dataclass(frozen=True)
class Terms:
    """Sums over the pixels of slices x (queries) and y (training), as tensors or arrays that broadcast.

    They are integers of at most N^2 2^16, N = pixels of all channels: exact in float64 up to N = 2^18.5.
    """

    pixels: int  # of a channel
    dot: Sequence[Any]  # sum of x y of each channel; [m, n] for pairs, [n] for each slice with itself (its variance)
    x: Any  # sum of each channel, [C, m, 1]
    y: Any  # [C, n]
    x_mean: Any  # covariance with the mean training image, [m, 1]
    y_mean: Any  # [n]
    mean_mean: int  # variance of the mean training image

    @cached_property
    def whole(self) -> Any:
        """Covariance over the pixels of all channels: N sum(x y) - sum(x) sum(y)."""
        return sum(self.dot[1:], self.dot[0]) * (self.pixels * len(self.dot)) - self.x.sum(0) * self.y.sum(0)


def stacked(terms: Terms) -> Any:
    """All channels as one image, the paper's number."""
    return terms.whole


def centred(terms: Terms) -> Any:
    """Less the mean training image m: cov(x - m, y - m), so that the shape of the skull does not count."""
    return terms.whole - terms.x_mean - (terms.y_mean - terms.mean_mean)


def one_channel(terms: Terms, c: int) -> Any:
    return terms.dot[c] * terms.pixels - terms.x[c] * terms.y[c]


@dataclass(frozen=True)
class View:
    """How two slices are compared: by Pearson's correlation cov(x, y) / sqrt(cov(x, x) cov(y, y))."""

    title: str  # for pictures
    covariance: Callable[[Terms], Any] = stacked
    pixels: Callable[[Pixels], Pixels] | None = None  # what is compared in place of the slices, uint8 [n, C, H, W]
    decides: bool = False  # whether slices are flagged by it; the others are for information


VIEWS = {
    "stacked": View("all channels together", stacked, decides=True),
    "centred": View("mean training image removed", centred, decides=True),
}
CHANNELS, ANNOTATION = "channels", "annotation"  # every channel by itself; Dice of the annotations
TESTED = tuple(name for name, view in VIEWS.items() if view.decides)
SHOWN = (*(name for name, view in VIEWS.items() if not view.decides), CHANNELS, ANNOTATION)


def named_views(names: Sequence[str], channels: Sequence[str]) -> dict[str, View]:
    """The views by name; "channels" becomes "channel:<NAME>" of each channel."""
    each = {f"channel:{name}": View(name, partial(one_channel, c=c)) for c, name in enumerate(channels)}
    known = {**VIEWS, **each, ANNOTATION: View("annotation")}
    wanted = [name for view in names for name in (each if view == CHANNELS else [view])]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        what = f"unknown view {unknown[0]!r}" if unknown else "no view to compare"
        raise UnderstudyError(what, where="views", fix=f"use some of: {CHANNELS}, {', '.join(known)}")
    return {name: known[name] for name in wanted}


def transform(images: AnyPixels, k: int) -> AnyPixels:
    """Mirrors left and right if k >= 4, then turns counter-clockwise by k % 4 quarter turns (the last two axes).

    Example:
        >>> transform(np.array([[1, 2], [3, 4]], np.uint8), 4).tolist()
        [[2, 1], [4, 3]]
    """
    if isinstance(images, torch.Tensor):
        return torch.rot90(images.flip(-1) if k >= 4 else images, k % 4, (-2, -1))
    return np.rot90(np.flip(images, -1) if k >= 4 else images, k % 4, (-2, -1))


def inverse(k: int) -> int:
    """The transform that undoes `k`: the opposite turn; every mirrored one undoes itself."""
    return k if k >= 4 else -k % 4


TERMS = 1 << 16  # of an int32 product of int8: 2^16 x 2^14 = 2^30; 131,072 background pixels would overflow
FLOAT_TERMS = 1 << 10  # of a float32 product: 2^10 x 2^14 = 2^24, up to which float32 holds every integer


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
