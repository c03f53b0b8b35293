"""Counts and Dice against counting by hand, MedPy and MONAI; regions by name; the policies for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary
from monai.metrics import compute_dice

from understudy.errors import UnderstudyError
from understudy.metrics.overlap import (
    EmptyPolicy,
    apply_policy,
    auto_regions,
    confusion,
    counts,
    dice,
    resolve_regions,
    scores_of_counts,
    union_box,
)
from understudy.metrics.scores import score_volume

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


@st.composite
def label_pairs(draw: st.DrawFn, classes: int) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    volume = arrays(np.uint8, shape, elements=st.integers(0, classes - 1))
    return draw(volume), draw(volume)


@pytest.mark.parametrize("classes", [2, 4, 16, 17, 40, 256])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_confusion_counts_every_pair(classes: int, data: st.DataObject) -> None:
    pred, target = data.draw(label_pairs(classes))
    expected = np.zeros((classes, classes), np.int64)
    for t, p in zip(target.ravel().tolist(), pred.ravel().tolist(), strict=True):
        expected[t, p] += 1
    assert np.array_equal(confusion(pred=pred, target=target, classes=classes), expected)


@settings(max_examples=60, deadline=None)
@given(pair=label_pairs(5), members=st.sets(st.integers(1, 4), min_size=1))
def test_counts_of_a_union_equal_those_of_its_mask(pair: tuple[np.ndarray, np.ndarray], members: set[int]) -> None:
    pred, target = (np.isin(v, list(members)) for v in pair)
    tp, fp, fn = counts(confusion(pred=pair[0], target=pair[1], classes=5), members)
    assert (tp, fp, fn) == ((target & pred).sum(), (pred & ~target).sum(), (target & ~pred).sum())


@settings(max_examples=60, deadline=None)
@given(pair=label_pairs(3))
def test_union_box_is_tight(pair: tuple[np.ndarray, np.ndarray]) -> None:
    box = union_box(*pair)
    where = np.argwhere((pair[0] > 0) | (pair[1] > 0))
    if not len(where):
        assert box is None
    else:
        assert box is not None
        assert [(s.start, s.stop) for s in box] == [(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True)]


def test_scores_equal_medpy_and_monai() -> None:
    rng = np.random.default_rng(5)
    target, pred = rng.integers(0, 4, (2, 9, 11, 13), dtype=np.uint8)
    table = confusion(pred=pred, target=target, classes=4)
    onehot = [torch.from_numpy(np.stack([v == k for k in range(4)])[None]) for v in (pred, target)]
    monai = compute_dice(*onehot, include_background=False)[0].numpy()
    found = dice(pred, target)
    assert isinstance(found, dict)
    for k in (1, 2, 3):
        masks = pred == k, target == k
        scores = scores_of_counts(*counts(table, [k]))
        assert scores["dice"] == found[k] == dice(*masks) == pytest.approx(binary.dc(*masks), abs=1e-12)
        assert found[k] == pytest.approx(monai[k - 1], abs=1e-6)
        assert scores["precision"] == pytest.approx(binary.precision(*masks), abs=1e-12)
        assert scores["recall"] == pytest.approx(binary.recall(*masks), abs=1e-12)


def test_undefined_quotients_are_nan() -> None:
    assert [float(v) for v in scores_of_counts(0, 3, 0).values()] == pytest.approx([0, 0, math.nan], nan_ok=True)
    assert all(np.isnan(v) for v in scores_of_counts(0, 0, 0).values())
    assert scores_of_counts([4, 0], [2, 0], [2, 1])["dice"].tolist() == [8 / 12, 0]


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 4, 5)])
def test_dice_of_arrays_of_any_shape(shape: tuple[int, ...]) -> None:
    pred, target = np.random.default_rng(1).integers(0, 2, (2, *shape)).astype(bool)
    assert dice(pred, target) == pytest.approx(2 * (pred & target).sum() / (pred.sum() + target.sum()))
    assert np.isnan(dice(np.zeros(shape, bool), np.zeros(shape, bool)))
    assert dice(pred, np.zeros(shape, bool)) == 0
    assert dice(np.where(pred, 7, 0), np.where(target, 7, 0)) == {7: dice(pred, target)}
    assert dice(np.zeros(shape, int), np.zeros(shape, int)) == {}


def test_dice_refuses_what_are_no_labels() -> None:
    with pytest.raises(UnderstudyError, match="shape"):
        dice([True], [True, False])
    for wrong in ([0.5, 1.0], [-1, 1]):
        with pytest.raises(UnderstudyError, match="`target` holds"):
            dice([0, 1], wrong)


@pytest.mark.parametrize(
    ("names", "whole", "core"),
    [
        (["NCR/NET", "ED", "ET"], ["NCR/NET", "ED", "ET"], ["NCR/NET", "ET"]),
        (["NCR", "ED", "ET"], ["NCR", "ED", "ET"], ["NCR", "ET"]),
        (["ET", "ED", "NCR_NET"], ["ET", "ED", "NCR_NET"], ["ET", "NCR_NET"]),
        (["NCR", "ED", "NET", "ET", "RC"], ["NCR", "ED", "NET", "ET"], ["NCR", "NET", "ET"]),
        (["necrosis", "edema", "enhancing"], ["necrosis", "edema", "enhancing"], ["necrosis", "enhancing"]),
        (["NETC", "SNFH", "ET"], ["NETC", "SNFH", "ET"], ["NETC", "ET"]),
        (["NETWORK", "ED", "ET"], [], []),
        (["lesion"], [], []),
        (["NCR", "ED"], [], []),
        (["1", "2", "4"], [], []),
    ],
)
def test_brats_regions_by_name(names: list[str], whole: list[str], core: list[str]) -> None:
    expected = {"WT": whole, "TC": core} if whole else {}
    assert auto_regions(names) == resolve_regions("auto", names) == expected
    assert resolve_regions("none", names) == {}


def test_own_regions_are_checked() -> None:
    names = ["NCR", "ED", "ET"]
    assert resolve_regions({"TC": ["ET", "NCR"]}, names) == {"TC": ["ET", "NCR"]}
    for bad in ({"x": ["NCR", "NET"]}, {"x": []}, {"x": ["ED", "ED"]}):
        with pytest.raises(UnderstudyError, match=r"union of classes[\s\S]*NCR, ED, ET"):
            resolve_regions(bad, names)
    for name in ("foreground", "mean", "ED", ""):
        with pytest.raises(UnderstudyError, match="cannot be called"):
            resolve_regions({name: ["NCR"]}, names)
    with pytest.raises(UnderstudyError, match="unknown regions 'all'"):
        resolve_regions("all", names)


NAN, INF = math.nan, math.inf
SHAPE, SPACING = (155, 240, 240), (1.0, 1.0, 1.0)
DIAGONAL = math.sqrt(240**2 + 240**2 + 155**2)
# (Dice, HD) for: both empty, only the truth empty, only the prediction empty
TABLE = {
    "brats": [(1, 0), (0, DIAGONAL), (0, DIAGONAL)],
    "paper": [(NAN, NAN), (0, NAN), (0, NAN)],
    "drop": [(NAN, NAN), (NAN, NAN), (NAN, NAN)],
    "inf": [(1, 0), (0, INF), (0, INF)],
}


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """Rows: both empty, truth empty, prediction empty, both there (shifted by a voxel)."""
    empty, block, shifted = (np.zeros(SHAPE, np.uint8) for _ in range(3))
    block[50:60, 100:110, 100:110] = 1
    shifted[50:60, 100:110, 101:113] = 1
    pairs = [(empty, empty), (empty, block), (block, empty), (block, shifted)]
    rows = [score_volume(pred=p, target=t, class_names=["lesion"], spacing=SPACING)[0] for t, p in pairs]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("policy", list(TABLE))
def test_empty_masks_follow_the_table(raw: pd.DataFrame, policy: str) -> None:
    scored = apply_policy(raw, policy)
    for name, column in (("dice", 0), ("hd", 1), ("hd95_pooled", 1), ("hd95_directed", 1), ("hd95_surfel", 1)):
        expected = [case[column] for case in TABLE[policy]]
        np.testing.assert_allclose(scored[name][:3], expected, rtol=1e-12)
    assert math.ceil(DIAGONAL) == 374  # what the BraTS 2023 script writes


@pytest.mark.parametrize("policy", list(EmptyPolicy))
def test_ordinary_rows_do_not_depend_on_the_policy(raw: pd.DataFrame, policy: EmptyPolicy) -> None:
    row = apply_policy(raw, policy).iloc[3]
    assert row["dice"] == pytest.approx(2 * 900 / (1000 + 1200))
    assert row["precision"] == pytest.approx(900 / 1200)  # the authors' code calls this one recall
    assert row["recall"] == pytest.approx(900 / 1000)
    assert row["volume_error"] == pytest.approx(0.2)
    assert row["hd"] == 3
    assert not row["missed"]
    assert not row["false_alarm"]


@pytest.mark.parametrize("policy", list(EmptyPolicy))
def test_misses_and_false_alarms_are_counted_under_every_policy(raw: pd.DataFrame, policy: EmptyPolicy) -> None:
    scored = apply_policy(raw, policy)
    assert scored["missed"].tolist() == [False, False, True, False]
    assert scored["false_alarm"].tolist() == [False, True, False, False]
    np.testing.assert_allclose(scored["volume_error"], [NAN, NAN, -1, 0.2])


@pytest.mark.parametrize("policy", list(EmptyPolicy))
def test_a_class_is_missed_unless_a_voxel_of_it_is_found(policy: EmptyPolicy) -> None:
    """Stray voxels elsewhere find nothing; rows written before say so too, since `tp` tells it."""
    truth, stray, touching = (np.zeros((4, 8, 8), np.uint8) for _ in range(3))
    truth[1, 2:4, 2:4] = 1
    stray[3, 7, 7] = 1
    touching[1, 3:6, 3:6] = 1
    rows = pd.DataFrame([score_volume(p, truth, ["lesion"], SPACING)[0] for p in (stray, touching)])
    scored = apply_policy(rows, policy)
    assert scored["missed"].tolist() == [True, False]
    assert scored["predicted_empty"].tolist() == [False, False]
    assert scored["dice"].tolist() == [0, 2 / 13]


@pytest.mark.parametrize(
    ("policy", "precision", "recall"),
    [
        ("brats", [1, 0, 0], [1, 0, 0]),
        ("paper", [NAN, 0, NAN], [NAN, NAN, 0]),
        ("drop", [NAN] * 3, [NAN] * 3),
        ("inf", [1, 0, 0], [1, 0, 0]),
    ],
)
def test_precision_and_recall_of_empty_masks(
    raw: pd.DataFrame, policy: str, precision: list[float], recall: list[float]
) -> None:
    scored = apply_policy(raw, policy)
    np.testing.assert_allclose(scored["precision"][:3], precision)
    np.testing.assert_allclose(scored["recall"][:3], recall)


def test_raw_rows_stay_as_they_are(raw: pd.DataFrame) -> None:
    before = raw.copy()
    apply_policy(raw)
    pd.testing.assert_frame_equal(raw, before)


def test_unknown_policy_and_foreign_rows_are_refused(raw: pd.DataFrame) -> None:
    with pytest.raises(UnderstudyError, match="brats, paper, drop, inf"):
        apply_policy(raw, "nan")
    with pytest.raises(UnderstudyError, match="diagonal_mm"):
        apply_policy(raw.drop(columns="diagonal_mm"))
