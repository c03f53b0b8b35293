"""The three answers on each generator: rules, words and numbers, and what is missing because of failures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from understudy.metrics.overlap import apply_policy
from understudy.report.answer import make_answer
from understudy.report.conclusion import conclusion
from understudy.report.data import ReportData
from understudy.report.page import build_report
from understudy.report.sections.copies import card
from understudy.report.sections.opening import Verdict, make_verdicts
from understudy.report.sections.run import cost_table, failures

CLASSES = ("ET", "ED", "NCR/NET")


def made_rows(dice: dict[str, float], patients: int = 12, repeats: int = 2) -> pd.DataFrame:
    """Rows of settings "training-generator.segmenter.aug" with about the Dice asked for."""
    rows: list[dict[str, Any]] = []
    for setting, wanted in dice.items():
        source, segmenter, augmented = setting.split(".")
        training, _, generator = source.partition("-")
        rng = np.random.default_rng(3)
        for repeat in range(repeats):
            for n in range(patients):
                for name in (*CLASSES, "foreground"):
                    tp = round(1000 * min(max(wanted + rng.normal(0, 0.01), 0.0), 1.0))
                    wrong = 1000 - tp
                    rows.append(
                        {"setting": setting, "training": training, "generator": generator, "segmenter": segmenter,
                         "augmentation": augmented == "aug", "repeat": repeat, "subject": f"P{n}", "site": "A",
                         "class_name": name, "scope": "whole", "region": False, "collapsed": False, "tp": tp,
                         "fp": wrong, "fn": wrong, "truth_voxels": 1000, "predicted_voxels": 1000,
                         "truth_empty": False, "predicted_empty": False, "hd": 20.0 - 10 * wanted,
                         "hd95_pooled": 5.0, "hd95_directed": 5.0, "hd95_surfel": 5.0, "diagonal_mm": 300.0}
                    )  # fmt: skip
    return pd.DataFrame(rows)


GOOD = {
    "real.unet.aug": 0.8, "synthetic-a.unet.aug": 0.8, "both-a.unet.aug": 0.85, "synthetic-b.unet.aug": 0.6,
    "both-b.unet.aug": 0.84, "synthetic-c.unet.aug": 0.3, "both-c.unet.aug": 0.7,
}  # fmt: skip


def verdicts_of(scores: pd.DataFrame, audits: dict[str, Any] | None = None, **more: Any) -> list[Verdict]:
    data = ReportData("Made", {}, scores, baseline="real.unet.aug", **more)
    scored = apply_policy(scores)
    return make_verdicts(data, scored, make_answer(data, scored, []), audits or {})


def audit(kind: str, count: int) -> dict[str, Any]:
    found = [{"must": True, "rate": 1.0}, {"must": True, "rate": 0.5}, {"must": False, "rate": 0.0}]
    return {
        "verdict": {"kind": kind, "headline": "Said."},
        "flags": {"count": count, "judged": 200, "rate": count / 200, "low": 0.0, "high": 0.3},
        "controls": {"detection": found, "false_alarms": {"rate": 0.01, "nominal": 0.01}},
    }


def test_flags_beside_one_patient_stand_among_the_first_lines() -> None:
    near = {**audit("cannot_tell", 4), "concentration": {"found": True, "patients": 1}}
    alike = {**audit("no_sign", 4), "concentration": {"found": False, "patients": 1}}
    a, b, _ = (v.copy for v in verdicts_of(made_rows(GOOD), {"a": near, "b": alike}))
    assert any("concentrated on one training patient" in line for line in a.lines)
    assert not any("concentrated" in line for line in b.lines)
    assert a.numbers["concentrated_on"] == 1
    assert "concentrated_on" not in b.numbers


def test_a_generator_that_made_nothing_has_nothing_to_search() -> None:
    found = verdicts_of(made_rows(GOOD), generator_histories={"failed": Path("history.jsonl")})
    assert {v.generator: v.copy.kind for v in found} == {
        "a": "not_audited", "b": "not_audited", "c": "not_audited", "failed": "no_slices",
    }  # fmt: skip
    assert "A, b and c: no, copies were not searched for" in conclusion("", found, "")["release"].capitalize()


def test_each_generator_gets_its_three_answers() -> None:
    found = verdicts_of(made_rows(GOOD), {"a": audit("copies_found", 40)})
    assert [(v.generator, v.useful.kind) for v in found] == [("a", "can_replace"), ("b", "helps"), ("c", "no")]
    a, b, c = found
    data = ReportData("Made", {}, made_rows(GOOD), baseline="real.unet.aug")
    headline = make_answer(data, apply_policy(data.scores), []).headline
    assert headline.startswith("Yes: the slices of a, the best of 3 sets, reach 100")
    assert a.copy.kind == "copies_found"
    assert a.copy.numbers["flagged"] == 40
    assert (a.copy.numbers["controls_passed"], a.copy.numbers["controls"]) == (1, 2)
    assert "copies" in a.useful.lines[-1]
    assert b.copy.kind == c.copy.kind == "not_audited"
    assert [v.better_than.numbers["rank"] for v in found] == [1, 2, 3]
    assert a.better_than.numbers["probability_best"] == pytest.approx(1)
    assert c.better_than.numbers["against_real"]["alone"]["kind"] == "worse"
    assert a.better_than.numbers["against_real"]["added"]["kind"] == "better"
    assert c.useful.title == "No: cannot replace, harms when added"


def test_relative_dice_is_the_ratio_of_means() -> None:
    scores = made_rows(GOOD)
    (b,) = [v for v in verdicts_of(scores) if v.generator == "b"]
    scores = scores[scores["class_name"].isin(CLASSES)]
    dice = scores.assign(d=2 * scores.tp / (2 * scores.tp + scores.fp + scores.fn)).groupby("setting")["d"].mean()
    shown = b.useful.numbers["alone"]
    assert shown["relative_dice"] == pytest.approx(dice["synthetic-b.unet.aug"] / dice["real.unet.aug"])
    assert shown["low"] < shown["relative_dice"] < shown["high"]


def test_one_generator_has_no_rank_and_few_patients_no_judgement() -> None:
    rows = made_rows({"real.unet.aug": 0.8, "synthetic-a.unet.aug": 0.8})
    (only,) = verdicts_of(rows)
    assert "rank" not in only.better_than.numbers
    (few,) = verdicts_of(rows[rows["subject"].isin(["P0", "P1"])])
    assert few.useful.kind == "undecided"
    (weak,) = verdicts_of(made_rows({"real.unet.aug": 0.1, "synthetic-a.unet.aug": 0.1}))
    assert weak.useful.kind == "unanswered"


def test_a_baseline_that_finds_nothing_is_no_measure(tmp_path: Path) -> None:
    """Dice 0 with real slices: no infinite share, no rank, nothing that is "like real slices"."""
    rows = made_rows(
        {"real.unet.aug": 0.0, "synthetic-a.unet.aug": 0.1, "both-a.unet.aug": 0.05, "synthetic-b.unet.aug": 0}
    )
    rows.loc[rows["setting"] == "real.unet.aug", "tp"] = 0
    page = build_report(ReportData("Made", {}, rows, baseline="real.unet.aug"), tmp_path).read_text(encoding="utf-8")
    found = {v.generator: v for v in verdicts_of(rows)}
    assert found["a"].useful.kind == "unanswered"
    assert found["a"].alone.startswith("Dice 0.1")
    assert found["a"].better_than.brief == "–"
    first_screen = page[page.index('id="answer"') : page.index('id="pictures"')]
    assert not any(wrong in first_screen for wrong in ("∞", "inf ", "no interval", "like real slices", "Rank 1"))


def test_a_rank_is_told_with_its_interval(tmp_path: Path) -> None:
    a, *_ = verdicts_of(made_rows(GOOD))
    assert a.better_than.title == "Rank 1 of 3 generators"


def test_an_audit_that_could_flag_nothing_shows_no_zero() -> None:
    few = audit("cannot_tell", 0) | {"null": {"slices": 60, "slices_needed": 99}}
    few["verdict"]["headline"] = "Cannot tell: 60 held-out slices are too few."
    a, *_ = verdicts_of(made_rows(GOOD), {"a": few})
    assert a.copy.lines == ["Cannot tell: 60 held-out slices are too few."]
    assert "cannot tell" in conclusion("", [a], "")["release"]


def test_more_than_real_slices_reach_is_doubted_before_a_release() -> None:
    sources = {"real.unet.aug": 0.5, "synthetic-a.unet.aug": 0.7, "synthetic-b.unet.aug": 0.5}
    a, b = verdicts_of(made_rows(sources), {name: audit("no_sign", 0) for name in "ab"})
    assert (a.useful.kind, a.useful.numbers["doubted"]) == ("can_replace", True)
    assert (b.useful.kind, b.useful.numbers["doubted"]) == ("can_replace", False)
    lines = conclusion("Yes.", [a, b], "")
    assert lines["release"].startswith("a: not before it is known why segmenters learn more from it")
    assert "--generator b " in lines["next"]


def test_copies_of_test_patients_withhold_the_answer_and_are_named() -> None:
    leak = {"parts": {"3": "test", "9": "val"}, "words": "Of the patients held out ... rows 3, 9.", "how": "without"}
    leak |= {"counts": {"test": 1, "val": 1}}
    a, b, _ = verdicts_of(made_rows(GOOD), {"a": audit("no_sign", 0)}, leaks={"a": leak})
    assert (a.useful.kind, a.useful.brief, b.useful.kind) == ("withheld", "Withheld", "helps")
    assert a.useful.lines[0] == "Of the patients held out ... rows 3, 9. The Dice was measured without them."
    assert a.useful.numbers["alone"]["relative_dice"] == pytest.approx(1, abs=0.05)
    # one answer in table, card and conclusion, whatever the audit says of the slices that are left
    assert (a.copy.kind, a.copy.lines[0]) == ("copies_found", leak["words"])
    data = ReportData("Made", {}, made_rows(GOOD), leaks={"a": leak})
    title, text, css = card(data, {"a": audit("no_sign", 0)})
    assert (title, text, css) == ("Copies of patients? Copies were found.", leak["words"], "no")
    lines = conclusion("", [a], "", ["a"])
    said = "Copies of patients were found: 1 slice shows test patients, 1 slice shows validation patients."
    assert lines["copies"] == said
    assert lines["release"] == "No, it holds copies of patients on whom segmenters were selected or tested."
    assert lines["next"].startswith("understudy run OUT/study.json --out OUT (after making the slices again")


def test_generators_and_networks_are_written_as_the_field_does(tmp_path: Path) -> None:
    """In words; the files keep the names of the study, and a name of the user's own stays as it is."""
    rows = made_rows(
        {"real.unet.aug": 0.8, "synthetic-stylegan2.unet.aug": 0.8, "synthetic-progan.unet.aug": 0.7,
         "synthetic-diffusion.unet.aug": 0.6, "synthetic-sg2-small.unet.aug": 0.5, "synthetic-stylegan3.unet.aug": 0.5}
    )  # fmt: skip
    study = {"generators": {"stylegan3": {"model": {"kind": "progan"}}}}
    data = ReportData("Made", study, rows, baseline="real.unet.aug")
    shown = {s.generator: s.shown for s in data.settings}
    assert shown == {"": "", "stylegan2": "StyleGAN 2", "progan": "Progressive GAN", "diffusion": "Diffusion",
                     "sg2-small": "sg2-small", "stylegan3": "stylegan3"}  # fmt: skip
    assert data.shown("stylegan2, member 2") == "StyleGAN 2, member 2"
    page = build_report(data, tmp_path).read_text(encoding="utf-8")
    assert "Synthetic (StyleGAN 2)" in page
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert {v["generator"]: v["name"] for v in content["verdicts"]} == {k: v for k, v in shown.items() if k}
    ranks = pd.read_csv(tmp_path / "tables" / "table1_ranks.csv")
    assert set(ranks["generator"]) == set(shown) - {""}


def test_a_generator_without_scores_is_not_forgotten() -> None:
    scores = made_rows({"real.unet.aug": 0.8, "synthetic-a.unet.aug": 0.8})
    planned = made_rows({**GOOD, "synthetic-d.unet.aug": 0.5})[
        ["setting", "training", "generator", "segmenter", "augmentation", "repeat"]
    ].drop_duplicates()
    found = {v.generator: v.useful.kind for v in verdicts_of(scores, planned=planned)}
    assert found == {"a": "can_replace", "b": "unanswered", "c": "unanswered", "d": "unanswered"}


JOBS = pd.DataFrame(
    [
        {"stage": "generator", "id": "g", "name": "generator a", "seconds": 3600, "state": "done"},
        {"stage": "generator", "id": "h", "name": "generator ab", "seconds": 7200, "state": "done"},
        {"stage": "segmenter", "id": "s", "name": "segmenter both-a.unet.aug, repeat 1", "seconds": 1800,
         "state": "done"},
        {"stage": "segmenter", "id": "f", "name": "segmenter real.unet.aug, repeat 2", "seconds": 900,
         "state": "failed", "failure": "out_of_memory", "message": "no room"},
    ]
)  # fmt: skip


def test_failures_and_what_is_missing_are_said(tmp_path: Path) -> None:
    whole = made_rows({"real.unet.aug": 0.8, "synthetic-a.unet.aug": 0.8, "both-a.unet.aug": 0.8})
    planned = whole[["setting", "training", "generator", "segmenter", "augmentation", "repeat"]].drop_duplicates()
    lost = (whole["setting"] == "both-a.unet.aug") | (
        (whole["setting"] == "synthetic-a.unet.aug") & (whole["repeat"] == 1)
    )
    data = ReportData("Made", {}, whole[~lost], planned=planned, jobs=JOBS, baseline="real.unet.aug")
    failed, lacking, _ = failures(data)
    assert [job["failure"] for job in failed] == ["out_of_memory"]
    assert [(m["setting"], m["scored"], m["planned"]) for m in lacking] == [
        ("both-a.unet.aug", 0, 2),
        ("synthetic-a.unet.aug", 1, 2),
    ]
    page = build_report(data, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "1 job failed" in text
    assert "3 trainings of those asked for have no scores" in text
    table = pd.read_csv(tmp_path / "tables" / "table3_dice.csv").set_index("setting")
    assert np.isnan(table.loc["both-a.unet.aug", "mean_value"])
    assert table.loc["both-a.unet.aug", "planned"] == 2
    assert (tmp_path / "tables" / "failed.csv").is_file()
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["failed"][0]["message"] == "no room"
    assert len(content["missing_trainings"]) == 2
    (verdict,) = content["verdicts"]
    assert set(verdict) == {"generator", "name", "useful", "copy", "better_than"}
    assert verdict["copy"]["kind"] == "not_audited"


def test_cost_is_shared_among_generators() -> None:
    rows = made_rows({"real.unet.aug": 0.8, "both-a.unet.aug": 0.8, "both-ab.unet.aug": 0.8})
    table = cost_table(ReportData("Made", {}, rows, jobs=JOBS, baseline="real.unet.aug"))
    assert table is not None
    hours = table.frame.set_index("generator")["total_hours"]
    assert hours["a"] == pytest.approx(1.5)
    assert hours["ab"] == pytest.approx(2)
    assert hours["all generators"] == pytest.approx(0.25)
    assert hours["together"] == pytest.approx(3.75)


def test_ids_of_patients_do_not_stand_in_messages(tmp_path: Path) -> None:
    rows = made_rows({"real.unet.aug": 0.8, "synthetic-a.unet.aug": 0.8})
    jobs = JOBS.assign(message="patient P3 cannot be read")
    data = ReportData("Made", {}, rows, jobs=jobs, baseline="real.unet.aug", show_patient_ids=False)
    build_report(data, tmp_path)
    for path in [*tmp_path.rglob("*.csv"), *tmp_path.rglob("*.tex"), *tmp_path.glob("report.*")]:
        assert "P3 " not in path.read_text(encoding="utf-8"), path
    assert dataclasses.is_dataclass(data)
