"""Radiomic features: an extractor that needs no weights. First order, texture and wavelets inside a mask.

The numbers have different units; `standardised` divides by the standard deviation of real slices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_json

if TYPE_CHECKING:
    from understudy.quality.extractors import Features

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

LEVELS = 32  # grey levels of entropy and texture: bins of 8 grey values
ABOVE = 8  # grey values up to this are background: what generators draw there is never exactly 0
DISTANCES, DIRECTIONS = (1, 2), ((0, 1), (-1, 1), (-1, 0), (-1, -1))
WAVELET_LEVELS = 3
PERCENTILES = (10, 25, 50, 75, 90)
FIRST_ORDER = ("area", "mean", "sd", "skewness", "kurtosis", "entropy", *(f"p{p}" for p in PERCENTILES))
TEXTURE = tuple(f"{n}_{d}" for d in DISTANCES for n in ("contrast", "correlation", "energy", "homogeneity"))
WAVELETS = tuple(f"haar_{b}_{level + 1}" for level in range(WAVELET_LEVELS) for b in ("lh", "hl", "hh"))
NAMES = (*FIRST_ORDER, *TEXTURE, *WAVELETS)


def radiomics(images: NDArray[np.uint8], mask: Mask) -> Features:
    """Features float32 [n, 28], in the order of `NAMES`, of images uint8 [n, H, W] inside mask bool [n, H, W].

    A slice without mask has zeros everywhere; one of a single grey value has skewness and kurtosis 0, correlation 1.

    Example:
        >>> radiomics(np.full((1, 8, 8), 80, np.uint8), np.ones((1, 8, 8), bool))[0, :3].tolist()
        [1.0, 80.0, 0.0]
    """
    parts = [first_order(images, mask), texture(images, mask), wavelets(images, mask)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def histograms(values: NDArray[Any], mask: Mask, levels: int) -> NDArray[np.int64]:
    """Counts int64 [n, levels] of the values inside the mask of each slice."""
    n = len(values)
    keys = values.astype(np.int64) + levels * np.arange(n)[:, None, None]
    return np.bincount(keys[mask], minlength=n * levels).reshape(n, levels)


def first_order(images: NDArray[np.uint8], mask: Mask) -> Floats:
    """Features [n, 11] in the order of `FIRST_ORDER`; entropy in bits over 32 levels."""
    counts = histograms(images, mask, 256).astype(np.float64)
    pixels = counts.sum(1)
    share = counts / np.maximum(pixels, 1)[:, None]
    mean = share @ np.arange(256)
    away = np.arange(256)[None] - mean[:, None]
    second, third, fourth = ((share * away**k).sum(1) for k in (2, 3, 4))
    some = second > 1e-9  # not of a single grey value
    spread = np.where(some, second, 1.0)
    coarse = share.reshape(len(share), LEVELS, -1).sum(2)
    entropy = -(coarse * np.log2(np.where(coarse > 0, coarse, 1.0))).sum(1)
    reached = counts.cumsum(1)
    ranks = np.ceil(np.outer(pixels, PERCENTILES) / 100 - 1e-9)  # a percentile is the smallest value that reaches it
    percentiles = (reached[:, :, None] < ranks[:, None, :]).sum(1)
    columns = [
        mask.mean(axis=(1, 2)), mean, np.sqrt(second), np.where(some, third / spread**1.5, 0.0),
        np.where(some, fourth / spread**2 - 3, 0.0), entropy, *np.where(pixels > 0, percentiles.T, 0),
    ]  # fmt: skip
    return np.stack(columns, axis=1)


def texture(images: NDArray[np.uint8], mask: Mask) -> Floats:
    """Features [n, 8] in the order of `TEXTURE` (Haralick 1973), at chessboard distances 1 and 2.

    Each is the mean over the four directions that have a pair at all; pairs with a pixel outside the mask do not count.
    """
    grey = (images // (256 // LEVELS)).astype(np.int64)
    out = []
    for distance in DISTANCES:
        found = np.stack([_haralick(cooccurrence(grey, mask, dy * distance, dx * distance)) for dy, dx in DIRECTIONS])
        defined = ~np.isnan(found)
        out.append(np.where(defined, found, 0.0).sum(0) / np.maximum(defined.sum(0), 1))
    return np.concatenate(out, axis=1)


def cooccurrence(grey: NDArray[np.int64], mask: Mask, dy: int, dx: int, levels: int = LEVELS) -> Floats:
    """Symmetric counts [n, levels, levels] of grey levels at p and p + (dy, dx), both inside the mask."""
    n, height, width = grey.shape
    here = (slice(None), slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
    there = (slice(None), slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx)))
    keys = (np.arange(n)[:, None, None] * levels + grey[here]) * levels + grey[there]
    both = mask[here] & mask[there]
    counts = np.bincount(keys[both], minlength=n * levels**2).reshape(n, levels, levels)
    return (counts + counts.transpose(0, 2, 1)).astype(np.float64)


def _haralick(counts: Floats) -> Floats:
    """Contrast, correlation, energy, homogeneity [n, 4] of co-occurrence counts; NaN where there is no pair."""
    total = counts.sum((1, 2))
    p = counts / np.where(total > 0, total, np.nan)[:, None, None]
    levels = np.arange(counts.shape[1])
    square = (levels[:, None] - levels[None]) ** 2
    contrast = (p * square).sum((1, 2))
    homogeneity = (p / (1 + square)).sum((1, 2))
    energy = np.sqrt((p**2).sum((1, 2)))
    margin = p.sum(2)
    mean = margin @ levels
    variance = margin @ levels**2 - mean**2
    product = np.einsum("nij,i,j->n", p, levels, levels) - mean**2
    flat = variance < 1e-9
    correlation = np.where(flat, 1.0, product / np.where(flat, 1.0, variance))
    correlation[np.isnan(contrast)] = np.nan
    return np.stack([contrast, correlation, energy, homogeneity], axis=1)


def wavelets(images: NDArray[np.uint8], mask: Mask) -> Floats:
    """Root mean squares [n, 9] of the Haar coefficients, in the order of `WAVELETS`.

    Low passes are means of squares of 2 x 2, coefficients half the difference of the means of their halves, so that
    all are in grey values (the orthonormal transform, divided by 2 a level). "lh" sees changes from row to row, "hl"
    from column to column. A coefficient counts if its whole square is inside the mask; rows and columns beyond a
    multiple of 8 are left out.
    """
    edge = 2**WAVELET_LEVELS
    height, width = (s // edge * edge for s in images.shape[1:])
    low, inside = images[:, :height, :width].astype(np.float64), mask[:, :height, :width]
    out = []
    for _ in range(WAVELET_LEVELS):
        a, b, c, d = (low[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
        inside = inside[:, ::2, ::2] & inside[:, ::2, 1::2] & inside[:, 1::2, ::2] & inside[:, 1::2, 1::2]
        counted = np.maximum(inside.sum((1, 2)), 1)
        for band in (a + b - c - d, a - b + c - d, a - b - c + d):
            out.append(np.sqrt((np.where(inside, band / 4, 0.0) ** 2).sum((1, 2)) / counted))
        low = (a + b + c + d) / 4
    return np.stack(out, axis=1)


class RadiomicExtractor:
    """Radiomic features of the brain (grey values above 8: the background is dark), as an `Extractor`.

    `centre` and `scale`, float [28], are subtracted and divided by; None: the raw numbers.
    """

    name, inside = "radiomics", f"grey values above {ABOVE}"
    channels: tuple[str, ...] | None = None
    dimension = len(NAMES)

    def __init__(self, centre: Floats | None = None, scale: Floats | None = None) -> None:
        self._centre = np.zeros(self.dimension) if centre is None else centre
        self._scale = np.ones(self.dimension) if scale is None else scale
        scaled = "raw" if scale is None else "standardised by real slices"
        self.rule: dict[str, Any] = {"resize": "none", "levels": LEVELS, "inside": self.inside, "scale": scaled}
        self.sha256 = sha256_json([1, self.name, NAMES, self.rule, self._centre.tolist(), self._scale.tolist()])

    def features(self, images: NDArray[np.uint8]) -> Features:
        return self._scaled(radiomics(images, images > ABOVE))

    def _scaled(self, raw: Features) -> Features:
        return ((raw - self._centre) / self._scale).astype(np.float32)

    def standardised(self, found: Features) -> Self:
        """The extractor that gives mean 0 and variance 1 where this one gives `found` [n, 28]; constants stay."""
        values = found.astype(np.float64)
        spread = values.std(axis=0)
        scale = np.where(spread > 1e-6 * np.maximum(np.abs(values).mean(axis=0), 1e-6), spread, 1.0)
        return type(self)(self._centre + self._scale * values.mean(axis=0), self._scale * scale)


class TumourRadiomics(RadiomicExtractor):
    """The same inside all annotated pixels together. Slices without any have zeros: `measure` leaves them out."""

    name, inside = "radiomics_tumour", "annotated pixels"

    def features(self, images: NDArray[np.uint8]) -> Features:
        raise UnderstudyError("features of the tumour need its annotation", fix="give the labels, or use `radiomics`")

    def labelled_features(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Features:
        return self._scaled(radiomics(images, labels > 0))
