"""Surface elements against geometry and DeepMind's surface-distance (the library behind the BraTS scripts' HD95)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from understudy.metrics.surface import surface_distances
from understudy.metrics.surfels import corner_codes, is_surfel, surfel_areas, weighted_percentile

ONE = (1.0, 1.0, 1.0)
SPACINGS = st.tuples(*[st.sampled_from([0.4, 1.0, 1.25, 3.0])] * 3)


def lesions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth blob, and a shifted and deformed copy with a small island far away."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((26, 34, 30)), 3)
    other = noise + 0.5 * ndimage.gaussian_filter(rng.standard_normal(noise.shape), 3)
    truth = noise > np.quantile(noise, 0.88)
    prediction = np.roll(other > np.quantile(other, 0.88), (1, 2, 0), (0, 1, 2))
    prediction[1:3, 1:3, 25:28] = True
    return truth, prediction


def total_area(mask: np.ndarray, spacing: tuple[float, float, float]) -> float:
    return float(surfel_areas(spacing)[corner_codes(mask)].sum())


@settings(max_examples=60, deadline=None)
@given(mask=arrays(np.bool_, st.tuples(*[st.integers(1, 4)] * 3)))
def test_codes_hold_the_eight_voxels_around_a_corner(mask: np.ndarray) -> None:
    codes, padded = corner_codes(mask), np.pad(mask, 1)
    for corner in np.ndindex(codes.shape):
        around = padded[tuple(slice(c, c + 2) for c in corner)].ravel()
        assert codes[corner] == sum(int(v) << n for n, v in enumerate(around))
        assert is_surfel(codes)[corner] == (0 < around.sum() < 8)


def test_areas_of_simple_bodies() -> None:
    voxel, slab = np.ones((1, 1, 1), bool), np.zeros((3, 6, 7), bool)
    slab[1] = True
    assert total_area(voxel, ONE) == pytest.approx(math.sqrt(3))  # an octahedron with edges of sqrt(1/2)
    z, y, x = 2.0, 3.0, 5.0
    octahedron = 8 * math.sqrt((y * x) ** 2 + (z * x) ** 2 + (z * y) ** 2) / 8
    assert total_area(voxel, (z, y, x)) == pytest.approx(octahedron)
    inner = corner_codes(slab)[:, 1:-1, 1:-1]  # away from the rim: both faces of the slab
    assert surfel_areas((z, y, x))[inner].sum() == pytest.approx(2 * 5 * 6 * y * x)


def test_a_sphere_has_nearly_its_area() -> None:
    radius, grid = 12.0, np.mgrid[:30, :30, :30] - 14.5
    area = total_area((grid**2).sum(axis=0) <= radius**2, ONE)
    assert area == pytest.approx(4 * math.pi * radius**2, rel=0.1)  # binary masks have steps: always a little more
    assert area > 4 * math.pi * radius**2


@given(code=st.integers(0, 255), spacing=SPACINGS)
def test_areas_do_not_depend_on_sides_mirrors_or_turns(code: int, spacing: tuple[float, float, float]) -> None:
    corners = np.array([code >> n & 1 for n in range(8)], bool).reshape(2, 2, 2)

    def area(cube: np.ndarray, of: tuple[float, ...]) -> float:
        found = sum(int(v) << n for n, v in enumerate(cube.ravel()))
        return float(surfel_areas((of[0], of[1], of[2]))[found])

    expected = area(corners, spacing)
    assert area(~corners, spacing) == pytest.approx(expected)
    for axis in range(3):
        assert area(np.flip(corners, axis), spacing) == pytest.approx(expected)
    assert area(corners.transpose(2, 0, 1), (spacing[2], spacing[0], spacing[1])) == pytest.approx(expected)


@pytest.mark.parametrize("spacing", [ONE, (1.0, 2.0, 3.0), (4.0, 0.9375, 0.9375)])
def test_all_areas_equal_the_peers(spacing: tuple[float, float, float]) -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(surfel_areas(spacing), theirs, rtol=1e-12)


@pytest.mark.parametrize("spacing", [ONE, (3.0, 0.9375, 0.9375), (0.7, 1.3, 2.1)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hd95_equals_the_peers(seed: int, spacing: tuple[float, float, float]) -> None:
    peer = pytest.importorskip("surface_distance")
    truth, prediction = lesions(seed)
    theirs = peer.compute_robust_hausdorff(peer.compute_surface_distances(truth, prediction, spacing), 95)
    for method in ("auto", "tree", "transform"):
        ours = surface_distances(truth, prediction, spacing, method).hd95_surfel  # type: ignore[arg-type]
        assert ours == pytest.approx(theirs, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), spacing=SPACINGS)
def test_hd95_of_any_masks_equals_the_peers(data: st.DataObject, spacing: tuple[float, float, float]) -> None:
    peer = pytest.importorskip("surface_distance")
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    masks = [data.draw(arrays(np.bool_, shape)) for _ in range(2)]
    for mask in masks:
        mask[0, 0, 0] = True  # the peer fails on empty masks with NumPy 2
    apart = peer.compute_surface_distances(*masks, spacing)
    # Where exactly 95 % of the area are reached at a step, the last bit of a sum decides between two values.
    around = {round(peer.compute_robust_hausdorff(apart, p), 9) for p in (95 - 1e-9, 95, 95 + 1e-9)}
    assert round(surface_distances(masks[0], masks[1], spacing).hd95_surfel, 9) in around


def test_known_values_of_surface_distance() -> None:
    """From surface-distance 0.1: compute_robust_hausdorff(compute_surface_distances(*lesions(s), spacing), 95)."""
    known = {(0, ONE): 6.4031242374328485, (1, (3.0, 0.9375, 0.9375)): 8.435416409401494}
    for (seed, spacing), expected in known.items():
        assert surface_distances(*lesions(seed), spacing).hd95_surfel == pytest.approx(expected)


@given(
    data=st.lists(st.tuples(st.sampled_from([0.0, 1.0, 1.5, 1e-9, 7.0]), st.floats(0.1, 2)), min_size=1, max_size=30),
    percent=st.sampled_from([5.0, 50.0, 95.0, 100.0]),
)
def test_weighted_percentile_by_its_definition(data: list[tuple[float, float]], percent: float) -> None:
    values, weights = (np.array(column) for column in zip(*data, strict=True))
    total = weights.sum()

    def smallest(slack: float) -> float:
        held = [v for v in values if weights[values <= v].sum() >= percent / 100 * total + slack]
        return float(min(held, default=values.max()))

    assert smallest(-1e-9) <= weighted_percentile(values, weights, percent) <= smallest(1e-9)


def test_equal_weights_give_the_percentile() -> None:
    values = np.random.default_rng(0).gamma(2, 3, 5000)
    ours = weighted_percentile(values, np.full(5000, 0.3), 95)
    assert ours == pytest.approx(np.percentile(values, 95, method="inverted_cdf"))
