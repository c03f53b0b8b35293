"""Reporting sheets: every item is there, what is known is right, the rest is empty, and no patient is named."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.errors import UnderstudyError
from understudy.report.data import ReportData
from understudy.report.page import build_report
from understudy.report.sheets import definitions, write_sheets
from understudy.study.config.schema import load_study

SOFTWARE = {
    "software": {"understudy": "0.1.0", "torch": "2.13"},
    "study_hash": "ab" * 32,
    "command": "understudy run b",
}
AUTHORS = {2, 3, 5, 7, 8, 11, 13, 15, 16, 17, 18, 21, 31, 33, 34, 36, 41, 44}  # which no study can know


@pytest.fixture(scope="module")
def results(study: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of blobs, with the settings of a real study file of patients."""
    out = tmp_path_factory.mktemp("results")
    settings = {**load_study("quickstart").as_data(), "phantom": None}
    build_report(replace(study, study=settings, provenance=SOFTWARE), out)
    (out / "study.json").write_text(json.dumps({"study": settings}))
    assert study.slices is not None
    (out / "real").symlink_to(study.slices)
    return out


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_item_is_there_and_what_is_known_is_right(results: Path, tmp_path: Path) -> None:
    written = write_sheets(results, tmp_path / "sheets")
    assert [path.name for path in written] == ["CLAIM-2024.csv", "SMD-scorecard.csv", "references.bib"]
    *claim, source = read(written[0])
    known = {int(row["item"]): row["known from the study (edit)"] for row in claim}
    assert list(known) == list(range(1, 45))
    assert {item for item, words in known.items() if not words} == AUTHORS
    assert "doi:10.1148/ryai.240300" in source["what it asks"]
    report = json.loads((results / "report.json").read_text())
    rows = {row["setting"]: row for row in report["summary"] if row["metric"] == "dice" and row["scope"] == "whole"
            and row["class_name"] == report["mean_name"]}  # fmt: skip
    assert f"Dice {rows['real.unet.aug']['value']:.3f} (95 % interval {rows['real.unet.aug']['low']:.3f}" in known[37]
    assert known[19].startswith("6 patients: 4 training, 2 validation")  # P0 to P5, as the slices say
    assert known[23] == "understudy 0.1.0, torch 2.13"
    assert known[32].startswith("6 test patients")
    assert known[30] == "Every segmentation network was trained once"  # as the study file says


def test_the_scorecard_has_the_seven_criteria_of_each_set(results: Path, tmp_path: Path) -> None:
    write_sheets(results, tmp_path / "sheets")
    *rows, _ = read(tmp_path / "sheets" / "SMD-scorecard.csv")
    criteria = ("Congruence", "Coverage", "Constraint", "Completeness", "Compliance", "Comprehension", "Consistency")
    assert [row["part"] for row in rows] == [f"gan: {name}" for name in criteria]
    consistency = rows[-1]["known from the study (edit)"]
    sites = json.loads((results / "report.json").read_text())["tables"]["sites"]
    dice = sorted(row["synthetic.unet.aug"] for row in sites)
    assert consistency.endswith(f"{dice[0]:.3f} to {dice[-1]:.3f} over 2 sites")
    assert rows[0]["known from the study (edit)"] == ""  # no quality was measured


def test_nobody_is_named_and_nothing_is_written_over(results: Path, tmp_path: Path) -> None:
    written = write_sheets(results, tmp_path / "sheets")
    for text in (path.read_text(encoding="utf-8-sig") for path in written):
        assert not re.findall(r"\b[PT][0-5]\b", text)  # the patients of the slices, and of the test
    with pytest.raises(UnderstudyError):
        write_sheets(results, tmp_path / "sheets")
    with pytest.raises(UnderstudyError):
        write_sheets(tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_each_item_has_a_number_a_part_and_words() -> None:
    for sheet in definitions().values():
        assert [item[0] for item in sheet["items"]] == list(range(1, len(sheet["items"]) + 1))
        assert all(len(item) in (3, 4) and all(isinstance(word, str) for word in item[1:]) for item in sheet["items"])
