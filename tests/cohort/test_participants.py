"""Scans of one person by their names, and sites from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from understudy.cohort.config import CohortConfig, Problem
from understudy.cohort.participants import perhaps_one_person, person_of, persons_of, read_sites
from understudy.errors import UnderstudyError


def sites_of(
    root: Path, table: str, patients: list[str], name: str = "participants.tsv", **fields: Any
) -> tuple[dict[str, str], list[Problem]]:
    (root / name).write_text(table, encoding="utf-8")
    config = CohortConfig.model_validate({"path": root, **fields})
    return read_sites(config, {p.partition("@")[2] or p: p.partition("@")[0] for p in patients})


@pytest.mark.parametrize(
    ("rows", "patients", "expected"),
    [
        (["a", "b"], ["a", "b"], ["0", "1"]),
        (["sub-a", "b"], ["a", "sub-b"], ["0", "1"]),
        ([" A", "b "], ["a", "B"], ["0", "1"]),
        (["Sub-A"], ["a"], ["0"]),
        (["50770", "50771"], ["0050770", "0050771"], ["0", "1"]),
        (["p01", "p2"], ["p1", "p002"], ["0", "1"]),
        (["2013_2_1", "2013_02_1"], ["2013_2_1"], ["0"]),  # exact before anything else
        (["1", "01"], ["001"], [None]),  # which of the two?
        (["1"], ["01", "001"], [None, None]),
        (["a"], ["A", "a"], [None, "0"]),
        (["10"], ["100"], [None]),  # only leading zeros may be left out
        (["x"], ["x@x-000", "x@x-001"], ["0", "0"]),  # two scans of one person
        (["x-001", "x-000"], ["x@x-000", "x@x-001"], ["1", "0"]),
    ],
)
def test_ids_match_by_a_stated_rule(
    tmp_path: Path, rows: list[str], patients: list[str], expected: list[str | None]
) -> None:
    table = "participant_id\tsite\n" + "".join(f"{row}\t{i}\n" for i, row in enumerate(rows))
    sites, notes = sites_of(tmp_path, table, patients)
    scans = [p.partition("@")[2] or p for p in patients]
    assert [sites.get(scan) for scan in scans] == expected
    assert bool(notes) == (None in expected)


def test_a_table_that_names_nobody_or_some_is_told(tmp_path: Path) -> None:
    patients = [f"p{n}" for n in range(6)]
    for named, table in {0: "q0\tA\n", 2: "p0\tA\np1\tB\n"}.items():
        sites, (note,) = sites_of(tmp_path, f"participant_id\tsite\n{table}", patients)
        assert len(sites) == named
        assert f"names {named} of 6 patients" in note.problem
        assert note.file == tmp_path / "participants.tsv"
        assert note.fix


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("participants.tsv", "participant_id\tsite\np1\tA\n"),
        ("participants.tsv", "\ufeffparticipant_id\tsite\np1\tA\n"),
        ("participants.tsv", "Participant_ID\tage\tSite \np1\t50\tA\n"),
        ("participants.tsv", "participant_id,site\np1,A\n"),
        ("participants.tsv", "participant_id\tsite\np1\tA\t\n"),
        ("participants.tsv", "participant_id;site\r\np1;A\r\n"),
        ("participants.tsv", "participant_id\tsite\np1\tA\np1\tA\np1\tn/a\n"),
        ("participants.tsv", "participant_id  site\np1              A\n"),
        ("participants.tsv", "participant_id\tsite\r\r\np1\tA\r\r\n"),
        ("participants.tsv", 'participant_id,diagnosis,site\np1,"glioma, grade 4",A\n'),
    ],
)
def test_tables_as_people_write_them(tmp_path: Path, name: str, table: str) -> None:
    assert sites_of(tmp_path, table, ["p1"], name) == ({"p1": "A"}, [])


def test_a_row_without_a_site_is_of_an_unknown_one(tmp_path: Path) -> None:
    sites, notes = sites_of(tmp_path, "participant_id\tsite\np1\t\np2\tA\n", ["p1", "p2"])
    assert (sites, notes) == ({"p1": "", "p2": "A"}, [])


def test_a_csv_with_other_columns(tmp_path: Path) -> None:
    fields = {"participants": "t.csv", "participant_column": "WHO", "site_column": "where"}
    assert sites_of(tmp_path, "who,Where\np1,A\n", ["p1"], "t.csv", **fields) == ({"p1": "A"}, [])


@pytest.mark.parametrize("site", ["", "n/a", "NA", "NaN", " none ", "Unknown"])
def test_unknown_sites_are_no_sites(tmp_path: Path, site: str) -> None:
    assert sites_of(tmp_path, f"participant_id\tsite\np1\t{site}\n", ["p1"]) == ({"p1": ""}, [])


def test_sites_that_differ_by_case_or_spaces_are_one(tmp_path: Path) -> None:
    rows = "p1\tUtrecht\np2\tutrecht \np3\tZu\u0308rich\np4\tZ\u00fcrich\n"
    sites, notes = sites_of(tmp_path, f"participant_id\tsite\n{rows}", ["p1", "p2", "p3", "p4"])
    assert sites == {"p1": "Utrecht", "p2": "Utrecht", "p3": "Z\u00fcrich", "p4": "Z\u00fcrich"}
    assert "Utrecht" in notes[0].problem


def test_ids_match_in_either_form_of_an_accent(tmp_path: Path) -> None:
    assert sites_of(tmp_path, "participant_id\tsite\nJ\u00fcrgen\tA\n", ["Ju\u0308rgen"])[0] == {"Ju\u0308rgen": "A"}


@pytest.mark.parametrize("row", ["p2\tA", "p2", "p2\t5\tA\tB"])
def test_a_row_with_another_number_of_fields_is_refused_by_line(tmp_path: Path, row: str) -> None:
    with pytest.raises(UnderstudyError, match="line 4 ") as caught:
        sites_of(tmp_path, f"participant_id\tage\tsite\np1\t50\tA\n\n{row}\n", ["p1", "p2"])
    assert caught.value.where == str(tmp_path / "participants.tsv")


def test_rows_of_one_patient_that_disagree_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="from A and from B") as caught:
        sites_of(tmp_path, "participant_id\tsite\np1\tA\np1\tB\n", ["p1"])
    assert caught.value.where == str(tmp_path / "participants.tsv")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="Site and SITE"):
        sites_of(tmp_path, "participant_id\tSite\tSITE\np1\tA\tB\n", ["p1"])


def test_a_table_that_nobody_asked_for_does_no_harm(tmp_path: Path) -> None:
    assert read_sites(CohortConfig(path=tmp_path), {"p1": "p1"}) == ({}, [])
    assert sites_of(tmp_path, "participant_id\tage\np1\t50\n", ["p1"]) == ({}, [])
    assert sites_of(tmp_path, "participant_id\tsite\nx\tA\n", ["p1"], participants=None) == ({}, [])
    sites, (note,) = sites_of(tmp_path, "subject\tsite\np1\tA\n", ["p1"])
    assert (sites, note.file) == ({}, tmp_path / "participants.tsv")
    assert "participant_column" in note.fix


@pytest.mark.parametrize(
    "fields",
    [
        {"participants": "people.tsv"},
        {"participants": "participants.tsv"},  # the default's name, but somebody wrote it
        {"site_column": "site"},
        {"site_column": "centre"},
        {"participant_column": "who"},
    ],
)
@pytest.mark.parametrize("table", [None, "id\tage\np1\t50\n"])
def test_what_somebody_wrote_is_demanded_also_after_a_round_trip(
    tmp_path: Path, fields: dict[str, str], table: str | None
) -> None:
    if table:
        (tmp_path / fields.get("participants", "participants.tsv")).write_text(table)
    config = CohortConfig.model_validate({"path": tmp_path, **fields})
    for again in (config, CohortConfig.model_validate(config.model_dump(mode="json"))):
        with pytest.raises(UnderstudyError) as caught:
            read_sites(again, {"p1": "p1"})
        assert caught.value.where == str(tmp_path / fields.get("participants", "participants.tsv"))


@pytest.mark.parametrize("table", ["", b"\xff\xfe\x00", 'participant_id\tsite\n"p1\tA\n'])
def test_a_table_that_is_none_is_refused(tmp_path: Path, table: str | bytes) -> None:
    (tmp_path / "participants.tsv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(UnderstudyError, match="cannot be read") as caught:
        read_sites(CohortConfig(path=tmp_path), {"p1": "p1"})
    assert "participants: null" in str(caught.value.fix)


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
