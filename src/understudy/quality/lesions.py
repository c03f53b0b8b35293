"""What the annotation of a slice looks like in numbers: areas, pieces, holes, shapes, and which classes touch.

All slices of a block at once, for any set of classes. "any" is all classes together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.runtime.lazy import ndimage

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

ANY = "any"
GRID = 32  # cells along an edge of the maps of positions
# neighbours within a slice only: the first axis counts slices
_EIGHT, _FOUR = np.zeros((2, 3, 3, 3), bool)
_EIGHT[1], _FOUR[1, 1], _FOUR[1, :, 1] = True, True, True


@dataclass(frozen=True)
class Lesions:
    """Measures of n slices with K classes; index K of an axis of length K + 1 is all classes together."""

    area: Floats  # pixels, [n, K + 1]
    components: Floats  # pieces, corners connecting, [n, K + 1]
    stray: Floats  # pieces of a single pixel, [n, K + 1]
    holes: Floats  # enclosed pieces of anything else, [n, K + 1]
    # 4 pi area / perimeter^2 of the whole mask, perimeter along pixel edges: pi / 4 for a square; NaN where absent
    compactness: Floats
    # of the ellipse with the second moments of the largest piece: 0 round, to 1 long; NaN where absent
    eccentricity: Floats
    # lengths in pixel edges between classes, background first, symmetric; beyond the slice is background, [n, K+1, K+1]
    borders: Floats
    maps: Floats  # share of each cell's pixels that a class covers, [n, K, G, G]


def measure_lesions(labels: Labels, classes: int) -> Lesions:
    """Measures of labels uint8 [n, H, W], class indices 0 ... `classes`.

    Example:
        >>> labels = np.zeros((1, 8, 8), np.uint8)
        >>> labels[0, 2:5, 2:5] = 1
        >>> found = measure_lesions(labels, 1)
        >>> found.area.tolist(), found.compactness.round(3).tolist(), found.borders[0, 0].tolist()
        ([[9.0, 9.0]], [[0.785, 0.785]], [0.0, 12.0])
    """
    # pixel edges between neighbours of other classes; beyond the slice is background
    n, k = len(labels), classes + 1
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1))).astype(np.int64)
    slice_of, counts = np.arange(n)[:, None, None] * k * k, np.zeros(n * k * k, np.int64)
    for a, b in ((padded[:, 1:], padded[:, :-1]), (padded[:, :, 1:], padded[:, :, :-1])):
        counts += np.bincount((slice_of + a * k + b)[a != b], minlength=n * k * k)
    one_way = counts.reshape(n, k, k)
    borders = (one_way + one_way.transpose(0, 2, 1)).astype(np.float64)
    masks = [labels == c for c in range(1, classes + 1)] + [labels > 0]
    perimeters = [*(borders[:, c].sum(1) for c in range(1, classes + 1)), borders[:, 0, 1:].sum(1)]
    columns = [_mask_measures(mask, p) for mask, p in zip(masks, perimeters, strict=True)]
    fields = {name: np.stack([c[name] for c in columns], axis=1) for name in columns[0]}
    return Lesions(**fields, borders=borders, maps=np.stack([_cells(mask) for mask in masks[:-1]], axis=1))


def _mask_measures(mask: Mask, perimeter: Floats) -> dict[str, Floats]:
    n = len(mask)
    area = mask.sum((1, 2)).astype(np.float64)
    pieces, count = ndimage.label(mask, _EIGHT)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    slices = _slice_of(pieces, count)
    # holes: pieces of the rest (edges connecting) that do not reach the slice's border: all but one, in a frame
    rest = np.pad(~mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    holes = np.bincount(_slice_of(*ndimage.label(rest, _FOUR)), minlength=n).astype(np.float64) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        compactness = np.where(area > 0, 4 * np.pi * area / perimeter**2, np.nan)
    return {
        "area": area,
        "components": np.bincount(slices, minlength=n).astype(np.float64),
        "stray": np.bincount(slices[sizes == 1], minlength=n).astype(np.float64),
        "holes": holes,
        "compactness": compactness,
        "eccentricity": _eccentricity(pieces, sizes, slices, n),
    }


def _slice_of(pieces: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The slice of each piece."""
    where = np.nonzero(pieces)
    out = np.zeros(count + 1, np.int64)
    out[pieces[where]] = where[0]
    return out[1:]


def _eccentricity(pieces: NDArray[Any], sizes: NDArray[np.int64], slices: NDArray[np.int64], n: int) -> Floats:
    """Of the largest piece of each slice (the first of equals); every pixel is a square, not a point."""
    out = np.full(n, np.nan)
    if not len(sizes):
        return out
    _, y, x = np.nonzero(pieces)
    of = pieces[pieces > 0]

    def mean(values: Floats) -> Floats:
        return np.bincount(of, values, len(sizes) + 1)[1:] / sizes

    yc, xc = mean(y.astype(np.float64)), mean(x.astype(np.float64))
    dy, dx = y - yc[of - 1], x - xc[of - 1]
    yy, xx, xy = mean(dy * dy) + 1 / 12, mean(dx * dx) + 1 / 12, mean(dx * dy)
    middle, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    value = np.sqrt(np.clip(1 - (middle - half) / (middle + half), 0, 1))
    order = np.lexsort((-np.arange(len(sizes)), sizes))  # the largest last, the first of equals: the last one stays
    out[slices[order]] = value[order]
    return out


def _cells(mask: Mask) -> Floats:
    """The share of each cell that the mask covers, [n, G, G]; G is `GRID`, or the slice's edge if that is shorter."""
    height, width = mask.shape[1:]
    g = min(GRID, height, width)
    rows, columns = (np.arange(size) * g // size for size in (height, width))
    tall = np.add.reduceat(mask.astype(np.float64), np.searchsorted(rows, np.arange(g)), axis=1)
    cells = np.add.reduceat(tall, np.searchsorted(columns, np.arange(g)), axis=2)
    pixels = np.bincount(rows)[:, None] * np.bincount(columns)[None]
    return np.asarray(cells / pixels, np.float64)
