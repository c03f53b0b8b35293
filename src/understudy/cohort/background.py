"""The background of a volume: 0 in most cohorts, grey in some.

A grey background that only some patients have is learned by a generator like anything else, and gives these patients
away: no new patient has it. It also passes the slice rule where there is no tissue.

Setting it to 0 and not subtracting it: where an image was shifted as a whole (a real part, phase-sensitive inversion
recovery), tissue lies on both sides of the level of air, and what is darker would be lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOLERATED = 0.1  # of the maximum: noise, and the tail of an interpolation
_CORNER = 3  # voxels along an edge
# As far from its level may background be: a part of the maximum, and median absolute deviations of the corners.
_NOISE, _DEVIATIONS = 0.02, 5


def grey_background(slices: NDArray[Any]) -> float:
    """Median in the four corners of the slices [Z, H, W] if that is more than a tenth of the maximum, else 0."""
    level = float(np.median(_corners(slices)))
    return level if level > TOLERATED * float(slices.max()) else 0.0


def without_background(slices: NDArray[Any]) -> NDArray[Any]:
    """Slices [Z, H, W] with a grey background set to 0; the same array where there is none.

    Background is what is like the corners, but for specks, and not enclosed by what is unlike them in its slice.
    """
    level = grey_background(slices)
    if level == 0:
        return slices
    spread = float(np.median(np.abs(_corners(slices).astype(np.float64) - level)))
    tolerance = max(_NOISE * float(slices.max()), _DEVIATIONS * spread)
    cleared = np.zeros_like(slices)
    for plane, result in zip(slices, cleared, strict=True):
        # Narrower types would wrap around.
        unlike = np.abs(plane.astype(np.float64) - level) > tolerance
        unlike |= ndimage.binary_closing(unlike)  # which by itself would take away what touches the edge
        head = ndimage.binary_propagation(ndimage.binary_opening(unlike), mask=unlike)  # without specks
        np.copyto(result, plane, where=ndimage.binary_fill_holes(head))
    return cleared


def _corners(slices: NDArray[Any]) -> NDArray[Any]:
    """The voxels of the four corners of all slices."""
    ends = (slice(None, _CORNER), slice(-_CORNER, None))
    return np.concatenate([slices[:, y, x].ravel() for y in ends for x in ends])
