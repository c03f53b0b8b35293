"""Where the voxels of a volume lie: comparison of grids, and the planes into which a volume is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Plane = Literal["axial", "coronal", "sagittal"]

SAME_GRID = 0.05  # voxels by which two headers may differ at a corner: rounding, not another position
SAME_EDGES = 0.02  # relative difference of voxel sizes between files that are taken as aligned
_STRETCHED = 2.0  # ratio of a pixel's edges beyond which slices are strips, which no resampling makes sharp
_SMALLEST = 8  # pixels: narrower slices show no head

# Directions of (columns, rows, slices) in each plane: heads upright, and in axial slices the nose at the top.
_DIRECTIONS: dict[Plane, str] = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}


def axes_of(plane: Plane) -> tuple[str, str]:
    """Directions of rows and columns of a slice: ("P", "L") in axial slices, the radiologist's view."""
    directions = _DIRECTIONS[plane]
    return directions[1], directions[0]


@dataclass(frozen=True)
class VolumeHeader:
    """What a NIfTI header says, without the voxels."""

    shape: tuple[int, ...]  # as stored, trailing axes of length 1 left out
    dtype: np.dtype[Any]  # as stored, with the byte order
    offset: int  # bytes before the first voxel
    slope: float  # value = stored * slope + intercept
    intercept: float
    affine: NDArray[np.float64]  # [4, 4], voxel (as stored) to world (RAS, mm), whatever the units of the header
    plane: Plane = "axial"  # of the slices into which the volume is cut
    doubts: tuple[tuple[str, str], ...] = ()  # (what is doubtful, what to do); such a file can be used
    positioned: bool = True  # False where neither sform nor qform is set: the affine is then a convention
    units: str = "mm"  # of lengths in the header
    turn: NDArray[np.float64] | None = None  # replaces `reorientation`, see `like`

    @property
    def voxels(self) -> int:
        """Their number."""
        return int(np.prod(self.shape, dtype=object))

    @cached_property
    def reorientation(self) -> NDArray[np.float64]:
        """nibabel's orientation array: flips and swaps that turn the stored axes into (columns, rows, slices)."""
        if self.turn is not None:
            return self.turn
        stored = nib.orientations.io_orientation(self.affine)
        wanted = nib.orientations.axcodes2ornt(_DIRECTIONS[self.plane])
        return np.asarray(nib.orientations.ornt_transform(stored, wanted))

    @property
    def axes(self) -> str:
        """Directions of the stored axes in letters, e.g. LPS."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    @property
    def edges(self) -> NDArray[np.float64]:
        """Of a voxel along the stored axes, mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    def voxels_apart(self, other: VolumeHeader) -> float:
        """Largest distance, in voxels of this volume, between the corners of both volumes; inf for other shapes.

        The order in which they are stored does not matter. A volume without a position is compared as it is stored.
        """
        if self.positioned != other.positioned:
            return 0.0 if self.stored_alike(other) else float("inf")
        order = self._order_of(other)
        if order is None or tuple(other.shape[i] for i in np.argsort(order[:, 0])) != self.shape:
            return float("inf")
        turned = other.affine @ nib.orientations.inv_ornt_aff(order, other.shape)
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.shape) - 1)  # [8, 3]
        difference = turned[:3] - self.affine[:3]
        moved = corners @ difference[:, :3].T + difference[:, 3]  # [8, 3], mm
        return float(np.abs(np.linalg.solve(self.affine[:3, :3], moved.T)).max())

    def same_grid(self, other: VolumeHeader) -> bool:
        """Whether both volumes have their voxels at the same places, in whatever order they are stored."""
        return self.voxels_apart(other) <= SAME_GRID

    def stored_alike(self, other: VolumeHeader) -> bool:
        """Whether shapes and voxel sizes agree as stored, so that the arrays may be aligned whatever headers say."""
        return self.shape == other.shape and np.allclose(self.edges, other.edges, rtol=SAME_EDGES)

    def arranged(self, voxels: NDArray[Any], own: VolumeHeader) -> NDArray[Any]:
        """Voxels of a volume on the same grid, whose header is `own`, in the order in which this one is stored."""
        order = self._order_of(own) if self.positioned == own.positioned else None
        return voxels if order is None else nib.orientations.apply_orientation(voxels, order)

    def like(self, reference: VolumeHeader) -> VolumeHeader:
        """This header, so that `slices_of` gives slices that lie on those of a volume on the same grid."""
        if self.positioned != reference.positioned:
            return replace(self, affine=reference.affine, turn=reference.reorientation)
        order = reference._order_of(self)
        assert order is not None, "not on the same grid"
        turn = reference.reorientation[order[:, 0].astype(int)].copy()
        turn[:, 1] *= order[:, 1]
        return replace(self, turn=turn)

    def _order_of(self, other: VolumeHeader) -> NDArray[np.float64] | None:
        """Flips and swaps that turn the stored axes of `other` into those of this volume; None if there are none."""
        # Not by the anatomical direction of each axis: at 45 degrees rounding decides that.
        steps = np.linalg.solve(self.affine[:3, :3], other.affine[:3, :3])
        axes = np.abs(steps).argmax(axis=0)
        if len(set(axes.tolist())) < 3:
            return None
        return np.stack([axes, np.sign(steps[axes, range(3)])], axis=1).astype(float)

    @cached_property
    def slice_affine(self) -> NDArray[np.float64]:
        """float64 [4, 4]: (row, column, slice) of the volume as `slices_of` returns it, to world."""
        turned = self.affine @ nib.orientations.inv_ornt_aff(self.reorientation, self.shape)
        return np.asarray(turned[:, [1, 0, 2, 3]])

    @cached_property
    def slice_shape(self) -> tuple[int, int, int]:
        """(Z, H, W) of the volume as `slices_of` returns it."""
        target = np.empty(3, int)
        target[self.reorientation[:, 0].astype(int)] = self.shape
        return int(target[2]), int(target[1]), int(target[0])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(slice, row, column) distance in mm."""
        rows, columns, slices = np.linalg.norm(self.slice_affine[:3, :3], axis=0)
        return float(slices), float(rows), float(columns)


def slices_of(voxels: NDArray[Any], header: VolumeHeader) -> NDArray[Any]:
    """[as stored] -> view [Z, H, W]; axial: slices from inferior to superior, rows to posterior, columns to left."""
    return nib.orientations.apply_orientation(voxels, header.reorientation).T


def as_stored(slices: NDArray[Any], header: VolumeHeader) -> NDArray[Any]:
    """[Z, H, W] -> view [as stored]: the inverse of `slices_of`."""
    back = np.empty((3, 2))
    back[header.reorientation[:, 0].astype(int)] = np.stack([np.arange(3), header.reorientation[:, 1]], axis=1)
    return nib.orientations.apply_orientation(slices.T, back)


def judge_pixels(header: VolumeHeader) -> list[tuple[str, str, Literal["error", "warning"]]]:
    """What does not suit two-dimensional slices in the header's plane, as (what, fix, severity): strips, few pixels."""
    _, height, width = header.slice_shape
    _, *edges = header.spacing
    long, short = max(edges), min(edges)
    pixels = f"{header.plane} slices have pixels of {edges[0]:.3g} x {edges[1]:.3g} mm"
    if min(height, width) < _SMALLEST or long > _STRETCHED * short:
        what = pixels if long > _STRETCHED * short else f"{header.plane} slices have {height} x {width} pixels"

        def badness(plane: Plane) -> tuple[bool, float]:
            turned = replace(header, plane=plane)
            return min(turned.slice_shape[1:]) < _SMALLEST, max(turned.spacing[1:]) / min(turned.spacing[1:])

        better = min(_DIRECTIONS, key=badness)
        if better != header.plane:
            fix = f"set `slices: {{plane: {better}}}`"
            return [(f"{what}: the volume was acquired in {better} slices", fix, "error")]
        return [(what, "resample the volume to square pixels in the plane of its slices", "error")]
    if long > 1.02 * short:
        return [(pixels, "nothing to do: they are resampled to squares", "warning")]
    return []
