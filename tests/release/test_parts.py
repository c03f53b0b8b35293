"""Parts of real slices in released ones: what is found, and no alarm where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_release import made
from scipy.ndimage import gaussian_filter

from understudy.release.parts import RealParts, correlation, fine_structure
from understudy.slices import SliceSet

EDGE = 64


def heads(patients: range, count: int = 6) -> np.ndarray:
    """Slices of aligned heads with anatomy and noise of their own: uint8 [n, 2, EDGE, EDGE]."""
    y, x = np.mgrid[:EDGE, :EDGE] / EDGE - 0.5
    head = (x / 0.42) ** 2 + (y / 0.46) ** 2 < 1
    shared = gaussian_filter(np.random.default_rng(0).normal(0, 1, (2, EDGE, EDGE)), (0, 3, 3)) * 300
    images = []
    for patient in patients:
        rng = np.random.default_rng([1, patient])
        own = gaussian_filter(rng.normal(0, 1, (2, EDGE, EDGE)), (0, 2, 2)) * 120
        images += [(120 + shared + own + rng.normal(0, 4, shared.shape)) * head for _ in range(count)]
    return np.clip(np.stack(images), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def real() -> SliceSet:
    images = heads(range(20))
    return SliceSet.from_arrays(images, images[:, 0] * 0, channels=["T1w", "FLAIR"])


@pytest.fixture(scope="module")
def parts(real: SliceSet) -> RealParts:
    return RealParts([real], real.channels)


def _channel(image: np.ndarray, of: np.ndarray) -> None:
    image[1] = of[1]


def _other_channel(image: np.ndarray, of: np.ndarray) -> None:
    image[0] = of[1]


def _half(image: np.ndarray, of: np.ndarray) -> None:
    image[:, :, EDGE // 2 :] = of[:, :, EDGE // 2 :]


def _quarter(image: np.ndarray, of: np.ndarray) -> None:
    image[0, : EDGE // 2, : EDGE // 2] = of[0, : EDGE // 2, : EDGE // 2]


PLANTED: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "channel": _channel, "other channel": _other_channel, "half": _half, "quarter": _quarter,
}  # fmt: skip


def _bit(image: np.ndarray) -> np.ndarray:
    changed = image.copy()
    changed[:, 20, 20] ^= 64
    return changed


CHANGED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda image: image,
    "one bit": _bit,
    "one grey value": lambda image: np.clip(image.astype(int) + 1, 0, 255).astype(np.uint8),
    "noise": lambda x: np.clip(x + np.random.default_rng(5).normal(0, 1, x.shape).round(), 0, 255).astype(np.uint8),
    "contrast": lambda image: (255 * (image / 255.0) ** 0.8).round().astype(np.uint8),
    "dimmed": lambda image: (0.8 * image).astype(np.uint8),
}


@pytest.mark.parametrize("part", PLANTED)
@pytest.mark.parametrize("change", CHANGED)
def test_a_part_of_a_real_slice_is_found(real: SliceSet, parts: RealParts, part: str, change: str) -> None:
    images = heads(range(100, 104), 2)
    before = images.copy()
    PLANTED[part](images[5], CHANGED[change](real.read([40])[0][0]))
    assert (images != before).any()
    found = parts.found_in(images)
    assert list(found) == [5]
    assert found[5][1] >= 0.85


def test_no_alarm_for_other_patients_flat_slices_and_without_real_ones(parts: RealParts) -> None:
    others = np.concatenate([heads(range(200, 240)), np.zeros((3, 2, EDGE, EDGE), np.uint8)])
    assert parts.found_in(others) == {}
    assert RealParts([], ["T1w", "FLAIR"]).found_in(others) == {}


def test_sets_on_disk_of_an_odd_size_with_channels_in_another_order(tmp_path: Path) -> None:
    images = heads(range(3))[:, :, :33, :33]
    stored = made.synthetic_set(tmp_path / "set", images, images[:, 0] * 0)
    found = RealParts([stored], ["FLAIR", "T1w"]).found_in(np.ascontiguousarray(images[[4], ::-1]))
    assert list(found) == [0]
    assert found[0][1] == pytest.approx(1)


def test_fine_structure_is_a_pixel_less_the_mean_around_it() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(100, 104, (1, 8, 8), dtype=np.uint8)
    around = np.pad(image[0].astype(int), 1, mode="edge")
    expected = 9 * int(image[0, 3, 5]) - around[3:6, 5:8].sum()
    assert fine_structure(image)[0, 3, 5] == np.clip(expected, -126, 126)
    a = fine_structure(image).reshape(1, -1)
    assert correlation(a, a) == pytest.approx([1])
    assert correlation(a, a * 0) == [0]
