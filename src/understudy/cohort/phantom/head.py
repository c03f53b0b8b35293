"""The phantom's head: folded cortex, white matter, nuclei, ventricles, cerebellum, brainstem, as parts of voxels.

Each is a signed distance (mm); a ramp one voxel wide makes partial volume of it that is right at any resolution. All
lengths are millimetres in head coordinates: x grows to the patient's left, y to the back, z upwards; the field of view
is 240 x 240 x 155 mm whatever the number of voxels, so that a patient has the same anatomy at any size.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from understudy.runtime.lazy import ndimage

Array = np.ndarray  # float32 throughout
Point = tuple[float, float, float]

FIELD_OF_VIEW: Point = (240.0, 240.0, 155.0)
_MIDDLE: Point = (119.0, 122.0, 0.0)  # where BraTS heads have their midline, mm from the corner of the image
_BOX = ((-80.0, 80.0), (-104.0, 104.0), (2.0, 154.0))  # no head reaches beyond: voxels outside are never computed
_SPLINE_RMS = 0.4794**1.5  # of cubic B-spline noise with unit coefficients: (151 / 315)^(3/2)
_GYRAL_LATTICE = 5.8  # mm: sulci some 12 mm apart
_CURTAIN = ((75.0, -36.0), (52.0, -31.0), (39.5, -23.0), (36.5, -4.0), (39.0, 15.0), (47.0, 24.0))  # x, y, mm
_INSULA: list[tuple[Point, float]] = [((x, y, 0.0), 0.0) for x, y in _CURTAIN]
_CALLOSUM = (2.0, 77.0, 44.0, 25.0)  # y, z of its centre and half axes, mm: inside it the hemispheres are joined
# Points (mm) along a lateral ventricle from its frontal to its occipital horn, and along its temporal horn, with radii.
_VENTRICLE: list[tuple[Point, float]] = [
    ((15.0, -38.0, 77.0), 2.2), ((8.0, -24.0, 83.0), 5.0), ((7.5, -4.0, 91.0), 5.2), ((12.0, 20.0, 93.0), 5.2),
    ((22.0, 36.0, 84.0), 7.0), ((24.0, 52.0, 77.0), 3.6), ((22.0, 66.0, 74.0), 1.2),
]  # fmt: skip
_TEMPORAL_HORN = [((23.0, 34.0, 82.0), 5.5), ((33.0, 20.0, 62.0), 2.8), ((31.0, -8.0, 53.0), 1.6)]

Push = Callable[[Array, Array, Array, Array], tuple[Array, Array, Array]]


# --- what it is drawn with: random streams, band-limited noise, distances to simple solids


@dataclass(frozen=True)
class Streams:
    """Independent random streams by name: a new one never changes what the others give."""

    seed: int
    patient: int

    def rng(self, name: str) -> np.random.Generator:
        """The stream from its start."""
        return np.random.default_rng([self.seed, self.patient, zlib.crc32(name.encode())])


@dataclass(frozen=True)
class Grid:
    """The voxels of an image and the box of them that may hold the head."""

    shape: tuple[int, int, int]  # voxels along x, y, z of the whole image

    @property
    def spacing(self) -> list[float]:
        """mm"""
        return [fov / n for fov, n in zip(FIELD_OF_VIEW, self.shape, strict=True)]

    @property
    def voxel(self) -> float:
        """Edge of a cube of a voxel's volume, mm: the width over which borders are partial volume."""
        return float(np.prod(self.spacing) ** (1 / 3))

    def axes(self) -> list[np.ndarray]:
        """Head coordinates (mm) of the voxel centres along the three axes of the whole image."""
        parts = zip(self.shape, self.spacing, _MIDDLE, strict=True)
        return [(np.arange(n) + 0.5) * spacing - middle for n, spacing, middle in parts]

    @property
    def box(self) -> tuple[slice, ...]:
        """The part of the image that may hold the head."""
        inside = [np.flatnonzero((a > low) & (a < high)) for a, (low, high) in zip(self.axes(), _BOX, strict=True)]
        return tuple(slice(int(part[0]), int(part[-1]) + 1) for part in inside)

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Voxels of the box along x, y, z."""
        return tuple(part.stop - part.start for part in self.box)

    def box_axes(self) -> list[np.ndarray]:
        """Head coordinates (mm) along the three axes of the box."""
        return [axis[part] for axis, part in zip(self.axes(), self.box, strict=True)]


def lattice_size(lattice: float) -> list[int]:
    """Coefficients along each axis of a noise lattice with this spacing (mm) that covers the field of view."""
    return [int(np.ceil(fov / lattice)) + 4 for fov in FIELD_OF_VIEW]


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
    inside = np.minimum(half, distance + width / 2) - np.maximum(-half, distance - width / 2)
    return np.clip(inside, 0, None) / np.float32(width)


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


# --- its parts


def _sulcal_sheets(streams: Streams, points: tuple[Array, Array, Array], in_temporal: np.ndarray) -> Array:
    """Distance (mm) of each point to the nearest sulcal sheet, were it endless in depth."""
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
    # a distance by the gradient: forward differences over 1 mm, as rays stretch space differently from place to place
    steepness = (
        (read(x + 1, y, z) - values) ** 2 + (read(x, y + 1, z) - values) ** 2 + (read(x, y, z + 1) - values) ** 2
    )
    typical = np.median(steepness)
    return np.abs(values) / np.sqrt(np.clip(steepness, 0.25 * typical, 4 * typical) + np.float32(1e-12))


def _rays(x: Array, y: Array, z: Array, in_temporal: np.ndarray) -> tuple[list[Array], Array]:
    """Points moved half way along the ray from their lobe's axis to a shell, and their distance to that axis."""
    sign = np.where(x < 0, np.float32(-1), np.float32(1))
    cx = sign * np.where(in_temporal, np.float32(40), np.float32(24))
    cz = np.where(in_temporal, 52 + 0.16 * (y + 10), np.float32(82))
    cy = np.where(in_temporal, np.clip(y, -44, 30), np.clip(y, -52, 52))
    dx, dy, dz = x - cx, y - cy, z - cz
    radius = np.sqrt(dx * dx + dy * dy + dz * dz) + np.float32(1e-3)
    factor = 0.45 + np.where(in_temporal, np.float32(14), np.float32(24)) / np.maximum(radius, 4)
    return [cx + dx * factor, cy + dy * factor, cz + dz * factor], radius


def fold(
    streams: Streams, atrophy: float, points: tuple[Array, Array, Array], depths: tuple[Array, Array, Array],
    noise: Array, width: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """The part of each voxel that is cerebrum, mm below the pial surface, and mm to the nearest sulcus.

    Sulci are the zero set of a band-limited noise that is read where rays from the lobe's axis meet a shell, so that
    they point inwards. The pial surface is the rounded minimum of the distances to hull, fissures and those sheets.

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
    return brain, depth, np.minimum(sheets, np.abs(sylvian))


@dataclass(frozen=True)
class HeadShape:
    """What differs from one head to the next."""

    scale: Point
    angles: Point  # rad about x, y, z
    ventricles: float  # factor of the ventricles' radius
    atrophy: float  # mm, half the width of a sulcus
    ribbon: float  # mm, cortical thickness
    lesions_of_age: float  # mm, reach of white matter hyperintensities around the ventricles; negative: none

    @classmethod
    def draw(cls, streams: Streams) -> "HeadShape":
        """The head of a patient."""
        rng = streams.rng("head")
        sx, sy, sz = np.clip(rng.normal(1.0, 0.03, 3), 0.93, 1.06)
        ax, ay, az = np.clip(rng.normal(0.0, 0.03, 3), -0.08, 0.08)
        age = rng.uniform()
        return cls(
            scale=(float(sx), float(sy), float(sz)),
            angles=(float(ax), float(ay), float(az)),
            ventricles=float(np.clip(0.75 + 0.5 * age + rng.normal(0, 0.15), 0.55, 1.5)),
            atrophy=float(np.clip(0.35 + 0.6 * age + rng.normal(0, 0.12), 0.25, 1.2)),
            ribbon=float(rng.normal(2.9, 0.12)),
            lesions_of_age=float(rng.uniform(1.0, 6.0) if rng.uniform() < 0.2 + 0.6 * age else -10.0),
        )


@dataclass
class Anatomy:
    """A head before any tumour, on the flat list of the voxels that are inside the mask."""

    voxels: np.ndarray  # flat indices into the box of the grid
    points: tuple[Array, Array, Array]  # x, y, z of the voxels in mm (before mass effect)
    tissues: dict[str, Array] = field(repr=False)  # part of the voxel per tissue; they add up to one
    depth: Array  # mm below the brain's hull
    white: Array  # mm below the border of cortex and white matter (negative in the cortex)
    ventricle: Array  # signed distance to the lateral ventricles, mm

    def paint(self, name: str, part: Array) -> None:
        """Lays a tissue over the others: `part` of each voxel becomes it, the rest keeps its proportions."""
        rest = 1 - part
        for values in self.tissues.values():
            values *= rest
        self.tissues[name] = self.tissues[name] + part if name in self.tissues else part.copy()


def cerebrum_depth(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """Depth (mm) below the hulls of the cerebrum without its temporal lobes, of these, and of the cerebellum."""
    front = np.clip(-y / 90, 0, 1)
    width = 67.5 * (1 - 0.13 * front**2)
    height = np.where(z > 80, np.float32(65), 32 - 8 * np.clip(y / 80, -0.3, 1))
    u, v, w = np.abs(x) / width, np.abs(y - 1) / 94, np.abs(z - 80) / height
    total = u * u * np.sqrt(u) + v * v * np.sqrt(v) + w * w * np.sqrt(w)
    q = total**0.4
    slope = np.sqrt((u**1.5 / width) ** 2 + (v**1.5 / 94) ** 2 + (w**1.5 / height) ** 2) / (q**1.5 + 1e-6)
    main = np.minimum((1 - q) / (slope + 1e-4), 60)
    temporal = ellipsoid(np.abs(x), y, z - 0.2 * (y + 10), (43.0, -14.0, 56.0), (23.0, 49.0, 21.0))
    wings = ellipsoid(np.abs(x), y, z, (24.0, 46.0, 37.0), (30.0, 33.0, 26.0))
    vermis = ellipsoid(x, y, z, (0.0, 40.0, 40.0), (20.0, 30.0, 24.0))
    return main.astype(np.float32), temporal, -round_min(-wings, -vermis, 4.0)


def _brainstem(x: Array, y: Array, z: Array) -> Array:
    stem = tube(x, y, z, (((0, 20, 4), 7.5), ((0, 14, 24), 8.5), ((0, 8, 34), 12.0)))
    pons = ellipsoid(x, y, z, (0.0, 3.0, 42.0), (17.0, 14.5, 14.0))
    side = np.abs(x)
    peduncle = tube(side, y, z, (((6.0, 2, 48), 8.5), ((9.5, -2, 66), 8.0)))
    tectum = tube(x, y, z, (((0, 10, 48), 8.0), ((0, 11, 66), 8.5)))
    return np.maximum(np.maximum(stem, pons), -round_min(-peduncle, -tectum, 4.0))


def ventricle_distance(x: Array, y: Array, z: Array, size: float) -> Array:
    """Signed distance (mm, positive inside) to the two lateral ventricles with their three horns."""
    side = np.abs(x)
    body, horn = ([(point, radius * size) for point, radius in path] for path in (_VENTRICLE, _TEMPORAL_HORN))
    # the septum: the two bodies never meet in the midline
    return np.minimum(np.maximum(tube(side, y, z, body, 1.35), tube(side, y, z, horn, 1.2)), side - np.float32(0.7))


def _nuclei(x: Array, y: Array, z: Array) -> Array:
    side = np.abs(x)
    thalamus = ellipsoid(side, y - 0.35 * (side - 10), z, (11.0, 9.0, 75.0), (8.5, 14.5, 9.5))
    caudate = tube(side, y, z, (((13.0, -28.0, 80.0), 6.0), ((16.0, -6.0, 89.0), 3.6), ((20.0, 18.0, 92.0), 2.2)))
    lentiform = ellipsoid(side - 0.30 * (y + 6), y, z, (26.0, -6.0, 75.0), (7.0, 18.0, 11.0))
    hippocampus = tube(side, y, z, (((25.0, -10.0, 50.0), 5.0), ((27.0, 12.0, 57.0), 4.0), ((20.0, 28.0, 68.0), 2.5)))
    return np.maximum(np.maximum(thalamus, caudate), np.maximum(lentiform, hippocampus))


def head_points(grid: Grid, streams: Streams, head: HeadShape) -> tuple[Array, Array, Array]:
    """Coordinates (mm) of every voxel of the box in the standard head: this head's place, size and shape undone."""
    axes = grid.box_axes()
    x, y, z = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij", sparse=True)
    ax, ay, az = head.angles
    yc, zc = y - 2, z - 78
    # small angles: the first-order rotation is a shear that nobody can tell from a rotation
    turned = (x + az * yc - ay * zc, yc - az * x + ax * zc, zc + ay * x - ax * yc)
    points = []
    for axis, (values, scale, middle) in enumerate(zip(turned, head.scale, (0, 2, 78), strict=True)):
        warp = smooth_noise(streams.rng(f"warp{axis}"), axes, 34.0)
        points.append((values / np.float32(scale) + np.float32(middle) + np.float32(1.5) * warp).astype(np.float32))
    return points[0], points[1], points[2]


def _cerebellum(x: Array, y: Array, z: Array, depth: Array, noise: Array) -> tuple[Array, Array]:
    """Depth (mm) below the cerebellum's foliated surface, and below its cortex."""
    shells = np.sqrt(0.4 * x * x + (y - 12) ** 2) * 0.85 + 0.5 * (z - 40) + 0.5 * noise
    leaf = np.abs(np.mod(shells, np.float32(4.6)) - np.float32(2.3))
    notch = np.hypot(x, np.maximum(66 - y, 0)) - np.float32(1.0)
    surface = round_min(depth, notch, 1.0)
    sheets = np.hypot(leaf, np.maximum(surface - 9 - 3 * noise, 0))
    return round_min(surface, sheets - np.float32(0.1), 0.6), np.minimum(surface - 3, sheets - np.float32(1.1))


def _paint_depths(
    anatomy: Anatomy, head: HeadShape, inner: tuple[Array, Array, Array], noise: Array, width: float
) -> None:
    """Age's hyperintensities, nuclei, ventricles, choroid plexus and brainstem, over cortex and white matter."""
    x, y, z = inner
    white, ventricle = anatomy.white, anatomy.ventricle
    if head.lesions_of_age > 0:
        caps = np.minimum(np.float32(head.lesions_of_age) * (0.4 + 0.8 * noise), 8) + ventricle
        spots = (noise - np.float32(2.55)) * 5
        anatomy.paint("wmh", ramp(np.minimum(np.maximum(caps, spots), white - 1.5), 2.5 + width))
    anatomy.paint("nuclei", ramp(np.minimum(_nuclei(x, y, z), white + 1), width + 0.5))
    stem = _brainstem(x, y, z)
    anatomy.paint("csf", ramp(np.minimum(stem + 1.4 + 0.9 * noise, 66 - z), width))
    anatomy.paint("stem", ramp(stem, width))
    csf = np.maximum(ventricle, ellipsoid(x, y, z, (0.0, 4.0, 71.0), (1.9 * head.ventricles, 17.0, 9.0)))
    csf = np.maximum(csf, ellipsoid(x, y, z, (0.0, 24.5, 40.0), (5.5, 4.0, 8.0)))
    csf = np.maximum(csf, ellipsoid(x, y, z, (0.0, -17.0, 54.0), (11.0, 8.5, 5.5)))
    anatomy.paint("csf", ramp(csf, width))
    plexus = ellipsoid(np.abs(x), y, z, (20.5, 33.0, 84.0), (2.6, 6.5, 3.2))
    anatomy.paint("choroid", 0.8 * ramp(np.minimum(plexus, ventricle + 1), width))


def build_anatomy(grid: Grid, streams: Streams, head: HeadShape, push: Push | None = None) -> Anatomy:
    """A head without tumour: csf, gm, wm, nuclei, cerebellum, stem, wmh, choroid, vessel and their distances.

    `push` moves points (mm), given their depth, to where their tissue came from: the mass effect of tumours.
    """
    axes, width = grid.box_axes(), max(grid.voxel, 0.8)
    points = head_points(grid, streams, head)
    main, temporal, cerebellum = cerebrum_depth(*points)
    whole = np.maximum(np.maximum(np.maximum(main, temporal), cerebellum), _brainstem(*points))
    coarse = smooth_noise(streams.rng("coarse"), axes, 10.0)
    voxels = np.flatnonzero(whole + 0.9 + 0.5 * coarse > 0)
    x, y, z = (p.ravel()[voxels] for p in points)
    main, temporal, cerebellum = (d.ravel()[voxels] for d in (main, temporal, cerebellum))
    noise = coarse.ravel()[voxels]
    spots = smooth_noise(streams.rng("spots"), axes, 6.5).ravel()[voxels]
    slow = smooth_noise(streams.rng("slow"), axes, 16.0).ravel()[voxels]
    hull = np.minimum(np.maximum(main, temporal), -cerebellum - 1.2) - 0.3 + 0.6 * slow
    inner = (x, y, z) if push is None else push(x, y, z, whole.ravel()[voxels])
    ventricle = ventricle_distance(*inner, head.ventricles)
    brain, pial, cleft = fold(streams, head.atrophy, inner, (hull, temporal, ventricle), slow, width)
    white = pial - np.float32(head.ribbon) * (1 + 0.1 * noise)
    csf = np.ones(len(voxels), np.float32)
    anatomy = Anatomy(voxels, (x, y, z), {"csf": csf}, hull, white, ventricle)
    anatomy.paint("gm", brain)
    anatomy.paint("wm", ramp(white, width))
    leaf, core = _cerebellum(*inner, cerebellum, noise)
    anatomy.paint("cerebellum", ramp(leaf, width))
    anatomy.paint("wm", ramp(np.minimum(core, leaf), width))
    _paint_depths(anatomy, head, inner, spots, width)
    twigs = np.float32(0.9) - np.hypot(cleft, 9 * np.abs(noise))
    sinus = np.float32(2.6) - np.hypot(inner[0], np.minimum(main, 50) - 0.3)
    twigs = np.minimum(np.minimum(twigs, 1 - pial), -cerebellum - 3)
    vessels = np.maximum(twigs, np.minimum(sinus, z - 62))
    anatomy.paint("vessel", ramp(vessels, width) * (vessels > -width))
    return anatomy
