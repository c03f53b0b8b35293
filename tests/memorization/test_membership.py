"""Membership inference: the statistics against SciPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from made import real_set, split_of
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

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
def test_the_area_is_that_of_the_rank_sum(parts: tuple[Part, Part], ties: bool) -> None:
    judge = score_of(0.7, parts, ties)
    found = membership(*parts, judge, slices=1000)  # type: ignore[arg-type]
    a, b = (judge(side.slices, side.rows)[0] for side in parts)  # type: ignore[operator]
    assert found.auc == pytest.approx(mannwhitneyu(a, b).statistic / (len(a) * len(b)))
    assert found.low < found.auc < found.high
    assert (found.training_patients, found.heldout_patients) == (6, 5)


def test_weights_that_know_and_weights_that_do_not(parts: tuple[Part, Part]) -> None:
    assert "give training patients away" in membership(*parts, score_of(3, parts)).words  # type: ignore[arg-type]
    told = membership(*parts, score_of(0, parts), slices=40)  # type: ignore[arg-type]
    assert "No sign that" in told.words
    assert told.training == 40


def test_an_interval_is_by_patient(parts: tuple[Part, Part]) -> None:
    """Scores that are equal within patients: as few different values as there are patients, so a wide interval."""

    def by_patient(slices: SliceSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], str]:
        names = slices.index["subject"].to_numpy()[rows]
        return np.array([np.random.default_rng([1, int(n[1:]), ord(n[0])]).normal() for n in names]), "score"

    wide, narrow = membership(*parts, by_patient), membership(*parts, score_of(0, parts))  # type: ignore[arg-type]
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_few_patients_on_a_side_cannot_be_told_apart(parts: tuple[Part, Part]) -> None:
    """A bootstrap over one patient has no spread: an interval that excludes 0.5 would mean nothing."""
    held = parts[1]
    one = held.kept(held.codes == 0)
    assert "Too few patients to tell" in membership(parts[0], one, score_of(3, parts)).words  # type: ignore[arg-type]
