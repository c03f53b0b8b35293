"""Raw rows of a volume: against MedPy per mask, the paper's protocol, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from medpy.metric import binary

from understudy.errors import UnderstudyError
from understudy.metrics.scores import score_volume

NAMES = ["NCR", "ED", "ET"]
SPACING = (2.0, 1.0, 0.5)
COLUMNS = [
    *("class_name", "scope", "region", "tp", "fp", "fn", "truth_voxels", "predicted_voxels"),
    *("truth_empty", "predicted_empty", "hd", "hd95_pooled", "hd95_directed", "hd95_surfel", "diagonal_mm"),
]


def volumes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Nested boxes of three labels, the prediction with 5 % of its labels replaced."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((14, 20, 22), np.uint8)
    for value, edge in ((2, 3), (3, 5), (1, 6)):
        truth[edge:-edge, edge:-edge, edge : -edge - 1] = value
    prediction = np.roll(truth, 1, axis=2)
    noise = rng.random(truth.shape) < 0.05
    prediction[noise] = rng.integers(0, 4, int(noise.sum()))
    return truth, prediction


def check_against_medpy(row: dict[str, Any], truth: np.ndarray, prediction: np.ndarray) -> None:
    assert row["tp"] == (truth & prediction).sum()
    assert row["fp"] == (prediction & ~truth).sum()
    assert row["fn"] == (truth & ~prediction).sum()
    assert row["truth_voxels"] == truth.sum()
    assert row["predicted_voxels"] == prediction.sum()
    assert row["hd"] == pytest.approx(binary.hd(prediction, truth, SPACING))
    assert row["hd95_pooled"] == pytest.approx(binary.hd95(prediction, truth, SPACING))


def masks_of(volume: np.ndarray, name: str) -> np.ndarray:
    return volume > 0 if name == "foreground" else volume == NAMES.index(name) + 1


def test_whole_volume_rows_equal_medpy() -> None:
    truth, prediction = volumes()
    rows = score_volume(prediction, truth, NAMES, SPACING)
    assert [r["class_name"] for r in rows] == [*NAMES, "foreground"]
    for row in rows:
        assert list(row) == COLUMNS
        assert row["scope"] == "whole"
        check_against_medpy(row, *(masks_of(v, row["class_name"]) for v in (truth, prediction)))
        assert row["diagonal_mm"] == pytest.approx(np.sqrt(28**2 + 20**2 + 11**2))


@pytest.mark.parametrize(
    "kept", [np.r_[3:7, 9:12], np.r_[2:14], np.r_[0:14], np.r_[0:2]], ids=["gap", "part", "all", "none there"]
)
def test_kept_slices_are_restacked(kept: np.ndarray) -> None:
    truth, prediction = volumes(1)
    prediction[:2] = 0
    stays = np.isin(np.arange(14), kept)
    rows = score_volume(prediction, truth, NAMES, SPACING, stays)
    assert rows[:4] == score_volume(prediction, truth, NAMES, SPACING)
    alone = score_volume(prediction[stays], truth[stays], NAMES, SPACING)
    for row, expected in zip(rows[4:], alone, strict=True):
        np.testing.assert_equal(row, expected | {"scope": "kept_slices"})


def test_kept_slices_of_foreground_on_the_edge_of_the_stack() -> None:
    """The kept stack ends inside the lesion: its last slice becomes border there, as in the paper's code."""
    truth = np.zeros((8, 9, 9), np.uint8)
    truth[1:7, 2:7, 2:7] = 1
    prediction = truth.copy()
    prediction[3, 4, 4] = 0
    stays = np.arange(8) <= 3
    row = score_volume(prediction, truth, ["lesion"], SPACING, stays)[2]
    check_against_medpy(row, truth[stays] == 1, prediction[stays] == 1)


def test_regions_are_scored_as_their_masks() -> None:
    truth, prediction = volumes(4)
    plain = score_volume(prediction, truth, NAMES, SPACING)
    rows = score_volume(prediction, truth, NAMES, SPACING, regions="auto")
    assert [r["class_name"] for r in rows] == [*NAMES, "WT", "TC", "foreground"]
    assert [r for r in rows if not r["region"]] == plain
    check_against_medpy(rows[3], truth > 0, prediction > 0)
    check_against_medpy(rows[4], *(np.isin(v, [1, 3]) for v in (truth, prediction)))
    (own,) = score_volume(prediction, truth, NAMES, SPACING, np.arange(14) > 6, {"rim": ["ED", "NCR"]})[8:9]
    assert (own["class_name"], own["scope"], own["region"]) == ("rim", "kept_slices", True)
    check_against_medpy(own, *(np.isin(v[7:], [1, 2]) for v in (truth, prediction)))


def test_memory_layout_and_integer_type_do_not_matter() -> None:
    truth, prediction = volumes(2)
    expected = score_volume(prediction, truth, NAMES, SPACING)
    fortran = np.asfortranarray(prediction.astype(np.int64))
    assert score_volume(fortran, truth.astype(np.int16), NAMES, SPACING) == expected
    turned = score_volume(prediction.transpose(2, 1, 0), truth.transpose(2, 1, 0), NAMES, SPACING[::-1])
    for row, other in zip(expected, turned, strict=True):
        assert other == pytest.approx(row)


def test_empty_volumes_give_rows_without_distances() -> None:
    truth, prediction = volumes(3)
    truth[truth == 1] = 0
    empty = np.zeros_like(truth)
    ncr, ed, *_ = score_volume(prediction, truth, NAMES, SPACING)
    assert (ncr["truth_empty"], ncr["predicted_empty"]) == (True, False)
    assert np.isnan([ncr["hd"], ncr["hd95_pooled"], ncr["hd95_directed"]]).all()
    assert ed["hd"] > 0
    for row in score_volume(empty, empty, NAMES, SPACING, np.zeros(14, bool)):
        assert row["truth_empty"]
        assert row["predicted_empty"]
        assert row["tp"] == row["fp"] == row["fn"] == 0


TRUTH = np.zeros((3, 4, 5), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": np.zeros((3, 5, 4), np.uint8)}, "shape"),
        ({"target": TRUTH[0], "pred": TRUTH[0]}, "not a volume"),
        ({"pred": TRUTH.astype(np.float32)}, "float32"),
        ({"pred": TRUTH + np.uint8(4)}, "the label 4"),
        ({"target": TRUTH.astype(np.int16) - 1}, "the label -1"),
        ({"regions": {"core": ["NCR", "NET"]}}, "union of classes"),
        ({"regions": {"ED": ["NCR"]}}, "cannot be called 'ED'"),
        ({"spacing": (1.0, 1.0)}, "spacing"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "spacing"),
        ({"class_names": ["background", "NCR", "ED", "ET"]}, "background"),
        ({"class_names": ["ED", "ED", "ET"]}, "names of classes"),
        ({"class_names": []}, "names of classes"),
        ({"class_names": "lesion"}, "names of classes"),
        ({"class_names": [f"class {i}" for i in range(400)]}, "400 classes are too many: 255 at most"),
        ({"kept": np.ones(4, bool)}, "`kept`"),
        ({"kept": np.ones(3, np.uint8)}, "`kept`"),
    ],
)
def test_bad_input_is_refused_with_the_reason(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"target": TRUTH, "pred": TRUTH, "class_names": NAMES, "spacing": SPACING}
    assert len(score_volume(**good)) == 4
    with pytest.raises(UnderstudyError, match=message):
        score_volume(**(good | change))
