"""The phantom's tumours: necrotic core, enhancing rim, oedema of any place, size and shape, and their mass effect."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from understudy.cohort.phantom.head import Anatomy, Array, Grid, Push, Streams, cerebrum_depth, ramp, smooth_noise
from understudy.runtime.lazy import ndimage

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4  # labels as in BraTS 2018 to 2021


@dataclass(frozen=True)
class Lesion:
    """One tumour focus."""

    centre: tuple[float, float, float]  # mm, head coordinates
    radius: float  # of the core (necrosis and rim), mm
    axes: tuple[float, float, float]  # three factors of the radius; their product is one
    turn: float  # angle (rad) of the first axis in the axial plane
    rim: float  # thickness of the enhancing rim, mm; 0: nothing enhances
    oedema: float  # reach of the oedema beyond the core, mm
    mass: float  # part of the core's volume that pushed tissue away instead of replacing it

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {k: [round(u, 3) for u in v] if isinstance(v, tuple) else round(v, 3) for k, v in asdict(self).items()}


def _place(rng: np.random.Generator, near: Sequence[float] | None, radius: float) -> tuple[float, float, float]:
    """A point in the white matter of the cerebrum, away from the midline; for a satellite, 25 to 55 mm from `near`."""
    for _ in range(1000):
        point = rng.uniform((-58.0, -72.0, 46.0), (58.0, 78.0, 126.0))
        if near is not None:
            step = rng.standard_normal(3)
            point = np.asarray(near) + step / np.linalg.norm(step) * rng.uniform(25, 55)
        main, temporal, cerebellum = cerebrum_depth(*(np.array([p], np.float32) for p in point))
        depth = min(float(max(main[0], temporal[0])), -float(cerebellum[0]))
        if 6 + 0.45 * radius < depth < 34 and abs(point[0]) > 8 + 0.4 * radius:
            break
    return float(point[0]), float(point[1]), float(point[2])


def draw_lesions(streams: Streams, enhancing: bool, multifocal: bool, large: bool = False) -> list[Lesion]:
    """The tumour foci of one patient; satellites are smaller. large: none of them small."""
    rng = streams.rng("lesions")
    lesions: list[Lesion] = []
    median, spread, least = (24.0, 0.2, 16) if large else (18.0, 0.32, 8)  # radius, mm
    solid = rng.uniform(0.75, 1.3)
    for k in range(1 + (int(rng.integers(1, 3)) if multifocal else 0)):
        radius = float(np.clip(rng.lognormal(np.log(median), spread), least, 30))
        if k:
            radius = float(np.clip(lesions[0].radius * rng.uniform(0.4, 0.75), 6, 16))
        axes = np.exp(np.clip(rng.normal(0, 0.16, 3), -0.3, 0.3))
        axes /= np.prod(axes) ** (1 / 3)
        lesion = Lesion(
            centre=_place(rng, lesions[0].centre if k else None, radius), radius=radius,
            axes=(float(axes[0]), float(axes[1]), float(axes[2])), turn=float(rng.uniform(0, np.pi)),
            rim=float(np.clip(solid * (2.3 + 0.13 * radius), 2.8, 7.0)) if enhancing else 0.0,
            oedema=float(np.clip(rng.lognormal(np.log(21.0), 0.4) * (0.6 if k else 1), 12 if large else 5, 42)),
            mass=float(rng.uniform(0.15, 0.55)),
        )  # fmt: skip
        lesions.append(lesion)
    return lesions


def mass_effect(lesions: list[Lesion]) -> Push:
    """Where the tissue now at a point came from, when each core has pushed a part of its volume out of its place.

    Incompressible near the core (r^3 -> r^3 - k R^3), fading over 45 mm and towards the skull, which does not give.
    """

    def push(x: Array, y: Array, z: Array, depth: Array) -> tuple[Array, Array, Array]:
        points = [x, y, z]
        for lesion in lesions:
            dx, dy, dz = (p - np.float32(c) for p, c in zip(points, lesion.centre, strict=True))
            r2 = dx * dx + dy * dy + dz * dz + np.float32(1e-3)
            r = np.sqrt(r2)
            came_from = np.cbrt(np.maximum(r * r2 - np.float32(lesion.mass * lesion.radius**3), 0))
            fade = np.exp(-r2 / np.float32(2 * 32**2)) * np.clip(depth / 14, 0, 1)
            shift = (1 - came_from / r) * fade
            points = [p - d * shift for p, d in zip(points, (dx, dy, dz), strict=True)]
        return points[0], points[1], points[2]

    return push


def _core_distance(lesion: Lesion, points: tuple[Array, Array, Array], coarse: Array, fine: Array) -> Array:
    """Signed distance (mm, positive inside) to the core's irregular border."""
    x, y, z = (p - np.float32(c) for p, c in zip(points, lesion.centre, strict=True))
    c, s = np.float32(np.cos(lesion.turn)), np.float32(np.sin(lesion.turn))
    a, b, h = (np.float32(v) for v in lesion.axes)
    distance = np.sqrt(((c * x + s * y) / a) ** 2 + ((c * y - s * x) / b) ** 2 + (z / h) ** 2)
    return np.float32(lesion.radius) * (1 + 0.20 * coarse + 0.07 * fine) - distance


def _as_drawn(grid: Grid, anatomy: Anatomy, oedema: Array, core: Array) -> Array:
    """Distance to the oedema's border as a rater would draw it: smooth over 1.5 mm, no lone pieces below 0.4 ml."""
    box = np.full(grid.box_shape, -3, np.float32)
    box.ravel()[anatomy.voxels] = np.clip(np.maximum(oedema, core), -3, 3)
    smooth = ndimage.gaussian_filter(box, [1.5 / s for s in grid.spacing], truncate=2.0)
    pieces, _ = ndimage.label(smooth > 0)
    size = np.bincount(pieces.ravel()) * grid.voxel**3
    small = size[pieces.ravel()[anatomy.voxels]] < 400
    return np.where(small, np.float32(-3), smooth.ravel()[anatomy.voxels])


def add_tumours(grid: Grid, streams: Streams, anatomy: Anatomy, lesions: list[Lesion]) -> np.ndarray:
    """Paints the tumours into the anatomy (tissues oedema, necrosis, enhancing); returns its voxels' labels, uint8.

    Oedema spreads in white matter, hardly into cortex and nuclei, so that its border is fingered as the gyri are.
    """
    axes, width = grid.box_axes(), max(grid.voxel, 0.8)
    x, y, z = anatomy.points
    noises = (smooth_noise(streams.rng(f"tumour{size}"), axes, size) for size in (13.0, 6.0))
    coarse, fine = (noise.ravel()[anatomy.voxels] for noise in noises)
    core, rim, oedema = (np.full(len(x), -99, np.float32) for _ in range(3))
    fluid = np.maximum(anatomy.ventricle, 0.5 - anatomy.depth)
    nuclei = anatomy.tissues["nuclei"]
    for lesion in lesions:
        own = np.minimum(_core_distance(lesion, anatomy.points, coarse, fine), 1.0 - fluid)
        # oedema reaches beyond the core, less into nuclei and cortex, and across the midline in the callosum only
        reach = np.float32(lesion.oedema) * (0.8 + 0.35 * coarse) + own + np.float32(1.0) * fine
        reach -= 5 * nuclei
        side = np.float32(np.sign(lesion.centre[0])) * x + 2 + 2 * fine
        callosum = np.minimum(5 - np.hypot(0.3 * (y - 2), z - 97) + 2 * coarse, side + 12)
        reach = np.minimum(reach, np.maximum(side, callosum))
        spared = np.maximum(1.6 * anatomy.white + 1.6, 2.5 + own + coarse)
        oedema = np.maximum(oedema, np.minimum(reach, spared))
        core = np.maximum(core, own)
        if lesion.rim:
            thickness = min(max(lesion.rim, 1.05 * grid.voxel), 0.5 * lesion.radius) * (1 + 0.3 * coarse + 0.15 * fine)
            rim = np.maximum(rim, np.minimum(own, np.maximum(thickness, 0.7 * width) - own))
    oedema = np.minimum(_as_drawn(grid, anatomy, np.minimum(oedema, -fluid), core), -fluid)
    anatomy.paint("oedema", 1 / (1 + np.exp(-np.clip(oedema / np.float32(0.6 + 0.4 * width), -30, 30))))
    anatomy.paint("necrosis", ramp(core, width + 0.6))
    anatomy.paint("enhancing", ramp(rim, width + 0.4))
    labels = np.zeros(len(x), np.uint8)
    labels[oedema > 0] = OEDEMA
    labels[core > 0] = NECROSIS
    labels[rim > 0] = ENHANCING
    return labels
