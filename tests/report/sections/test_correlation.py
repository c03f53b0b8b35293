"""The correlation of metrics with Dice on the page, beside SciPy."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from understudy.metrics.association import kendall, spearman
from understudy.report.content import Bullets, Details, Section, make_content
from understudy.report.data import ReportData
from understudy.report.sections.correlation import section

METRICS = ("quality:random:frechet_distance", "quality:random:precision", "annotations:area_ks:core", "kimg")


def written(folder: Path, n: int, runs: int) -> dict[str, np.ndarray]:
    """correlate.json of n points; the numbers by name."""
    rng = np.random.default_rng(n)
    dice = rng.uniform(0.2, 0.8, n)
    values = {m: rng.permutation(n) + (0 if m == "kimg" else dice) for m in METRICS} | {"dice": dice}
    rows: list[dict[str, Any]] = []
    for metric in METRICS:
        x = values[metric]
        rows.append(
            {"metric": metric, "n": n, "runs": runs, "spearman": spearman(x, dice), "low": -0.5, "high": 0.5,
             "kendall": kendall(x, dice), "kendall_low": -0.4, "kendall_high": 0.4, "within": None, "p": 0.2,
             "p_within": None, "p_holm": None if metric == "kimg" else 0.01 if "frechet" in metric else 0.6}
        )  # fmt: skip
    points = [
        {"snapshot": f"g{i}", "run": f"study:g{i % runs}", **{k: float(v[i]) for k, v in values.items()}}
        for i in range(n)
    ]
    folder.mkdir()
    content = {"format": "understudy-correlate-1", "words": ["Read it so."], "metrics": rows[::-1], "snapshots": points}
    (folder / "correlate.json").write_text(json.dumps(content))
    return values


def section_of(study: ReportData, folder: Path) -> Section:
    found = section(make_content(dataclasses.replace(study, correlation=folder)))
    assert found is not None
    return found


def test_three_generators_tell_no_correlation(study: ReportData, tmp_path: Path) -> None:
    written(tmp_path / "c", 3, 3)
    found = section_of(study, tmp_path / "c")
    assert str(found.blocks[0]).startswith("3 generators")
    assert "it takes 6 points" in str(found.blocks[0])
    assert [t.key for t in found.every_table] == ["correlation_points"]
    assert len(found.every_panel) == 1
    assert not found.numbers["correlation"]["told"]


def test_enough_points_beside_scipy(study: ReportData, tmp_path: Path) -> None:
    values = written(tmp_path / "c", 9, 3)
    found = section_of(study, tmp_path / "c")
    assert "9 states of 3 generators, 1 of 3 metrics has" in str(found.blocks[0])
    tables = {t.key: t for t in found.every_table}
    rows = {row[0]: row for row in tables["correlation"].body}
    assert list(rows) == [
        "Length of the training, kimg", "Frechet distance, random network", "Precision, random network",
    ]  # fmt: skip  # not in the order of what was found
    for name, metric in (("Frechet distance, random network", METRICS[0]), ("Precision, random network", METRICS[1])):
        rho, tau = (f(values[metric], values["dice"]).statistic for f in (stats.spearmanr, stats.kendalltau))
        assert float(rows[name][3].replace("−", "-")) == pytest.approx(rho, abs=0.005)
        assert float(rows[name][5].replace("−", "-")) == pytest.approx(tau, abs=0.005)
    assert (rows["Frechet distance, random network"][1], rows["Precision, random network"][1]) == ("−", "+")
    assert tables["correlation_annotations"].body[0][0] == "Annotations, area ks: core"
    assert Details("How to read this", [Bullets(["Read it so."])]) in found.blocks


def test_without_a_correlation_there_is_no_section(study: ReportData) -> None:
    assert section(make_content(study)) is None
