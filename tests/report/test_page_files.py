"""Tables and figures as files: what is there, what it shows, and what an earlier report left."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from read_html import cells_of_html

from understudy.report.data import ReportData
from understudy.report.page import PRIVATE, build_report, remove_former, write_table
from understudy.report.tables import Table, escaped, latex

Made = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def made(study: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report with names of patients hidden: its folder and report.json."""
    out = tmp_path_factory.mktemp("folder")
    build_report(dataclasses.replace(study, show_patient_ids=False), out)
    return out, json.loads((out / "report.json").read_text())


def table(key: str = "t_1", rows: int = 2) -> Table:
    body = [[f"a_{i} & b", "5 %", "0.1 ± 0.2"] for i in range(rows)]
    return Table(key, "Caption: 100 %", "R1 γ, #5 {x}", ["A", "B", "C"], body, pd.DataFrame({"a": [1]}))


def test_what_is_listed_is_there_and_nothing_else(made: Made) -> None:
    out, numbers = made
    listed = {entry["file"] for entry in numbers["files"]}
    there = {p.relative_to(out).as_posix() for d in ("tables", "figures") for p in (out / d).rglob("*") if p.is_file()}
    assert listed == {name for name in there if not name.endswith("README.txt")}
    stems = {name.rpartition(".")[0] for name in listed if name.startswith("tables/")}
    assert listed >= {f"{stem}.{ending}" for stem in stems for ending in ("csv", "tex", "html")}
    assert {p.stem for p in (out / "tables").iterdir()} == set(numbers["tables"])


def test_every_figure_is_svg_and_png(made: Made) -> None:
    out, _ = made
    svg = sorted((out / "figures").rglob("*.svg"))
    assert {p.stem for p in svg} >= {
        "relative_dice", "patients_mean", "hospitals", "cost", "training_gan_losses", "training_segmenters_loss",
        "figure1_samples", "figure4_segmentations_unet", "segmentations", "areas_core", "code_distances",
    }  # fmt: skip
    for path in svg:
        assert ElementTree.fromstring(path.read_bytes()).tag.endswith("svg")
        with Image.open(path.with_suffix(".png")) as picture:
            assert picture.info["dpi"][0] == pytest.approx(300, abs=1)


def test_slices_are_in_the_private_folder_only(made: Made) -> None:
    out, numbers = made
    shown = {entry["file"]: entry["shows"] for entry in numbers["files"]}
    assert {f for f, what in shown.items() if what == "slices"} == {f for f in shown if f.startswith(f"{PRIVATE}/")}
    for path in (out / "figures").glob("*.svg"):
        assert b"<image" not in path.read_bytes(), path.name  # no pixels
    assert "NOT FOR RELEASE" in (out / PRIVATE / "README.txt").read_text()
    words = (out / "figures" / "README.txt").read_text()
    assert "private/" in words
    assert "patients_mean.svg" in words
    assert shown["tables/patients.csv"] == shown["figures/hospitals.png"] == "one value a patient"


def test_no_file_names_a_hidden_patient(made: Made) -> None:
    out, _ = made
    for path in [p for p in out.rglob("*") if p.suffix in (".svg", ".csv", ".tex", ".html", ".txt", ".json")]:
        assert not re.search(r"\bT[0-5]\b", path.read_text()), path.name


def test_what_an_earlier_report_left_goes_and_nothing_else(tmp_path: Path) -> None:
    for name in ("tables/old.csv", "tables/mine.csv", "figures/kept.svg", "outside.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    files = [{"file": f} for f in ("tables/old.csv", "figures/kept.svg", "tables/../outside.txt", "tables/gone.csv")]
    remove_former(tmp_path, set())  # no earlier report
    (tmp_path / "report.json").write_text(json.dumps({"files": [*files, {"file": "outside.txt"}]}))
    remove_former(tmp_path, {"figures/kept.svg"})
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"tables/mine.csv", "figures/kept.svg", "outside.txt", "report.json"}


def test_latex_has_as_many_cells_and_no_bare_command(made: Made) -> None:
    out, _ = made
    for path in (out / "tables").glob("*.tex"):
        text = path.read_text()
        columns = len(re.search(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}", text)[1])  # type: ignore[index]
        body = [line for line in text.splitlines() if line.endswith(r"\\") and r"\caption" not in line]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body} == {columns}, path.name
        told = "\n".join(text.splitlines()[1:])  # the first line is a comment
        assert not re.search(r"(?<!\\)[%#]", told), path.name
        assert not re.search(r"(?<!\\)_", re.sub(r"\$[^$]*\$", "", told)), path.name
        assert told.isascii(), path.name
        assert told.count("{") - told.count(r"\{") == told.count("}") - told.count(r"\}")
        assert len(re.findall(r"(?<!\\)\$", told)) % 2 == 0
        assert len(re.findall(r"\\(?:toprule|bottomrule)", told)) >= 2


def test_latex_by_hand() -> None:
    text = latex(table())
    assert r"\caption{Caption: 100 \%. R1 $\gamma$, \#5 \{x\}}" in text
    assert r"a\_0 \& b & 5 \% & 0.1 $\pm$ 0.2 \\" in text
    assert r"\label{tab:t-1}" in text
    long = latex(table(rows=60))
    assert "longtable" in long.splitlines()[0]
    assert r"\endhead" in long
    assert r"\begin{table}" not in long
    assert escaped("ē ☃") == "e ?"


def test_a_table_as_html_says_the_same(tmp_path: Path) -> None:
    assert write_table(tmp_path, table(), ["html"]) == ["tables/t_1.html"]
    assert cells_of_html((tmp_path / "tables" / "t_1.html").read_text()) == [table().header, *table().body]
