"""The whole audit on made-up heads: copies found, new patients left alone, pseudonyms, refusals, screening."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import EDGE, heads, new_slices, real_set, split_of, synthetic_set

from understudy.errors import UnderstudyError
from understudy.memorization import perform
from understudy.memorization.config import AuditConfig
from understudy.memorization.perform import audit
from understudy.memorization.pictures import save_pictures
from understudy.memorization.recheck import recheck
from understudy.memorization.result import Audit, as_text, write_audit
from understudy.memorization.screen import check_training, screen
from understudy.memorization.sides import sides
from understudy.memorization.similarity import nearest
from understudy.memorization.verdict import Verdict, verdict
from understudy.roles import Part, UnfitSets
from understudy.slices import SliceSet, SliceWriter

FAST = AuditConfig(copies=24, splits=10, resamples=200, within=80)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    return real_set(tmp_path_factory.mktemp("real") / "s", split_of(8, 12))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, real: SliceSet) -> SliceSet:
    """90 new slices, then 10 noisy copies of the slices of T2."""
    images, labels = new_slices(90)
    copies, marks = real.read(real.rows(subject="T2")[:10])
    noisy = np.clip(copies + np.random.default_rng(1).normal(0, 3, copies.shape), 0, 255).astype(np.uint8)
    folder = tmp_path_factory.mktemp("mixed")
    return synthetic_set(folder / "s", np.concatenate([images, noisy]), np.concatenate([labels, marks]))


@pytest.fixture(scope="module")
def found(real: SliceSet, mixed: SliceSet) -> Audit:
    return audit(real, real, mixed, FAST)


def test_planted_copies_among_new_slices_are_found_and_their_patient_is_named_by_number(found: Audit) -> None:
    assert found.verdict.kind == "copies_found"
    assert set(range(90, 100)) <= set(found.flagged)
    assert len(found.flagged) <= 14
    patients = found.numbers["patients"]
    assert patients["worst"][0] == "patient 1"
    assert patients["worst"][1] >= 10
    near = found.neighbours.set_index("row").loc[range(90, 100)]
    assert set(near["patient"]) == {"T2"}
    assert set(near["name"]) == {"patient 1"}


def test_flags_beside_one_patient_are_called_concentrated_and_nobody_is_named(
    found: Audit, real: SliceSet, mixed: SliceSet, tmp_path: Path
) -> None:
    heaped = found.numbers["concentration"]
    assert (heaped["found"], heaped["patients"], heaped["votes"]) == (True, 1, 8)
    assert heaped["hit"] == found.numbers["patients"]["worst"][1]
    assert heaped["same"] <= 3
    assert set(heaped) == {
        "flagged", "patients", "hit", "votes", "same", "p", "smallest_p", "share_of_all", "found", "testable",
    }  # fmt: skip
    assert any("Concentrated on one training patient" in sentence for sentence in found.verdict.sentences)
    write_audit(found, tmp_path / "a")
    again = recheck(real, real, mixed, tmp_path / "a")
    assert again.concentration is not None
    assert again.concentration.as_dict() == heaped
    assert again.rest(np.arange(100), screened=False).kind == "copies_found"


def test_copies_of_all_patients_alike_are_found_and_are_not_concentrated(real: SliceSet, tmp_path: Path) -> None:
    images, labels = new_slices(90)
    copies, marks = real.read(real.rows(split="train")[::5])
    noisy = np.clip(copies + np.random.default_rng(1).normal(0, 3, copies.shape), 0, 255).astype(np.uint8)
    made = synthetic_set(tmp_path / "s", np.concatenate([images, noisy]), np.concatenate([labels, marks]))
    done = audit(real, real, made, FAST)
    assert done.verdict.kind == "copies_found"
    assert not done.numbers["concentration"]["found"]
    assert any("No more concentrated" in sentence for sentence in done.verdict.sentences)


def test_controls_are_in_every_audit(found: Audit) -> None:
    detection = {d["name"]: d for d in found.numbers["controls"]["detection"]}
    for name in ("exact", "noise 2 %", "noise 5 %", "gamma 0.7", "gamma 1.4"):
        assert detection[name]["rate"] == 1, name
    assert detection["flip"]["rate"] < 0.5
    alarms = found.numbers["controls"]["false_alarms"]
    assert alarms["low"] <= 0.01 <= max(alarms["high"], 0.01)
    assert alarms["rate"] < 0.06


def test_new_patients_are_no_copies(real: SliceSet, tmp_path: Path) -> None:
    done = audit(real, real, synthetic_set(tmp_path / "s", *new_slices(120, seed=5)), FAST)
    assert done.verdict.kind == "no_sign"
    assert done.numbers["flags"]["certain"] == 0
    assert done.numbers["flags"]["rate"] < 0.05


def test_the_same_audit_twice_is_the_same(real: SliceSet, mixed: SliceSet, found: Audit) -> None:
    assert json.dumps(audit(real, real, mixed, FAST).numbers) == json.dumps(found.numbers)


def test_mirrored_copies_are_found_where_they_are_looked_for(real: SliceSet, tmp_path: Path) -> None:
    images, labels = real.read(real.rows(split="train")[:40])
    made = synthetic_set(tmp_path / "s", images[..., ::-1].copy(), labels[..., ::-1].copy())
    with_flips = audit(real, real, made, FAST.model_copy(update={"transforms": "flips", "more_views": False}))
    without = audit(real, real, made, FAST.model_copy(update={"more_views": False}))
    assert with_flips.numbers["flags"]["rate"] == 1
    assert without.numbers["flags"]["rate"] < 0.5
    assert (with_flips.neighbours["transform"] != 0).all()


def test_what_may_be_shared_names_nobody(found: Audit, real: SliceSet, mixed: SliceSet, tmp_path: Path) -> None:
    write_audit(found, tmp_path / "a")
    save_pictures(found, real, mixed, tmp_path / "a")
    shared = [p for p in (tmp_path / "a").iterdir() if p.is_file()]
    assert {p.name for p in shared} == {"audit.json", "audit.md", "p_values.parquet"}
    text = (tmp_path / "a" / "audit.json").read_text() + (tmp_path / "a" / "audit.md").read_text()
    assert not any(f'"{name}' in text or f" {name}" in text for name in split_of(8, 12))
    columns = pd.read_parquet(tmp_path / "a" / "p_values.parquet").columns
    assert set(columns) == {"row", "id", "judged", "flagged", "p", "patient_p", "p.stacked", "p.centred"}
    private = {p.name for p in (tmp_path / "a" / "private").iterdir()}
    assert private == {"README.txt", "neighbours.parquet", "patients.csv", "histograms.png", "gallery.png"}
    assert "PRIVATE" in (tmp_path / "a" / "private" / "README.txt").read_text()
    assert "patient 1,T2" in (tmp_path / "a" / "private" / "patients.csv").read_text()


def test_no_flags_still_give_a_bound(real: SliceSet, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 2, EDGE, EDGE), dtype=np.uint8)  # like nobody
    done = audit(real, real, synthetic_set(tmp_path / "s", images, np.zeros((60, EDGE, EDGE), np.uint8)), FAST)
    assert done.numbers["flags"]["count"] == 0
    assert done.numbers["flags"]["bound"] == pytest.approx(1 - 0.05 ** (1 / 60))
    assert "95 % bound" in as_text(done)
    assert "farther from the training slices" in as_text(done) or done.numbers["flags"]["wilson_high"] > 0.01


def test_a_set_that_repeats_itself_is_noticed(real: SliceSet, tmp_path: Path) -> None:
    images, labels = new_slices(1, seed=8)
    many = np.repeat(images, 60, 0) + np.random.default_rng(0).integers(0, 3, (60, 2, EDGE, EDGE), dtype=np.uint8)
    done = audit(real, real, synthetic_set(tmp_path / "s", many.astype(np.uint8), np.repeat(labels, 60, 0)), FAST)
    assert done.numbers["within"]["rate"] == 1
    assert done.numbers["within"]["compared"] == 60


def test_constant_slices_are_not_judged(real: SliceSet, tmp_path: Path) -> None:
    images, labels = new_slices(40)
    images[:5] = 7
    done = audit(real, real, synthetic_set(tmp_path / "s", images, labels), FAST)
    assert done.numbers["sets"]["synthetic"]["constant"] == 5
    assert not done.slices["judged"].to_numpy()[:5].any()
    assert done.slices["p"].isna().sum() == 40 - done.numbers["flags"]["judged"]
    images[:] = 7
    with pytest.raises(UnderstudyError, match="all synthetic slices are constant"):
        audit(real, real, synthetic_set(tmp_path / "t", images, labels), FAST)


def test_too_few_held_out_slices_or_patients_cannot_tell(tmp_path: Path, mixed: SliceSet) -> None:
    few = real_set(tmp_path / "few", split_of(8, 6))
    made = synthetic_set(tmp_path / "s", *new_slices(30))
    done = audit(few, few, made, FAST)
    assert done.verdict.kind == "cannot_tell"
    assert "72 held-out slices are too few: it takes at least 99" in done.numbers["refusal"]
    assert done.numbers["null"]["slices_needed"] == 99
    at_95 = audit(few, few, made, FAST.model_copy(update={"quantile": 0.95}))
    assert at_95.numbers["null"]["slices_needed"] == 19
    assert at_95.verdict.kind in ("no_sign", "cannot_tell")
    two = real_set(tmp_path / "two", split_of(8, 2), count=60)
    assert "2 held-out patients are too few" in audit(two, two, made, FAST).verdict.headline


def test_bad_input_is_one_message(real: SliceSet, mixed: SliceSet, tmp_path: Path) -> None:
    other = real_set(tmp_path / "other", {"T1": "test", "X": "test"})
    with pytest.raises(UnderstudyError, match="1 of the held-out patients are also among the training slices"):
        audit(real, other, mixed, FAST)
    nobody = real_set(tmp_path / "nobody", split_of(3, 0))
    with pytest.raises(UnderstudyError, match="no held-out slices"):
        audit(nobody, nobody, mixed, FAST)
    larger = synthetic_set(tmp_path / "larger", *heads(1, 4, edge=32))
    with pytest.raises(UnderstudyError, match="32 pixels wide, the training slices 16"):
        audit(real, real, larger, FAST)
    with pytest.raises(UnderstudyError, match="no column `subject`"):
        sides(real, mixed, mixed)


def test_a_verdict_without_controls_is_refused(found: Audit) -> None:
    assert isinstance(found.verdict, Verdict)
    with pytest.raises(UnderstudyError, match="without its controls"):
        verdict(None, None, None, 10, 200, 99, 0.99)  # type: ignore[arg-type]


def test_a_killed_audit_continues_with_every_search(
    real: SliceSet, mixed: SliceSet, found: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The searches of one audit leave each other's parts alone; the second time nothing is compared again."""
    compared: list[int] = []

    def counted(*args: Any, **options: Any) -> pd.DataFrame:
        table = nearest(*args, **options)
        compared.append(table.attrs["compared"])
        return table

    monkeypatch.setattr(perform, "nearest", counted)
    first = audit(real, real, mixed, FAST, work_dir=tmp_path / "w")
    assert len(compared) == 3
    assert min(compared) > 0
    again = audit(real, real, mixed, FAST, work_dir=tmp_path / "w")
    assert compared[3:] == [0, 0, 0]
    assert json.dumps(first.numbers) == json.dumps(again.numbers) == json.dumps(found.numbers)
    assert not list((tmp_path / "w").glob("planted-*"))


def test_planted_copies_are_kept_beside_the_audit_not_in_a_folder_of_everyone(
    real: SliceSet, mixed: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def watched(queries: SliceSet, *args: Any, **options: Any) -> pd.DataFrame:
        seen.append(queries.path)
        return nearest(queries, *args, **options)

    monkeypatch.setattr(perform, "nearest", watched)
    audit(real, real, mixed, FAST, work_dir=tmp_path / "w")
    assert seen[-1].is_relative_to(tmp_path / "w")


def test_a_held_out_slice_that_is_a_training_slice_is_refused(real: SliceSet, mixed: SliceSet, tmp_path: Path) -> None:
    """The same patient under two names, which no comparison of names can find."""
    images, labels = real.read(real.rows(split=["val", "test"]))
    twice, marks = real.read(real.rows(subject="T3")[:1])
    writer = SliceWriter(tmp_path / "h", real.channels, real.classes, EDGE)
    names = [{"subject": f"N{i // 12}"} for i in range(len(images))]
    writer.append(images, labels, names)
    writer.append(twice, marks, [{"subject": "N99"}])
    with pytest.raises(UnfitSets, match="1 of the held-out slices are training slices under another name"):
        audit(real, writer.close(), mixed, FAST)


def test_a_set_without_a_split_has_no_held_out_slices_of_its_own(mixed: SliceSet, tmp_path: Path) -> None:
    writer = SliceWriter(tmp_path / "s", mixed.channels, mixed.classes, EDGE)
    images, labels = heads(1, 5)
    writer.append(images, labels, [{"subject": "A"}] * 5)
    plain = writer.close()
    with pytest.raises(UnfitSets, match="no column `split`"):
        audit(plain, plain, mixed, FAST)


def test_screening_takes_out_what_is_flagged_and_what_is_like_it(
    real: SliceSet, mixed: SliceSet, found: Audit, tmp_path: Path
) -> None:
    write_audit(found, tmp_path / "a")
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
    assert "taken out by the same rule" in as_text(again)
    assert "95 % bound" not in as_text(again)  # that bound is one of slices drawn, not of slices chosen
    check_training(real, tmp_path / "a")
    with pytest.raises(UnderstudyError, match="other training slices"):
        check_training(mixed, tmp_path / "a")
    with pytest.raises(UnderstudyError, match="another synthetic set"):
        screen(left, tmp_path / "a", tmp_path / "no")


def test_screening_replaces_nothing_but_an_earlier_screening(
    real: SliceSet, mixed: SliceSet, found: Audit, tmp_path: Path
) -> None:
    write_audit(found, tmp_path / "a")
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
    write_audit(done, tmp_path / "a")
    left, counts = screen(mine, tmp_path / "a", tmp_path / "kept")
    assert 40 in done.flagged
    assert not {40, 41} & set(left.index["row_before"])
    assert counts.flagged + counts.alike >= 2


def test_a_generator_of_fewer_patients_is_compared_with_these(real: SliceSet, mixed: SliceSet) -> None:
    rows = real.rows(subject=["T0", "T1"])
    done = audit(real, real, mixed, FAST, training_rows=rows)
    assert done.numbers["patients"]["of"] == 2
    assert done.numbers["sets"]["training"]["slices"] == len(rows)
    assert set(done.neighbours["patient"]) <= {"T0", "T1"}
    assert isinstance(sides(real, real, mixed, rows)[0], Part)


def test_a_dimmed_copy_is_found_though_it_has_little_contrast(real: SliceSet, tmp_path: Path) -> None:
    images, labels = new_slices(60)
    images[:3] = np.rint(0.3 * real.read(real.rows(subject="T1")[:3])[0])
    images[3] = 7
    made = synthetic_set(tmp_path / "made", images, labels)
    done = audit(real, real, made, FAST)
    flags = done.numbers["flags"]
    assert flags["faint_count"] == 3
    assert flags["skipped"] - flags["faint"] == 1  # the constant one
    assert flags["certain"] >= 3
    assert done.verdict.kind == "copies_found"
    assert "have too little contrast" in " ".join(done.verdict.sentences)
    assert not done.slices["judged"].iloc[:4].any()
    assert done.slices["flagged"].iloc[:4].tolist() == [True, True, True, False]
    assert set(done.neighbours.set_index("row").loc[[0, 1, 2], "patient"]) == {"T1"}
    assert done.neighbours["row"].is_monotonic_increasing
    write_audit(done, tmp_path / "a")
    again = recheck(real, real, made, tmp_path / "a")
    assert again.table["flagged"].equals(done.slices["flagged"])
    assert again.rest(np.arange(3, 60)).kind == "no_sign"
    left, _ = screen(made, tmp_path / "a", tmp_path / "left")
    assert not {0, 1, 2} & set(left.index["row_before"])
