"""The section on annotations: numbers and pictures of `annotations.json`, no pixel and no patient."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest

from understudy.quality.annotation import compare_annotations
from understudy.quality.config import AnnotationConfig
from understudy.report.content import Figure, Text, make_content
from understudy.report.data import ReportData
from understudy.report.page import build_report
from understudy.report.sections.annotations import section
from understudy.slices import SliceSet


@pytest.fixture(scope="module")
def compared(study: ReportData, tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Two generators, the second without any annotation."""
    assert study.slices is not None
    quick = AnnotationConfig(resamples=50, distance_resamples=10, divisions=20)
    found = compare_annotations(SliceSet.open(study.synthetic["gan"]), SliceSet.open(study.slices), config=quick)
    content = found.as_json()
    nothing = copy.deepcopy(content)
    for row in nothing["distances"]:
        row |= {"value": None, "low": None, "high": None, "outside": False}
    for row in nothing["values"]:
        row |= {"synthetic": None, "synthetic_low": None, "synthetic_high": None}
    nothing["areas"]["synthetic"] = {}
    folder = tmp_path_factory.mktemp("annotations")
    paths = {}
    for name, entry in (("gan", content), ("blank", nothing)):
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(json.dumps(entry))
    return dataclasses.replace(study, annotations=paths)


def test_values_distances_and_words(compared: ReportData) -> None:
    made = section(make_content(compared))
    tables = {t.key: t for t in made.every_table}
    assert list(tables) == ["annotated_slices", "annotations", "annotation_borders", "annotation_distances"]
    content = json.loads(compared.annotations["gan"].read_text())
    (share,) = [v for v in content["values"] if (v["measure"], v["class_name"]) == ("share", "any")]
    (row,) = [r for r in tables["annotations"].body if r[:2] == ["all classes together", "share of slices"]]
    assert row[2].startswith(f"{100 * share['real']:.0f}\N{NO-BREAK SPACE}% ({100 * share['real_low']:.0f} to")
    assert row[5] == "–"  # the second generator has nothing
    outside = sum(d["outside"] for d in content["distances"])
    gan, blank = (next(b for b in made.blocks if str(b).startswith(f"{name}:")) for name in ("gan", "blank"))
    assert f"by {outside} of " in str(gan)
    assert "no other patients" in str(blank)
    _, areas, maps = (b.panels for b in made.blocks if isinstance(b, Figure))
    assert (len(areas), len(maps)) == (2, 1)
    assert "training patients" not in maps[0].alt  # four patients are too few for a map
    assert any("fewer than 5" in b.text for b in made.blocks if isinstance(b, Text))


def test_the_page_has_it_and_hides_patients(compared: ReportData, tmp_path: Path) -> None:
    page = build_report(dataclasses.replace(compared, show_patient_ids=False), tmp_path).read_text()
    assert "Shapes, borders and positions" in page
    assert "Which classes touch" in page
    assert (tmp_path / "tables" / "annotation_distances.csv").is_file()
    for name in ("annotations", "annotation_distances"):
        assert "P0" not in (tmp_path / "tables" / f"{name}.csv").read_text()


def test_without_results_there_are_no_shapes(study: ReportData, tmp_path: Path) -> None:
    assert "Shapes, borders and positions" not in build_report(study, tmp_path).read_text()
