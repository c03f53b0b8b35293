"""Folders that nobody described: patterns, visits and sites by the names of the files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import zoo
from zoo import V1, V2, assert_lesions_lie_where_they_were_put, classes, found, ids, named, sliced

from understudy.cohort.guess import guess
from understudy.errors import UnderstudyError

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
    with pytest.raises(UnderstudyError, match="root"):
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
