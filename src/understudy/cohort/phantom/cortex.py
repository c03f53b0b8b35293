"""The phantom's cortex: hemispheres, fissures and folds.

Sulci are the zero set of a band-limited noise that is read where rays from the lobe's axis meet a shell, so that they
point inwards; they end at a depth that varies. The pial surface is the rounded minimum of the distances to the brain's
hull, to the fissures and to those sheets, and the white matter begins a ribbon deeper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from understudy.cohort.phantom.fields import (
    Array,
    Grid,
    Point,
    Streams,
    lattice_size,
    ramp,
    round_min,
    sheet,
    spline_field,
    tube,
)
from understudy.runtime.lazy import ndimage

_GYRAL_LATTICE = 5.8  # mm: sulci some 12 mm apart
_INSULA: list[tuple[Point, float]] = [
    ((75.0, -36.0, 0.0), 0.0),
    ((52.0, -31.0, 0.0), 0.0),
    ((39.5, -23.0, 0.0), 0.0),
    ((36.5, -4.0, 0.0), 0.0),
    ((39.0, 15.0, 0.0), 0.0),
    ((47.0, 24.0, 0.0), 0.0),
]
_CALLOSUM = (2.0, 77.0, 44.0, 25.0)  # y, z of its centre and half axes, mm: inside it the hemispheres are joined


@dataclass
class Cortex:
    """The folded surface of the cerebrum.

    Args:
        brain: part of each voxel that is cerebrum and not fluid.
        depth: mm below the pial surface, rounded at the edges.
        cleft: mm to the nearest sulcus or Sylvian fissure.
    """

    brain: Array
    depth: Array
    cleft: Array


def _sulcal_sheets(streams: Streams, points: tuple[Array, Array, Array], in_temporal: np.ndarray) -> Array:
    """Distance (mm) of each point to the nearest sulcal sheet, were it endless in depth.

    A zero set becomes a distance by the gradient: forward differences over 1 mm, because the rays stretch space
    differently from place to place.
    """
    lattice = streams.rng("sulci").standard_normal(lattice_size(_GYRAL_LATTICE), dtype=np.float32)
    lattice -= ndimage.gaussian_filter(lattice, 1.1)  # no slow waves: sulci keep their distance
    axes = Grid((160, 160, 104)).axes()  # 1.5 mm apart: the table that the rays are looked up in
    table = spline_field(lattice, axes, _GYRAL_LATTICE)

    def read(x: Array, y: Array, z: Array) -> Array:
        rays, _ = _rays(x, y, z, in_temporal)
        where = [(r - np.float32(a[0])) / np.float32(a[1] - a[0]) for r, a in zip(rays, axes, strict=True)]
        return ndimage.map_coordinates(table, where, output=np.float32, order=1, mode="nearest")

    x, y, z = points
    values = read(x, y, z)
    steepness = (
        (read(x + 1, y, z) - values) ** 2 + (read(x, y + 1, z) - values) ** 2 + (read(x, y, z + 1) - values) ** 2
    )
    typical = np.median(steepness)
    return np.abs(values) / np.sqrt(np.clip(steepness, 0.25 * typical, 4 * typical) + np.float32(1e-12))


def _rays(x: Array, y: Array, z: Array, in_temporal: np.ndarray) -> tuple[list[Array], Array]:
    """Points moved half way along the ray from their lobe's axis to a shell, and their distance to that axis.

    Noise read there varies little along a ray, so that sulci point inwards.
    """
    sign = np.where(x < 0, np.float32(-1), np.float32(1))
    cx = sign * np.where(in_temporal, np.float32(40), np.float32(24))
    cz = np.where(in_temporal, 52 + 0.16 * (y + 10), np.float32(82))
    cy = np.where(in_temporal, np.clip(y, -44, 30), np.clip(y, -52, 52))
    dx, dy, dz = x - cx, y - cy, z - cz
    radius = np.sqrt(dx * dx + dy * dy + dz * dz) + np.float32(1e-3)
    factor = 0.45 + np.where(in_temporal, np.float32(14), np.float32(24)) / np.maximum(radius, 4)
    return [cx + dx * factor, cy + dy * factor, cz + dz * factor], radius


def fold(
    streams: Streams,
    atrophy: float,
    points: tuple[Array, Array, Array],
    depths: tuple[Array, Array, Array],
    noise: Array,
    width: float,
) -> Cortex:
    """Folds the cerebrum.

    Args:
        atrophy: half the width (mm) of a sulcus.
        points: x, y, z in mm.
        depths: distances (mm) to the hull, to the temporal lobes and to the ventricles.
        noise: unit variance, varying over some 30 mm.
        width: voxel size, mm. Sulci are thinner than most voxels, so their part of a voxel is that of a sheet.
    """
    x, y, z = points
    hull, temporal, ventricle = depths
    yc, zc, b, c = _CALLOSUM
    callosum = np.maximum(1 - np.sqrt(((y - yc) / b) ** 2 + ((z - zc) / c) ** 2), 0) * np.float32(c)
    fissure = np.hypot(x + 0.8 * noise, callosum)
    fissure_half = np.full_like(x, 0.5 + 0.6 * atrophy)
    side = np.abs(x) + 2 * noise
    # a curtain from the side of the brain to the insula and along it, leaning backwards
    curtain = tube(side, y + 0.45 * (z - 70) - noise, np.zeros_like(z), _INSULA)
    sylvian = np.hypot(curtain, np.maximum(np.abs(z - 70) - 10, 0))
    sylvian_half = np.float32(0.2 + 1.0 * atrophy) * (1 + 0.5 * noise)
    lobe_depth = np.minimum(hull, fissure - fissure_half)
    in_temporal = temporal > hull - 6
    sheets = _sulcal_sheets(streams, points, in_temporal)
    reach = np.clip(19 + 6 * noise, 6, 28)
    # no sulcus where the rays meet, in the corpus callosum or beside a ventricle
    centre = np.where(in_temporal, np.float32(7), np.float32(13)) - _rays(x, y, z, in_temporal)[1]
    joined = np.maximum(np.minimum(callosum + 2, 20 - side), ventricle + 5)
    beyond = np.maximum(np.maximum(lobe_depth - reach, centre), joined)
    sulci = np.hypot(sheets, np.maximum(beyond, 0))
    sulci_half = np.float32(atrophy) * np.clip(1.25 - 0.9 * np.maximum(lobe_depth, 0) / reach, 0.2, 1.25)
    sulci_half += np.clip(1.2 - 0.4 * np.maximum(lobe_depth, 0), 0, None)  # gyri are rounded
    brain, depth = ramp(hull, width), hull
    for distance, half in ((fissure, fissure_half), (sylvian, sylvian_half), (sulci, sulci_half)):
        brain = brain * (1 - np.minimum(sheet(distance, half, width), 1))
        depth = round_min(depth, distance - half, 2.0)
    return Cortex(brain, depth, np.minimum(sheets, np.abs(sylvian)))
