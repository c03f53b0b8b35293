"""Noise, distances and partial volume against SciPy and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from understudy.cohort.phantom.head import (
    FIELD_OF_VIEW,
    Grid,
    Streams,
    ellipsoid,
    lattice_size,
    ramp,
    round_min,
    sheet,
    smooth_noise,
    tube,
)

sizes = st.integers(8, 40)


def test_noise_equals_scipys_spline_interpolation():
    axes = [np.linspace(-50, 60, n) + shift for n, shift in ((7, 0), (9, 3), (5, 60))]
    noise = smooth_noise(np.random.default_rng(3), axes, 11.0)
    lattice = np.random.default_rng(3).standard_normal(lattice_size(11.0), dtype=np.float32)
    mesh = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij")
    where = [(m + middle) / 11.0 + 1 for m, middle in zip(mesh, (119, 122, 0), strict=True)]
    expected = ndimage.map_coordinates(lattice, where, order=3, prefilter=False)
    assert np.corrcoef(noise.ravel(), expected.ravel())[0, 1] > 0.99999
    np.testing.assert_allclose(noise / noise.std(), expected / expected.std(), atol=2e-3)


def test_noise_has_unit_variance_and_is_the_same_function_on_every_grid():
    coarse, fine = Grid((24, 24, 15)), Grid((72, 72, 45))
    a = smooth_noise(Streams(1, 2).rng("n"), coarse.axes(), 12.0)
    b = smooth_noise(Streams(1, 2).rng("n"), fine.axes(), 12.0)
    np.testing.assert_allclose(a, b[1::3, 1::3, 1::3], atol=1e-3)
    assert 0.8 < b.std() < 1.2


def test_streams_are_independent_and_repeatable():
    draw = lambda seed, patient, name: Streams(seed, patient).rng(name).standard_normal(4).tolist()  # noqa: E731
    assert draw(1, 2, "a") == draw(1, 2, "a")
    assert len({tuple(draw(*key)) for key in ((1, 2, "a"), (1, 2, "b"), (1, 3, "a"), (2, 2, "a"))}) == 4


@given(st.tuples(sizes, sizes, sizes))
def test_grid_covers_the_same_millimetres_at_any_shape(shape):
    grid = Grid(shape)
    for axis in range(3):
        assert grid.spacing[axis] * shape[axis] == pytest.approx(FIELD_OF_VIEW[axis])
        part = grid.box[axis]
        np.testing.assert_array_equal(grid.box_axes()[axis], grid.axes()[axis][part])
    assert grid.box_shape == tuple(len(a) for a in grid.box_axes())


@settings(max_examples=30)
@given(st.floats(-4, 4), st.floats(0.5, 4))
def test_ramp_is_the_part_of_a_voxel_behind_a_plane(distance, width):
    samples = distance + (np.arange(4000) + 0.5) / 4000 * width - width / 2
    assert ramp(np.float32(distance), width) == pytest.approx(np.mean(samples > 0), abs=1e-3)


@settings(max_examples=30)
@given(st.floats(0, 6), st.floats(0, 3), st.floats(0.5, 4))
def test_sheet_is_the_part_of_a_voxel_inside_it(distance, half, width):
    samples = distance + (np.arange(4000) + 0.5) / 4000 * width - width / 2
    part = sheet(np.float32(distance), np.float32(half), width)
    assert part == pytest.approx(np.mean(np.abs(samples) < half), abs=2e-3)


def test_a_sphere_and_a_capsule_have_exact_distances():
    rng = np.random.default_rng(0)
    x, y, z = (rng.uniform(-20, 20, 500).astype(np.float32) for _ in range(3))
    r = np.sqrt((x - 1) ** 2 + (y + 2) ** 2 + z**2)
    outside = r > 4  # towards the centre the formula is only capped by the radius
    np.testing.assert_allclose(ellipsoid(x, y, z, (1, -2, 0), (8, 8, 8))[outside], (8 - r)[outside], atol=1e-3)
    line = np.linspace([-5, 0, 0], [5, 6, 0], 4001)
    nearest = np.sqrt(((np.stack([x, y, z], 1)[:, None] - line[None]) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(tube(x, y, z, (((-5, 0, 0), 3), ((5, 6, 0), 3))), 3 - nearest, atol=2e-3)


def test_round_min_is_the_minimum_away_from_the_edge_and_never_more():
    a, b = np.meshgrid(np.linspace(-9, 9, 37, dtype=np.float32), np.linspace(-9, 9, 37, dtype=np.float32))
    rounded = round_min(a, b, 2.0)
    far = np.abs(a - b) >= 4
    np.testing.assert_allclose(rounded[far], np.minimum(a, b)[far], atol=1e-5)
    assert (rounded <= np.minimum(a, b) + 1e-5).all()
    assert rounded[~far].min() < -9
