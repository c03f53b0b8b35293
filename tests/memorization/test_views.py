"""The symmetries of the square."""

from __future__ import annotations

import numpy as np

from understudy.memorization.views import transform


def test_transforms_are_the_eight_symmetries_of_the_square() -> None:
    x = np.arange(9, dtype=np.uint8).reshape(3, 3)
    assert len({transform(x, k).tobytes() for k in range(8)}) == 8
    for k in range(8):
        back = k if k >= 4 else -k % 4  # every mirrored one undoes itself
        assert np.array_equal(transform(transform(x, k), back), x)
