"""BraTS as the challenges ship it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import zoo
from zoo import assert_lesions_lie_where_they_were_put, found, ids, named, sliced

from understudy.cohort.config import Cohort, CohortConfig, Patient
from understudy.cohort.guess import guess
from understudy.cohort.prepare import prepare
from understudy.cohort.slicing import SliceConfig
from understudy.cohort.splits import SplitConfig, split_patients
from understudy.errors import UnderstudyError
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

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
    assert any("8 patients" in note.problem for note in cohort.notes)
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
