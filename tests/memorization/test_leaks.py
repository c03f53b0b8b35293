"""Copies of validation and test patients among synthetic slices: found, named by row and part, taken out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import FAST, new_slices, real_set, split_of, synthetic_set

from understudy.errors import UnderstudyError
from understudy.memorization.comparison import sides
from understudy.memorization.controls import moved as moved_by
from understudy.memorization.leaks import Leaks, find_leaks
from understudy.memorization.perform import audit
from understudy.memorization.screen import recheck, screen
from understudy.memorization.search import searching
from understudy.slices import SliceSet

SLICES = 200


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    return real_set(tmp_path_factory.mktemp("real") / "s", split_of(12, 12))


def with_copies(folder: Path, real: SliceSet, val: int, test: int, moved: bool = False) -> SliceSet:
    """New slices, of which the first are copies of validation patients and the next of test patients."""
    images, labels = new_slices(SLICES)
    rows = np.concatenate([real.rows(split="val")[:val], real.rows(split="test")[:test]]).astype(int)
    copies, marks = real.read(rows)
    if moved:
        copies, marks = moved_by(copies, marks, np.random.default_rng(1), 1 / 16)
    images[: len(rows)], labels[: len(rows)] = copies, marks
    return synthetic_set(folder / "s", images, labels)


def found_in(real: SliceSet, made: SliceSet) -> Leaks:
    return find_leaks(sides(real, real, made), FAST, searching(FAST, "cpu", False))


@pytest.mark.parametrize(("val", "test"), [(1, 1), (4, 6), (24, 36), (0, 2), (2, 0)])
def test_copies_are_found_and_named_at_every_share(real: SliceSet, tmp_path: Path, val: int, test: int) -> None:
    leaks = found_in(real, with_copies(tmp_path, real, val, test))
    assert leaks.kind == "copies_found"
    planted = {str(i): "val" if i < val else "test" for i in range(val + test)}
    assert {row: leaks.parts[row] for row in planted} == planted
    assert len(leaks.parts) - len(planted) <= 0.03 * SLICES  # by chance 1 %
    said = leaks.as_dict()
    assert said["counts"]["test" if test else "val"] >= max(test, val * (not test))
    assert "test patients" in said["words"] or not test


@pytest.mark.parametrize("patients", [12, 3])
def test_a_clean_set_shows_no_sign_and_too_few_patients_tell_nothing(tmp_path: Path, patients: int) -> None:
    real = real_set(tmp_path / "real", split_of(patients, 12))
    leaks = found_in(real, with_copies(tmp_path, real, 0, 0))
    assert leaks.kind == ("no_sign" if patients == 12 else "cannot_tell")
    assert leaks.parts == {}
    assert leaks.rows.tolist() == []
    if patients == 3:  # but a copy to the last pixel is one whatever the numbers
        leaks = found_in(real, with_copies(tmp_path / "copies", real, 1, 2))
        assert (leaks.kind, leaks.parts) == ("copies_found", {"0": "val", "1": "test", "2": "test"})


def test_an_audit_says_copies_found_and_screening_takes_them_out(real: SliceSet, tmp_path: Path) -> None:
    made = with_copies(tmp_path, real, 4, 6)
    done = audit(real, real, made, FAST)
    assert done.verdict.kind == "copies_found"
    assert "of test patients" in done.verdict.headline
    assert done.slices["leaked"].tolist()[:10] == ["val"] * 4 + ["test"] * 6
    done.save(tmp_path / "a")
    left, counts = screen(made, tmp_path / "a", tmp_path / "kept")
    assert not set(left.index["row_before"]) & set(range(10))
    assert counts.leaked >= 10 - counts.flagged
    after = audit(real, real, left, FAST)
    assert after.verdict.kind == "no_sign"
    after.save(tmp_path / "b")  # a set that was screened before is screened again
    twice, more = screen(left, tmp_path / "b", tmp_path / "twice")
    assert twice.attrs["screened"]["before"] == SLICES
    assert twice.attrs["screened"]["leaked"] == counts.leaked + more.leaked
    again = recheck(real, real, made, tmp_path / "a")
    assert again.rest(np.arange(SLICES), screened=False).kind == "copies_found"
    assert again.rest(left.index["row_before"].to_numpy(), screened=True).kind == "no_sign"
    with pytest.raises(UnderstudyError, match="p-values are not those"):
        done.slices.assign(leaked="").to_parquet(tmp_path / "a" / "p_values.parquet")
        recheck(real, real, made, tmp_path / "a")
