"""The whole audit on made-up heads: copies found, new patients left alone, pseudonyms, refusals, screening."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import EDGE, FAST, heads, new_slices, real_set, split_of, synthetic_set

from understudy.errors import UnderstudyError
from understudy.memorization import perform
from understudy.memorization.comparison import sides
from understudy.memorization.copies import Copies
from understudy.memorization.perform import AuditResult, audit
from understudy.memorization.pictures import save_pictures
from understudy.memorization.screen import recheck, screen
from understudy.memorization.words import as_markdown
from understudy.roles import Part, UnfitSets
from understudy.slices import SliceSet, SliceWriter


def test_planted_copies_among_new_slices_are_found_and_their_patient_is_named_by_number(found: AuditResult) -> None:
    assert found.verdict.kind == "copies_found"
    assert set(range(90, 100)) <= set(found.flagged)
    assert len(found.flagged) <= 14
    patients = found.numbers["patients"]
    assert patients["worst"][0] == "patient 1"
    assert patients["worst"][1] >= 10
    near = found.neighbours.set_index("row").loc[range(90, 100)]
    assert set(near["patient"]) == {"T2"}
    assert set(near["name"]) == {"patient 1"}


def test_flags_beside_one_patient_are_called_concentrated_and_nobody_is_named(found: AuditResult) -> None:
    spread = found.numbers["concentration"]
    assert (spread["found"], spread["patients"], spread["votes"]) == (True, 1, 8)
    assert spread["hit"] == found.numbers["patients"]["worst"][1]
    assert spread["same"] <= 3
    assert set(spread) == {
        "flagged", "patients", "hit", "votes", "same", "p", "smallest_p", "share_of_all", "found", "testable",
    }  # fmt: skip
    assert any("Concentrated on one training patient" in sentence for sentence in found.verdict.sentences)


def test_copies_of_all_patients_alike_are_found_and_are_not_concentrated(real: SliceSet, tmp_path: Path) -> None:
    images, labels = new_slices(90)
    copies, marks = real.read(real.rows(split="train")[::5])
    noisy = np.clip(copies + np.random.default_rng(1).normal(0, 3, copies.shape), 0, 255).astype(np.uint8)
    made = synthetic_set(tmp_path / "s", np.concatenate([images, noisy]), np.concatenate([labels, marks]))
    done = audit(real, real, made, FAST)
    assert done.verdict.kind == "copies_found"
    assert not done.numbers["concentration"]["found"]
    assert any("No more concentrated" in sentence for sentence in done.verdict.sentences)


def test_controls_are_in_every_audit(found: AuditResult) -> None:
    detection = {d["name"]: d for d in found.numbers["controls"]["detection"]}
    for name in ("exact", "noise 2 %", "noise 5 %", "gamma 0.7", "gamma 1.4"):
        assert detection[name]["rate"] == 1, name
    for name in ("mirrored", "turned by 15 degrees", "moved by 1.6 pixels", "blend 55 % + 45 %"):
        assert detection[name]["rate"] >= 0.9, name
    assert detection["part of the brain in another head"]["rate"] < 0.5
    assert "can miss" in found.verdict.headline or found.verdict.kind != "no_sign"
    alarms = found.numbers["controls"]["false_alarms"]
    assert alarms["low"] <= 0.01 <= max(alarms["high"], 0.01)
    assert alarms["rate"] < 0.06


def test_new_patients_are_no_copies(real: SliceSet, tmp_path: Path) -> None:
    done = audit(real, real, synthetic_set(tmp_path / "s", *new_slices(120, seed=5)), FAST)
    assert done.verdict.kind == "no_sign"
    assert done.numbers["flags"]["certain"] == 0
    assert done.numbers["flags"]["rate"] < 0.05


def test_the_same_audit_twice_is_the_same(real: SliceSet, mixed: SliceSet, found: AuditResult) -> None:
    assert json.dumps(audit(real, real, mixed, FAST).numbers) == json.dumps(found.numbers)


def test_mirrored_copies_are_found(real: SliceSet, tmp_path: Path) -> None:
    images, labels = real.read(real.rows(split="train")[:40])
    made = synthetic_set(tmp_path / "s", images[..., ::-1].copy(), labels[..., ::-1].copy())
    done = audit(real, real, made, FAST)
    assert done.numbers["flags"]["rate"] == 1
    assert (done.neighbours["transform"] == 4).mean() > 0.5
    assert (done.neighbours["training_row"].to_numpy() == real.rows(split="train")[:40]).mean() > 0.9


def test_what_may_be_shared_names_nobody(found: AuditResult, real: SliceSet, mixed: SliceSet, tmp_path: Path) -> None:
    found.save(tmp_path / "a")
    save_pictures(found, real, mixed, tmp_path / "a")
    shared = [p for p in (tmp_path / "a").iterdir() if p.is_file()]
    assert {p.name for p in shared} == {"audit.json", "audit.md", "p_values.parquet"}
    text = (tmp_path / "a" / "audit.json").read_text() + (tmp_path / "a" / "audit.md").read_text()
    assert not any(f'"{name}' in text or f" {name}" in text for name in split_of(8, 12))
    columns = pd.read_parquet(tmp_path / "a" / "p_values.parquet").columns
    assert set(columns) == {"row", "id", "judged", "flagged", "leaked", "p", "patient_p", "p.copy", "p.stacked"}
    private = {p.name for p in (tmp_path / "a" / "private").iterdir()}
    tables = {"neighbours.parquet", "heldout.parquet", "exposure.parquet", "patients.csv"}
    assert private == {*tables, "README.txt", "histograms.png", "gallery.png"}
    assert "PRIVATE" in (tmp_path / "a" / "private" / "README.txt").read_text()
    assert "patient 1,T2" in (tmp_path / "a" / "private" / "patients.csv").read_text()


def test_p_values_can_be_worked_out_again_from_the_files(found: AuditResult, tmp_path: Path) -> None:
    found.save(tmp_path)
    views = [f"{view}.score" for view in json.loads((tmp_path / "audit.json").read_text())["rule"]["views"]]
    heldout = pd.read_parquet(tmp_path / "private" / "heldout.parquet")
    synthetic = pd.read_parquet(tmp_path / "private" / "neighbours.parquet").set_index("row")
    judged = pd.read_parquet(tmp_path / "p_values.parquet").query("judged").set_index("row")
    theirs, patients = heldout[views].to_numpy(), heldout["patient"]
    assert len(theirs) == found.numbers["null"]["slices"]
    assert set(patients) == {f"H{i}" for i in range(12)}
    among = (theirs[None] >= theirs[:, None]).sum(1)  # rank of each held-out slice among themselves, by view
    for row, expected in judged.iterrows():
        own = synthetic.loc[row, views].to_numpy(float)
        above = (theirs >= own).sum(0)
        extreme = (among + (own > theirs)).min(1) <= 1 + above.min()  # best rank as good as the slice's
        assert expected["p"] == (1 + extreme.sum()) / (1 + len(theirs))
        assert expected["patient_p"] == (1 + patients[extreme].nunique()) / (1 + patients.nunique())
        assert expected[["p.copy"]].tolist() == ((1 + above) / (1 + len(theirs))).tolist()


def test_no_flags_still_give_a_bound(real: SliceSet, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 2, EDGE, EDGE), dtype=np.uint8)  # like nobody
    done = audit(real, real, synthetic_set(tmp_path / "s", images, np.zeros((60, EDGE, EDGE), np.uint8)), FAST)
    assert done.numbers["flags"]["count"] == 0
    assert done.numbers["flags"]["bound"] == pytest.approx(1 - 0.05 ** (1 / 60))
    assert "95 % bound" in as_markdown(done.numbers)


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
    with pytest.raises(UnderstudyError, match="synthetic slices are constant"):
        audit(real, real, synthetic_set(tmp_path / "t", images, labels), FAST)


def test_too_few_held_out_slices_or_patients_cannot_tell(tmp_path: Path, mixed: SliceSet) -> None:
    few = real_set(tmp_path / "few", split_of(8, 6))
    made = synthetic_set(tmp_path / "s", *new_slices(30))
    done = audit(few, few, made, FAST)
    assert done.verdict.kind == "cannot_tell"
    assert (done.numbers["null"]["slices"], done.numbers["null"]["slices_needed"]) == (72, 99)
    assert "72 held-out slices" in done.numbers["refusal"]
    at_95 = audit(few, few, made, FAST.model_copy(update={"quantile": 0.95}))
    assert at_95.numbers["null"]["slices_needed"] == 19
    assert at_95.verdict.kind in ("no_sign", "cannot_tell")
    two = real_set(tmp_path / "two", split_of(8, 2), count=60)
    assert "2 held-out patients" in audit(two, two, made, FAST).verdict.headline


def test_bad_input_is_one_message(real: SliceSet, mixed: SliceSet, tmp_path: Path) -> None:
    other = real_set(tmp_path / "other", {"T1": "test", "X": "test"})
    with pytest.raises(UnderstudyError, match="both sides"):
        audit(real, other, mixed, FAST)
    nobody = real_set(tmp_path / "nobody", split_of(3, 0))
    with pytest.raises(UnderstudyError, match=r"no .*held-out"):
        audit(nobody, nobody, mixed, FAST)
    larger = synthetic_set(tmp_path / "larger", *heads(1, 4, edge=32))
    with pytest.raises(UnderstudyError, match="32 pixels"):
        audit(real, real, larger, FAST)
    with pytest.raises(UnderstudyError, match="no column `subject`"):
        sides(real, mixed, mixed)


def test_a_killed_audit_continues_with_the_next_search(
    real: SliceSet, mixed: SliceSet, found: AuditResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was searched for is kept beside the audit, and with it planted copies, which are training slices."""
    searched: list[Path] = []

    def watched(self: Copies, part: Part, progress: bool = False) -> pd.DataFrame:
        searched.append(part.slices.path)
        return plain(self, part, progress)

    plain = Copies.search
    monkeypatch.setattr(Copies, "search", watched)
    first = audit(real, real, mixed, FAST, work_dir=tmp_path / "w")
    assert len(searched) == 5  # held-out, synthetic, both among held-out slices, planted
    assert searched[4].is_relative_to(tmp_path / "w")
    next((tmp_path / "w").glob("leaks-synthetic-*")).unlink()
    again = audit(real, real, mixed, FAST, work_dir=tmp_path / "w")
    assert searched[5:] == [mixed.path]
    assert json.dumps(first.numbers) == json.dumps(again.numbers) == json.dumps(found.numbers)
    assert not list((tmp_path / "w").glob("planted-*/"))


def test_a_held_out_slice_that_is_a_training_slice_is_refused(real: SliceSet, mixed: SliceSet, tmp_path: Path) -> None:
    """The same patient under two names, which no comparison of names can find."""
    images, labels = real.read(real.rows(split=["val", "test"]))
    twice, marks = real.read(real.rows(subject="T3")[:1])
    writer = SliceWriter(tmp_path / "h", real.channels, real.classes, EDGE)
    names = [{"subject": f"N{i // 12}"} for i in range(len(images))]
    writer.append(images, labels, names)
    writer.append(twice, marks, [{"subject": "N99"}])
    with pytest.raises(UnfitSets, match="under another name"):
        audit(real, writer.close(), mixed, FAST)


def test_a_set_without_a_split_has_no_held_out_slices_of_its_own(mixed: SliceSet, tmp_path: Path) -> None:
    writer = SliceWriter(tmp_path / "s", mixed.channels, mixed.classes, EDGE)
    images, labels = heads(1, 5)
    writer.append(images, labels, [{"subject": "A"}] * 5)
    plain = writer.close()
    with pytest.raises(UnfitSets, match="no column `split`"):
        audit(plain, plain, mixed, FAST)


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
    done.save(tmp_path / "a")
    again = recheck(real, real, made, tmp_path / "a")
    assert again.table["flagged"].equals(done.slices["flagged"])
    assert again.rest(np.arange(3, 60)).kind == "no_sign"
    left, _ = screen(made, tmp_path / "a", tmp_path / "left")
    assert not {0, 1, 2} & set(left.index["row_before"])


def test_a_result_in_a_notebook(found: AuditResult) -> None:
    flags = found.numbers["flags"]
    assert repr(found) == f"AuditResult(copies_found, {flags['count']} of 100 slices flagged)"
    assert found.verdict.headline in repr(found.verdict)
    assert found.verdict.headline.split(";")[0] in found._repr_html_()
    axes = found.plot()
    assert axes.shape == (3, 2)
    assert json.loads(json.dumps(found.as_dict()))["flags"] == flags


def test_sets_in_memory_and_fields_of_the_config(real: SliceSet) -> None:
    """As in a notebook: no folder anywhere; the same numbers as from the disk."""
    images, labels = new_slices(60)
    names = {"channels": real.channels, "classes": real.classes}
    memory = SliceSet.from_arrays(real.images, real.labels, index=real.index, **names)
    train, _, _ = memory.split()
    made = SliceSet.from_arrays(images, labels, **names)
    done = audit(train=train, held_out=memory, synthetic=made, copies=10, splits=10, resamples=200, within=80)
    again = audit(real, real, made, FAST)
    assert done.numbers["config"] == again.numbers["config"]
    assert done.numbers["flags"] == again.numbers["flags"]
    assert done.numbers["controls"] == again.numbers["controls"]


def test_without_annotations_the_first_sentence_says_that_lesions_are_not_searched_for(
    real: SliceSet, tmp_path: Path
) -> None:
    images, labels = new_slices(60)
    bare = synthetic_set(tmp_path / "bare", images, 0 * labels)
    done = audit(real, real, bare, FAST)
    assert done.verdict.kind == "no_sign"
    assert "lesion in another head (no synthetic slice is annotated)" in done.verdict.headline.split(":")[1]
    assert "lesion in another head" not in {d["name"] for d in done.numbers["controls"]["detection"]}
    names = {"channels": real.channels, "classes": real.classes}
    unlabelled = SliceSet.from_arrays(real.images, 0 * real.labels, index=real.index, **names)
    assert "(no training slice is annotated)" in audit(unlabelled, unlabelled, bare, FAST).verdict.headline


def test_one_channel_is_audited_with_all_its_controls(real: SliceSet, tmp_path: Path) -> None:
    names = {"channels": real.channels[:1], "classes": real.classes}
    single = SliceSet.from_arrays(real.images[:, :1], real.labels, index=real.index, **names)
    images, labels = new_slices(60)
    images[:6] = real.images[real.rows(split="train")[:6]][..., ::-1]
    done = audit(single, single, SliceSet.from_arrays(images[:, :1], labels, **names), FAST)
    assert done.verdict.kind == "copies_found"
    assert done.slices["flagged"].iloc[:6].all()
    rate = {d["name"]: d["rate"] for d in done.numbers["controls"]["detection"]}
    assert len(rate) == 27
    assert min(rate[name] for name in ("exact", "mirrored", "gamma 0.7", "noise 2 %")) == 1


def test_one_training_patient_is_refused_in_a_sentence(real: SliceSet, mixed: SliceSet) -> None:
    with pytest.raises(UnfitSets, match="all training slices are of one patient") as refusal:
        audit(real, real, mixed, FAST, training_rows=real.rows(subject="T0"))
    assert perform.refused(refusal.value)["verdict"]["kind"] == "cannot_tell"
