"""Parts of real slices in other slices: quarters of single channels, whatever surrounds them.

Compared is the fine structure, a pixel less the mean of the 3 x 3 around it: mostly noise, which two patients do not
share although their heads are alike. It survives a changed contrast, weak noise and changed pixels. Not found are
parts that were moved, turned, resampled or blurred.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.slices import SliceSet

Pixels = NDArray[np.uint8]
Fine = NDArray[np.int8]
# From which edge of a quarter on (pixels), how much correlation is a copy. Quarters of different patients, of heads
# that are aligned: at most 0.38, 0.49, 0.72 and 0.96 (`benchmarks/parts_of_slices.py`).
LIMITS = ((128, 0.6), (64, 0.7), (32, 0.85), (0, 0.98))
_STEEPEST = 126  # ninths of a grey value: the edge of the head, which is everybody's, counts no more than noise
_LEAST = 32  # pixels of a quarter that are not flat
_SAMPLED = 512  # pixels of a quarter that are compared with all real ones; all of them with the nearest few
_NEAREST, _SLACK = 4, 0.25
_AT_ONCE = 4096  # real quarters


def quarters(images: Pixels) -> Iterator[Fine]:
    """The fine structure of the four quarters of [n, C, H, W], each by itself: int8 [n C, pixels]."""
    middle = images.shape[-1] // 2
    for rows in (slice(None, middle), slice(middle, None)):
        for columns in (slice(None, middle), slice(middle, None)):
            part = images[..., rows, columns]
            yield fine_structure(part.reshape(-1, *part.shape[2:])).reshape(len(part) * part.shape[1], -1)


def fine_structure(pixels: Pixels) -> Fine:
    """[n, H, W]: nine times a pixel less the sum of the 3 x 3 around it, clipped."""
    wide = np.pad(pixels, [(0, 0), (1, 1), (1, 1)], mode="edge").astype(np.int16)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    return np.clip(9 * pixels.astype(np.int16) - around, -_STEEPEST, _STEEPEST).astype(np.int8)


def correlation(a: Fine, b: Fine) -> NDArray[np.float64]:
    """Of pairs of quarters [n, pixels]; 0 where one is flat."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    size = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.asarray(np.divide((x * y).sum(1), size, out=np.zeros(len(x)), where=size > 0))


class RealParts:
    """The quarters of all channels of real slices."""

    def __init__(self, real: Sequence[SliceSet], channels: Sequence[str]) -> None:
        self._sets = [(slices, [slices.channels.index(c) for c in channels]) for slices in real]
        self._limit = 1.0
        self._places: NDArray[np.int64] = np.zeros((0, 3), np.int64)  # set, row, channel of each
        self._known: list[Fine] = []  # of each quarter, at some of its pixels
        places, known = [], list[list[Fine]]([[], [], [], []])
        for number, (slices, order) in enumerate(self._sets):
            edge = slices.resolution - slices.resolution // 2  # the larger half of an odd edge
            self._limit = next(limit for least, limit in LIMITS if edge >= least)
            for rows, images, _ in slices.blocks():
                places += [(number, row, c) for row in rows for c in range(len(order))]
                for part, quarter in zip(known, quarters(images[:, order]), strict=True):
                    part.append(_sampled(quarter))
        if places:
            self._places, self._known = np.array(places), [np.concatenate(part) for part in known]

    def found_in(self, images: Pixels) -> dict[int, tuple[int, float]]:
        """Of [n, C, H, W], slices that hold a quarter of a real one: slice -> its channel, and the correlation."""
        found: dict[int, tuple[int, float]] = {}
        channels = images.shape[1]
        for number, (known, quarter) in enumerate(zip(self._known, quarters(images), strict=False)):  # none, or four
            some = _sampled(quarter)
            ask = np.flatnonzero((quarter != 0).sum(1) >= _LEAST)
            for i, near in zip(ask, _nearest(some[ask], known, self._limit - _SLACK), strict=True):
                if near.size:
                    likeness = float(
                        correlation(np.repeat(quarter[[i]], len(near), 0), self._whole(near, number)).max()
                    )
                    if likeness >= max(self._limit, found.get(i // channels, (0, 0.0))[1]):
                        found[int(i // channels)] = int(i % channels), likeness
        return found

    def _whole(self, places: NDArray[np.int64], number: int) -> Fine:
        """All pixels of these real quarters."""
        parts = []
        for at, row, channel in self._places[places]:
            slices, order = self._sets[at]
            image = slices.read([int(row)])[0][:, [order[channel]]]
            parts.append(list(quarters(image))[number])
        return np.concatenate(parts)


def _sampled(quarter: Fine) -> Fine:
    """[n, at most `_SAMPLED`]: always the same pixels."""
    if quarter.shape[1] <= _SAMPLED:
        return quarter
    chosen = np.sort(np.random.default_rng(0).permutation(quarter.shape[1])[:_SAMPLED])
    return np.ascontiguousarray(quarter[:, chosen])


def _unit(quarter: Fine) -> NDArray[np.float32]:
    values = quarter.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def _nearest(some: Fine, known: Fine, least: float) -> list[NDArray[np.int64]]:
    """For each of `some` the few of `known` that correlate best, and at least so much."""
    best = np.full((len(some), _NEAREST), -1.0, np.float32)
    where, asked = np.zeros((len(some), _NEAREST), np.int64), _unit(some)
    for start in range(0, len(known), _AT_ONCE):
        score = asked @ _unit(known[start : start + _AT_ONCE]).T
        top = np.argpartition(-score, min(_NEAREST, score.shape[1]) - 1, axis=1)[:, :_NEAREST]
        scores = np.concatenate([best, np.take_along_axis(score, top, 1)], 1)
        rows = np.concatenate([where, start + top], 1)
        order = np.argsort(-scores, axis=1)[:, :_NEAREST]
        best, where = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
    return [row[score >= least] for row, score in zip(where, best, strict=True)]
