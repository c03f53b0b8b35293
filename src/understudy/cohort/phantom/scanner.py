"""The phantom's scanner: tissue intensities per sequence, sites, blur, bias field and Rician noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from understudy.cohort.phantom.fields import Array, Grid, Streams, smooth_noise
from understudy.cohort.phantom.head import Anatomy
from understudy.runtime.lazy import ndimage

CHANNELS = ("t1", "t1gd", "t2", "flair")

# Intensities relative to white matter on T1w, the same arbitrary unit in each sequence; the order of tissues and the
# rough ratios are those of BraTS volumes.
TISSUES: dict[str, tuple[float, float, float, float]] = {
    #              t1    t1gd  t2    flair
    "csf": (0.26, 0.28, 2.00, 0.20),
    "gm": (0.74, 0.78, 0.84, 0.98),
    "wm": (1.00, 1.00, 0.56, 0.76),
    "nuclei": (0.84, 0.87, 0.64, 0.86),
    "cerebellum": (0.74, 0.79, 0.84, 0.90),
    "stem": (0.95, 0.96, 0.62, 0.80),
    "wmh": (0.84, 0.86, 0.92, 1.28),
    "choroid": (0.62, 1.32, 1.30, 0.80),
    "vessel": (0.50, 1.55, 0.55, 0.40),
    "oedema": (0.76, 0.78, 1.18, 1.50),
    "necrosis": (0.44, 0.46, 1.55, 0.95),
    "enhancing": (0.74, 1.60, 0.98, 1.22),
}
_NON_ENHANCING = (0.58, 0.60, 1.45, 1.38)  # a core that does not enhance is tumour, not necrosis


@dataclass(frozen=True)
class Site:
    """A hospital's scanner and protocol."""

    name: str
    contrast: tuple[float, ...]  # factor of every tissue's difference from white matter, per sequence
    gamma: tuple[float, ...]  # exponent of the intensities, per sequence
    noise: float  # standard deviation of the complex noise, in units of white matter on T1w, at 1 mm voxels
    bias: float  # standard deviation of the logarithm of the bias field
    blur: tuple[float, float]  # standard deviation (mm) of the point spread in plane and through plane
    thick: float  # the same through plane for FLAIR, which is often acquired in thick slices

    @classmethod
    def draw(cls, name: str, number: int) -> Site:
        """The site with this number, the same in every cohort whatever its seed."""
        rng = np.random.default_rng([20182023, number])
        return cls(
            name=name,
            contrast=tuple(round(float(v), 3) for v in rng.uniform(0.8, 1.15, len(CHANNELS))),
            gamma=tuple(round(float(v), 3) for v in rng.uniform(0.85, 1.2, len(CHANNELS))),
            noise=round(float(rng.uniform(0.012, 0.036)), 4),
            bias=round(float(rng.uniform(0.04, 0.14)), 3),
            blur=(round(float(rng.uniform(0.3, 0.7)), 2), round(float(rng.uniform(0.3, 1.0)), 2)),
            thick=round(float(rng.uniform(0.6, 1.9)), 2),
        )


def tissue_intensities(streams: Streams, site: Site, enhancing: bool) -> dict[str, np.ndarray]:
    """Intensity of every tissue in this patient on this scanner: name -> float64 [channel]."""
    rng = streams.rng("intensities")
    vivid = {"oedema": rng.uniform(0.75, 1.15), "enhancing": rng.uniform(0.8, 1.3), "necrosis": rng.uniform(0.8, 1.1)}
    white = np.array(TISSUES["wm"])
    table = {}
    for tissue, values in TISSUES.items():
        if tissue == "necrosis" and not enhancing:
            values = _NON_ENHANCING
        base = np.array(values)
        base = white + (base - white) * vivid.get(tissue, 1.0)
        base = white + (base - white) * np.array(site.contrast)
        jitter = 1 + 0.03 * np.clip(rng.standard_normal(len(CHANNELS)), -2, 2)
        table[tissue] = np.maximum(base, 0.08) ** np.array(site.gamma) * (jitter if tissue != "wm" else 1)
    return table


def _blur(values: Array, anatomy: Anatomy, grid: Grid, sigmas: tuple[float, float]) -> Array:
    """Point spread inside the brain only, so that the skull-stripped border stays sharp as in BraTS volumes."""
    # a scanner averages over its voxel: without that, folds finer than the voxel would be sampled as salt and pepper
    spread = [np.hypot(s / w, 0.42) for s, w in zip((sigmas[0], sigmas[0], sigmas[1]), grid.spacing, strict=True)]
    box = np.zeros((2, int(np.prod(grid.box_shape))), np.float32)
    box[0, anatomy.voxels], box[1, anatomy.voxels] = values, 1
    for part in box:
        part[:] = ndimage.gaussian_filter(part.reshape(grid.box_shape), spread, truncate=2.5).ravel()
    return box[0, anatomy.voxels] / box[1, anatomy.voxels]


def render(grid: Grid, streams: Streams, anatomy: Anatomy, site: Site, enhancing: bool) -> dict[str, Array]:
    """The four sequences as a scanner at this site would show them.

    Returns:
        channel -> float32 intensities of the anatomy's voxels in arbitrary units, all above 0.
    """
    axes, table = grid.box_axes(), tissue_intensities(streams, site, enhancing)
    rng = streams.rng("scan")
    texture = smooth_noise(streams.rng("texture"), axes, 4.0).ravel()[anatomy.voxels]
    images = {}
    for c, channel in enumerate(CHANNELS):
        clean = np.zeros(len(anatomy.voxels), np.float32)
        for tissue, part in anatomy.tissues.items():
            clean += part * np.float32(table[tissue][c])
        clean *= 1 + 0.025 * (texture if c % 2 else -texture)
        through = site.thick if channel == "flair" else site.blur[1]
        clean = _blur(clean, anatomy, grid, (site.blur[0], through))
        bias = smooth_noise(streams.rng(f"bias {channel}"), axes, 70.0).ravel()[anatomy.voxels]
        clean *= np.exp(np.float32(site.bias) * bias)
        # a larger voxel has less noise: half of what averaging (edge^-1.5) would give, as coarse scans are faster too
        sigma = np.float32(site.noise * min(1.0, grid.voxel**-0.75))
        real, imaginary = rng.standard_normal((2, len(clean)), dtype=np.float32) * sigma
        gain = np.float32(rng.lognormal(np.log(600.0), 0.5))
        images[channel] = np.maximum(np.hypot(clean + real, imaginary) * gain, np.float32(1e-3))
    return images
