"""Surface elements ("surfels") of a mask: a third way to measure a border, weighted by area.

The BraTS scripts' HD95 (DeepMind's surface-distance) does not count border voxels. It looks at every corner at which
eight voxels meet. Where some of the eight are inside the mask and some outside, the mask's surface passes between
them: there lies a surfel, whose area is that of the marching-cubes surface through the cube of the eight voxel centres.

Here the 256 areas are computed from this definition (Lorensen & Cline 1987): the surface's vertices are the middles of
the cube's edges between an inside and an outside voxel; a face with two such edges holds one segment of the surface's
outline; a face with four is ambiguous, and its segments cut off the corners of the side that has fewer of the eight;
segments close to loops, each of which is filled by a fan of triangles. Where a loop is not planar the fans differ, and
the one with the largest area counts. (These two rules give surface-distance's 256 areas at every spacing: tests.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

Spacing = tuple[float, float, float]
Point = tuple[float, ...]

BINS = 4096
CORNERS = tuple(product((0, 1), repeat=3))  # (z, y, x); corner n is bit n of a code


def corner_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Which of the eight voxels around every corner are inside: bool [Z, Y, X] -> uint8 [Z + 1, Y + 1, X + 1].

    Bit 4 dz + 2 dy + dx of code [z, y, x] is voxel [z - 1 + dz, y - 1 + dy, x - 1 + dx]; outside the array is outside.
    """
    codes = np.pad(mask.view(np.uint8), 1)
    for axis, shift in ((2, 1), (1, 2), (0, 4)):
        moved = np.moveaxis(codes, axis, 0)
        codes = np.moveaxis(moved[:-1] | (moved[1:] << np.uint8(shift)), 0, axis)
    return codes


def is_surfel(codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where some of the eight voxels are inside and some outside."""
    return (codes + np.uint8(1)) > 1  # 255 wraps to 0


@lru_cache(maxsize=64)
def surfel_areas(spacing: Spacing) -> NDArray[np.float64]:
    """Area in mm^2 of the surface through a corner of each code, float64 [256]; 0 for codes 0 and 255."""
    codes, vectors = _triangles()
    z, y, x = spacing
    lengths = np.linalg.norm(vectors * np.array([y * x, z * x, z * y]), axis=1)
    areas = np.bincount(codes, weights=lengths, minlength=256).astype(np.float64)
    areas.flags.writeable = False  # shared by all callers
    return areas


def weighted_percentile(values: NDArray[np.float64], weights: NDArray[np.float64], percent: float) -> float:
    """The smallest value up to which `percent` of the total weight lies; values [n] >= 0, weights [n] > 0, n > 0.

    Only the values of one bin of a histogram are sorted: a noisy mask has millions.
    """
    top = float(values.max())
    bins = np.minimum((values * (BINS / (top or 1.0))).astype(np.intp), BINS - 1)
    up_to = np.cumsum(np.bincount(bins, weights, minlength=BINS))
    wanted = percent / 100 * up_to[-1]
    chosen = min(int(np.searchsorted(up_to, wanted)), int(bins.max()))
    inside = np.flatnonzero(bins == chosen)
    order = inside[np.argsort(values[inside])]
    share = np.cumsum(weights[order]) + (up_to[chosen - 1] if chosen else 0.0)
    return float(values[order[min(int(np.searchsorted(share, wanted)), len(order) - 1)]])


@lru_cache(maxsize=1)
def _triangles() -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Code [t] and area vector [t, 3] (normal times area, in voxel edges) of every triangle of the 256 surfaces."""
    codes, vectors = [], []
    for code in range(256):
        for loop in _loops(code):
            fan = max((_fan(loop, apex) for apex in range(len(loop))), key=_area)
            codes += [code] * len(fan)
            vectors.append(fan)
    return np.array(codes), np.concatenate(vectors)


def _fan(loop: Sequence[Point], apex: int) -> NDArray[np.float64]:
    """Area vectors [n - 2, 3] of the triangles from one vertex of a loop of n to its edges."""
    points = np.roll(np.asarray(loop), -apex, axis=0)
    return np.cross(points[1:-1] - points[0], points[2:] - points[0]) / 2


def _area(fan: NDArray[np.float64]) -> float:
    return round(float(np.linalg.norm(fan, axis=1).sum()), 9)  # rounded: equal fans must tie, the first counts


def _loops(code: int) -> list[list[Point]]:
    """The closed outlines of a code's surface as lists of vertices (middles of edges)."""
    linked: dict[Point, list[Point]] = {}
    for a, b in _segments(code):
        linked.setdefault(a, []).append(b)
        linked.setdefault(b, []).append(a)
    loops = []
    while linked:
        loop = [next(iter(linked))]
        while step := next((p for p in linked.pop(loop[-1]) if p in linked), None):
            loop.append(step)
        loops.append(loop)
    return loops


def _segments(code: int) -> list[tuple[Point, Point]]:
    """The segments in which the surface meets the cube's faces, at most two a face."""
    inside = {corner: bool(code >> n & 1) for n, corner in enumerate(CORNERS)}
    fewer = sum(inside.values()) <= 4  # the side that ambiguous faces cut off
    segments = []
    for face in _faces():
        edges = list(zip(face, [*face[1:], face[0]], strict=True))
        crossed = [(a, b) for a, b in edges if inside[a] != inside[b]]
        if len(crossed) == 2:
            segments.append((_middle(*crossed[0]), _middle(*crossed[1])))
        elif crossed:
            for before, after in zip([edges[-1], *edges[:-1]], edges, strict=True):
                if inside[after[0]] == fewer:  # the corner that both edges share
                    segments.append((_middle(*before), _middle(*after)))
    return segments


def _faces() -> list[list[tuple[int, ...]]]:
    """The six faces, each as its four corners in a round."""
    around = ((0, 0), (0, 1), (1, 1), (1, 0))
    return [
        [tuple(np.insert(pair, axis, side).tolist()) for pair in around] for axis, side in product(range(3), (0, 1))
    ]


def _middle(a: tuple[int, ...], b: tuple[int, ...]) -> Point:
    return tuple((p + q) / 2 for p, q in zip(a, b, strict=True))
