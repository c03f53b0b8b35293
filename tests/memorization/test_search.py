"""The search in place against NumPy, and slices that are equal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from understudy.memorization.search import equal, in_place
from understudy.roles import part_of
from understudy.slices import SliceSet

EDGE = 16


def part(images: np.ndarray, channels: tuple[str, ...] = ("T1w", "FLAIR")):
    return part_of("slices", SliceSet.from_arrays(images, images[:, 0] * 0, channels=channels))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (700, 2, EDGE, EDGE)).astype(np.uint8)


def test_in_place_the_highest_correlation_is_found_and_channels_go_by_name(images: np.ndarray) -> None:
    known, asked = images[:300], images[300:].copy()
    asked[7], asked[399] = known[123], 0.5 * known[299]
    expected = np.corrcoef(asked.reshape(400, -1), known.reshape(300, -1))[:400, 400:]
    for order in (slice(None), slice(None, None, -1)):
        channels = ("T1w", "FLAIR")[order]
        found = in_place(part(np.ascontiguousarray(asked[:, order]), channels), part(known))
        assert found["stacked.score"].to_numpy() == pytest.approx(expected.max(1), abs=1e-5)
        assert (found["stacked.row"] == expected.argmax(1)).all()


def test_a_set_is_searched_within_itself_without_each_slice_itself(images: np.ndarray) -> None:
    some = images[:300].copy()
    some[9] = some[200]
    found = in_place(part(some), part(some), skip_itself=True)
    assert (found["stacked.row"] != np.arange(300)).all()
    assert found["stacked.row"][[9, 200]].tolist() == [200, 9]
    assert found["stacked.score"].nlargest(2).tolist() == [1, 1]


def test_the_number_of_threads_changes_nothing(images: np.ndarray) -> None:
    tables, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            tables.append(in_place(part(images[300:]), part(images[:300])))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_one_grey_level_in_one_pixel_is_not_equal(images: np.ndarray) -> None:
    known = part(images[:300])
    asked = images[:3].copy()
    asked[1, 0, 0, 0] ^= 1
    found = in_place(part(asked), known)
    assert found["stacked.row"].tolist() == [0, 1, 2]
    assert equal(part(asked), known, found).tolist() == [True, False, True]
