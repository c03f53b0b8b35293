"""Distances between the borders of two masks: maximum Hausdorff distance and two definitions of HD95.

A *border voxel* belongs to the mask and has a face neighbour outside it (mask minus its 6-connected erosion; beyond
the volume's edge counts as outside), as in the authors' code, MedPy (`connectivity=1`) and MONAI. Each border voxel
of one mask has a distance, between voxel centres in mm, to the nearest border voxel of the other mask: this gives
two sets of *directed* distances, from which

- `hd` is the maximum of both (the paper's Hausdorff distance; all libraries agree);
- `hd95_pooled` is the 95th percentile of both sets thrown together (MedPy, panoptica);
- `hd95_directed` is the larger of the two sets' own 95th percentiles (MONAI).

DeepMind's and the BraTS script's HD95 weights border elements by area and is a third number.

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

Method = Literal["auto", "tree", "transform"]
Spacing = tuple[float, float, float]

NEAR = 4.0  # how far offsets are looked up, in units of the smallest voxel edge (257 offsets if isotropic)
MANY = 200_000  # border voxels from which the distance transform of the box beats the tree (facts 2.1)


class SurfaceDistances(NamedTuple):
    """Summary of the border distances in mm, see the module's text for the definitions."""

    hd: float
    hd95_pooled: float
    hd95_directed: float


UNDEFINED = SurfaceDistances(float("nan"), float("nan"), float("nan"))


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
    there, back = border_distances(truth, prediction, spacing, method)
    if not len(there) or not len(back):
        return UNDEFINED
    return SurfaceDistances(
        hd=float(max(there.max(), back.max())),
        hd95_pooled=float(np.percentile(np.concatenate([there, back]), 95)),
        hd95_directed=float(max(np.percentile(there, 95), np.percentile(back, 95))),
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
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Directed distances in mm: of the truth's border voxels to the prediction's border, and the other way round.

    Arguments as in `surface_distances`. Both arrays are empty if either mask is; their order has no meaning.
    """
    box = union_box(truth, prediction)
    if box is None or not truth[box].any() or not prediction[box].any():
        return np.empty(0), np.empty(0)
    pad = max(int(NEAR * min(spacing) // s) for s in spacing)
    a, b = (np.pad(border(mask[box]), pad) for mask in (truth, prediction))
    at_a, at_b = np.flatnonzero(a), np.flatnonzero(b)
    return _to_nearest(at_a, at_b, b, spacing, method), _to_nearest(at_b, at_a, a, spacing, method)


def _to_nearest(
    start: NDArray[np.intp],
    goal: NDArray[np.intp],
    grid: NDArray[np.bool_],
    spacing: Spacing,
    method: Method,
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
        distance[left] = distance_transform_edt(~grid, sampling=spacing).ravel()[far]
    else:
        # coordinates come sorted from a grid: median splits and tight cells cost more than they save in the query
        tree = cKDTree(
            _points(goal, grid.shape, spacing), leafsize=32, balanced_tree=False, compact_nodes=False
        )
        distance[left] = tree.query(_points(far, grid.shape, spacing))[0]
    return distance


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
