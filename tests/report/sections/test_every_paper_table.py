"""Tables 1 to 9 of the paper in one report, each as CSV, LaTeX and HTML, its own numbers beside ours."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from papers_numbers import CLASSES, GENERATORS, STUDY, rows_of_the_paper
from read_html import cells_of_html

from understudy.metrics.overlap import FOREGROUND
from understudy.quality.measure import Row
from understudy.report.data import ReportData
from understudy.report.page import build_report
from understudy.report.published import published

TABLES = {
    "brats2020": [
        "table1_ranks", "table2_image_quality", "table3_dice", "table5_relative_dice", "table6_reading",
        "table7_recipes", "table8_hausdorff",
    ],
    "brats2021": [
        "table1_ranks", "table2_image_quality", "table4_dice", "table5_relative_dice", "table6_reading",
        "table7_recipes", "table9_hausdorff",
    ],
}  # fmt: skip
READING = [
    {"source": "real", "n": 50, "called_real": 10, "called_synthetic": 40},
    {"source": "my progan", "n": 50, "called_real": 20, "called_synthetic": 30},
]


@pytest.fixture(scope="module", params=TABLES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The data set's name and the folder of a report on it with all that the paper measured."""
    name, out = request.param, tmp_path_factory.mktemp(request.param)
    (out / "table6.json").write_text(json.dumps({"rows": READING, "readers": 2, "design": "Blinded."}))
    quality = {}
    for row in published(2).query("dataset == @name").to_dict(orient="records"):
        found = [asdict(Row(metric=metric, channel="T1wGd", extractor="inception2015", extractor_sha256="", rule="",
                            dimension=2048, n_real=900, n_synthetic=900, n_heldout=90, n_matched=90, patients_real=9,
                            patients_heldout=3, value=row[column], sd=0.0))
                 for metric, column in (("frechet_distance", "fid"), ("inception_score", "is"))]  # fmt: skip
        quality[f"my {row['generator']}"] = out / f"{row['generator']}.json"
        quality[f"my {row['generator']}"].write_text(json.dumps({"rows": found}))
    one = {"stage": "generator", "seconds": 60.0, "peak_rss_mb": 1.0, "state": "done"}
    jobs = [{**one, "id": g, "name": f"generator my {g}"} for g in GENERATORS]
    rows = rows_of_the_paper(name)
    rows = pd.concat([rows, rows[rows["class_name"] == "ET"].assign(class_name=FOREGROUND)])
    study = {**STUDY, "report": {"published": name}}
    data = ReportData("Paper", study, rows, quality=quality, reading=out, jobs=pd.DataFrame(jobs),
                      baseline="real-.net.True")  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("understudy.report.tables.RESAMPLES", 20)
        # drawing takes longer than everything else
        patch.setattr("understudy.report.plots.style._rendered", lambda figure: (b"<svg/>", b"PNG"))
        build_report(data, out / "report")
    return name, out / "report" / "tables"


def test_all_are_there_in_all_forms(made: tuple[str, Path]) -> None:
    name, tables = made
    there = {p.name for p in tables.iterdir() if p.name.startswith("table")}
    assert there == {f"{key}.{form}" for key in TABLES[name] for form in ("csv", "tex", "html")}
    page = (tables.parent / "report.html").read_text()
    for key in TABLES[name]:
        assert f"<strong>Table {key[5]}: " in page


def test_the_forms_say_the_same(made: tuple[str, Path]) -> None:
    name, tables = made
    for key in TABLES[name]:
        rows = cells_of_html((tables / f"{key}.html").read_text())
        assert len({len(row) for row in rows}) == 1
        parsed = parsed_latex((tables / f"{key}.tex").read_text())
        assert [len(row) for row in parsed] == [len(row) for row in rows], key
        numbers = [[re.findall(r"\d+", cell) for cell in row] for row in parsed]
        assert numbers == [[re.findall(r"\d+", cell) for cell in row] for row in rows], key
        with open(tables / f"{key}.csv", newline="") as handle:
            assert len(list(csv.reader(handle))) == len(rows)


def test_the_papers_numbers_stand_beside(made: tuple[str, Path]) -> None:
    """In each table that has any; where ours are made of them, the difference is what the paper rounded."""
    name, tables = made
    read = {key.partition("_")[0]: pd.read_csv(tables / f"{key}.csv") for key in TABLES[name]}
    for key, table in read.items():
        if key not in ("table6", "table7"):
            assert any("published" in column for column in table), key
    dice, hausdorff = ("table3", "table8") if name == "brats2020" else ("table4", "table9")
    for key in (dice, hausdorff):
        assert len(read[key]) == 44
        theirs = published(int(key[5]))
        for c in CLASSES:
            known = read[key][f"{c}_published"].dropna()
            assert sorted(known) == sorted(theirs[theirs["class"] == c]["value"].dropna())
            assert read[key][f"{c}_difference"].abs().max() < 1e-9
    quality = read["table2"].set_index("generator")
    for row in published(2).query("dataset == @name").to_dict(orient="records"):
        mine = quality.loc[f"my {row['generator']}"]
        assert mine["fid_published"] == mine["inception2015_frechet_distance"] == row["fid"]
        assert mine["is_published"] == mine["inception2015_inception_score"] == row["is"]
    theirs = published(5)
    shares = sorted(theirs[theirs["dataset"] == name]["percent"] / 100)
    assert sorted(read["table5"]["published"]) == pytest.approx(shares)
    assert len(read["table1"]) == len(read["table7"]) == 5
    assert "23" in (tables / "table6_reading.html").read_text()  # the paper's share of real answers


def test_the_parser_finds_what_would_not_compile() -> None:
    good = "% needs\n\\begin{table}\n\\begin{tabular}{lr}\na & $b$ \\\\\n\\end{tabular}\n\\end{table}\n"
    assert parsed_latex(good) == [["a", "b"]]
    for wrong in (
        good.replace("a & ", ""), good.replace("a & ", "a & & "), good.replace("\\end{table}", ""),
        good.replace("$b$", "$b"), good.replace("$b$", "{b"), good.replace("a &", "50 % &"),
        good.replace("a &", "a_1 &"),
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            parsed_latex(wrong)


def parsed_latex(text: str) -> list[list[str]]:
    """The cells of a table's rows, commands left out; fails where LaTeX would."""
    told = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    opened: list[str] = []
    for kind, place in re.findall(r"\\(begin|end)\{(\w+)\}", told):
        if kind == "begin":
            opened.append(place)
        else:
            assert opened, f"\\end{{{place}}} without its beginning"
            assert opened.pop() == place
    assert not opened, f"not closed: {opened}"
    bare = re.sub(r"\\[\\{}$&%#_]", "", told)  # what is escaped is a letter
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#]", bare)
    assert not re.search(r"[_^]", re.sub(r"\$[^$]*\$", "", bare))
    spec = re.search(r"\\begin\{(?:tabular|longtable)\}\{([lcr]+)\}", told)
    assert spec is not None
    rows = [line for line in told.splitlines() if line.endswith(r"\\") and r"\caption" not in line]
    if "longtable" in told:
        rows = rows[1:]  # the header stands there twice
    cells = [re.split(r"(?<!\\)&", row.removesuffix(r"\\")) for row in rows]
    assert {len(row) for row in cells} == {len(spec[1])}
    return [[re.sub(r"\\[a-zA-Z]+|[\\${}~]", "", cell).strip() for cell in row] for row in cells]
