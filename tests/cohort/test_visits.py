"""Which scans are of one person, told from their names."""

from __future__ import annotations

import pytest

from understudy.cohort.participants import perhaps_one_person, person_of, persons_of


@pytest.mark.parametrize(
    ("scan", "person"),
    [
        ("sub-01_ses-2", "sub-01"),
        ("P01_preop", "P01"),
        ("anna_post", "anna"),
        ("p01_20200101", "p01"),
        ("p01_2020-01-31", "p01"),
        ("P1_T2", "P1"),
        ("P1_m06", "P1"),
        ("Patient-001_week-000-1", "Patient-001"),
        ("PatientID_0003_Timepoint_1", "PatientID_0003"),
        ("P01_tp1_2020-01-31", "P01"),
        ("BraTS-GLI-00008-001", "BraTS-GLI-00008"),
        # the number of a patient, or nothing else
        ("mri_scan12", "mri_scan12"),
        ("scan1", "scan1"),
        ("UPENN-GBM-00001_11", "UPENN-GBM-00001_11"),
        ("Brats18_2013_2_1", "Brats18_2013_2_1"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS2021_00000", "BraTS2021_00000"),
        ("TCGA_CS_4941", "TCGA_CS_4941"),
    ],
)
def test_what_stands_before_a_visit_is_the_person(scan: str, person: str) -> None:
    assert person_of(scan) == person


def test_a_name_that_all_have_is_nobodys() -> None:
    assert persons_of(["mri_20200101", "mri_20200102"]) == {n: n for n in ("mri_20200101", "mri_20200102")}
    assert set(persons_of(["p01_20200101", "p01_20200102"]).values()) == {"p01"}


@pytest.mark.parametrize(
    ("ids", "pairs"),
    [
        (["U-00001_11", "U-00001_21", "U-00002_11"], [("U-00001_11", "U-00001_21")]),
        (["P01a", "P01b", "P02"], [("P01a", "P01b")]),
        (["Brats18_2013_2_1", "Brats18_2013_3_1"], []),
        ([f"BraTS20_Training_{n:03d}" for n in range(5)], []),
        ([f"site1_{n:02d}" for n in range(20)], []),
        ([f"S{k}_{n:02d}" for k in (1, 2) for n in range(20)], []),
        (["sub-01", "sub-02"], []),
    ],
)
def test_a_short_number_may_be_the_visits(ids: list[str], pairs: list[tuple[str, str]]) -> None:
    assert perhaps_one_person(ids) == pairs
