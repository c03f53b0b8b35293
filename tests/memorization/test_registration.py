"""A slice moved onto another one: against moves that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made import heads
from scipy.ndimage import affine_transform, gaussian_filter

from understudy.memorization.registration import onto


def turned(image: np.ndarray, degrees: float, size: float, shift: tuple[float, float]) -> np.ndarray:
    angle, middle = np.deg2rad(degrees), (np.array(image.shape[1:]) - 1) / 2
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / size
    offset = middle - matrix @ (middle + shift)
    return np.stack([affine_transform(c, matrix, offset, order=1) for c in image.astype(float)])


@pytest.mark.parametrize(
    ("degrees", "size", "shift", "mirrored", "quarters"),
    [(0, 1, (3, -2), False, 0), (9, 1.08, (0, 4), False, 0), (-6, 0.92, (2, 1), True, 0), (4, 1, (-2, 0), False, 1)],
)
def test_a_moved_copy_is_brought_back(
    degrees: float, size: float, shift: tuple[float, float], mirrored: bool, quarters: int
) -> None:
    images, _ = heads(7, 1, edge=64)
    real = gaussian_filter(images[0].astype(float), (0, 1.5, 1.5))
    moved = turned(real[..., ::-1] if mirrored else real, degrees, size, shift)
    moved = np.rot90(moved, quarters, (1, 2)).copy()
    found = onto(torch.from_numpy(real), torch.from_numpy(moved), mirrored, quarters, False).numpy()
    inner = (slice(None), slice(12, 52), slice(12, 52))

    def alike(one: np.ndarray) -> float:
        return float(np.corrcoef(one[inner].ravel(), moved[inner].ravel())[0, 1])

    assert alike(found) > 0.95
    assert alike(found) > alike(real) + 0.03
