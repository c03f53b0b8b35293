"""The symmetries of the square."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from understudy.memorization.config import TRANSFORMS
from understudy.memorization.views import inverse, transform


@pytest.mark.parametrize("k", TRANSFORMS["dihedral"])
def test_transforms_and_their_inverse(k: int) -> None:
    x = np.arange(9, dtype=np.uint8).reshape(3, 3)
    assert np.array_equal(transform(transform(x, k), inverse(k)), x)
    assert np.array_equal(transform(torch.from_numpy(x), k).numpy(), transform(x, k))
    assert len({transform(x, j).tobytes() for j in range(8)}) == 8
