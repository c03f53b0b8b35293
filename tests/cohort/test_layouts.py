"""Which files belong to whom, and clear words where none do."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from understudy.cohort.config import CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.errors import UnderstudyError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def old(patient: str) -> list[str]:
    return [f"{patient}/{Path(patient).name}_{s}.nii.gz" for s in ("t1", "t1ce", "t2", "flair", "seg")]


def new(patient: str) -> list[str]:
    return [f"{patient}/{Path(patient).name}-{s}.nii" for s in ("t1n", "t1c", "t2w", "t2f", "seg")]


LGG = {
    "channels": {"T1w": "{patient}/{patient}_t1.nii.gz", "FLAIR": "{patient}/{patient}_flair.nii.gz"},
    "labels": "{patient}/{patient}_seg.nii.gz",
    "classes": {1: "FLAIR abnormality"},
}


def test_brats_2018_names_in_nested_folders(tmp_path):
    touch(tmp_path, *old("HGG/Brats18_2013_2_1"), *old("LGG/Brats18_TCIA_1"))
    cohort = find_patients(CohortConfig(path=tmp_path))
    assert cohort.layout == "brats2018"
    assert cohort.channels == ("T1w", "T1wGd", "T2w", "FLAIR")
    assert [(c.name, c.source, c.code) for c in cohort.classes] == [
        ("background", 0, 0),
        ("NCR/NET", 1, 51),
        ("ED", 2, 102),
        ("ET", 4, 204),
    ]
    first = cohort.patients[0]
    assert [p.id for p in cohort.patients] == ["Brats18_2013_2_1", "Brats18_TCIA_1"]
    assert {name: path.name for name, path in first.images.items()} == {
        "T1w": "Brats18_2013_2_1_t1.nii.gz",
        "T1wGd": "Brats18_2013_2_1_t1ce.nii.gz",
        "T2w": "Brats18_2013_2_1_t2.nii.gz",
        "FLAIR": "Brats18_2013_2_1_flair.nii.gz",
    }
    assert first.labels is not None
    assert first.labels.name == "Brats18_2013_2_1_seg.nii.gz"
    assert first.site == ""


def test_brats_2023_names(tmp_path):
    touch(tmp_path, *new("BraTS-GLI-00000-000"), "BraTS-GLI-00000-000/._BraTS-GLI-00000-000-t1n.nii")
    cohort = find_patients(CohortConfig(path=tmp_path))
    assert cohort.layout == "brats2023"
    assert [(c.name, c.source, c.code) for c in cohort.classes[1:]] == [
        ("NCR/NET", 1, 51),
        ("ED", 2, 102),
        ("ET", 3, 204),
    ]
    assert [path.name[-8:] for path in cohort.patients[0].images.values()] == [
        f"-{s}.nii" for s in ("t1n", "t1c", "t2w", "t2f")
    ]


def test_a_missing_sequence_stays_visible(tmp_path):
    touch(tmp_path, *old("A"), *old("B")[:3], *old("B")[4:])
    patient = find_patients(CohortConfig(path=tmp_path)).patients[1]
    assert patient.id == "B"
    assert patient.missing == {"FLAIR": tmp_path / "B/B_flair.nii.gz"}


def test_two_files_for_one_sequence_stay_visible(tmp_path):
    touch(tmp_path, *old("A"), "A/A_t2.nii")
    assert find_patients(CohortConfig(path=tmp_path)).patients[0].surplus == {"T2w": (tmp_path / "A/A_t2.nii.gz",)}


def test_one_id_in_two_folders_is_two_patients(tmp_path):
    touch(tmp_path, *old("HGG/A"), *old("LGG/A"))
    assert [p.folder for p in find_patients(CohortConfig(path=tmp_path)).patients] == [
        tmp_path / "HGG/A",
        tmp_path / "LGG/A",
    ]


def test_patterns_name_channels_and_space_codes_evenly(tmp_path):
    touch(tmp_path, *(f"{p}/{p}_{s}.nii.gz" for p in ("b", "a") for s in ("t1", "flair", "seg")))
    cohort = find_patients(CohortConfig(path=tmp_path, layout="pattern", **LGG))
    assert cohort.channels == ("T1w", "FLAIR")
    assert [p.id for p in cohort.patients] == ["a", "b"]
    assert [(c.name, c.source, c.code) for c in cohort.classes] == [("background", 0, 0), ("FLAIR abnormality", 1, 255)]
    three = find_patients(
        CohortConfig(path=tmp_path, **{**LGG, "classes": {7: "c", 3: "b", 2: "a"}})  # auto becomes pattern
    )
    assert [(c.name, c.source, c.code) for c in three.classes[1:]] == [("a", 2, 85), ("b", 3, 170), ("c", 7, 255)]


def test_patterns_with_wildcards(tmp_path):
    touch(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_seg.nii.gz",
        "derivatives/x.nii.gz",
    )
    config = CohortConfig(
        path=tmp_path,
        channels={"T1w": "sub-{patient}/*/anat/sub-{patient}_*_T1w.nii.gz"},
        labels="**/sub-{patient}_seg.nii.gz",
        classes={1: "x"},
    )
    (patient,) = find_patients(config).patients
    assert patient.id == "01"
    assert not patient.missing


def test_sites_come_from_the_table(tmp_path):
    touch(tmp_path, *old("A"), *old("B"), *old("C"))
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\nA\tnorth\nsub-B\tsouth\n")
    assert [p.site for p in find_patients(CohortConfig(path=tmp_path)).patients] == ["north", "south", ""]
    (tmp_path / "names.csv").write_text("who,where\nA,1\nB,2\n")
    config = CohortConfig(path=tmp_path, participants="names.csv", participant_column="who", site_column="where")
    assert [p.site for p in find_patients(config).patients] == ["1", "2", ""]


def test_a_table_without_sites_is_fine_unless_they_were_asked_for(tmp_path):
    touch(tmp_path, *old("A"))
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nA\t50\n")
    assert find_patients(CohortConfig(path=tmp_path)).patients[0].site == ""
    with pytest.raises(UnderstudyError, match="no column centre"):
        find_patients(CohortConfig(path=tmp_path, site_column="centre"))


@pytest.mark.parametrize(
    ("files", "config", "message"),
    [
        ([], {}, "no NIfTI file"),
        (["A/scan.nii.gz"], {}, "scan.nii.gz"),
        ([*old("A"), *new("B")], {}, "mixes the names"),
        (new("A"), {"layout": "brats2018"}, "brats2018"),
        ([*old("A")[:1], *old("A")[3:]], {}, "T1wGd, T2w"),
        (old("A"), {"layout": "pattern"}, "channels and labels and classes"),
        (old("A"), {"labels": "{patient}_seg.nii"}, "brats2018"),
        (old("A"), {**LGG, "labels": "mask.nii.gz"}, r"no {patient}"),
        (old("A"), {**LGG, "labels": "{patient}_mask.nii.gz"}, "none of the 5"),
        (old("A"), {**LGG, "classes": {0: "background", 1: "x"}}, "1 to 255"),
        (old("A"), {**LGG, "classes": {1: "x", 2: "x"}}, "names must differ"),
        (old("A"), {"participants": "people.tsv"}, "participants"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, files, config, message):
    touch(tmp_path, *files)
    with pytest.raises(UnderstudyError, match=message) as caught:
        find_patients(CohortConfig(path=tmp_path, **config))
    assert caught.value.where
    assert caught.value.fix


def test_a_wrong_path_and_a_file_are_told_apart(tmp_path):
    with pytest.raises(UnderstudyError, match="does not exist"):
        find_patients(CohortConfig(path=tmp_path / "nowhere"))
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(UnderstudyError, match="is a file"):
        find_patients(CohortConfig(path=tmp_path / "a.nii.gz"))


def test_a_participant_at_two_sites_is_refused(tmp_path):
    touch(tmp_path, *old("A"))
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\nA\tn\nA\ts\n")
    with pytest.raises(UnderstudyError, match="from n and from s"):
        find_patients(CohortConfig(path=tmp_path))


def test_a_typo_in_the_config_is_refused():
    with pytest.raises(ValidationError, match="chanels"):
        CohortConfig(chanels={})
