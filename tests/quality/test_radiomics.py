"""Radiomic features against brute force, SciPy, and closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_slices import images, slice_set
from scipy import stats

from understudy.errors import UnderstudyError
from understudy.quality.config import QualityConfig
from understudy.quality.extractors import Extractor
from understudy.quality.features import FeatureCache, fitted
from understudy.quality.measure import Parts, make_parts, measure
from understudy.quality.radiomics import DIRECTIONS, LEVELS, NAMES, RadiomicExtractor, TumourRadiomics, radiomics
from understudy.slices import SliceSet, SliceWriter, evenly_coded


def column(found: np.ndarray, name: str) -> np.ndarray:
    return found[:, NAMES.index(name)]


def example(seed: int, n: int = 3, edge: int = 13) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 256, (n, edge, edge)).astype(np.uint8)
    made[0] = np.sort(made[0].ravel()).reshape(edge, edge)  # one that is smooth
    return made, rng.random((n, edge, edge)) < 0.7


def slow_texture(image: np.ndarray, mask: np.ndarray, distance: int) -> list[float]:
    """Haralick's definitions, pixel by pixel."""
    grey, found = image.astype(int) // 8, []
    height, width = grey.shape
    for dy, dx in DIRECTIONS:
        p = np.zeros((LEVELS, LEVELS))
        for y in range(height):
            for x in range(width):
                v, u = y + dy * distance, x + dx * distance
                if 0 <= v < height and 0 <= u < width and mask[y, x] and mask[v, u]:
                    p[grey[y, x], grey[v, u]] += 1
                    p[grey[v, u], grey[y, x]] += 1
        if not p.sum():
            continue
        p /= p.sum()
        i, j = np.indices(p.shape)
        mean = (p * i).sum()
        variance = (p * (i - mean) ** 2).sum()
        correlation = (p * (i - mean) * (j - mean)).sum() / variance if variance > 1e-9 else 1.0
        found.append([(p * (i - j) ** 2).sum(), correlation, np.sqrt((p**2).sum()), (p / (1 + (i - j) ** 2)).sum()])
    return list(np.mean(found, axis=0))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_first_order_is_scipys(seed: int) -> None:
    made, mask = example(seed)
    found = radiomics(made, mask)
    for i in range(len(made)):
        inside = made[i][mask[i]].astype(float)
        shares = np.bincount((inside // 8).astype(int), minlength=32) / len(inside)
        wanted = [mask[i].mean(), inside.mean(), inside.std(), stats.skew(inside), stats.kurtosis(inside),
                  stats.entropy(shares, base=2)]  # fmt: skip
        wanted += [np.percentile(inside, p, method="inverted_cdf") for p in (10, 25, 50, 75, 90)]
        assert found[i, :11] == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_texture_is_brute_force() -> None:
    made, mask = example(1)
    found = radiomics(made, mask)
    for i in range(len(made)):
        assert found[i, 11:15] == pytest.approx(slow_texture(made[i], mask[i], 1), rel=1e-5)
        assert found[i, 15:19] == pytest.approx(slow_texture(made[i], mask[i], 2), rel=1e-5)


def test_a_chessboard_in_closed_form() -> None:
    board = (np.indices((16, 16)).sum(0) % 2 * 80).astype(np.uint8)[None]
    found = radiomics(board, np.ones_like(board, bool))
    # Half of the four directions see the other colour (10 levels away), the diagonals the same one.
    assert column(found, "contrast_1")[0] == pytest.approx(0.5 * 100)
    assert column(found, "correlation_1")[0] == pytest.approx(0, abs=1e-6)
    assert column(found, "contrast_2")[0] == 0
    assert column(found, "correlation_2")[0] == pytest.approx(1)
    assert column(found, "haar_hh_1")[0] == pytest.approx(40)
    assert column(found, "haar_lh_1")[0] == column(found, "haar_hl_1")[0] == column(found, "haar_hh_2")[0] == 0


@pytest.mark.parametrize(("level", "period"), [(1, 1), (2, 2), (3, 4)])
def test_stripes_have_their_level(level: int, period: int) -> None:
    rows = ((np.arange(32) // period) % 2 * 100).astype(np.uint8)
    board = np.repeat(rows[:, None], 32, axis=1)[None]
    found = radiomics(board, np.ones_like(board, bool))
    wavelets = {n: float(column(found, n)[0]) for n in NAMES if n.startswith("haar")}
    assert wavelets.pop(f"haar_lh_{level}") == pytest.approx(50)
    assert set(wavelets.values()) == {0.0}
    turned = radiomics(board.transpose(0, 2, 1).copy(), np.ones_like(board, bool))
    assert column(turned, f"haar_hl_{level}")[0] == pytest.approx(50)


def test_nothing_outside_the_mask_counts() -> None:
    made, mask = example(2, edge=16)
    changed = np.where(mask, made, 255 - made)
    assert np.array_equal(radiomics(made, mask), radiomics(changed, mask))


def test_an_empty_mask_and_a_flat_one() -> None:
    flat = np.full((2, 16, 16), 90, np.uint8)
    mask = np.zeros(flat.shape, bool)
    mask[1] = True
    found = radiomics(flat, mask)
    assert not found[0].any()
    assert np.isfinite(found).all()
    assert column(found, "sd")[1] == column(found, "kurtosis")[1] == column(found, "contrast_1")[1] == 0
    assert column(found, "correlation_1")[1] == 1


def test_slices_do_not_know_of_each_other() -> None:
    made, mask = example(3, n=5)
    alone = np.concatenate([radiomics(made[i : i + 1], mask[i : i + 1]) for i in range(5)])
    assert np.array_equal(radiomics(made, mask), alone)


def set_with_lesions(path: Path, n: int, seed: int, split: bool) -> SliceSet:
    rng = np.random.default_rng(seed)
    writer = SliceWriter(path, ("T1w", "FLAIR"), evenly_coded({1: "lesion"}), 16)
    labels = np.zeros((n, 16, 16), np.uint8)
    for i in range(0, n, 2):
        y, x = rng.integers(0, 8, 2)
        labels[i, y : y + 6, x : x + 6] = 1
    rows = [{"id": str(i)} for i in range(n)]
    if split:
        for i, row in enumerate(rows):
            row |= {"subject": f"p{i % 10}", "split": "train" if i % 10 < 7 else "val"}
    made = images(n, seed, edge=16)
    made[labels[:, None].repeat(2, 1) > 0] += 40
    writer.append(made, labels, rows)
    return writer.close()


def fitted_to(extractor: RadiomicExtractor, parts: Parts) -> RadiomicExtractor:
    return fitted(extractor, parts.real.slices, parts.real.rows, parts.channels)


def test_as_an_extractor_for_brain_and_tumour(tmp_path: Path) -> None:
    real = set_with_lesions(tmp_path / "real", 300, 0, split=True)
    parts = make_parts(set_with_lesions(tmp_path / "fake", 200, 1, split=False), real)
    assert isinstance(RadiomicExtractor(), Extractor)
    rows = measure(parts, RadiomicExtractor(), FeatureCache(tmp_path / "kept"), QualityConfig())
    frechet = {r.channel: r for r in rows if r.metric == "frechet_distance"}
    assert set(frechet) == {"T1w", "FLAIR", "mean"}
    assert frechet["mean"].rule["scale"] == "standardised by real slices"
    assert frechet["mean"].value > 0
    assert frechet["mean"].floor > 0
    found = measure(parts, TumourRadiomics(), FeatureCache(tmp_path / "kept"), QualityConfig(too_few="leave_out"))
    assert found[0].n_real == 30 * 4  # slices 0, 2, 4, 6 of every ten
    assert found[0].n_synthetic == 100
    assert np.isfinite(found[0].value)
    rows_with = np.flatnonzero(np.arange(300) % 2 == 0)
    labels = real.read(rows_with)[1]
    area = TumourRadiomics().labelled_features(real.read(rows_with)[0][:, 0], labels)[:, 0]
    assert area == pytest.approx((labels > 0).mean((1, 2)))


def test_standardised_features_have_mean_0_and_variance_1(tmp_path: Path) -> None:
    parts = make_parts(
        set_with_lesions(tmp_path / "s", 20, 1, False), set_with_lesions(tmp_path / "real", 100, 0, True)
    )
    raw = RadiomicExtractor()
    made = fitted_to(raw, parts)
    pictures = parts.real.slices.read(parts.real.rows)[0]
    found = np.concatenate([made.features(np.ascontiguousarray(pictures[:, c])) for c in (0, 1)])
    assert found.mean(0) == pytest.approx(np.zeros(28), abs=1e-3)
    spread = found.std(0)
    assert spread[spread > 0] == pytest.approx(np.ones((spread > 0).sum()), abs=1e-3)
    assert made.sha256 != raw.sha256
    assert made.rule["scale"] != raw.rule["scale"]
    again = made.standardised(found)
    assert again.features(pictures[:5, 0].copy()) == pytest.approx(made.features(pictures[:5, 0].copy()), abs=1e-3)


def test_without_a_tumour_one_row_says_so(tmp_path: Path) -> None:
    real = set_with_lesions(tmp_path / "real", 60, 0, split=True)
    parts = make_parts(slice_set(tmp_path / "f", 20, 1, edge=16), real)
    (row,) = measure(parts, TumourRadiomics(), FeatureCache(tmp_path / "kept"), QualityConfig())
    assert np.isnan(row.value)
    assert (row.extractor, row.channel, row.n_real) == ("radiomics_tumour", "mean", 42)
    assert "no slice" in row.note


def test_features_of_the_tumour_need_its_annotation() -> None:
    with pytest.raises(UnderstudyError, match="annotation"):
        TumourRadiomics().features(np.zeros((1, 8, 8), np.uint8))
