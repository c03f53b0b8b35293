"""The eight symmetries of a square: what flips and quarter turns can do to a slice.

Transform `k` mirrors left and right first if k >= 4, then turns counter-clockwise by k % 4 quarter turns. So 0 leaves
the slice as it is, 4 mirrors left and right, 6 mirrors up and down, 2 does both.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

NONE = (0,)
FLIPS = (0, 2, 4, 6)  # a training with flips along rows, columns, or both
ALL = tuple(range(8))  # flips and quarter turns

Pixels = TypeVar("Pixels", NDArray[np.uint8], torch.Tensor)


def transform(images: Pixels, k: int) -> Pixels:
    """Applies transform `k` (0..7) to the last two axes, which must be equally long.

    Example:
        >>> transform(np.array([[1, 2], [3, 4]], np.uint8), 4).tolist()
        [[2, 1], [4, 3]]
    """
    if isinstance(images, torch.Tensor):
        return torch.rot90(images.flip(-1) if k >= 4 else images, k % 4, (-2, -1))
    return np.rot90(np.flip(images, -1) if k >= 4 else images, k % 4, (-2, -1))


def inverse(k: int) -> int:
    """The transform that undoes `k`: the opposite turn; every mirrored one undoes itself."""
    return k if k >= 4 else -k % 4
