"""The views of an audit that compare slices in place, pixel by pixel. All from exact integer sums of their pixels.

To add a view, write one function and one line of `VIEWS`: a covariance made of `Terms`, or a change of the slices
before they are compared (say, a blur).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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
    decides: bool = False  # whether slices are flagged by it too; else it is for information


VIEWS = {"stacked": View("all channels together", stacked), "centred": View("mean training image removed", centred)}
CHANNELS, ANNOTATION = "channels", "annotation"  # every channel by itself; Dice of the annotations
COPY_VIEW = "copy"  # what decides: any kind of copy, see `copies.py`
IN_PLACE = "stacked"  # by which dimmed copies and near-duplicates are told
TESTED = (COPY_VIEW, *(name for name, view in VIEWS.items() if view.decides))
SHOWN = (*(name for name in VIEWS if name not in TESTED), CHANNELS, ANNOTATION)
TITLES = {COPY_VIEW: "any kind of copy"} | {name: view.title for name, view in VIEWS.items()}


def named_views(names: Sequence[str], channels: Sequence[str]) -> dict[str, View]:
    """The views by name; "channels" becomes "channel:<NAME>" of each channel."""
    each = {f"channel:{name}": View(name, partial(one_channel, c=c)) for c, name in enumerate(channels)}
    known = {**VIEWS, **each, ANNOTATION: View("annotation")}
    wanted = [name for view in names for name in (each if view == CHANNELS else [view])]
    if unknown := [name for name in wanted if name not in known]:
        fix = f"use some of: {CHANNELS}, {', '.join(known)}"
        raise UnderstudyError(f"unknown view {unknown[0]!r}", where="views", fix=fix)
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
