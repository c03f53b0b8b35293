"""A grey background is found in the corners of the slices, and set to 0, nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.cohort.slicing import SliceConfig, grey_background, slice_images, without_background
from understudy.volumes import SliceGeometry

TYPES = ["u1", "i2", ">i2", "u2", "f4", ">f8"]


def volume(level: int, dtype: str = "f4") -> np.ndarray:
    """Slices [4, 16, 16] with tissue of 200 in the middle, and a black hole in it."""
    slices = np.full((4, 16, 16), level, dtype)
    slices[:, 4:12, 4:12] = 200
    slices[:, 6, 6] = 0
    return slices


@given(st.integers(0, 199), st.sampled_from(TYPES))
def test_the_level_is_that_of_the_corners(level: int, dtype: str) -> None:
    slices = volume(level, dtype)
    found = grey_background(slices)
    assert found == (level if level > 20 else 0)
    expected = slices.copy()
    if found:
        expected[slices == level] = 0
    if 200 - level <= 4:  # a fiftieth of the maximum: tissue is like the background
        expected[:] = 0
    np.testing.assert_array_equal(without_background(slices), expected)


def test_tissue_like_the_background_stays_where_it_is_enclosed() -> None:
    rng = np.random.default_rng(0)
    slices = volume(100)
    slices += rng.normal(0, 3, slices.shape).astype("f4")
    slices[:, 7:9, 7:9] = 100  # as air, but in the head
    slices[:, 9:11, 7:9] = 40  # darker than air: it must not be lost, as it would be by subtracting
    slices[:, 1, 2] = 150  # a speck
    cleared = without_background(slices)
    head = np.zeros(slices.shape, bool)
    head[:, 4:12, 4:12] = True
    np.testing.assert_array_equal(cleared, np.where(head, slices, 0))


def test_a_dark_volume_is_not_touched() -> None:
    slices = volume(3)
    assert without_background(slices) is slices
    nothing = np.zeros((2, 8, 8), np.uint8)
    assert without_background(nothing) is nothing


@pytest.mark.parametrize("background", ["keep", "zero"])
def test_slices_with_and_without_it(background: str, tmp_path: object) -> None:
    config = SliceConfig.model_validate(
        {"resolution": 16, "background": background, "rule_intensity": 50, "rule_fraction": 0.3}
    )
    stored = {"T1w": volume(100, "u1"), "FLAIR": volume(0, "u1")}
    files = dict.fromkeys(stored, tmp_path)
    images, kept = slice_images(stored.__getitem__, files, SliceGeometry.fit(16, 16, 16), config)  # type: ignore[arg-type]
    assert images[0, 0, 0, 0] == (0 if background == "zero" else 128)  # 100 / 200 * 255 = 127.5
    assert images[:, 0].max() == 255
    assert (images[:, 1] == np.where(stored["FLAIR"] > 0, 255, 0)).all()
    assert kept.all() == (background == "keep")  # 64 of 256 pixels are tissue: the grey ones would pass the rule


def test_what_is_kept_does_not_change_a_study() -> None:
    assert "background" not in SliceConfig().model_dump()
    assert SliceConfig(background="zero").model_dump()["background"] == "zero"
