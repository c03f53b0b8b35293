"""Surface distances against brute force over all pairs, MedPy, MONAI, and DeepMind's surface-distance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage
from scipy.spatial.distance import cdist

from understudy.errors import UnderstudyError
from understudy.metrics import hd, hd95, surface
from understudy.metrics.surface import (
    border,
    corner_codes,
    directed_distances,
    surface_distances,
    surfel_areas,
    weighted_percentile,
)

Masks = tuple[np.ndarray, np.ndarray]
SPACINGS = st.tuples(*[st.sampled_from([0.37, 0.5, 1.0, 1.2, 3.0, 5.0])] * 3)


def brute_border(mask: np.ndarray) -> np.ndarray:
    """Indices of mask voxels with a face neighbour that is not in the mask, voxel by voxel."""
    inside = {tuple(p) for p in np.argwhere(mask).tolist()}
    steps = [s for s in product((-1, 0, 1), repeat=3) if sum(map(abs, s)) == 1]
    found = [p for p in inside if any(tuple(np.add(p, s).tolist()) not in inside for s in steps)]
    return np.array(sorted(found), float).reshape(-1, 3)


def brute_distances(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> Masks:
    pairs = cdist(brute_border(truth) * spacing, brute_border(prediction) * spacing)
    return pairs.min(1), pairs.min(0)


@st.composite
def masks(draw: st.DrawFn, longest: int = 7) -> Masks:
    """Two non-empty masks, from solid to so sparse that partners lie beyond the offsets looked up."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, longest)))
    pair = []
    for _ in range(2):
        mask = draw(arrays(np.bool_, shape)) if draw(st.booleans()) else np.zeros(shape, bool)
        mask[tuple(draw(st.integers(0, n - 1)) for n in shape)] = True
        pair.append(mask)
    return pair[0], pair[1]


@settings(max_examples=80, deadline=None)
@given(pair=masks())
def test_border_is_the_mask_minus_its_erosion(pair: Masks) -> None:
    found = np.argwhere(border(pair[0])).astype(float)
    assert np.array_equal(found, brute_border(pair[0]))
    cross = ndimage.generate_binary_structure(3, 1)
    assert np.array_equal(border(pair[0]), pair[0] & ~ndimage.binary_erosion(pair[0], cross))


@contextmanager
def forced(method: str) -> Iterator[None]:
    """All distances by the tree or by the transform, none by looking offsets up; "auto": as they come."""
    with pytest.MonkeyPatch.context() as patch:
        if method != "auto":
            patch.setattr(surface, "_shells", lambda spacing: [])
            patch.setattr(surface, "MANY", math.inf if method == "tree" else 0)
        yield


@pytest.mark.parametrize("method", ["auto", "tree", "transform"])
@settings(max_examples=80, deadline=None)
@given(pair=masks(longest=24), spacing=SPACINGS)
def test_distances_equal_brute_force(method: str, pair: Masks, spacing: tuple[float, float, float]) -> None:
    with forced(method):
        found = directed_distances(*map(border, pair), spacing)
    for ours, brute in zip(found, brute_distances(*pair, spacing), strict=True):
        np.testing.assert_allclose(np.sort(ours), np.sort(brute), rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(pair=masks(), spacing=SPACINGS)
def test_summary_follows_the_definitions(pair: Masks, spacing: tuple[float, float, float]) -> None:
    there, back = brute_distances(*pair, spacing)
    ours = surface_distances(*pair, spacing)
    assert ours.hd == pytest.approx(max(there.max(), back.max()))
    assert ours.hd95_pooled == pytest.approx(np.percentile(np.r_[there, back], 95))
    assert ours.hd95_directed == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert surface_distances(pair[1], pair[0], spacing) == pytest.approx(ours)


def lesions(seed: int) -> Masks:
    """A smooth blob and a shifted, deformed copy with a far false-positive island."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((28, 40, 36)), 4)
    truth = noise > np.quantile(noise, 0.9)
    other = noise + 0.4 * ndimage.gaussian_filter(rng.standard_normal(noise.shape), 4)
    prediction = np.roll(other > np.quantile(other, 0.9), (1, 2, 0), (0, 1, 2))
    prediction[1:4, 1:4, 30:35] = True
    return truth, prediction


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.9375, 0.9375), (0.7, 1.3, 2.1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_medpy_and_monai(seed: int, spacing: tuple[float, float, float]) -> None:
    truth, prediction = lesions(seed)
    ours = surface_distances(truth, prediction, spacing)
    assert ours.hd == pytest.approx(binary.hd(prediction, truth, spacing, connectivity=1), abs=1e-6)
    assert ours.hd95_pooled == pytest.approx(binary.hd95(prediction, truth, spacing, connectivity=1), abs=1e-6)
    onehot = [torch.from_numpy(m)[None, None] for m in (prediction, truth)]
    for name, percentile in (("hd", None), ("hd95_directed", 95)):
        theirs = compute_hausdorff_distance(*onehot, include_background=True, percentile=percentile, spacing=spacing)
        assert getattr(ours, name) == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.5, 0.5)])
def test_tree_and_transform_agree_on_a_lesion(spacing: tuple[float, float, float]) -> None:
    pair, found = lesions(3), []
    for method in ("tree", "transform", "auto"):
        with forced(method):
            found.append(directed_distances(*map(border, pair), spacing))
    tree, transform, auto = found
    for direction in range(2):
        np.testing.assert_allclose(tree[direction], transform[direction], rtol=1e-9)
        np.testing.assert_allclose(tree[direction], auto[direction], rtol=1e-9)


def test_auto_switches_to_the_transform_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = lesions(4)
    with forced("tree"):
        expected = surface_distances(*pair, (1.0, 1.0, 1.0))
    monkeypatch.setattr(surface, "cKDTree", None)  # calling it would fail
    with pytest.raises(TypeError):
        surface_distances(*pair, (1.0, 1.0, 1.0))
    monkeypatch.setattr(surface, "MANY", 10)
    assert surface_distances(*pair, (1.0, 1.0, 1.0)) == pytest.approx(expected)


def test_empty_masks_are_undefined() -> None:
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    for pair in ((empty, empty), (full, empty), (empty, full)):
        assert np.isnan(surface_distances(*pair, (1.0, 1.0, 1.0))).all()
    assert surface_distances(full, full, (1.0, 1.0, 1.0)) == (0, 0, 0, 0)


def test_hd_and_hd95_are_those_of_the_libraries() -> None:
    truth, prediction = lesions(0)
    spacing = (3.0, 0.9375, 0.9375)
    expected = surface_distances(prediction, truth, spacing)
    assert hd(prediction, truth, spacing) == expected.hd
    assert hd(prediction, truth, spacing) == pytest.approx(binary.hd(prediction, truth, spacing), abs=1e-6)
    assert hd95(prediction, truth, spacing) == expected.hd95_pooled
    assert hd95(prediction, truth, spacing, definition="directed") == expected.hd95_directed
    assert hd95(prediction, truth, spacing, definition="surfel") == expected.hd95_surfel
    labels = np.where(truth, 2, 0), np.where(prediction, 2, 0)
    labels[0][0, 0, 0] = 5  # only in one of them
    found = hd95(labels[1], labels[0], spacing)
    assert found == pytest.approx({2: expected.hd95_pooled, 5: np.nan}, nan_ok=True)


def test_hd_refuses_what_it_cannot_measure() -> None:
    mask = np.ones((2, 3, 4), bool)
    assert np.isnan(hd(mask, ~mask))
    for arguments in ((mask[0], mask[0]), (mask, mask[:1]), (mask, mask, (1, 0, 1)), (mask, mask.astype(float))):
        with pytest.raises(UnderstudyError):
            hd(*arguments)
    with pytest.raises(UnderstudyError) as caught:
        hd95(mask, mask, definition="median")  # type: ignore[arg-type]
    assert "surfel" in str(caught.value.fix)


# --- surface elements -------------------------------------------------------------------------------------------------

ONE = (1.0, 1.0, 1.0)
EDGES = st.tuples(*[st.sampled_from([0.4, 1.0, 1.25, 3.0])] * 3)


def small_lesions(seed: int) -> Masks:
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


@given(code=st.integers(0, 255), spacing=EDGES)
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
    truth, prediction = small_lesions(seed)
    theirs = peer.compute_robust_hausdorff(peer.compute_surface_distances(truth, prediction, spacing), 95)
    for method in ("auto", "tree", "transform"):
        with forced(method):
            ours = surface_distances(truth, prediction, spacing).hd95_surfel
        assert ours == pytest.approx(theirs, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), spacing=EDGES)
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
    """surface-distance 0.1: compute_robust_hausdorff(compute_surface_distances(*small_lesions(s), spacing), 95)."""
    known = {(0, ONE): 6.4031242374328485, (1, (3.0, 0.9375, 0.9375)): 8.435416409401494}
    for (seed, spacing), expected in known.items():
        assert surface_distances(*small_lesions(seed), spacing).hd95_surfel == pytest.approx(expected)


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
