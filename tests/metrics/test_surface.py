"""Border distances against brute force over all pairs, MedPy and MONAI."""

from __future__ import annotations

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

from understudy.metrics import surface
from understudy.metrics.surface import border, border_distances, surface_distances

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


@pytest.mark.parametrize("method", ["auto", "tree", "transform"])
@settings(max_examples=80, deadline=None)
@given(pair=masks(longest=24), spacing=SPACINGS)
def test_distances_equal_brute_force(method: surface.Method, pair: Masks, spacing: tuple[float, float, float]) -> None:
    for ours, brute in zip(border_distances(*pair, spacing, method), brute_distances(*pair, spacing), strict=True):
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
    pair = lesions(3)
    tree, transform, auto = (
        border_distances(*pair, spacing, m)
        for m in ("tree", "transform", "auto")  # type: ignore[arg-type]
    )
    for direction in range(2):
        np.testing.assert_allclose(tree[direction], transform[direction], rtol=1e-9)
        np.testing.assert_allclose(tree[direction], auto[direction], rtol=1e-9)


def test_auto_switches_to_the_transform_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = lesions(4)
    expected = surface_distances(*pair, (1.0, 1.0, 1.0), "tree")
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
