"""What slices are scored by: names of the searches' columns, and turned slices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

COPY_VIEW = "copy"  # any kind of copy, see `copies.py`
IN_PLACE = "stacked"  # correlation in place, all channels as one image: dimmed copies and near-duplicates
TESTED = (COPY_VIEW,)  # by which slices are flagged, jointly if there are several
SHOWN = (*TESTED, IN_PLACE)  # the second is the paper's check, and decides on slices of little contrast only
TITLES = {COPY_VIEW: "any kind of copy", IN_PLACE: "correlation in place"}


def transform(images: NDArray[Any], k: int) -> NDArray[Any]:
    """Mirrors left and right if k >= 4, then turns counter-clockwise by k % 4 quarter turns (the last two axes).

    Example:
        >>> transform(np.array([[1, 2], [3, 4]], np.uint8), 4).tolist()
        [[2, 1], [4, 3]]
    """
    return np.rot90(np.flip(images, -1) if k >= 4 else images, k % 4, (-2, -1))
