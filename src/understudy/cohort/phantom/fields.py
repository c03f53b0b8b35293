"""What the phantom is drawn with: random streams, band-limited noise, distances to simple solids.

All lengths are millimetres in head coordinates: x grows to the patient's left, y to the back, z upwards; the field
of view is 240 x 240 x 155 mm whatever the number of voxels, so that a patient has the same anatomy at any size.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Array = np.ndarray  # float32 throughout
Point = tuple[float, float, float]

FIELD_OF_VIEW: Point = (240.0, 240.0, 155.0)
_MIDDLE: Point = (119.0, 122.0, 0.0)  # where BraTS heads have their midline, mm from the corner of the image
_BOX = ((-80.0, 80.0), (-104.0, 104.0), (2.0, 154.0))  # no head reaches beyond: voxels outside are never computed
_SPLINE_RMS = 0.4794**1.5  # of cubic B-spline noise with unit coefficients: (151 / 315)^(3/2)


@dataclass(frozen=True)
class Streams:
    """Independent random streams by name: a new one never changes what the others give."""

    seed: int
    patient: int

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.patient, zlib.crc32(name.encode())])


@dataclass(frozen=True)
class Grid:
    """The voxels of an image and the box of them that may hold the head."""

    shape: tuple[int, int, int]  # voxels along x, y, z of the whole image

    @property
    def spacing(self) -> Point:
        """mm"""
        sx, sy, sz = (fov / n for fov, n in zip(FIELD_OF_VIEW, self.shape, strict=True))
        return sx, sy, sz

    @property
    def voxel(self) -> float:
        """Edge of a cube of a voxel's volume, mm: the width over which borders are partial volume."""
        return float(np.prod(self.spacing) ** (1 / 3))

    def axes(self) -> list[np.ndarray]:
        """Head coordinates (mm) of the voxel centres along the three axes of the whole image."""
        parts = zip(self.shape, self.spacing, _MIDDLE, strict=True)
        return [(np.arange(n) + 0.5) * spacing - middle for n, spacing, middle in parts]

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The part of the image that may hold the head."""
        inside = [np.flatnonzero((a > low) & (a < high)) for a, (low, high) in zip(self.axes(), _BOX, strict=True)]
        x, y, z = (slice(int(part[0]), int(part[-1]) + 1) for part in inside)
        return x, y, z

    @property
    def box_shape(self) -> tuple[int, int, int]:
        nx, ny, nz = (part.stop - part.start for part in self.box)
        return nx, ny, nz

    def box_axes(self) -> list[np.ndarray]:
        """Head coordinates (mm) along the three axes of the box."""
        return [axis[part] for axis, part in zip(self.axes(), self.box, strict=True)]


def lattice_size(lattice: float) -> tuple[int, int, int]:
    """Coefficients along each axis of a noise lattice with this spacing (mm) that covers the field of view."""
    nx, ny, nz = (int(np.ceil(fov / lattice)) + 4 for fov in FIELD_OF_VIEW)
    return nx, ny, nz


def smooth_noise(rng: np.random.Generator, axes: Sequence[np.ndarray], lattice: float) -> Array:
    """Band-limited Gaussian noise of unit variance on a box, float32 [x, y, z], the same function on every grid.

    `axes` are head coordinates (mm); details are about twice as large as the spacing `lattice` (mm).
    """
    # a cubic B-spline over a lattice of independent normals
    values = rng.standard_normal(lattice_size(lattice), dtype=np.float32) / np.float32(_SPLINE_RMS)
    return spline_field(values, axes, lattice)


def spline_field(values: Array, axes: Sequence[np.ndarray], lattice: float) -> Array:
    """The cubic B-spline with coefficients `values` on a lattice (spacing in mm), at the points of a box."""
    for axis, positions in enumerate(axes):
        u = (positions + _MIDDLE[axis]) / lattice
        cell = np.floor(u).astype(int)
        t = u - cell
        weights = np.zeros((len(u), lattice_size(lattice)[axis]), np.float32)
        basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        for k, part in enumerate(basis):
            weights[np.arange(len(u)), cell + k] = part / 6
        # one small matrix per axis: exact, and some 30 times cheaper than interpolating voxel by voxel
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values)


def ramp(distance: Array, width: float) -> Array:
    """Part of a voxel that lies inside, from the signed distance (mm, positive inside) of its centre to the border."""
    return np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)


def sheet(distance: Array, half: Array, width: float) -> Array:
    """Part of a voxel `width` mm wide inside a sheet `half` mm to either side of a surface at `distance` mm."""
    return np.clip(
        np.minimum(half, distance + width / 2) - np.maximum(-half, distance - width / 2), 0, None
    ) / np.float32(width)


def ellipsoid(x: Array, y: Array, z: Array, centre: Point, axes: Point) -> Array:
    """Approximate signed distance (mm, positive inside) to an ellipsoid: first-order, exact for a sphere's surface."""
    dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
    a, b, c = axes
    q = np.sqrt((dx / a) ** 2 + (dy / b) ** 2 + (dz / c) ** 2)
    slope = np.sqrt((dx / a**2) ** 2 + (dy / b**2) ** 2 + (dz / c**2) ** 2)
    return np.minimum((1 - q) * q / (slope + np.float32(1e-6)), min(axes)).astype(np.float32)


def tube(x: Array, y: Array, z: Array, path: Sequence[tuple[Point, float]], flatten: float = 1.0) -> Array:
    """Signed distance (mm) to a chain of cones through `path` = ((point, radius), ...), narrower in x by `flatten`."""
    best = np.full(x.shape, -np.inf, np.float32)
    for (start, r0), (end, r1) in pairwise(path):
        ax, ay, az = (end[0] - start[0]) * flatten, end[1] - start[1], end[2] - start[2]
        px, py, pz = (x - start[0]) * flatten, y - start[1], z - start[2]
        t = np.clip((px * ax + py * ay + pz * az) / (ax * ax + ay * ay + az * az), 0, 1)
        gap = np.sqrt((px - t * ax) ** 2 + (py - t * ay) ** 2 + (pz - t * az) ** 2)
        best = np.maximum(best, (r0 + t * (r1 - r0) - gap) / np.float32(flatten))
    return best


def round_min(a: Array, b: Array, radius: float) -> Array:
    """The smaller of two distances, with the edge between the two surfaces rounded over `radius` mm."""
    blend = np.clip((b - a) / np.float32(2 * radius) + np.float32(0.5), 0, 1)
    return b + (a - b) * blend - np.float32(radius) * blend * (1 - blend)
