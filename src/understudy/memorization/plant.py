"""Copies made on purpose: training slices changed a little, a little more, and too much.

Each change takes uint8 images [n, C, H, W] with their labels [n, H, W] and gives a changed pair. They are what an audit
must find, or say that it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

Bytes = NDArray[np.uint8]
Pair = tuple[Bytes, Bytes]
Change = Callable[[Bytes, Bytes, np.random.Generator], Pair]


@dataclass(frozen=True)
class Severity:
    """One way to copy, e.g. kind "noise", amount "5 %"; `must` be found for an audit to be trusted; `faint`: judged as
    slices of little contrast are, see `findings.compared_all`."""

    kind: str
    amount: str
    change: Change
    must: bool = False
    faint: bool = False

    @property
    def name(self) -> str:
        """E.g. "noise 5 %"."""
        return f"{self.kind} {self.amount}".strip()


def exact(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
    """The slice itself."""
    return images, labels


def noise(share: float) -> Change:
    """Gaussian noise on every pixel, s.d. `share` of a channel's bright tissue (BrainWeb's convention).

    Bright tissue is the 99th percentile of the channel over the planted slices' pixels above 0, since a percentage of
    255 would drown a channel whose volumes were scaled by one bright voxel.
    """

    def change(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
        channels = np.moveaxis(images, 1, 0)
        bright = [np.percentile(c[c > 0], 99) if c.any() else 0.0 for c in channels]
        scale = share * np.array(bright)[None, :, None, None]
        return _bytes(images + rng.normal(0, 1, images.shape) * scale), labels

    return change


def shift(pixels: int) -> Change:
    """Moved by so many pixels up, down, left or right; the edge is repeated."""

    def change(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
        moved = [_moved(i, m, pixels, int(rng.integers(4))) for i, m in zip(images, labels, strict=True)]
        return np.stack([m[0] for m in moved]), np.stack([m[1] for m in moved])

    return change


def flip(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
    """Mirrored, last axis reversed."""
    return np.ascontiguousarray(images[..., ::-1]), np.ascontiguousarray(labels[..., ::-1])


def quarter_turn(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
    """Turned by 90 degrees."""
    return np.ascontiguousarray(np.rot90(images, axes=(-2, -1))), np.ascontiguousarray(np.rot90(labels, axes=(-2, -1)))


def gamma(exponent: float) -> Change:
    """Grey values g of 0 ... 1 become g ** exponent."""

    def change(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
        return _bytes(255 * (images / 255.0) ** exponent), labels

    return change


def dim(share: float) -> Change:
    """Grey values times `share`: the contrast of a nearly empty slice, the picture of a patient."""

    def change(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
        return _bytes(share * images.astype(np.float64)), labels

    return change


def blur(sigma: float) -> Change:
    """Smoothed by a Gaussian, s.d. in pixels."""

    def change(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
        return _bytes(gaussian_filter(images.astype(np.float64), (0, 0, sigma, sigma))), labels

    return change


def blend(share: float) -> Change:
    """`share` of the slice and the rest of another planted slice (half the list further on); labels of the larger."""

    def change(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
        other = np.roll(images, len(images) // 2, axis=0)
        return _bytes(share * images + (1 - share) * other.astype(np.float64)), labels

    return change


def warp(pixels: float) -> Change:
    """Small elastic deformation, smooth over a tenth of the edge; mean displacement in pixels."""

    def change(images: Bytes, labels: Bytes, rng: np.random.Generator) -> Pair:
        edge = images.shape[-1]
        grid = np.mgrid[:edge, :edge].astype(np.float64)
        out, marks = np.empty_like(images), np.empty_like(labels)
        for i in range(len(images)):
            field = gaussian_filter(rng.standard_normal((2, edge, edge)), (0, edge / 10, edge / 10))
            field *= pixels / np.hypot(*field).mean()
            bent = [map_coordinates(c.astype(float), grid + field, order=1, mode="nearest") for c in images[i]]
            out[i] = _bytes(np.stack(bent))
            marks[i] = map_coordinates(labels[i], grid + field, order=0, mode="nearest")
        return out, marks

    return change


def severities(transforms: str = "none") -> list[Severity]:
    """All controls; under `transforms` that the search looks for, mirrored copies must be found as well."""
    turned = [Severity("quarter turn", "", quarter_turn, transforms == "dihedral")]
    return [
        Severity("exact", "", exact, True),
        Severity("noise", "2 %", noise(0.02), True),
        Severity("noise", "5 %", noise(0.05), True),
        Severity("noise", "10 %", noise(0.10)),
        Severity("gamma", "0.7", gamma(0.7), True),
        Severity("gamma", "1.4", gamma(1.4), True),
        Severity("dimmed", "to 30 %", dim(0.3), faint=True),
        Severity("blur", "1 pixel", blur(1.0)),
        Severity("shift", "1 pixel", shift(1)),
        Severity("shift", "2 pixels", shift(2)),
        Severity("warp", "0.5 pixels", warp(0.5)),
        Severity("warp", "1 pixel", warp(1.0)),
        Severity("blend", "75 % + 25 %", blend(0.75)),
        Severity("blend", "50 % + 50 %", blend(0.5)),
        Severity("flip", "", flip, transforms in ("flips", "dihedral")),
        *(turned if transforms == "dihedral" else []),
    ]


def _bytes(values: Any) -> Bytes:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _moved(image: Bytes, labels: Bytes, pixels: int, direction: int) -> Pair:
    axis, sign = direction // 2, 1 - 2 * (direction % 2)

    def move(array: Bytes, at: int) -> Bytes:
        places = np.clip(np.arange(array.shape[at]) - sign * pixels, 0, array.shape[at] - 1)
        return np.take(array, places, axis=at)

    return move(image, axis + 1), move(labels, axis)
