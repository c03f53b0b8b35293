"""A grid on the page: ratio curves, parts of the patients, ranks, regions, health of generators, LaTeX."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from understudy.metrics.statistics import paired_difference
from understudy.report.content import Content, make_content
from understudy.report.data import ReportData
from understudy.report.page import build_report
from understudy.report.sections import real_slices, results, training
from understudy.report.sections.real_slices import (
    finetune_panels,
    finetune_table,
    fraction_panels,
    ratio_panels,
    ratio_sentences,
    ratio_settings,
)
from understudy.report.tables import Table


def copied(scores: pd.DataFrame, of: str, setting: str, **changes: Any) -> pd.DataFrame:
    """Rows of one setting under another name; `shrink` takes that part of the true positives away."""
    rows = scores[scores["setting"] == of].copy()
    lost = (rows["tp"] * changes.pop("shrink", 0.0)).astype(int)
    return rows.assign(setting=setting, tp=rows["tp"] - lost, fn=rows["fn"] + lost, **changes)


def with_records(data: ReportData, root: Path) -> dict[tuple[str, int], Path]:
    """Records of trainings as `train_segmenter` writes them, for every setting and repeat."""
    histories = {}
    for s in data.settings:
        for repeat in (0, 1):
            folder = root / f"{s.id}-{repeat}"
            folder.mkdir()
            real = {} if s.training == "synthetic" else {"real": {"slices": 20, "patients": 4 + repeat}}
            record = {
                "outcome": "trained",
                "sources": real | {"synthetic": {"slices": 40}},
                "samples": 6400,
                "best_samples": 3200,
                "validated_on": {"kind": "real", "patients": 3},
                "ended": "budget",
            }
            (folder / "config.json").write_text(json.dumps(record))
            histories[s.id, repeat] = folder / "history.jsonl"
    return histories


@pytest.fixture(scope="module")
def grid(study: ReportData, tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Two generators, a ratio study of one, a part of the patients."""
    s = study.scores
    parts = [
        s,
        copied(s, "synthetic.unet.aug", "synthetic-vae.unet.aug", generator="vae", shrink=0.4),
        copied(s, "synthetic.unet.aug", "ratio0-gan.unet.aug", training="ratio", real_share=0.0),
        copied(s, "both.unet.aug", "ratio25-gan.unet.aug", training="ratio", real_share=0.25, shrink=0.2),
        copied(s, "real.unet.aug", "real_patients20.unet.aug", real_fraction=0.2, shrink=0.5),
        copied(s, "both.unet.aug", "both_patients20-gan.unet.aug", real_fraction=0.2, shrink=0.3),
    ]
    scores = pd.concat(parts, ignore_index=True)
    whole = dataclasses.replace(
        study,
        scores=scores,
        study={"name": "blobs", "ratios": {"shares": [0, 0.25, 1], "total": None}},
        segmenter_histories={},
        generator_histories=dict.fromkeys(("gan", "gan, member 2"), study.generator_histories["gan"]),
        generator_health={
            "gan": {"ok": True, "faults": {}, "diversity": 0.9, "annotated": 0.4, "repaired_gradients": 0},
            "gan, member 2": {"faults": {"collapsed": 12.0}, "diversity": 0.01, "repaired_gradients": 3},
        },
        generator_stopping={"gan": {"stopped": True, "kept": 30_000, "words": "stopped after 34,000 images"}},
    )
    return dataclasses.replace(whole, segmenter_histories=with_records(whole, tmp_path_factory.mktemp("records")))


@dataclasses.dataclass
class Made:
    """The content of a grid's report, and its tables by key."""

    content: Content
    tables: dict[str, Table]


def made_of(data: ReportData) -> Made:
    content = make_content(data)
    makers = real_slices.section, results.section, results.tables, training.section
    sections = [make(content) for make in makers]
    return Made(content, {t.key: t for s in sections if s is not None for t in s.every_table})


@pytest.fixture(scope="module")
def made(grid: ReportData) -> Made:
    found = made_of(grid)
    assert found.content.answer.left_out == []
    return found


def test_settings_have_labels_and_the_headline_is_that_of_the_plain_ones(grid: ReportData, made: Made) -> None:
    labels = {s.id: s.label for s in grid.settings}
    assert labels["ratio25-gan.unet.aug"] == "25\N{NO-BREAK SPACE}% real, 75\N{NO-BREAK SPACE}% synthetic (gan)"
    assert labels["real_patients20.unet.aug"] == "Real (20\N{NO-BREAK SPACE}% of patients)"
    assert len(set(labels.values())) == len(labels)
    assert grid.settings[0].id == "real.unet.aug"
    assert {c.base.id for c in made.content.answer.comparisons} == {"real.unet.aug"}
    assert {c.setting.id for c in made.content.answer.comparisons if c.primary} == {
        "both.unet.aug", "synthetic.unet.aug", "synthetic-vae.unet.aug",
    }  # fmt: skip


def test_a_ratio_curve_ends_in_the_real_slices(grid: ReportData, made: Made) -> None:
    (curve,) = ratio_settings(grid)
    assert [s.id for s in curve] == ["ratio0-gan.unet.aug", "ratio25-gan.unet.aug", "real.unet.aug"]
    (panel,) = ratio_panels(made.content)
    means = made.tables["ratio"].frame.set_index("real_share")["value"]
    assert "gan: " + ", ".join(f"{100 * x:.0f} % {v:.3f}" for x, v in means.items()) in panel.alt
    assert list(means.index) == [0.0, 0.25, 1.0]
    (said,) = ratio_sentences(grid, made.content.answer)
    assert re.match(r"gan: with 0.% real slices .* with 25.%\.$", said)
    other = dataclasses.replace(grid, study={"ratios": {"shares": [0, 0.25], "total": None}})
    assert [s.id for s in ratio_settings(other)[0]] == ["ratio0-gan.unet.aug", "ratio25-gan.unet.aug"]


def test_parts_of_the_patients_are_drawn_and_compared_with_the_same_patients(grid: ReportData, made: Made) -> None:
    (panel,) = fraction_panels(made.content)
    assert "real only: 20 %" in panel.alt
    assert "real + gan: 20 %" in panel.alt
    frame = made.tables["differences"].frame.set_index(["setting", "baseline"])
    found = frame.loc[("both_patients20-gan.unet.aug", "real_patients20.unet.aug")]
    expected = paired_difference(made.content.scored, "both_patients20-gan.unet.aug", "real_patients20.unet.aug")
    assert found["difference"] == pytest.approx(expected.value)
    assert len(frame) == len(made.content.answer.comparisons) + 1
    assert (frame["p_holm"] >= frame["p"]).all()


def test_ranks_of_the_generators(made: Made) -> None:
    frame = made.tables["ranks"].frame.query("metric == 'dice'")
    assert frame["setting"].tolist() == ["synthetic.unet.aug", "synthetic-vae.unet.aug"]
    assert frame["rank"].tolist() == [1, 2]
    np.testing.assert_allclose(frame[["p_rank_1", "p_rank_2"]].sum(axis=1), 1)


def test_training_sets_are_listed_from_the_records(made: Made) -> None:
    table = made.tables["trainings"]
    first = dict(zip(table.header, table.body[0], strict=True))
    assert (first["Real slices"], first["Patients"], first["Slices shown"]) == ("20", "4 to 5", "6,400")
    assert (first["Chosen by"], first["Collapsed"]) == ("real patients", "0 of 2")


def test_regions_have_a_table_and_no_part_in_the_mean(grid: ReportData, made: Made) -> None:
    whole_tumour = grid.scores[grid.scores["class_name"] == "foreground"].assign(class_name="WT", region=True)
    with_regions = dataclasses.replace(grid, scores=pd.concat([grid.scores, whole_tumour], ignore_index=True))
    tables = made_of(with_regions).tables
    assert with_regions.class_names == grid.class_names
    means = tables["dice"].frame.set_index("setting")
    assert means["mean_value"].equals(made.tables["dice"].frame.set_index("setting")["mean_value"])
    np.testing.assert_allclose(tables["regions"].frame.set_index("setting")["dice_WT_value"], means["foreground_value"])


def test_the_page_of_a_grid(grid: ReportData, tmp_path: Path) -> None:
    page = build_report(grid, tmp_path).read_text(encoding="utf-8")
    assert "How many real slices does it take?" in page
    assert "gan, member 2 went wrong" in page
    assert "12.0 thousand images" in page
    assert "0.90 times" in page
    assert "3 updates" in page
    assert "stopped after 34,000 images. Kept is the last state before: after 30,000 images" in page
    assert "<h3>Generator gan, member 2</h3>" in page
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["generator_stopping"]["gan"]["kept"] == 30_000
    assert numbers["generator_health"]["gan, member 2"]["faults"] == {"collapsed": 12.0}
    tex = (tmp_path / "tables" / "dice.tex").read_text()
    assert tex.count(r"\\") == 1 + len(grid.settings)
    assert r"$\pm$" in tex
    assert r"$\checkmark$" in tex


def test_fine_tuning_is_a_curve_over_patients(study: ReportData) -> None:
    parts = [study.scores]
    for kind, k in (("real", 2), ("real", 5), ("finetune", 2), ("finetune", 5)):
        changes = {"training": kind, "generator": "" if kind == "real" else "gan", "real_patients": k}
        parts.append(copied(study.scores, "real.unet.aug", f"{kind}{k}", **changes))
    content = make_content(dataclasses.replace(study, scores=pd.concat(parts, ignore_index=True)))
    table = finetune_table(content.data, content.summary)
    assert table is not None
    assert list(table.frame["real_patients"]) == [2, 5, 2, 5]
    assert np.isfinite(table.frame["value"]).all()
    (panel,) = finetune_panels(content)
    assert "after gan: 2 patients" in panel.alt
