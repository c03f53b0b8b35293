"""Data sets in BIDS: which file is which sequence, and which mask is meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import zoo
from zoo import assert_lesions_lie_where_they_were_put, classes, found, ids, named, sliced

from understudy.errors import UnderstudyError


def test_bids(tmp_path: Path) -> None:
    zoo.bids(tmp_path, ["01", "02", "03"], ("T1w", "ce-gadolinium_T1w", "FLAIR"))
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tsite\nsub-01\t50\tA\nsub-02\t51\tA\nsub-03\tn/a\tn/a\n"
    )
    cohort = found(tmp_path)
    assert (cohort.layout, cohort.channels, classes(cohort)) == ("bids", ("T1w", "T1wGd", "FLAIR"), {1: "lesion"})
    assert ids(cohort) == ["sub-01", "sub-02", "sub-03"]
    assert [patient.site for patient in cohort.patients] == ["A", "A", ""]
    assert named(cohort) == {
        "T1w": "sub-01/anat/sub-01_T1w.nii.gz",
        "T1wGd": "sub-01/anat/sub-01_ce-gadolinium_T1w.nii.gz",
        "FLAIR": "sub-01/anat/sub-01_FLAIR.nii.gz",
        "labels": "derivatives/manual/sub-01/anat/sub-01_label-lesion_mask.nii.gz",
    }
    assert cohort.notes == ()
    assert_lesions_lie_where_they_were_put(sliced(cohort, tmp_path / "out"))


def test_bids_sessions_are_scans_of_one_patient(tmp_path: Path) -> None:
    zoo.bids(tmp_path, ["01/ses-a", "01/ses-b", "02/ses-a", "03/ses-a", "03/ses-b"])
    (tmp_path / "derivatives/manual/sub-03/ses-b/anat/sub-03_ses-b_label-lesion_mask.nii.gz").unlink()
    cohort = found(tmp_path)
    assert {p.id: p.subject for p in cohort.patients} == {
        "sub-01_ses-a": "sub-01_ses-a",
        "sub-01_ses-b": "sub-01_ses-a",
        "sub-02": "sub-02",
        "sub-03": "sub-03",
    }
    assert len(cohort.notes) == 2  # a session without a mask; a patient with several scans
    assert named(cohort, 3)["T1w"] == "sub-03/ses-a/anat/sub-03_ses-a_T1w.nii.gz"
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\nsub-01\tA\nsub-02\tB\nsub-03\tB\n")
    assert [p.site for p in found(tmp_path).patients] == ["A", "A", "B", "B"]


def test_bids_masks_of_the_brain_and_rare_sequences_are_not_used(tmp_path: Path) -> None:
    zoo.bids(tmp_path, ["01", "02", "03"])
    zoo.put(tmp_path / "sub-01/anat/sub-01_PDw.nii.gz", zoo.image(0, 5))
    for subject in ("01", "02", "03"):
        for name in ("desc-brain_mask", "label-GM_probseg", "space-MNI_label-lesion_mask", "desc-aseg_dseg"):
            zoo.put(tmp_path / f"derivatives/prep/sub-{subject}/anat/sub-{subject}_{name}.nii.gz", zoo.annotation())
    cohort = found(tmp_path)
    assert cohort.channels == ("T1w", "FLAIR")
    assert not any(patient.surplus for patient in cohort.patients)
    assert [n for n in cohort.notes if "PDw (1)" in n.problem]


def test_bids_labels_table_and_what_the_study_file_says(tmp_path: Path) -> None:
    zoo.bids(tmp_path, ["01", "02"], ("acq-a_T1w", "acq-b_T1w", "FLAIR"), mask="dseg")
    (tmp_path / "dseg.tsv").write_text("index\tname\n0\tbackground\n1\toedema\n2\tcore\n")
    cohort = found(tmp_path)
    assert classes(cohort) == {1: "oedema", 2: "core"}
    assert cohort.channels == ("FLAIR",)  # which T1w is meant?
    (note,) = cohort.notes
    assert "acq-a_T1w, acq-b_T1w" in note.problem
    assert "T1w: acq-a_T1w" in note.fix
    chosen = found(tmp_path, layout="bids", channels={"T1": "acq-b_T1w"}, labels="dseg", classes={1: "x"})
    assert named(chosen)["T1"] == "sub-01/anat/sub-01_acq-b_T1w.nii.gz"
    assert (chosen.channels, classes(chosen)) == (("T1",), {1: "x"})
    with pytest.raises(UnderstudyError, match="BIDS"):
        found(tmp_path, layout="bids", channels={"T1": "{patient}/x.nii.gz"})


def test_bids_as_pipelines_leave_it(tmp_path: Path) -> None:
    """Echoes in all, a second run in one, tissues of fMRIPrep: one sequence is ambiguous, the rest is not."""
    zoo.bids(tmp_path, ["01", "02", "03"])
    for subject in ("01", "02", "03"):
        stem = f"sub-{subject}/anat/sub-{subject}"
        for n in (1, 2, 3):
            zoo.put(tmp_path / f"{stem}_echo-{n}_MEGRE.nii.gz", zoo.image(n, 3))
        for name in ("dseg", "desc-aparcaseg_dseg", "desc-brain_mask"):
            zoo.put(tmp_path / f"derivatives/fmriprep/{stem}_{name}.nii.gz", zoo.annotation(1, 2))
    zoo.put(tmp_path / "sub-02/anat/sub-02_run-2_T1w.nii.gz", zoo.image(9, 0))
    zoo.put(tmp_path / "sub-03/func/sub-03_task-rest_bold.nii.gz", zoo.image(9, 0))
    cohort = found(tmp_path)
    assert cohort.channels == ("T1w", "FLAIR")
    assert named(cohort, 1)["T1w"] == "sub-02/anat/sub-02_T1w.nii.gz"
    assert not any(patient.surplus or patient.missing for patient in cohort.patients)
    assert [("MEGRE" in n.problem, "MEGRE: echo-1_MEGRE" in n.fix) for n in cohort.notes] == [(True, True)]
    with pytest.raises(UnderstudyError, match="several files") as caught:  # nothing else is left
        for name in ("T1w", "FLAIR"):
            for file in tmp_path.rglob(f"sub-*_{name}.nii.gz"):
                file.unlink()
        found(tmp_path)
    assert "echo-1_MEGRE" in str(caught.value.fix)


def test_bids_tissues_of_a_pipeline_are_no_lesions(tmp_path: Path) -> None:
    zoo.bids(tmp_path, ["01", "02"], mask="dseg")
    (tmp_path / "derivatives/manual").rename(tmp_path / "derivatives/fmriprep")
    with pytest.raises(UnderstudyError, match="dseg") as caught:
        found(tmp_path)
    assert "labels" in str(caught.value.fix)


def test_bids_a_missing_sequence_and_a_missing_mask_stay_visible(tmp_path: Path) -> None:
    zoo.bids(tmp_path, ["01", "02", "03"])
    (tmp_path / "sub-02/anat/sub-02_FLAIR.nii.gz").unlink()
    (tmp_path / "derivatives/manual/sub-03/anat/sub-03_label-lesion_mask.nii.gz").unlink()
    patients = found(tmp_path).patients
    assert patients[1].missing == {"FLAIR": tmp_path / "sub-02/anat/sub-02_FLAIR.nii.gz"}
    assert set(patients[2].missing) == {"labels"}


def test_bids_masks_of_two_labels_ask_for_one(tmp_path: Path) -> None:
    zoo.bids(tmp_path, ["01"])
    zoo.put(tmp_path / "derivatives/manual/sub-01/anat/sub-01_label-core_mask.nii.gz", zoo.annotation())
    with pytest.raises(UnderstudyError, match="core, lesion") as caught:
        found(tmp_path)
    assert "label-core_mask" in str(caught.value.fix)
    assert classes(found(tmp_path, layout="bids", labels="label-core_mask")) == {1: "core"}


def test_bids_without_masks_is_refused(tmp_path: Path) -> None:
    zoo.bids(tmp_path, ["01"], mask="desc-brain_mask")
    with pytest.raises(UnderstudyError, match="desc-brain_mask") as caught:
        found(tmp_path)
    assert caught.value.where == str(tmp_path)
