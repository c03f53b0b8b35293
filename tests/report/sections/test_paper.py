"""The paper's tables in the paper's own shape: 44 settings a cohort, its values beside, missing ones as dashes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from papers_numbers import CLASSES, STUDY, rows_of_the_paper

from understudy.metrics.overlap import EmptyPolicy, apply_policy
from understudy.metrics.statistics import summarise
from understudy.report.data import ReportData
from understudy.report.sections.paper import paper_tables, published_ranks, reading_table, recipe_table
from understudy.report.tables import Summary, Table

BASE = "real-.net.True"


def summary_of(rows: pd.DataFrame) -> Summary:
    """By the paper's rule only: the page's own summary takes longer."""
    found = [summarise(apply_policy(rows, p), ["dice", "hd"], resamples=5).assign(policy=str(p)) for p in POLICIES]
    return Summary(pd.concat(found, ignore_index=True))


POLICIES = (EmptyPolicy.PAPER,)


@pytest.fixture(scope="module")
def made() -> tuple[ReportData, Summary, dict[str, Table]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("understudy.report.tables.RESAMPLES", 20)
        rows = rows_of_the_paper()
        planned = rows[["setting", "training", "generator", "segmenter", "augmentation", "repeat"]].drop_duplicates()
        gone = "synthetic-my stylegan1.swin.False"
        rows = rows[rows["setting"] != gone].reset_index(drop=True)
        data = ReportData("Paper", STUDY, rows, planned=planned, baseline=BASE)
        summary = summary_of(rows)
        return data, summary, {t.key: t for t in paper_tables(data, rows, summary)}


def test_there_are_the_papers_tables(made: tuple[ReportData, Summary, dict[str, Table]]) -> None:
    _, _, tables = made
    assert list(tables) == ["table1_ranks", "table3_dice", "table5_relative_dice", "table8_hausdorff"]
    assert [len(t.body) for t in tables.values()] == [5, 44, 40, 44]


def test_the_papers_dice_stands_beside_and_differs_by_rounding_only(
    made: tuple[ReportData, Summary, dict[str, Table]],
) -> None:
    frame = made[2]["table3_dice"].frame
    assert frame["ET_published"].notna().all()
    for name in CLASSES:
        assert frame[f"{name}_difference"].abs().max() < 1e-9
    # The paper's printed means are themselves not always the mean of the classes; most are, to rounding.
    assert (frame["mean_difference"].abs().dropna() <= 0.00105).mean() > 0.8


def test_relative_dice_follows_table_5(made: tuple[ReportData, Summary, dict[str, Table]]) -> None:
    frame = made[2]["table5_relative_dice"].frame.dropna(subset=["relative_dice"])
    unet = frame[frame["setting"].str.contains(".net.", regex=False)]
    assert (unet["relative_dice"] - unet["published"]).abs().max() < 0.004
    dice = made[2]["table3_dice"].frame.set_index("setting")["mean_value"]
    for setting, share in zip(unet["setting"], unet["relative_dice"], strict=True):
        assert share == pytest.approx(dice[setting] / dice[BASE])


def test_a_setting_without_scores_is_a_row_of_dashes(made: tuple[ReportData, Summary, dict[str, Table]]) -> None:
    table = made[2]["table3_dice"]
    (row,) = [r for r in table.body if r[:4] == ["Swin", "my stylegan1", "", ""]]
    assert row[4] == "0 of 1"
    assert set(row[5:9]) == {"–"}
    assert row[-2] == "0.061"


def test_ranks_are_those_of_the_paper_where_the_numbers_are(made: tuple[ReportData, Summary, dict[str, Table]]) -> None:
    frame = made[2]["table1_ranks"].frame.set_index("generator")
    assert (frame["dice_net_aug"] == frame["dice_net_aug_published"]).all()
    assert published_ranks("brats2020")["fid", "diffusion"] == 1
    assert published_ranks("brats2021")["dice swin aug", "diffusion"] == 1


def test_nothing_stands_beside_another_cohort(
    made: tuple[ReportData, Summary, dict[str, Table]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, summary, _ = made
    rows = data.scores[data.scores["segmenter"] == "net"]
    other = ReportData("Other", {**STUDY, "report": {"published": "none"}}, rows, baseline=BASE)
    monkeypatch.setattr("understudy.report.tables.RESAMPLES", 20)
    (table,) = [t for t in paper_tables(other, rows, summary) if t.key == "table3_dice"]
    assert "Paper" not in table.header
    assert not any("published" in c for c in table.frame)


def test_reading_and_recipes(tmp_path: Path) -> None:
    rows = [
        {"source": "real", "n": 50, "called_real": 10, "called_synthetic": 40},
        {"source": "my progan", "n": 50, "called_real": 20, "called_synthetic": 30},
    ]
    (tmp_path / "table6.json").write_text(json.dumps({"rows": rows, "readers": 2, "design": "Blinded."}))
    jobs = pd.DataFrame(
        [
            {"stage": "generator", "name": f"brats2020: generator my progan{m}", "seconds": 60}
            for m in ("", ", member 2")
        ]
    )
    data = ReportData("Paper", STUDY, pd.DataFrame(), reading=tmp_path, jobs=jobs)
    table = reading_table(data)
    assert table is not None
    assert [r[-2:] for r in table.body] == [["20\u00a0%", "16\u00a0%"], ["40\u00a0%", "23\u00a0%"]]
    recipes = recipe_table(data)
    assert recipes is not None
    assert recipes.frame.set_index("generator").loc["my progan", "seconds"] == 120
    assert "12000 kimg" in recipes.body[0][-1]
