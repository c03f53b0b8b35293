"""The background of a volume: 0 in most cohorts, grey in some.

A grey background that only some patients have is learned by a generator like anything else, and gives these patients
away: no new patient has it. It also passes the slice rule where there is no tissue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERATED = 0.1  # of the maximum: noise, and the tail of an interpolation
_CORNER = 3  # voxels along an edge


def grey_background(slices: NDArray[Any]) -> float:
    """Median in the four corners of the slices [Z, H, W] if that is more than a tenth of the maximum, else 0."""
    ends = (slice(None, _CORNER), slice(-_CORNER, None))
    level = float(np.median(np.concatenate([slices[:, y, x].ravel() for y in ends for x in ends])))
    return level if level > TOLERATED * float(slices.max()) else 0.0


def without_background(slices: NDArray[Any]) -> NDArray[Any]:
    """Slices [Z, H, W] less a grey background, what is darker being 0; the same array where there is none."""
    level = slices.dtype.type(grey_background(slices))
    return np.maximum(slices, level) - level if level > 0 else slices
