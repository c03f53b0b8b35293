"""Orientation, windows, overlays: what decides whether a picture tells the truth."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from understudy.report.plots.slices import (
    CLASS_COLOURS,
    channel_window,
    contact_sheet,
    enlarged,
    overlay,
    png,
    square_around,
    upright,
    windowed,
)

# (direction down the picture, direction across it) for each pair of body axes: radiological convention.
PLANES = [("P", "L"), ("I", "L"), ("I", "P")]
OTHER_END = {"P": "A", "L": "R", "I": "S"}


def stored(down: str, across: str, axes: tuple[str, str]) -> np.ndarray:
    """A 3 x 3 slice stored along `axes`, each pixel 10 x its place along `down` + its place along `across`."""

    def place(direction: str, i: int, j: int) -> int:
        for axis, index in zip(axes, (i, j), strict=True):
            if axis == direction:
                return index
            if axis == OTHER_END[direction]:
                return 2 - index
        raise AssertionError

    return np.array([[10 * place(down, i, j) + place(across, i, j) for j in range(3)] for i in range(3)])


@pytest.mark.parametrize(("down", "across"), PLANES)
def test_upright_from_every_storage_order(down: str, across: str) -> None:
    wanted = np.array([[0, 1, 2], [10, 11, 12], [20, 21, 22]])
    ends = [(down, OTHER_END[down]), (across, OTHER_END[across])]
    orders = [(a, b) for a in ends[0] for b in ends[1]]
    for axes in orders + [(b, a) for a, b in orders]:
        assert np.array_equal(upright(stored(down, across, axes), axes), wanted), axes


def test_brats_slices_are_transposed() -> None:
    # volume[:, :, z] of a BraTS file: rows run to the left, columns to the back.
    slice_ = np.zeros((4, 6), np.uint8)
    slice_[3, 0] = 1  # the leftmost and most anterior pixel
    assert upright(slice_, ("L", "P")).shape == (6, 4)
    assert upright(slice_, ("L", "P"))[0, 3] == 1  # at the top, on the right of the picture


def test_unknown_axes_leave_a_slice_alone() -> None:
    image = np.arange(6).reshape(2, 3)
    for axes in (None, ("?", "L"), ("L", "R")):
        assert upright(image, axes) is image


def test_stacks_turn_as_their_slices_do() -> None:
    stack = np.random.default_rng(0).integers(0, 9, (5, 4, 6))
    assert np.array_equal(upright(stack, ("R", "A"))[2], upright(stack[2], ("R", "A")))


def test_window_ignores_background_and_outliers() -> None:
    images = np.zeros((2, 50, 50), np.uint8)
    images[:, :25] = 100
    images[0, 0, 0] = 255
    low, high = channel_window(images)
    assert (low, high) == (0, 100)
    assert windowed(np.array([[0, 50, 100, 255]], np.uint8), (low, high)).tolist() == [[0, 127, 255, 255]]
    assert channel_window(np.zeros((1, 4, 4), np.uint8)) == (0.0, 255.0)


def test_overlay_tints_classes_only() -> None:
    grey = np.full((12, 12), 90, np.uint8)
    labels = np.zeros((12, 12), np.uint8)
    labels[2:10, 2:10] = 2
    picture = overlay(grey, labels, 3, width=1)
    assert (picture[labels == 0] == 90).all()
    colour = [int(CLASS_COLOURS[1][i : i + 2], 16) for i in (1, 3, 5)]
    assert picture[2, 2].tolist() == colour  # border
    assert np.allclose(picture[5, 5], 0.58 * 90 + 0.42 * np.array(colour), atol=0.51)
    outlined = overlay(grey, labels, 3, outline=(labels > 0).astype(np.uint8), width=1)
    assert outlined[2, 2].tolist() == [255, 255, 255]


def test_enlarging_keeps_the_pixels() -> None:
    image = np.arange(6).reshape(2, 3)
    big = enlarged(image, 4)
    assert big.shape == (8, 12)
    assert np.array_equal(big[2::4, 1::4], image)
    assert len(np.unique(big)) == 6


def test_png_holds_the_pixels() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    head, content = png(picture).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), picture)


def test_contact_sheet_places_tiles_row_by_row() -> None:
    tiles = [np.full((4, 5, 3), 10 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(tiles, 3, gap=2)
    assert sheet.shape == (10, 19, 3)
    assert sheet[7, 8, 0] == 40
    assert sheet[7, 16, 0] == 255


@given(
    st.integers(4, 40), st.integers(4, 40), st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=4),
)  # fmt: skip
def test_square_lies_inside_and_holds_the_mask_if_it_can(
    height: int, width: int, smallest: int, points: list[tuple[int, int]]
) -> None:
    mask = np.zeros((height, width), bool)
    for y, x in points:
        mask[y % height, x % width] = True
    top, bottom, left, right = square_around(mask, smallest)
    assert 0 <= top < bottom <= height
    assert 0 <= left < right <= width
    assert bottom - top == right - left
    extent = max((np.ptp(np.argwhere(mask), axis=0) + 1).tolist()) if mask.any() else 0
    if extent <= min(height, width):
        assert mask[top:bottom, left:right].sum() == mask.sum()
