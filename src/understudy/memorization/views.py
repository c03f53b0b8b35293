"""What is compared: the views of a slice, and their scores from exact integer products.

With n pixels, S the sums of int8 pixels (see `products`) and m the mean training image (rounded to 8 bits, so that all
of this stays in integers):

    cov(x, y)       = n Sxy - Sx Sy                                    at most n^2 2^14 in size, as each term
    cov(x-m, y-m)   = cov(x, y) - cov(x, m) - (cov(y, m) - cov(m, m))  its partial sums at most n^2 2^16
    corr            = cov(x, y) / sqrt(cov(x, x) cov(y, y))            the only rounding, in float64
    Dice            = 2 sum_k |x = k and y = k| / (|x > 0| + |y > 0|)

The products of each channel, computed once, give the channels, the stacked and the centred view. Up to n = 2^18.5
(five channels of 256 x 256) the covariances are computed in float64, which holds integers up to 2^53; beyond, in
int64, which lasts to n = 2^23.5. float64 operations are applied one by one, as IEEE 754 rounds them, so that every
machine finds the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.memorization.products import product, signed

FLOAT_PIXELS = 370_727  # floor(2^18.5): n^2 2^16 <= 2^53
MAX_PIXELS = 11_863_283  # floor(2^23.5): n^2 2^16 <= 2^63
STACKED, CENTRED, ANNOTATION, CHANNEL = "stacked", "centred", "annotation", "channel:"
CHUNK = 1 << 15  # pairs that a thread scores at a time: 256 KiB of float64, and torch opens no threads of its own

Ints = NDArray[np.int64]
T = TypeVar("T")


class Sums(NamedTuple):
    """Of every slice of one side, as int64.

    Attributes:
        linear: [n, C] sum of a channel's int8 pixels.
        square: [n, C] sum of their squares.
        area: [n] annotated pixels.
        total: [C, H, W] sum over the slices of the uint8 pixels.
    """

    linear: Ints
    square: Ints
    area: Ints
    total: Ints


def sums_of(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Sums:
    """Sums over images uint8 [n, C, H, W] and labels uint8 [n, H, W]."""
    n, channels = images.shape[:2]
    linear, square = np.empty((n, channels), np.int64), np.empty((n, channels), np.int64)
    for i in range(n):
        pixels = images[i].reshape(channels, -1).astype(np.int32) - 128
        linear[i] = pixels.sum(1, dtype=np.int64)
        square[i] = np.square(pixels).sum(1, dtype=np.int64)
    area = np.count_nonzero(labels.reshape(n, -1), axis=1).astype(np.int64)
    return Sums(linear, square, area, images.sum(0, dtype=np.int64))


def join(parts: Sequence[Sums]) -> Sums:
    """Sums of the concatenated slices."""
    rows = [np.concatenate([p[i] for p in parts]) for i in range(3)]
    return Sums(rows[0], rows[1], rows[2], np.sum([p.total for p in parts], axis=0))


def mean_image(sums: Sums) -> torch.Tensor:
    """The mean image rounded to 8 bits (halves up), as int8 [C, H W]."""
    count = len(sums.area)
    mean = (2 * sums.total + count) // (2 * count)
    return signed(torch.from_numpy(mean.astype(np.uint8)).flatten(1))


def covariance_with(mean: torch.Tensor, pixels: torch.Tensor, linear: Ints) -> Ints:
    """cov(y, m) of every image, int64 [n].

    Args:
        mean: int8 [C, P].
        pixels: int8 [C, n, P].
        linear: `Sums.linear` of these images.
    """
    channels, _, size = pixels.shape
    dots = sum(product(pixels[c], mean[c : c + 1])[:, 0].to(torch.int64) for c in range(channels))
    whole = int(mean.to(torch.int64).sum())
    return channels * size * dots.cpu().numpy() - linear.sum(1) * whole  # type: ignore[union-attr]


def variance_of(mean: torch.Tensor) -> int:
    """cov(m, m)."""
    wide = mean.to(torch.int64)
    return wide.numel() * int((wide * wide).sum()) - int(wide.sum()) ** 2


class Side(NamedTuple):
    """The slices of one side of a tile as the formulas need them, on the device.

    Attributes:
        pixels: int8 [C, n, H W].
        linear: [n, C] sums in the type that the covariances are computed in.
        shift: [n] cov(y, m) (of the training: minus cov(m, m)), in the same type.
        scale: [V, n] 1 / sqrt(cov(y, y)) of every image view; 0 for constant ones.
    """

    pixels: torch.Tensor
    linear: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor

    def take(self, members: torch.Tensor) -> Side:
        """Some of the slices, copied."""
        return Side(self.pixels[:, members], self.linear[members], self.shift[members], self.scale[:, members])

    def span(self, columns: slice) -> Side:
        """Neighbouring slices, as a view."""
        return Side(self.pixels[:, columns], self.linear[columns], self.shift[columns], self.scale[:, columns])


def variances(sums: Sums, pixels: int, shift: Ints, of_mean: int, views: Sequence[str],
              channels: Sequence[str]) -> Ints:  # fmt: skip
    """cov(y, y) of every image view, int64 [V, n]; `pixels` a channel, `shift` = cov(y, m)."""
    whole = pixels * len(channels)
    stacked = whole * sums.square.sum(1) - sums.linear.sum(1) ** 2
    found = []
    for view in views:
        if view == STACKED:
            found.append(stacked)
        elif view == CENTRED:
            found.append(stacked - 2 * shift + of_mean)
        else:
            c = channels.index(view.removeprefix(CHANNEL))
            found.append(pixels * sums.square[:, c] - sums.linear[:, c] ** 2)
    return np.stack(found) if found else np.empty((0, len(sums.area)), np.int64)


def scales_of(variance: Ints) -> NDArray[np.float64]:
    """1 / sqrt(variance), 0 where it is 0."""
    return np.where(variance > 0, 1 / np.sqrt(np.maximum(variance, 1).astype(np.float64)), 0.0)


def side(pixels: torch.Tensor, linear: Ints, shift: Ints, variance: Ints) -> Side:
    """A side of a tile from its int8 pixels [C, n, P]; `variance` as of `variances`."""
    dtype = torch.float64 if pixels.shape[0] * pixels.shape[2] <= FLOAT_PIXELS else torch.int64
    scale, device = scales_of(variance), pixels.device
    return Side(pixels, torch.from_numpy(linear).to(device, dtype), torch.from_numpy(shift).to(device, dtype),
                torch.from_numpy(scale).to(device))  # fmt: skip


class Best(NamedTuple):
    """The best partner of every query within one tile, of one view.

    Attributes:
        key: float64 [m] what is compared: cov / sqrt(cov(y, y)), or Dice; -inf without a partner.
        value: int64 [m] cov, or the number of agreeing pixels.
        column: int64 [m] the first column of the tile that has it.
    """

    key: torch.Tensor
    value: torch.Tensor
    column: torch.Tensor


def best_images(queries: Side, training: Side, views: Sequence[str], channels: Sequence[str],
                barred: torch.Tensor | None = None) -> list[Best]:  # fmt: skip
    """The best partner in every image view.

    Args:
        queries, training: the tile's sides.
        views: image views, in the order of `Side.scale`.
        channels: names.
        barred: bool [m, n] pairs that must not be matched.
    """
    needed = needed_channels(views, channels)
    sums = {c: product(queries.pixels[c], training.pixels[c]) for c in needed}
    m, n = len(queries.linear), len(training.linear)
    step = max(1, CHUNK // n)

    def score(start: int) -> list[Best]:
        rows = slice(start, min(m, start + step))
        part = {c: s[rows].to(queries.linear.dtype) for c, s in sums.items()}
        covered = covariances(part, queries, training, rows, views, channels)
        of_rows = None if barred is None else barred[rows]
        return [_best(cov, scale, of_rows) for cov, scale in zip(covered, training.scale, strict=True)]

    pieces = in_threads(score, range(0, m, step), queries.pixels.device)
    return [Best(*(torch.cat(field) for field in zip(*piece, strict=True))) for piece in zip(*pieces, strict=True)]


def in_threads(work: Callable[[int], T], starts: Sequence[int], device: torch.device) -> list[T]:
    """`work` on every start, in order; on a processor by as many threads as torch may use."""
    threads = min(torch.get_num_threads(), len(starts)) if device.type == "cpu" else 1
    if threads == 1:
        return [work(start) for start in starts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, starts))


def needed_channels(views: Sequence[str], channels: Sequence[str]) -> list[int]:
    """Channels whose products the views are made of."""
    if STACKED in views or CENTRED in views:
        return list(range(len(channels)))
    return [c for c, name in enumerate(channels) if CHANNEL + name in views]


def covariances(sums: dict[int, torch.Tensor], queries: Side, training: Side, rows: slice,
                 views: Sequence[str], channels: Sequence[str]) -> list[torch.Tensor]:  # fmt: skip
    """cov of every image view [rows, n], exact, from the products of each channel."""
    pixels, whole = training.pixels.shape[2], None
    if STACKED in views or CENTRED in views:
        total = sums[0].clone()
        for c in range(1, len(channels)):
            total += sums[c]
        x, y = queries.linear[rows].sum(1), training.linear.sum(1)
        whole = total.mul_(pixels * len(channels)).sub_(x[:, None] * y)
    found = []
    for view in views:
        if view == STACKED:
            assert whole is not None
            found.append(whole)
        elif view == CENTRED:
            assert whole is not None
            found.append((whole - queries.shift[rows, None]).sub_(training.shift))
        else:
            c = channels.index(view.removeprefix(CHANNEL))
            x, y = queries.linear[rows, c], training.linear[:, c]
            found.append((sums[c] * pixels).sub_(x[:, None] * y))
    return found


def _best(covariance: torch.Tensor, scale: torch.Tensor, barred: torch.Tensor | None) -> Best:
    """The largest covariance x scale of every row; the first column on ties, as `torch.max` documents."""
    key = covariance * scale
    constant = scale == 0
    if bool(constant.any()):
        key[:, constant] = -torch.inf
    if barred is not None:
        key.masked_fill_(barred, -torch.inf)
    largest, column = key.max(1)
    return Best(largest, covariance.gather(1, column[:, None])[:, 0].to(torch.int64), column)


class Annotated(NamedTuple):
    """The annotated slices of a tile's queries, restricted to the pixels that occur.

    Attributes:
        members: int64 [f] which of the tile's queries have an annotation.
        columns: of every foreground class the pixels where any of them has it.
        layers: of every class int8 [f, pixels] 1 where the query has it.
        area: float64 [f] annotated pixels.
    """

    members: torch.Tensor
    columns: list[torch.Tensor]
    layers: list[torch.Tensor]
    area: torch.Tensor


def annotated(labels: torch.Tensor, classes: int) -> Annotated:
    """Prepares uint8 labels [m, P] of `classes` foreground classes 1..K."""
    members = (labels != 0).any(1).nonzero()[:, 0]
    kept = labels[members]
    columns, layers = [], []
    for k in range(1, classes + 1):
        mask = kept == k
        where = mask.any(0).nonzero()[:, 0]
        columns.append(where)
        layers.append(mask[:, where].to(torch.int8))
    return Annotated(members, columns, layers, (kept != 0).sum(1).double())


def best_annotations(queries: Annotated, labels: torch.Tensor, barred: torch.Tensor | None = None) -> Best:
    """The best Dice of every annotated query with training labels uint8 [n, P]; empty ones never match.

    Args:
        barred: bool [f, n] pairs that must not be matched.
    """
    agreeing = torch.zeros((len(queries.members), len(labels)), dtype=torch.int64, device=labels.device)
    for k, (where, layer) in enumerate(zip(queries.columns, queries.layers, strict=True), start=1):
        if len(where):
            agreeing += product(layer, (labels[:, where] == k).to(torch.int8))
    area = (labels != 0).sum(1).double()
    key = 2 * agreeing / (queries.area[:, None] + area)
    key[:, area == 0] = -torch.inf
    if barred is not None:
        key.masked_fill_(barred, -torch.inf)
    largest, column = key.max(1)
    return Best(largest, agreeing.gather(1, column[:, None])[:, 0], column)
