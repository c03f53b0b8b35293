"""Distances between the surfaces of two masks: the maximum Hausdorff distance and three definitions of HD95.

A *border voxel* belongs to the mask and has a face neighbour outside it (mask minus its 6-connected erosion; beyond the
volume's edge counts as outside), as in MedPy (`connectivity=1`) and MONAI. Each has a distance, between voxel centres
in mm, to the nearest border voxel of the other mask: two sets of *directed* distances. From them follow

- `hd`: the maximum of both;
- `hd95_pooled`: the 95th percentile of both sets together (MedPy, panoptica);
- `hd95_directed`: the larger of the two sets' 95th percentiles (MONAI);
- `hd95_surfel`: the same of border elements between the voxels, weighted by area (DeepMind's surface-distance, BraTS).
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from understudy.errors import UnderstudyError
from understudy.metrics.overlap import each_label, union_box

Spacing = tuple[float, float, float]
Definition = Literal["pooled", "directed", "surfel"]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Point = tuple[float, ...]

NEAR = 4.0  # how far offsets are looked up, in units of the smallest voxel edge (257 offsets if isotropic)
MANY = 200_000  # border voxels from which the distance transform of the box is faster than the tree
BINS = 4096  # of the histogram behind the weighted percentile
CORNERS = tuple(product((0, 1), repeat=3))  # (z, y, x); corner n is bit n of a code


class SurfaceDistances(NamedTuple):
    """In mm."""

    hd: float
    hd95_pooled: float
    hd95_directed: float
    hd95_surfel: float


UNDEFINED = SurfaceDistances(*[float("nan")] * 4)


def hd(pred: ArrayLike, target: ArrayLike, spacing: tuple[float, ...] = (1, 1, 1)) -> float | dict[int, float]:
    """Hausdorff distance in mm: the largest distance of a border voxel to the other mask's border.

    Args:
        pred, target: volumes [Z, Y, X] of one shape, bool masks or integer labels (0 is the background).
        spacing: voxel edges in mm, in the order of the axes.

    Returns:
        A number for masks, {label: distance} for every label that occurs. NaN where either mask is empty.

    Raises:
        UnderstudyError: shapes that differ, not three axes, values that are no labels, a bad spacing.

    Example:
        >>> a, b = np.zeros((2, 3, 5, 5), bool)
        >>> a[1, 2, 1] = b[1, 2, 4] = True
        >>> hd(a, b, spacing=(3, 1, 1))
        3.0
    """
    return _measured(pred, target, spacing, "hd")


def hd95(
    pred: ArrayLike, target: ArrayLike, spacing: tuple[float, ...] = (1, 1, 1), definition: Definition = "pooled"
) -> float | dict[int, float]:
    """95th percentile of the Hausdorff distance in mm; arguments, result and errors as `hd`.

    Args:
        definition: "pooled" (MedPy, panoptica), "directed" (MONAI) or "surfel" (surface-distance, BraTS). They differ
            on ordinary predictions, so name the one that you report.

    Example:
        >>> labels = np.random.default_rng(0).integers(0, 3, (4, 8, 8))
        >>> hd95(labels, labels, definition="surfel")
        {1: 0.0, 2: 0.0}
    """
    if definition not in ("pooled", "directed", "surfel"):
        raise UnderstudyError(f"unknown definition of HD95: {definition!r}", fix="pooled, directed or surfel")
    return _measured(pred, target, spacing, f"hd95_{definition}")


def _measured(pred: ArrayLike, target: ArrayLike, spacing: tuple[float, ...], name: str) -> float | dict[int, float]:
    edges = checked_spacing(spacing)
    if np.ndim(target) != 3:
        what = f"`target` has the shape {np.shape(target)}, not three axes"
        raise UnderstudyError(what, fix="give volumes [Z, Y, X]")
    return each_label(lambda a, b: float(getattr(surface_distances(a, b, edges), name)), pred, target)


def checked_spacing(spacing: Sequence[float]) -> Spacing:
    """Three voxel edges in mm; an UnderstudyError for anything else than three positive, finite numbers."""
    edges = tuple(float(s) for s in spacing)
    if len(edges) != 3 or not all(np.isfinite(s) and s > 0 for s in edges):
        fix = "give the voxel edges in mm in the order of the volume's axes; check the file's header"
        raise UnderstudyError(f"the voxel spacing {edges} is not three positive lengths", fix=fix)
    return edges


def surface_distances(pred: Mask, target: Mask, spacing: Spacing) -> SurfaceDistances:
    """All distances of two masks bool [Z, Y, X]; all NaN if either is empty."""
    box = union_box(pred, target)
    if box is None or not pred[box].any() or not target[box].any():
        return UNDEFINED
    masks = pred[box], target[box]  # outside the box nothing can be nearest
    there, back = directed_distances(border(masks[0]), border(masks[1]), spacing)

    codes = [corner_codes(mask) for mask in masks]  # uint8 [Z + 1, Y + 1, X + 1]
    surfels = [(code + np.uint8(1)) > 1 for code in codes]  # some of the eight voxels inside, some not: 255 wraps to 0
    areas = surfel_areas(spacing)
    apart = directed_distances(surfels[0], surfels[1], spacing)
    weighted = zip(apart, codes, surfels, strict=True)
    return SurfaceDistances(
        hd=float(max(there.max(), back.max())),
        hd95_pooled=float(np.percentile(np.concatenate([there, back]), 95)),
        hd95_directed=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        hd95_surfel=max(weighted_percentile(d, areas[code[at]], 95) for d, code, at in weighted),
    )


def border(mask: Mask) -> Mask:
    """Voxels of the mask [Z, Y, X] with at least one of the six face neighbours outside the mask or the array."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        m, i = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)  # views
        i[1:] &= m[:-1]  # the neighbour below
        i[:-1] &= m[1:]  # the neighbour above
        i[0] = i[-1] = False  # beyond the edge is outside
    return mask & ~inside


def directed_distances(a: Mask, b: Mask, spacing: Spacing) -> tuple[Floats, Floats]:
    """Distance in mm of each True in `a` to the nearest in `b`, and back, both in the order of the arrays."""
    pad = max(int(NEAR * min(spacing) // s) for s in spacing)  # so that no offset leaves the array
    a, b = np.pad(a, pad), np.pad(b, pad)
    at_a, at_b = np.flatnonzero(a), np.flatnonzero(b)  # flat indices into the padded box
    return _to_nearest(at_a, at_b, b, spacing), _to_nearest(at_b, at_a, a, spacing)


def _to_nearest(start: NDArray[np.intp], goal: NDArray[np.intp], grid: Mask, spacing: Spacing) -> Floats:
    """Distance of each flat index in `start` to the nearest in `goal`; `grid` is the padded box, True at `goal`."""
    distance = np.empty(len(start))
    left = np.arange(len(start))
    # Most border voxels of a usable prediction have a partner within a few voxels: looking the offsets up in the order
    # of their length is exact and needs no search structure.
    flat, here = grid.ravel(), start
    strides = np.array([grid.shape[1] * grid.shape[2], grid.shape[2], 1])  # of flat indices
    for length, offsets in _shells(spacing):
        hit = np.zeros(len(here), bool)
        for step in offsets @ strides:
            hit |= flat[here + step]
        distance[left[hit]] = length  # the shortest offset that hits is the distance
        here, left = here[~hit], left[~hit]
        if not len(left):
            return distance
    edges, far = np.asarray(spacing), np.stack(np.unravel_index(start[left], grid.shape), axis=1)  # [n, 3], voxels
    if len(far) + len(goal) > MANY:
        nearest = distance_transform_edt(~grid, sampling=spacing, return_distances=False, return_indices=True)
        apart = nearest.reshape(3, -1)[:, start[left]].T - far
        distance[left] = np.sqrt(((apart * edges) ** 2).sum(axis=1))
    else:
        points = np.stack(np.unravel_index(goal, grid.shape), axis=1) * edges
        # coordinates come sorted from a grid: median splits and tight cells cost more than they save in the query
        tree = cKDTree(points, leafsize=32, balanced_tree=False, compact_nodes=False)
        distance[left] = tree.query(far * edges)[0]
    return distance


@lru_cache(maxsize=64)
def _shells(spacing: Spacing) -> list[tuple[float, NDArray[np.intp]]]:
    """All voxel offsets up to NEAR smallest edges, grouped by their length in mm, shortest first."""
    radius = NEAR * min(spacing)
    axes = [np.arange(-int(radius // s), int(radius // s) + 1) for s in spacing]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)  # (z, y, x) voxels
    length = np.sqrt(((offsets * np.asarray(spacing)) ** 2).sum(axis=1))
    order = np.argsort(length, kind="stable")
    order = order[length[order] <= radius]
    cuts = np.flatnonzero(np.diff(length[order]) > 1e-9 * radius) + 1  # equal lengths up to rounding
    return [(float(length[group[0]]), offsets[group]) for group in np.split(order, cuts)]


# surface-distance looks at every corner at which eight voxels meet. Where some of the eight are inside the mask and
# some outside, there lies a surface element ("surfel"), whose area is that of the marching-cubes surface (Lorensen &
# Cline 1987) through the cube of the eight voxel centres. Its vertices are the middles of the cube's edges between an
# inside and an outside voxel; a face with two such edges holds one segment of the outline; a face with four is
# ambiguous, and its segments cut off the corners of the side that has fewer of the eight. Segments close to loops, each
# filled by a fan of triangles; where a loop is not planar the fan with the largest area counts. These rules give the
# library's 256 areas at every spacing (see the tests).


def corner_codes(mask: Mask) -> NDArray[np.uint8]:
    """Which of the eight voxels around every corner are inside: bool [Z, Y, X] -> uint8 [Z + 1, Y + 1, X + 1].

    Bit 4 dz + 2 dy + dx of code [z, y, x] is voxel [z - 1 + dz, y - 1 + dy, x - 1 + dx]; outside the array is outside.
    """
    codes = np.pad(mask.view(np.uint8), 1)
    for axis, shift in ((2, 1), (1, 2), (0, 4)):
        moved = np.moveaxis(codes, axis, 0)
        codes = np.moveaxis(moved[:-1] | (moved[1:] << np.uint8(shift)), 0, axis)
    return codes


@lru_cache(maxsize=64)
def surfel_areas(spacing: Spacing) -> Floats:
    """Area in mm^2 of the surface through a corner of each code, float64 [256]; 0 for codes 0 and 255."""
    codes, vectors = _triangles()
    z, y, x = spacing
    lengths = np.linalg.norm(vectors * np.array([y * x, z * x, z * y]), axis=1)  # area vectors in mm^2
    areas = np.bincount(codes, weights=lengths, minlength=256).astype(np.float64)
    areas.flags.writeable = False  # shared by all callers
    return areas


def weighted_percentile(values: Floats, weights: Floats, percent: float) -> float:
    """The smallest value up to which `percent` of the total weight lies; values [n] >= 0, weights [n] > 0, n > 0."""
    # only the values of one bin of a histogram are sorted: a noisy mask has millions
    top = float(values.max())
    bins = np.minimum((values * (BINS / (top or 1.0))).astype(np.intp), BINS - 1)
    up_to = np.cumsum(np.bincount(bins, weights, minlength=BINS))
    wanted = percent / 100 * up_to[-1]  # weight
    chosen = min(int(np.searchsorted(up_to, wanted)), int(bins.max()))  # rounding may lead beyond the last bin
    inside = np.flatnonzero(bins == chosen)
    order = inside[np.argsort(values[inside])]
    share = np.cumsum(weights[order]) + (up_to[chosen - 1] if chosen else 0.0)
    return float(values[order[min(int(np.searchsorted(share, wanted)), len(order) - 1)]])


@lru_cache(maxsize=1)
def _triangles() -> tuple[NDArray[np.intp], Floats]:
    """Code [t] and area vector [t, 3] (normal times area, in voxel edges) of every triangle of the 256 surfaces."""
    codes, vectors = [], []
    for code in range(256):
        for loop in _loops(code):
            fans = []  # area vectors [n - 2, 3] of the triangles from each vertex of the loop
            for apex in range(len(loop)):
                points = np.roll(np.asarray(loop), -apex, axis=0)
                fans.append(np.cross(points[1:-1] - points[0], points[2:] - points[0]) / 2)
            # areas are rounded: equal fans must tie, the first counts
            largest = max(fans, key=lambda fan: round(float(np.linalg.norm(fan, axis=1).sum()), 9))
            codes += [code] * len(largest)
            vectors.append(largest)
    return np.array(codes), np.concatenate(vectors)


def _loops(code: int) -> list[list[Point]]:
    """The closed outlines of a code's surface as lists of vertices (middles of edges)."""
    inside = {corner: bool(code >> n & 1) for n, corner in enumerate(CORNERS)}
    fewer = sum(inside.values()) <= 4  # the side that ambiguous faces cut off
    segments: list[tuple[Point, Point]] = []  # in which the surface meets the cube's faces, at most two a face
    for axis, side in product(range(3), (0, 1)):
        face = [tuple(np.insert(pair, axis, side).tolist()) for pair in ((0, 0), (0, 1), (1, 1), (1, 0))]
        edges = list(pairwise([*face, face[0]]))
        middle = {edge: tuple((p + q) / 2 for p, q in zip(*edge, strict=True)) for edge in edges}
        crossed = [edge for edge in edges if inside[edge[0]] != inside[edge[1]]]  # none, two or four
        if len(crossed) == 2:
            segments.append((middle[crossed[0]], middle[crossed[1]]))
        elif crossed:
            for before, after in zip([edges[-1], *edges[:-1]], edges, strict=True):
                if inside[after[0]] == fewer:  # the corner that both edges share
                    segments.append((middle[before], middle[after]))
    linked: dict[Point, list[Point]] = {}
    for a, b in segments:
        linked.setdefault(a, []).append(b)
        linked.setdefault(b, []).append(a)
    loops = []
    while linked:
        loop = [next(iter(linked))]
        while step := next((p for p in linked.pop(loop[-1]) if p in linked), None):
            loop.append(step)
        loops.append(loop)
    return loops
