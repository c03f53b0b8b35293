"""Distances between the borders of two masks: maximum Hausdorff distance and three definitions of HD95.

A *border voxel* belongs to the mask and has a face neighbour outside it (mask minus its 6-connected erosion; beyond
the volume's edge counts as outside), as in the authors' code, MedPy (`connectivity=1`) and MONAI. Each border voxel
of one mask has a distance, between voxel centres in mm, to the nearest border voxel of the other mask: this gives
two sets of *directed* distances, from which

- `hd` is the maximum of both (the paper's Hausdorff distance; all libraries agree);
- `hd95_pooled` is the 95th percentile of both sets thrown together (MedPy, panoptica);
- `hd95_directed` is the larger of the two sets' own 95th percentiles (MONAI).

The third number is that of DeepMind's surface-distance and of the BraTS scripts, `hd95_surfel`: border elements sit at
the corners between voxels and count by their area (`surfels`); the larger of the two directed, weighted percentiles.

Most border voxels of a usable prediction have a partner within a few voxels. These are found by looking the offsets
up in the order of their length, which is exact and needs no search structure; what is left goes to a k-d tree, or to
a distance transform of the box where there are so many that a tree would be slower.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from understudy.metrics.overlap import union_box
from understudy.metrics.surfels import Spacing, corner_codes, is_surfel, surfel_areas, weighted_percentile

Method = Literal["auto", "tree", "transform"]
Grids = tuple[NDArray[np.bool_], NDArray[np.bool_]]
Distances = tuple[NDArray[np.float64], NDArray[np.float64]]

NEAR = 4.0  # how far offsets are looked up, in units of the smallest voxel edge (257 offsets if isotropic)
MANY = 200_000  # border voxels from which the distance transform of the box beats the tree (facts 2.1)


class SurfaceDistances(NamedTuple):
    """Summary of the border distances in mm, see the module's text for the definitions."""

    hd: float
    hd95_pooled: float
    hd95_directed: float
    hd95_surfel: float


UNDEFINED = SurfaceDistances(*[float("nan")] * 4)


def surface_distances(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: Spacing, method: Method = "auto"
) -> SurfaceDistances:
    """Summarises the distances between two masks' borders.

    Args:
        truth, prediction: bool [Z, Y, X], same shape.
        spacing: voxel edge along each axis, in the order of the axes, mm, positive.
        method: "auto"; "tree" or "transform" force one way for all border voxels (same values, for tests).

    Returns:
        All NaN if either mask is empty.
    """
    masks = _cropped(truth, prediction)
    if masks is None:
        return UNDEFINED
    there, back = _both_ways(border(masks[0]), border(masks[1]), spacing, method)
    return SurfaceDistances(
        hd=float(max(there.max(), back.max())),
        hd95_pooled=float(np.percentile(np.concatenate([there, back]), 95)),
        hd95_directed=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        hd95_surfel=_hd95_surfel(masks, spacing, method),
    )


def _hd95_surfel(masks: Grids, spacing: Spacing, method: Method) -> float:
    codes = [corner_codes(mask) for mask in masks]
    surfels = [is_surfel(c) for c in codes]
    distances = _both_ways(surfels[0], surfels[1], spacing, method)
    areas = surfel_areas(spacing)
    return max(
        weighted_percentile(d, areas[c[where]], 95) for d, c, where in zip(distances, codes, surfels, strict=True)
    )


def border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask [Z, Y, X] with at least one of the six face neighbours outside the mask or the array."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        m, i = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        i[1:] &= m[:-1]
        i[:-1] &= m[1:]
        i[0] = i[-1] = False
    return mask & ~inside


def border_distances(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: Spacing, method: Method = "auto"
) -> Distances:
    """Directed distances in mm: of the truth's border voxels to the prediction's border, and the other way round.

    Arguments as in `surface_distances`. Both arrays are empty if either mask is.
    """
    masks = _cropped(truth, prediction)
    if masks is None:
        return np.empty(0), np.empty(0)
    return _both_ways(border(masks[0]), border(masks[1]), spacing, method)


def _cropped(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Grids | None:
    """Both masks in the smallest box that holds them; None if either is empty."""
    box = union_box(truth, prediction)
    if box is None or not truth[box].any() or not prediction[box].any():
        return None
    return truth[box], prediction[box]


def _both_ways(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: Spacing, method: Method) -> Distances:
    """Distances of each True in `a` to the nearest in `b`, and the other way round, both in the order of the array."""
    pad = max(int(NEAR * min(spacing) // s) for s in spacing)
    a, b = np.pad(a, pad), np.pad(b, pad)
    at_a, at_b = np.flatnonzero(a), np.flatnonzero(b)
    return _to_nearest(at_a, at_b, b, spacing, method), _to_nearest(at_b, at_a, a, spacing, method)


def _to_nearest(
    start: NDArray[np.intp], goal: NDArray[np.intp], grid: NDArray[np.bool_], spacing: Spacing, method: Method
) -> NDArray[np.float64]:
    """Distance of each flat index in `start` to the nearest in `goal`; `grid` is the padded box, True at `goal`."""
    distance = np.empty(len(start))
    left = np.arange(len(start))
    if method == "auto":
        left = _look_near(start, grid, spacing, distance)
    if not len(left):
        return distance
    far = start[left]
    if method == "transform" or (method == "auto" and len(far) + len(goal) > MANY):
        distance[left] = _by_transform(far, grid, spacing)
    else:
        # coordinates come sorted from a grid: median splits and tight cells cost more than they save in the query
        tree = cKDTree(_points(goal, grid.shape, spacing), leafsize=32, balanced_tree=False, compact_nodes=False)
        distance[left] = tree.query(_points(far, grid.shape, spacing))[0]
    return distance


def _by_transform(start: NDArray[np.intp], grid: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float64]:
    """As `_to_nearest`, by a distance transform of the box; the last step, costly for a volume, at `start` only."""
    nearest = distance_transform_edt(~grid, sampling=spacing, return_distances=False, return_indices=True)
    flat = nearest.reshape(3, -1)[:, start]
    apart = flat - np.stack(np.unravel_index(start, grid.shape))
    return np.sqrt(((apart * np.asarray(spacing)[:, None]) ** 2).sum(axis=0))


def _look_near(
    start: NDArray[np.intp], grid: NDArray[np.bool_], spacing: Spacing, distance: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Fills `distance` where the nearest goal is within the looked-up offsets; returns the positions left over."""
    flat = grid.ravel()
    strides = np.array([grid.shape[1] * grid.shape[2], grid.shape[2], 1])
    left = np.arange(len(start))
    for length, offsets in _shells(spacing):
        hit = np.zeros(len(start), bool)
        for step in offsets @ strides:
            hit |= flat[start + step]
        distance[left[hit]] = length
        start, left = start[~hit], left[~hit]
        if not len(left):
            break
    return left


@lru_cache(maxsize=64)
def _shells(spacing: Spacing) -> list[tuple[float, NDArray[np.intp]]]:
    """All voxel offsets up to NEAR smallest edges, grouped by their length in mm, shortest first."""
    radius = NEAR * min(spacing)
    axes = [np.arange(-int(radius // s), int(radius // s) + 1) for s in spacing]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.sqrt(((offsets * np.asarray(spacing)) ** 2).sum(axis=1))
    order = np.argsort(length, kind="stable")
    order = order[length[order] <= radius]
    cuts = np.flatnonzero(np.diff(length[order]) > 1e-9 * radius) + 1
    return [(float(length[group[0]]), offsets[group]) for group in np.split(order, cuts)]


def _points(flat: NDArray[np.intp], shape: tuple[int, ...], spacing: Spacing) -> NDArray[np.float64]:
    """Positions in mm, float64 [n, 3], of flat indices into an array of the given shape."""
    return np.stack(np.unravel_index(flat, shape), axis=1).astype(np.float64) * np.asarray(spacing)
