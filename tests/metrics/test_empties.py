"""The policies against the table of what others do (facts/evaluation.md 2.2) and worked examples."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from understudy.errors import UnderstudyError
from understudy.metrics.empties import EmptyPolicy, apply_policy
from understudy.metrics.scores import score_volume

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
    rows = [score_volume(t, p, ["lesion"], SPACING)[0] for t, p in pairs]
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
    rows = pd.DataFrame([score_volume(truth, p, ["lesion"], SPACING)[0] for p in (stray, touching)])
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


def test_rows_of_before_the_surfel_distance_have_none(raw: pd.DataFrame) -> None:
    """Alone and beside newer rows; a mean over nothing but their empty masks would look like a result."""
    new, old = raw.assign(setting="new", repeat=0), raw.assign(setting="old", repeat=0)
    old = old.drop(columns="hd95_surfel")
    assert "hd95_surfel" not in apply_policy(old)
    mixed = apply_policy(pd.concat([old, new], ignore_index=True))
    assert mixed.loc[mixed["setting"] == "old", "hd95_surfel"].isna().all()
    np.testing.assert_allclose(mixed["hd95_surfel"][4:], [0, DIAGONAL, DIAGONAL, raw["hd95_surfel"][3]])
    np.testing.assert_allclose(mixed["hd"][:4], mixed["hd"][4:])
