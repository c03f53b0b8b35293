"""Where voxels lie: comparisons, planes, and the way to slices and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from understudy.io.grids import SAME_GRID, VolumeHeader, as_stored, axes_of, slices_of

VOXELS = np.random.default_rng(0).normal(0, 30, (13, 11, 7)).astype(np.int16)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL", "ILA"])
def test_slices_go_back_to_the_order_in_which_they_were_stored(axes):
    affine = np.eye(4)
    for column, letter in enumerate(axes):
        row, sign = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}[letter]
        affine[:3, column] = 0
        affine[row, column] = sign
    header = VolumeHeader(VOXELS.shape, VOXELS.dtype, 0, 1.0, 0.0, affine)
    assert header.axes == axes
    np.testing.assert_array_equal(as_stored(slices_of(VOXELS, header), header), VOXELS)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_slices_lie_where_the_plane_says_and_go_back(axes, plane):
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, letter in enumerate(axes):
        row, sign = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}[letter]
        affine[row, column] = sign * (column + 1)
    header = VolumeHeader(VOXELS.shape, VOXELS.dtype, 0, 1.0, 0.0, affine, plane)
    slices = slices_of(VOXELS, header)
    assert slices.shape == header.slice_shape
    np.testing.assert_array_equal(as_stored(slices, header), VOXELS)
    # by the world: a step along the rows goes where `axes_of` says
    world = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    for step, letter in enumerate(axes_of(plane)):
        axis, sign = world[letter]
        assert np.sign(header.slice_affine[axis, step]) == sign
    for z, y, x in ((0, 0, 0), (2, 3, 4), (5, 1, 6)):
        place = header.slice_affine @ [y, x, z, 1]
        i, j, k = np.rint(np.linalg.inv(affine) @ place)[:3].astype(int)
        assert slices[z, y, x] == VOXELS[i, j, k]


@pytest.mark.parametrize(
    ("change", "apart"),
    [
        (lambda a: a[:3, 3].__iadd__((0.02, 0, 0)), 0.01),  # the origin, by a hundredth of a voxel of 2 mm
        (lambda a: a[:3, 3].__iadd__((0, 0, 1.5)), 0.5),
        (lambda a: a[:3, 2].__imul__(1.005), 0.03),  # drifts over the 7 slices to 3 hundredths
        (lambda a: a[:3, 2].__imul__(1.05), 0.3),
    ],
)
def test_grids_are_compared_in_voxels_at_the_corners(change, apart):
    affine = np.diag([-2.0, -1.0, 3.0, 1.0])
    one = VolumeHeader(VOXELS.shape, VOXELS.dtype, 0, 1.0, 0.0, affine)
    moved = affine.copy()
    change(moved)
    other = replace(one, affine=moved)
    assert one.voxels_apart(other) == pytest.approx(apart, rel=1e-6)
    assert one.same_grid(other) == (apart <= SAME_GRID)
    assert one.voxels_apart(replace(one, shape=(13, 11, 8))) == np.inf


@pytest.mark.parametrize("degrees", [44.9, 45.0, 45.1])
def test_rounding_at_45_degrees_does_not_turn_one_of_two_files(degrees):
    angle, rng = np.deg2rad(degrees), np.random.default_rng(0)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    one = VolumeHeader(VOXELS.shape, VOXELS.dtype, 0, 1.0, 0.0, turned)
    for _ in range(20):
        noise = np.vstack([rng.normal(0, 1e-7, (3, 4)), np.zeros((1, 4))])
        other = replace(one, affine=turned + noise)
        assert one.same_grid(other)
        np.testing.assert_array_equal(slices_of(VOXELS, other.like(one)), slices_of(VOXELS, one))
