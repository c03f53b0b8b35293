"""Cohorts as the challenges, nnU-Net, BIDS and people ship them: who is who, which file is which sequence."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo

from understudy.cohort.checks import check_cohort
from understudy.cohort.config import Cohort, CohortConfig, Patient
from understudy.cohort.guess import guess
from understudy.cohort.layouts import find_patients
from understudy.cohort.prepare import prepare
from understudy.cohort.slicing import SliceConfig
from understudy.cohort.splits import SplitConfig, split_patients
from understudy.errors import UnderstudyError
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

V1 = '{"modality": {"0": "T1", "1": "FLAIR"}, "labels": {"0": "background", "1": "edema", "2": "core"}, "training": []}'
V2 = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "edema": 1, "core": 2},
    "file_ending": ".nii.gz",
    "numTraining": 4,
}


def found(root: Path, **fields: Any) -> Cohort:
    return find_patients(CohortConfig.model_validate({"path": root, **fields}))


def named(cohort: Cohort, patient: int = 0) -> dict[str, str]:
    """Sequence or "labels" -> file below the cohort's folder, of one patient."""
    own = cohort.patients[patient]
    files = {**own.images, **({"labels": own.labels} if own.labels else {})}
    return {name: path.relative_to(cohort.path).as_posix() for name, path in files.items()}


def ids(cohort: Cohort) -> list[str]:
    return [patient.id for patient in cohort.patients]


def classes(cohort: Cohort) -> dict[int, str]:
    return {entry.source: entry.name for entry in cohort.classes[1:]}


def sliced(cohort: Cohort, out: Path) -> SliceSet:
    """The cohort's slices; the last patient tests. `check` must have found no error."""
    channel = cohort.channels[0]
    slicing = SliceConfig(resolution=16, scaling="max", rule_channel=channel, keep="all")
    problems = check_cohort(cohort, slicing, progress=False).problems
    assert [p for p in problems if p.severity == "error"] == []
    people = [p.id for p in cohort.patients]
    split = dict.fromkeys(people, "train") | {people[-1]: "test"}
    prepare(cohort, split, slicing, out, progress=False)
    return SliceSet.open(out / "slices")


def assert_lesions_lie_where_they_were_put(slices: SliceSet) -> None:
    """Rows run to posterior and columns to the left, as the stored LPS axes y and x."""
    truth = np.zeros(zoo.SHAPE, bool)
    truth[zoo.BOX] = True
    labels = slices.read(np.arange(len(slices)))[1]
    for z, drawn in zip(slices.index["z"], labels > 0, strict=True):
        assert np.array_equal(drawn, truth[:, :, z].T)


# BraTS

SHIPPED = {
    "2018": (["HGG/Brats18_2013_2_1", "HGG/Brats18_CBICA_AAB_1", "LGG/Brats18_TCIA_1"], zoo.BRATS, "_", ".nii.gz"),
    "2019": (["HGG/BraTS19_2013_2_1", "LGG/BraTS19_TCIA_1"], zoo.BRATS, "_", ".nii.gz"),
    "2020": ([f"MICCAI_BraTS2020_TrainingData/BraTS20_Training_00{n}" for n in (1, 2, 3)], zoo.BRATS, "_", ".nii"),
    "2021": ([f"BraTS2021_0000{n}" for n in (0, 2, 3)], zoo.BRATS, "_", ".nii.gz"),
    "2023": (
        [f"ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-0000{n}-000" for n in (0, 2, 3)],
        zoo.BRATS_2023,
        "-",
        ".nii.gz",
    ),
}
TABLES = {
    "name_mapping.csv": "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID\nHGG,NA,NA\n",
    "survival_info.csv": "Brats20ID,Age,Survival_days,Extent_of_Resection\nBraTS20_Training_001,60.4,289,GTR\n",
    "survival_data.csv": "BraTS18ID,Age,Survival,ResectionStatus\nBrats18_2013_2_1,60.4,289,GTR\n",
}


@pytest.mark.parametrize("year", SHIPPED)
def test_brats_as_shipped(tmp_path: Path, year: str) -> None:
    patients, names, sep, ending = SHIPPED[year]
    zoo.brats(tmp_path, patients, names, sep, ending)
    for name, text in TABLES.items():
        (tmp_path / patients[0]).parent.joinpath(name).write_text(text)
    for junk in (f"{patients[0]}/._x{sep}{names[0]}{ending}", f"__MACOSX/{patients[0]}/y{sep}{names[0]}{ending}"):
        (tmp_path / junk).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / junk).write_bytes(b"\0")
    cohort = found(tmp_path)
    assert cohort.layout == ("brats2023" if year == "2023" else "brats2018")
    assert ids(cohort) == [Path(p).name for p in patients]
    stem = f"{patients[0]}/{Path(patients[0]).name}"
    assert named(cohort) == {
        **{c: f"{stem}{sep}{n}{ending}" for c, n in zip(("T1w", "T1wGd", "T2w", "FLAIR"), names, strict=True)},
        "labels": f"{stem}{sep}seg{ending}",
    }
    assert cohort.notes == ()
    assert guess(tmp_path).config == CohortConfig(path=tmp_path, layout=cohort.layout)  # type: ignore[arg-type]
    assert_lesions_lie_where_they_were_put(sliced(cohort, tmp_path / "out"))


def test_brats_2020s_patient_355_has_its_annotation(tmp_path: Path) -> None:
    patients = [f"T/BraTS20_Training_{n}" for n in (354, 355)]
    zoo.brats(tmp_path, patients, ending=".nii")
    strange = tmp_path / patients[1] / "W39_1998.09.19_Segm.nii"
    (tmp_path / patients[1] / "BraTS20_Training_355_seg.nii").rename(strange)
    assert found(tmp_path).patients[1].labels == strange


def test_validation_folders_of_brats_are_left_out_with_a_note(tmp_path: Path) -> None:
    zoo.brats(tmp_path, [f"TrainingData/BraTS20_Training_00{n}" for n in (1, 2)])
    zoo.brats(tmp_path, ["ValidationData/BraTS20_Validation_001"])
    (tmp_path / "ValidationData/BraTS20_Validation_001/BraTS20_Validation_001_seg.nii.gz").unlink()
    cohort = found(tmp_path)
    assert ids(cohort) == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert [note.file for note in cohort.notes] == [tmp_path / "ValidationData/BraTS20_Validation_001"]


def test_capital_endings_are_found(tmp_path: Path) -> None:
    zoo.brats(tmp_path, ["BraTS2021_00000"])
    for file in list(tmp_path.rglob("*.nii.gz")):
        file.rename(file.with_name(file.name.replace(".nii.gz", ".NII.GZ")))
    assert named(found(tmp_path))["FLAIR"] == "BraTS2021_00000/BraTS2021_00000_flair.NII.GZ"


TIME_POINTS = [f"BraTS-GLI-{n:05d}-{t:03d}" for n in range(12) for t in range(1 + n % 3)]


def test_two_time_points_of_one_patient_are_on_one_side(tmp_path: Path) -> None:
    for scan in TIME_POINTS:
        for name in (*zoo.BRATS_2023, "seg"):
            (tmp_path / scan).mkdir(exist_ok=True)
            (tmp_path / scan / f"{scan}-{name}.nii.gz").touch()
    cohort = found(tmp_path)
    assert ids(cohort) == TIME_POINTS
    assert {p.id: p.subject for p in cohort.patients}["BraTS-GLI-00008-002"] == "BraTS-GLI-00008-000"
    assert any("8 patients have several scans" in note.problem for note in cohort.notes)
    for seed in range(5):
        split = split_patients(cohort, SplitConfig(seed=seed, test_patients=4, validation_fraction=0.25))
        sides = {part: {scan[:15] for scan, own in split.items() if own == part} for part in ("train", "val", "test")}
        assert [len(side) for side in sides.values()] == [6, 2, 4]
        assert len(set().union(*sides.values())) == 12
        # all scans train; one scan a patient validates or tests, the first
        assert [s for s in split if split[s] == "train"] == [s for s in TIME_POINTS if s[:15] in sides["train"]]
        assert all(s.endswith("-000") for s in split if split[s] != "train")


def test_slices_of_two_time_points_are_of_one_subject(tmp_path: Path) -> None:
    scans = ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000", "BraTS-GLI-00002-001"]
    zoo.brats(tmp_path, scans, zoo.BRATS_2023, "-")
    cohort = found(tmp_path)
    split = split_patients(cohort, SplitConfig(method="list", test=scans[2:3], validation_fraction=0))
    used = replace(cohort, patients=tuple(p for p in cohort.patients if p.id in split))
    slicing = SliceConfig(resolution=16, rule_channel="T1w", keep="all")
    prepare(used, split, slicing, tmp_path / "out", progress=False)
    index = SliceSet.open(tmp_path / "out/slices").index
    assert dict(index.groupby(["subject", "split"]).size()) == {
        ("BraTS-GLI-00001-000", "train"): 2 * zoo.SHAPE[2],
        ("BraTS-GLI-00002-000", "test"): zoo.SHAPE[2],
    }
    assert index["id"].is_unique
    assert VolumeSet.open(tmp_path / "out/volumes").subjects("test") == [scans[2]]


def test_lists_that_tear_a_patient_apart_are_refused(tmp_path: Path) -> None:
    for scan in TIME_POINTS[:6]:
        for name in (*zoo.BRATS_2023, "seg"):
            (tmp_path / scan).mkdir(exist_ok=True)
            (tmp_path / scan / f"{scan}-{name}.nii.gz").touch()
    cohort = found(tmp_path)
    torn = SplitConfig(method="list", test=["BraTS-GLI-00001-000"], validation=["BraTS-GLI-00001-001"])
    with pytest.raises(UnderstudyError, match="BraTS-GLI-00001-000, BraTS-GLI-00001-001"):
        split_patients(cohort, torn)
    whole = SplitConfig(method="list", test=["BraTS-GLI-00001-001"], validation_fraction=0)
    assert {s: p for s, p in split_patients(cohort, whole).items() if p == "test"} == {"BraTS-GLI-00001-001": "test"}


def test_a_patient_whose_first_scan_is_skipped_stays_whole(tmp_path: Path) -> None:
    patients = tuple(Patient(i, "", {}, None, subject=i[:3]) for i in ("x-0-1", "x-0-2", "y-0"))
    split = split_patients(
        Cohort(patients, (), (), "brats2023", tmp_path),
        SplitConfig(method="list", test=["x-0-2"], validation_fraction=0),
    )
    assert split == {"x-0-2": "test", "y-0": "train"}


# nnU-Net


@pytest.mark.parametrize("version", [1, 2])
def test_nnunet(tmp_path: Path, version: int) -> None:
    zoo.nnunet(tmp_path, ["BRATS_001", "BRATS_002", "a_b"], V1 if version == 1 else json.dumps(V2))
    cohort = found(tmp_path)
    assert (cohort.layout, cohort.channels, classes(cohort)) == ("nnunet", ("T1", "FLAIR"), {1: "edema", 2: "core"})
    assert ids(cohort) == ["BRATS_001", "BRATS_002", "a_b"]
    assert named(cohort, 2) == {
        "T1": "imagesTr/a_b_0000.nii.gz",
        "FLAIR": "imagesTr/a_b_0001.nii.gz",
        "labels": "labelsTr/a_b.nii.gz",
    }
    assert cohort.notes == ()
    slices = sliced(cohort, tmp_path / "out")
    assert_lesions_lie_where_they_were_put(slices)
    assert slices.channels == ("T1", "FLAIR")


def test_nnunet_missing_and_unused_files_stay_visible(tmp_path: Path) -> None:
    listed = '"training": [{"image": "./imagesTr/z.nii.gz", "label": "./labelsTr/z.nii.gz"}]'
    zoo.nnunet(tmp_path, ["a", "b"], V1.replace('"training": []', listed))
    (tmp_path / "imagesTr/b_0001.nii.gz").unlink()
    zoo.put(tmp_path / "imagesTs/c_0000.nii.gz", zoo.image(0, 0))
    zoo.put(tmp_path / "labelsTs/c.nii.gz", zoo.annotation())
    cohort = found(tmp_path)
    assert ids(cohort) == ["a", "b", "z"]
    assert cohort.patients[1].missing == {"FLAIR": tmp_path / "imagesTr/b_0001.nii.gz"}
    assert set(cohort.patients[2].missing) == {"T1", "FLAIR", "labels"}
    assert cohort.patients[2].folder == tmp_path / "imagesTr"
    assert [note.file for note in cohort.notes] == [tmp_path / "imagesTs/c_0000.nii.gz"]


def test_nnunet_with_listed_files_and_uncompressed(tmp_path: Path) -> None:
    zoo.patterned(tmp_path, {"T1": "raw/{p}-t1.nii", "FLAIR": "raw/{p}-f.nii", "labels": "seg/{p}.nii"}, ["x", "y"])
    cases = {p: {"images": [f"raw/{p}-t1.nii", f"raw/{p}-f.nii"], "label": f"seg/{p}.nii"} for p in ("x", "y")}
    (tmp_path / "dataset.json").write_text(json.dumps({**V2, "dataset": cases, "file_ending": ".nii"}))
    assert named(found(tmp_path), 1) == {"T1": "raw/y-t1.nii", "FLAIR": "raw/y-f.nii", "labels": "seg/y.nii"}


def test_decathlon_with_one_channel(tmp_path: Path) -> None:
    zoo.patterned(tmp_path, {"MR": "imagesTr/{p}.nii.gz", "labels": "labelsTr/{p}.nii.gz"}, ["h_1", "h_2"])
    text = '{"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "hippocampus"}}'
    (tmp_path / "dataset.json").write_text(text)
    assert named(found(tmp_path)) == {"MRI": "imagesTr/h_1.nii.gz", "labels": "labelsTr/h_1.nii.gz"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "regions"),
        ({"labels": {"background": 0, "edema": 1, "ignore": 2}}, "ignore"),
        ({"labels": {"background": 0, "edema": 1.5}}, "1.5"),
        ({"labels": {"background": 0}}, "beside the background"),
        ({"labels": []}, "names and values"),
        ({"file_ending": ".nrrd"}, ".nrrd"),
        ({"file_ending": ".png"}, ".png"),
        ({"channel_names": {"0": "T1", "2": "FLAIR"}}, "channel_names"),
        ({"labels": {"background": 0, "edema": "²"}}, "²"),
        ({"dataset": {"../a": {"images": ["a.nii.gz", "a.nii.gz"], "label": "b.nii.gz"}}}, "list of cases"),
        ({"dataset": {"a": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}}, "list of cases"),
    ],
)
def test_nnunet_data_sets_that_cannot_be_used_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    zoo.nnunet(tmp_path, ["a"], json.dumps({**V2, **changes}))
    for attempt in (lambda: found(tmp_path), lambda: guess(tmp_path)):
        with pytest.raises(UnderstudyError, match=says) as caught:
            attempt()
        assert caught.value.where == str(tmp_path / "dataset.json")
        assert caught.value.fix


def test_nnunet_channels_in_one_file_are_refused(tmp_path: Path) -> None:
    zoo.patterned(tmp_path, {"MR": "imagesTr/{p}.nii.gz", "labels": "labelsTr/{p}.nii.gz"}, ["a"])
    (tmp_path / "dataset.json").write_text(V1)
    with pytest.raises(UnderstudyError, match="Decathlon"):
        found(tmp_path)


def test_nnunet_repeated_channel_names_are_told_apart(tmp_path: Path) -> None:
    zoo.nnunet(tmp_path, ["a"], json.dumps({**V2, "channel_names": {"0": "MRI", "1": "MRI"}}))
    assert found(tmp_path).channels == ("MRI_0", "MRI_1")


def test_a_folder_of_nnunet_data_sets_is_no_data_set(tmp_path: Path) -> None:
    for name in ("Dataset001_A", "Dataset002_B"):
        zoo.nnunet(tmp_path / name, ["a"], V1)
    with pytest.raises(UnderstudyError, match="Dataset001_A, Dataset002_B") as caught:
        found(tmp_path)
    assert str(tmp_path / "Dataset001_A") in str(caught.value.fix)


# BIDS


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
    with pytest.raises(UnderstudyError, match="not what BIDS names end with"):
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


# other names, guessed

CASES: dict[str, tuple[dict[str, str], list[str], dict[str, str]]] = {
    "LGG": (
        {"T1w": "{p}/{p}_t1.nii.gz", "FLAIR": "{p}/{p}_flair.nii.gz", "T1wGd": "{p}/{p}_t1gd.nii.gz"}
        | {"labels": "{p}/{p}_seg.nii.gz"},
        ["TCGA_CS_4941", "TCGA_DU_5849"],
        {"T1w": "{patient}/{patient}_t1.nii.gz", "T1wGd": "{patient}/{patient}_t1gd.nii.gz"}
        | {"FLAIR": "{patient}/{patient}_flair.nii.gz", "labels": "{patient}/{patient}_seg.nii.gz"},
    ),
    "plain": (
        {"FLAIR": "{p}/FLAIR.nii.gz", "labels": "{p}/lesion_mask.nii.gz"},
        ["p1", "p2", "p10"],
        {"FLAIR": "{patient}/FLAIR.nii.gz", "labels": "{patient}/lesion_mask.nii.gz"},
    ),
    "flat": (
        {"T1wGd": "{p}_T1_post.nii", "labels": "{p}_label.nii"},
        ["p1", "p2"],
        {"T1wGd": "{patient}_T1_post.nii", "labels": "{patient}_label.nii"},
    ),
    "folders of images and masks": (
        {"image": "images/case_{p}.nii.gz", "labels": "masks/case_{p}.nii.gz"},
        ["001", "002"],
        {"image": "images/{patient}.nii.gz", "labels": "masks/{patient}.nii.gz"},
    ),
    "beside each other": (
        {"image": "{p}.nii.gz", "labels": "{p}_seg.nii.gz"},
        ["p1", "p2"],
        {"image": "{patient}.nii.gz", "labels": "{patient}_seg.nii.gz"},
    ),
    "nnU-Net without dataset.json": (
        {"channel0": "imagesTr/{p}_0000.nii.gz", "channel1": "imagesTr/{p}_0001.nii.gz"}
        | {"labels": "labelsTr/{p}.nii.gz"},
        ["c_001", "c_002"],
        {"channel0": "imagesTr/{patient}_0000.nii.gz", "channel1": "imagesTr/{patient}_0001.nii.gz"}
        | {"labels": "labelsTr/{patient}.nii.gz"},
    ),
    "visits are no patients": (
        {"T1w": "{p}/2001-02-03/{p}_20010203_t1.nii.gz", "labels": "{p}/2001-02-03/{p}_20010203_seg.nii.gz"},
        ["p1", "p2"],
        {"T1w": "{patient}/*/{patient}_*_t1.nii.gz", "labels": "{patient}/*/{patient}_*_seg.nii.gz"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_other_names_are_guessed(tmp_path: Path, name: str) -> None:
    files, patients, patterns = CASES[name]
    zoo.patterned(tmp_path / "data", files, patients)
    made = guess(tmp_path / "data")
    assert {**made.config.channels, "labels": made.config.labels} == patterns
    assert made.config.classes == {1: "lesion"}
    own = [p if "case_" not in files["labels"] else f"case_{p}" for p in patients]
    assert sorted(ids(made.cohort)) == sorted(own)
    assert not any(patient.missing or patient.surplus for patient in made.cohort.patients)
    assert {"labels", "classes"} <= made.doubts.keys()
    assert_lesions_lie_where_they_were_put(sliced(made.cohort, tmp_path / "out"))


# Name of the sequence -> file; {p} is the patient and {v} the visit.
VISITS: dict[str, tuple[dict[str, str], list[str], dict[str, str]]] = {
    "LUMIERE": (
        {"T1wGd": "{p}/{v}/CT1.nii.gz", "FLAIR": "{p}/{v}/FLAIR.nii.gz", "labels": "{p}/{v}/segmentation.nii.gz"},
        ["week-000-1", "week-044", "week-051", "week-060"],
        {"T1wGd": "{patient}/{visit}/CT1.nii.gz", "FLAIR": "{patient}/{visit}/FLAIR.nii.gz"}
        | {"labels": "{patient}/{visit}/segmentation.nii.gz"},
    ),
    "MSLesSeg": (
        {"T1w": "train/{p}/{v}/{p}_{v}_T1.nii.gz", "T2w": "train/{p}/{v}/{p}_{v}_T2.nii.gz"}
        | {"FLAIR": "train/{p}/{v}/{p}_{v}_FLAIR.nii.gz", "labels": "train/{p}/{v}/{p}_{v}_MASK.nii.gz"},
        ["T1", "T2"],
        {"T1w": "train/{patient}/{visit}/{patient}_*_T1.nii.gz"}
        | {"T2w": "train/{patient}/{visit}/{patient}_*_T2.nii.gz"}
        | {"FLAIR": "train/{patient}/{visit}/{patient}_*_FLAIR.nii.gz"}
        | {"labels": "train/{patient}/{visit}/{patient}_*_MASK.nii.gz"},
    ),
    "dates": (
        {"T1w": "{p}/{v}/t1.nii.gz", "labels": "{p}/{v}/seg.nii.gz"},
        ["20200101", "20210305"],
        {"T1w": "{patient}/{visit}/t1.nii.gz", "labels": "{patient}/{visit}/seg.nii.gz"},
    ),
    "in the names": (
        {"T1w": "{p}_{v}_t1.nii.gz", "labels": "{p}_{v}_seg.nii.gz"},
        ["ses-01", "ses-02"],
        {"T1w": "{patient}_{visit}_t1.nii.gz", "labels": "{patient}_{visit}_seg.nii.gz"},
    ),
    "a word that nobody knows": (
        {"T1w": "{p}/{v}/t1.nii.gz", "labels": "{p}/{v}/seg.nii.gz"},
        ["a1", "b1", "c1"],
        {"T1w": "{patient}/{visit}/t1.nii.gz", "labels": "{patient}/{visit}/seg.nii.gz"},
    ),
    "ISBI": (
        {"FLAIR": "{p}/preprocessed/{p}_{v}_flair_pp.nii.gz", "labels": "{p}/masks/{p}_{v}_mask1.nii.gz"},
        ["01", "02"],
        {"FLAIR": "{patient}/preprocessed/{patient}_{visit}_flair_pp.nii.gz"}
        | {"labels": "{patient}/masks/{patient}_{visit}_mask1.nii.gz"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VISITS)
def test_visits_of_a_patient_are_one_person(tmp_path: Path, name: str) -> None:
    files, visits, patterns = VISITS[name]
    for visit in visits:
        own = {role: file.replace("{v}", visit) for role, file in files.items()}
        zoo.patterned(tmp_path, own, ["P1", "P2"])
    made = guess(tmp_path)
    assert {**made.config.channels, "labels": made.config.labels} == patterns
    scans = {p.id: p.subject for p in made.cohort.patients}
    assert scans == {f"{p}_{v}": f"{p}_{visits[0]}" for p in ("P1", "P2") for v in visits}
    assert not any(patient.missing or patient.surplus for patient in made.cohort.patients)
    assert len(made.cohort.notes) == 1  # several scans


def test_visits_in_the_names_of_brats_and_nnunet_are_one_person(tmp_path: Path) -> None:
    zoo.brats(tmp_path / "b", [f"sub-{p}/ses-{v}/sub-{p}_ses-{v}" for p in (1, 2) for v in (1, 2)])
    zoo.nnunet(tmp_path / "n", [f"P{p}_{v}" for p in (1, 2) for v in ("postop", "preop")], V1)
    for root in (tmp_path / "b", tmp_path / "n"):
        cohort = found(root)
        assert len(ids(cohort)) == 4
        assert [p.subject for p in cohort.patients] == [ids(cohort)[n] for n in (0, 0, 2, 2)]


def test_ids_that_differ_by_a_short_number_are_asked_about(tmp_path: Path) -> None:
    scans = ["U-00001_11", "U-00001_21", "U-00002_11"]
    zoo.patterned(tmp_path, {"T1w": "{p}_t1.nii.gz", "labels": "{p}_seg.nii.gz"}, scans)
    made = guess(tmp_path)
    (note,) = made.cohort.notes
    assert "U-00001_11 and U-00001_21" in note.problem
    assert "{patient}_{visit}" in note.fix
    stated = {
        "channels": {"T1w": "{patient}_{visit}_t1.nii.gz"},
        "labels": "{patient}_{visit}_seg.nii.gz",
        "classes": {1: "x"},
    }
    cohort = found(tmp_path, **stated)
    assert {p.id: p.subject for p in cohort.patients} == {
        "U-00001_11": "U-00001_11",
        "U-00001_21": "U-00001_11",
        "U-00002": "U-00002",  # the only visit need not be named
    }
    with pytest.raises(UnderstudyError, match="visit") as caught:
        found(tmp_path, **{**stated, "labels": "{patient}_seg.nii.gz"})
    assert "all patterns" in str(caught.value.fix)


def test_visits_without_a_mask_are_left_out_where_another_has_one(tmp_path: Path) -> None:
    for visit in ("tp1", "tp2"):
        own = {"T1w": f"{{p}}/{visit}/t1.nii.gz", "labels": f"{{p}}/{visit}/seg.nii.gz"}
        zoo.patterned(tmp_path, own, ["P1", "P2"])
    (tmp_path / "P1/tp2/seg.nii.gz").unlink()
    cohort = guess(tmp_path).cohort
    assert ids(cohort) == ["P1", "P2_tp1", "P2_tp2"]
    assert [n.file for n in cohort.notes if "without a mask" in n.problem] == [tmp_path / "P1/tp2/seg.nii.gz"]
    assert not any("belong" in n.problem for n in cohort.notes)


def test_sites_as_folders_with_the_same_ids(tmp_path: Path) -> None:
    for site in ("siteA", "siteB"):
        own = {"T1w": f"{site}/{{p}}/t1.nii.gz", "labels": f"{site}/{{p}}/seg.nii.gz"}
        zoo.patterned(tmp_path, own, ["01", "02"])
    made = guess(tmp_path)
    assert made.config.labels == "{site}/{patient}/seg.nii.gz"
    assert "siteA, siteB" in made.doubts["channels"]
    assert {p.id: p.site for p in made.cohort.patients} == {
        "siteA_01": "siteA", "siteA_02": "siteA", "siteB_01": "siteB", "siteB_02": "siteB"
    }  # fmt: skip


def test_the_folder_of_wmh_may_be_the_site(tmp_path: Path) -> None:
    for site, patients in {"Utrecht": ["0", "2"], "GE3T": ["100", "101"]}.items():
        own = {f"x{k}": f"{site}/{{p}}/{k}/FLAIR.nii.gz" for k in ("orig", "pre")}
        zoo.patterned(tmp_path, {**own, "labels": f"{site}/{{p}}/wmh.nii.gz"}, patients)
    made = guess(tmp_path)
    assert made.config.channels == {"FLAIR": "*/{patient}/pre/FLAIR.nii.gz"}
    assert "GE3T, Utrecht" in made.doubts["channels"]
    assert len(ids(made.cohort)) == 4


def test_no_patient_vanishes_without_a_word(tmp_path: Path) -> None:
    """BraTS in capitals, a file that fits no pattern, a BIDS subject without anat or with a capital."""
    zoo.brats(tmp_path / "brats", ["B_1"])
    zoo.brats(tmp_path / "brats", ["B_2"], [name.upper() for name in zoo.BRATS])
    assert named(found(tmp_path / "brats"), 1)["FLAIR"] == "B_2/B_2_FLAIR.nii.gz"
    zoo.put(tmp_path / "brats/B_3/B_3-flair.nii.gz", zoo.image(0, 0))
    pattern = {"T1w": "{p}/{p}_t1.nii.gz", "labels": "{p}/{p}_seg.nii.gz"}
    zoo.patterned(tmp_path / "pattern", pattern, ["P01", "P02"])
    zoo.put(tmp_path / "pattern/P05/P5_t1.nii.gz", zoo.image(0, 0))
    zoo.bids(tmp_path / "bids", ["01", "02"])
    zoo.put(tmp_path / "bids/sub-01/func/sub-01_task-rest_bold.nii.gz", zoo.image(0, 0))  # something else
    zoo.put(tmp_path / "bids/sub-06/ses-1/sub-06_ses-1_T1w.nii.gz", zoo.image(0, 0))
    zoo.put(tmp_path / "bids/Sub-07/anat/Sub-07_T1w.nii.gz", zoo.image(0, 0))
    for name, text in {"brats": "1 NIfTI file ", "pattern": "1 NIfTI file ", "bids": "2 NIfTI files "}.items():
        (note,) = guess(tmp_path / name).cohort.notes
        assert note.problem.startswith(text)
        assert note.severity == "warning"
        assert note.fix


def test_label_4_of_brats_2024_is_a_class(tmp_path: Path) -> None:
    zoo.brats(tmp_path, ["BraTS-GLI-00001-100", "BraTS-GLI-00002-100"], zoo.BRATS_2023, "-")
    zoo.put(tmp_path / "BraTS-GLI-00002-100/BraTS-GLI-00002-100-seg.nii.gz", zoo.annotation(4, 2))
    made = guess(tmp_path)
    assert (made.config.layout, made.config.classes[4]) == ("brats2023", "RC")
    assert classes(made.cohort) == {1: "NCR/NET", 2: "ED", 3: "ET", 4: "RC"}
    assert "classes" in made.doubts
    own = {1: "NETC", 2: "SNFH", 3: "ET", 4: "RC"}
    assert classes(found(tmp_path, layout="brats2023", classes=own)) == own


def test_regions_of_nnunet_can_be_named_by_value(tmp_path: Path) -> None:
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    zoo.nnunet(tmp_path, ["a"], json.dumps({**V2, "labels": regions}))
    with pytest.raises(UnderstudyError, match="regions") as caught:
        guess(tmp_path)
    assert "classes: {1:" in str(caught.value.fix)
    assert classes(found(tmp_path, classes={1: "edema", 2: "core"})) == {1: "edema", 2: "core"}


def test_kaggles_brats_has_folders_called_like_files(tmp_path: Path) -> None:
    for patient in ("BraTS20_Training_001", "BraTS20_Training_002"):
        for name in (*zoo.BRATS, "seg"):
            file = tmp_path / patient / f"{patient}_{name}.nii" / f"0001_brain_{name}.nii"
            zoo.put(file, zoo.annotation())
    cohort = found(tmp_path)
    assert ids(cohort) == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert not any(patient.missing for patient in cohort.patients)


@pytest.mark.parametrize(
    ("files", "says", "fix"),
    [
        (["a/1.dcm", "a/2.DCM"], "2 .dcm", "dcm2niix"),
        (["a/IM0001", "a/IM0002"], "2 without an ending", "dcm2niix"),
        (["a.zip"], "1 .zip", "unpack"),
        (["a/t1.mha"], "1 .mha", "SimpleITK"),
        (["a/t1.mgz"], "1 .mgz", "mri_convert"),
        (["a/1.tif"], "1 .tif", "NIfTI"),
    ],
)
def test_other_files_are_named_with_what_to_do(tmp_path: Path, files: list[str], says: str, fix: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(UnderstudyError, match=says) as caught:
        guess(tmp_path)
    assert fix in str(caught.value.fix)


def test_the_root_of_the_file_system_is_refused() -> None:
    with pytest.raises(UnderstudyError, match="root of the file system"):
        guess(Path("/"))


def test_two_raters_masks_and_masks_in_one_word(tmp_path: Path) -> None:
    names = {"FLAIR": "{p}_flair.nii.gz", "m1": "{p}_mask1.nii.gz", "m2": "{p}_mask2.nii.gz"}
    zoo.patterned(tmp_path / "a", names, ["p1", "p2"])
    made = guess(tmp_path / "a")
    assert made.config.labels == "{patient}_mask1.nii.gz"
    assert ["mask2" in note.problem for note in made.cohort.notes] == [True]
    zoo.patterned(tmp_path / "b", {"FLAIR": "{p}_t2f.nii.gz", "labels": "{p}_tumorMask.nii.gz"}, ["p1", "p2"])
    assert guess(tmp_path / "b").config.labels == "{patient}_tumorMask.nii.gz"


def test_sites_as_folders_and_several_values(tmp_path: Path) -> None:
    for site in ("north", "south"):
        zoo.patterned(tmp_path / site, {"T1w": "{p}/t1.nii.gz"}, [f"{site[0]}1", f"{site[0]}2"])
        for k in (1, 2):
            zoo.put(tmp_path / site / f"{site[0]}{k}" / "seg.nii.gz", zoo.annotation(3, 7))
    made = guess(tmp_path)
    assert made.config.channels == {"T1w": "*/{patient}/t1.nii.gz"}
    assert made.config.classes == {3: "class3", 7: "class7"}
    assert ids(made.cohort) == ["n1", "n2", "s1", "s2"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["p1/t1.nii.gz", "p2/t1.nii.gz"], "annotation"),
        (["p1/seg.nii.gz", "p2/seg.nii.gz"], "sequence"),
        (["notes.txt"], "no NIfTI file"),
    ],
)
def test_what_cannot_be_guessed_is_said_with_names_that_were_seen(tmp_path: Path, files: list[str], says: str) -> None:
    for file in files:
        zoo.put(tmp_path / file, zoo.annotation()) if "nii" in file else (tmp_path / file).touch()
    with pytest.raises(UnderstudyError, match=says) as caught:
        guess(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert says == "no NIfTI file" or files[0] in caught.value.what


def test_a_dangling_link_is_a_file_of_its_patient(tmp_path: Path) -> None:
    zoo.brats(tmp_path, ["BraTS2021_00000"])
    flair = tmp_path / "BraTS2021_00000/BraTS2021_00000_flair.nii.gz"
    flair.unlink()
    os.symlink(tmp_path / "nowhere", flair)
    assert named(found(tmp_path))["FLAIR"].endswith("_flair.nii.gz")


def test_a_file_belongs_to_the_pattern_that_says_most_of_it(tmp_path: Path) -> None:
    zoo.patterned(tmp_path, {"T1": "{p}_t1.nii.gz", "T1ce": "{p}_t1ce.nii.gz", "labels": "{p}_seg.nii.gz"}, ["a", "b"])
    cohort = found(
        tmp_path,
        layout="pattern",
        channels={"T1": "{patient}_t1*.nii.gz", "T1ce": "{patient}_t1ce*.nii.gz"},
        labels="{patient}_seg.nii.gz",
        classes={1: "x"},
    )
    assert ids(cohort) == ["a", "b"]
    assert named(cohort) == {"T1": "a_t1.nii.gz", "T1ce": "a_t1ce.nii.gz", "labels": "a_seg.nii.gz"}
    assert cohort.patients[0].surplus == {}
