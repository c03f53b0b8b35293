"""Which plane suits a volume that is to be cut into two-dimensional slices, and what its pixels are like."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from understudy.nifti import Plane, VolumeHeader

_SQUARE = 1.02  # ratio of a pixel's edges up to which it counts as square
_STRETCHED = 2.0  # beyond this ratio slices are strips, which no resampling makes sharp
_SMALLEST = 8  # pixels: what is narrower is no slice of a head


def judge_pixels(header: VolumeHeader) -> list[tuple[str, str, Literal["error", "warning"]]]:
    """What does not suit two-dimensional slices in the header's plane: strips, and slices of a few pixels."""
    _, height, width = header.slice_shape
    _, *edges = header.spacing
    long, short = max(edges), min(edges)
    pixels = f"{header.plane} slices have pixels of {edges[0]:.3g} x {edges[1]:.3g} mm"
    if min(height, width) < _SMALLEST or long > _STRETCHED * short:
        what = (
            pixels if long > _STRETCHED * short else f"{header.plane} slices have {height} x {width} pixels"
        )
        better = _best_plane(header)
        if better != header.plane:
            return [
                (
                    f"{what}: the volume was acquired in {better} slices",
                    f"set `slices: {{plane: {better}}}`",
                    "error",
                )
            ]
        return [(what, "resample the volume to square pixels in the plane of its slices", "error")]
    if long > _SQUARE * short:
        return [(pixels, "nothing to do: they are resampled to squares", "warning")]
    return []


def _best_plane(header: VolumeHeader) -> Plane:
    """The plane whose slices have the most nearly square pixels and are not a few pixels wide."""

    def badness(plane: Plane) -> tuple[bool, float]:
        turned = replace(header, plane=plane)
        _, *edges = turned.spacing
        return min(turned.slice_shape[1:]) < _SMALLEST, max(edges) / min(edges)

    planes: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
    return min(planes, key=badness)
