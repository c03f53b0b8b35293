"""Membership inference: the statistics against SciPy and closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import real_set, split_of
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from understudy.errors import UnderstudyError
from understudy.memorization.membership import membership
from understudy.roles import Part
from understudy.slices import SliceSet


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Part, Part]:
    real = real_set(tmp_path_factory.mktemp("m") / "s", split_of(6, 5), count=10)
    train = real.rows(split="train")
    return Part("training", real, train), Part("held-out", real, real.rows(split=["val", "test"]))


def score_of(shift: float, parts: tuple[Part, Part], ties: bool = False) -> object:
    known = set(parts[0].rows.tolist())

    def score(slices: SliceSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], str]:
        found = np.array([np.random.default_rng([7, int(r)]).normal() + shift * (int(r) in known) for r in rows])
        return (np.round(found) if ties else found), "score"

    return score


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_that_of_the_rank_sum_of_patients(parts: tuple[Part, Part], ties: bool) -> None:
    judge = score_of(0.1, parts, ties)
    found = membership(*parts, judge, slices=1000)  # type: ignore[arg-type]
    sides = [(side, judge(side.slices, side.rows)[0]) for side in parts]  # type: ignore[operator]
    a, b = ([of[side.codes == code].mean() for code in range(side.count)] for side, of in sides)
    assert found.auc == pytest.approx(mannwhitneyu(a, b).statistic / (len(a) * len(b)))
    assert found.low < found.auc < found.high
    assert (found.training_patients, found.heldout_patients) == (6, 5)


def test_true_positives_at_one_percent_false_ones_are_those_above_every_held_out_patient(tmp_path: Path) -> None:
    """Of 4 training patients 3 lie above all of 5; of 250 held-out ones two may lie above."""
    real = real_set(tmp_path / "s", split_of(4, 250), count=1)
    sides = [Part("p", real, rows) for rows in (real.rows(split="train"), real.rows(split=["val", "test"]))]
    values = {"T0": 9.0, "T1": 8.0, "T2": 7.0, "T3": 0.0, "H0": 8.5, "H1": 7.5, "H2": 6.5, "H3": 1.0}

    def judge(slices: SliceSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], str]:
        return np.array([values.get(name, -1.0) for name in slices.index["subject"].to_numpy()[rows]]), "score"

    few = sides[1].kept(np.isin(sides[1].patients, ["H1", "H2", "H3"]))
    for held, tpr, smallest in ((sides[1], 0.75, 1 / 250), (few, 0.5, 1 / 3)):
        found = membership(sides[0], held, judge, slices=1000)
        assert (found.tpr, found.smallest_fpr) == (tpr, pytest.approx(smallest))
        assert 0 <= found.tpr_low <= tpr <= found.tpr_high <= 1
    assert found.tpr_low < found.tpr_high


def test_weights_that_know_and_weights_that_do_not(parts: tuple[Part, Part]) -> None:
    assert "give training patients away" in membership(*parts, score_of(3, parts)).words  # type: ignore[arg-type]
    told = membership(*parts, score_of(0, parts), slices=40)  # type: ignore[arg-type]
    assert "No sign that" in told.words
    assert told.training == 40


def test_an_interval_is_by_patient(parts: tuple[Part, Part]) -> None:
    """As many slices of a patient as there are say no more than one if their scores are equal."""

    def by_patient(slices: SliceSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], str]:
        names = slices.index["subject"].to_numpy()[rows]
        return np.array([np.random.default_rng([1, int(n[1:]), ord(n[0])]).normal() for n in names]), "score"

    first = [side.at(np.unique(side.codes, return_index=True)[1]) for side in parts]
    all_slices, one_each = membership(*parts, by_patient), membership(*first, by_patient)
    assert (all_slices.low, all_slices.high) == (one_each.low, one_each.high)
    assert all_slices.high - all_slices.low > 0.4
    assert "says nothing of a single one: at 1 % false positives, that is above all 5 held-out ones" in all_slices.words


def test_few_patients_on_a_side_cannot_be_told_apart(parts: tuple[Part, Part]) -> None:
    """A bootstrap over one patient has no spread: an interval that excludes 0.5 would mean nothing."""
    held = parts[1]
    one = held.kept(held.codes == 0)
    assert "Too few patients to tell" in membership(parts[0], one, score_of(3, parts)).words  # type: ignore[arg-type]


def test_scores_that_are_not_finite_are_no_sign_of_anything(parts: tuple[Part, Part]) -> None:
    def score(slices: SliceSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], str]:
        return np.where(rows == parts[0].rows[0], np.nan, 0.0), "score"

    with pytest.raises(UnderstudyError):
        membership(*parts, score, slices=1000)
