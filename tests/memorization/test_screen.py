"""What an audit is used for afterwards: screening, and the audit done again before a release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import FAST, new_slices, synthetic_set

from understudy.errors import UnderstudyError
from understudy.io.files import write_json
from understudy.memorization.perform import AuditResult, audit
from understudy.memorization.screen import check_training, recheck, screen
from understudy.memorization.words import as_markdown
from understudy.slices import SliceSet


def test_screening_takes_out_what_is_flagged_and_what_is_like_it(
    real: SliceSet, mixed: SliceSet, found: AuditResult, tmp_path: Path
) -> None:
    found.save(tmp_path / "a")
    left, done = screen(mixed, tmp_path / "a", tmp_path / "kept")
    assert done.before == 100
    assert done.kept == len(left) == 100 - done.flagged - done.alike
    assert not set(left.index["row_before"]) & set(found.flagged)
    assert left.attrs["screened"]["content_hash_before"] == mixed.content_hash
    images, _ = mixed.read(left.index["row_before"].to_numpy())
    assert (left.read(slice(0, len(left)))[0] == images).all()
    again = audit(real, real, left, FAST)
    assert again.verdict.kind == "no_sign"
    assert "says nothing about the generator" in again.verdict.headline
    assert "taken out by the same rule" in as_markdown(again.numbers)
    assert "95 % bound" not in as_markdown(again.numbers)  # that bound is one of slices drawn, not of slices chosen
    check_training(real, tmp_path / "a")
    with pytest.raises(UnderstudyError, match="other training"):
        check_training(mixed, tmp_path / "a")
    with pytest.raises(UnderstudyError, match="another synthetic set"):
        screen(left, tmp_path / "a", tmp_path / "no")


def test_screening_replaces_nothing_but_an_earlier_screening(
    real: SliceSet, mixed: SliceSet, found: AuditResult, tmp_path: Path
) -> None:
    found.save(tmp_path / "a")
    before = real.content_hash
    (tmp_path / "notes.txt").write_text("mine")
    for place in (mixed.path, real.path, tmp_path / "notes.txt", tmp_path):
        with pytest.raises(UnderstudyError, match="holds something else"):
            screen(mixed, tmp_path / "a", place)
    assert len(SliceSet.open(mixed.path)) == 100
    SliceSet.open(real.path).verify()
    assert SliceSet.open(real.path).content_hash == before
    first, _ = screen(mixed, tmp_path / "a", tmp_path / "kept")
    again, _ = screen(mixed, tmp_path / "a", tmp_path / "kept")
    assert again.content_hash == first.content_hash


def test_near_duplicates_of_a_flagged_slice_go_too(real: SliceSet, tmp_path: Path) -> None:
    """A slice like a flagged one, but itself below the threshold to any training slice."""
    copies, labels = real.read(real.rows(subject="T0")[:1])
    rng = np.random.default_rng(3)
    images, marks = new_slices(40)
    steps = [copies[0] + rng.normal(0, s, copies[0].shape) for s in (2, 25)]
    made = np.concatenate([images, np.clip(np.stack(steps), 0, 255).astype(np.uint8)])
    mine = synthetic_set(tmp_path / "s", made, np.concatenate([marks, labels, labels]))
    done = audit(real, real, mine, FAST)
    done.save(tmp_path / "a")
    left, counts = screen(mine, tmp_path / "a", tmp_path / "kept")
    assert 40 in done.flagged
    assert not {40, 41} & set(left.index["row_before"])
    assert counts.flagged + counts.alike >= 2


def test_an_audit_done_again_says_the_same(found: AuditResult, real: SliceSet, mixed: SliceSet, tmp_path: Path) -> None:
    found.save(tmp_path / "a")
    again = recheck(real, real, mixed, tmp_path / "a")
    assert again.concentration is not None
    assert again.concentration.as_dict() == found.numbers["concentration"]
    assert again.table.equals(found.slices)
    assert again.rest(np.arange(100), screened=False).kind == "copies_found"


def test_an_audit_of_other_slices_or_with_changed_p_values_is_refused(
    found: AuditResult, real: SliceSet, mixed: SliceSet, tmp_path: Path
) -> None:
    found.save(tmp_path / "a")
    for other in ((real, real, real), (real, real, mixed, real.rows(subject="T0"))):
        with pytest.raises(UnderstudyError, match="audit is of other") as error:
            recheck(*other[:3], tmp_path / "a", *other[3:])
        assert error.value.where == str(tmp_path / "a")
    table = found.slices.assign(p=found.slices["p"] * 2)
    table.to_parquet(tmp_path / "a" / "p_values.parquet")
    with pytest.raises(UnderstudyError, match="p-values are not those") as error:
        recheck(real, real, mixed, tmp_path / "a")
    assert error.value.where == str(tmp_path / "a" / "p_values.parquet")
    write_json(tmp_path / "a" / "audit.json", {**found.numbers, "controls": None})
    with pytest.raises(UnderstudyError, match="controls"):
        recheck(real, real, mixed, tmp_path / "a")
