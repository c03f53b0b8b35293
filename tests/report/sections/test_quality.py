"""The section on image quality: the numbers of the files, the floor beside them, words that follow from them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from understudy.report.content import Text, make_content
from understudy.report.data import ReportData
from understudy.report.page import build_report
from understudy.report.sections.quality import section


def row(metric: str, channel: str, **numbers: Any) -> dict[str, Any]:
    return {
        "metric": metric, "channel": channel, "extractor": "random", "extractor_sha256": "0" * 64, "rule": {},
        "dimension": 4, "n_real": 1200, "n_synthetic": 4000, "n_heldout": 300, "patients_real": 20,
        "patients_heldout": 12, "value": None, "sd": None, "matched": None, "matched_sd": None, "floor": None,
        "floor_mean": None, "floor_sd": None, "note": "", **numbers,
    }  # fmt: skip


@pytest.fixture
def measured(study: ReportData, tmp_path: Path) -> ReportData:
    rows = [
        row("frechet_distance", c, value=v, matched=v + 1, matched_sd=0.5, floor=2.0, floor_mean=2.1, floor_sd=0.25)
        for c, v in (("T1w", 10.0), ("FLAIR", 6.0))
    ]
    rows.append(row("frechet_distance", "mean", value=8.0, matched=9.0, floor=2.0))
    rows.append(row("coverage", "all", value=0.31, note="no floor: too few"))
    rows.append(row("new_metric", "all", value=0.5))
    (tmp_path / "q.json").write_text(json.dumps({"format": "understudy-quality-1", "rows": rows}))
    return dataclasses.replace(study, quality={"gan": tmp_path / "q.json"})


def test_numbers_stand_beside_their_floor(measured: ReportData) -> None:
    found = section(make_content(measured))
    assert found is not None
    main, channels = found.every_table
    assert main.body[0] == ["random network", "Frechet distance ↓", "gan", "8.00", "9.00", "2.00", "4.5 ×"]
    assert main.body[1] == ["random network", "Coverage ↑", "gan", "0.31", "–", "–", ""]
    assert main.body[2][1] == "new metric"  # without a line in METRICS
    assert [r[1] for r in channels.body] == ["FLAIR", "T1w"]
    assert channels.body[1][4:] == ["10.00", "11.00 ± 0.50", "2.00 ± 0.25", "5.5 ×"]
    assert "4.5 times" in str(found.blocks[0])
    assert Text("No floor: too few.", "missing") in found.blocks
    for part in ("4,000 synthetic", "1,200 real", "20 patients", "300 slices of 12 patients"):
        assert part in main.note


def test_the_page_has_the_section_only_if_something_was_measured(
    study: ReportData, measured: ReportData, tmp_path: Path
) -> None:
    text = build_report(measured, tmp_path / "with").read_text()
    assert 'href="#quality"' in text
    assert "4.5 ×" in text
    numbers = json.loads((tmp_path / "with" / "report.json").read_text())
    assert numbers["tables"]["quality"][0]["matched"] == 9.0
    assert (tmp_path / "with" / "tables" / "quality_channels.csv").is_file()
    assert "#quality" not in build_report(study, tmp_path / "without").read_text()
    assert section(make_content(study)) is None
