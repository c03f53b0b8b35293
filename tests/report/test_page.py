"""The page as a reader and as a machine gets it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from understudy.metrics.overlap import apply_policy
from understudy.report.answer import make_answer
from understudy.report.content import patient_means
from understudy.report.data import ReportData
from understudy.report.page import build_report
from understudy.report.sections.pictures import segmentations
from understudy.slices import SliceSet, SliceWriter


class Elements(HTMLParser):
    """All elements as (tag, attributes), and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def whole(study: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The complete page, its numbers and its folder."""
    out = tmp_path_factory.mktemp("whole")
    return *built(study, out), out


def built(data: ReportData, out: Path) -> tuple[Elements, dict[str, Any]]:
    page = build_report(data, out)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    numbers = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    return Elements(page.read_text(encoding="utf-8")), numbers


def fresh(data: ReportData, **changes: Any) -> ReportData:
    return dataclasses.replace(data, **changes)


Whole = tuple[Elements, dict[str, Any], Path]


def plain_mean_dice(rows: pd.DataFrame, setting: str) -> float:
    """Mean over classes of the mean over repeats and patients, empty in both = 1: by loops, without our metrics."""
    means = []
    for name in ("core", "edema"):
        values = []
        for r in rows.to_dict(orient="records"):
            if (r["setting"], r["class_name"], r["scope"]) == (setting, name, "whole"):
                size = 2 * r["tp"] + r["fp"] + r["fn"]
                values.append(2 * r["tp"] / size if size else 1.0)
        means.append(sum(values) / len(values))
    return sum(means) / len(means)


def test_page_needs_nothing_from_outside(whole: Whole) -> None:
    elements, _, folder = whole
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "iframe", "object", "embed", "video", "base"}
    for _, attributes in elements.found:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), value[:80]
    text = (folder / "report.html").read_text()
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < 8_000_000


def test_page_is_accessible(whole: Whole) -> None:
    elements, _, _ = whole
    images = [a for tag, a in elements.found if tag == "img"]
    assert len(images) > 30
    assert all(len(a.get("alt") or "") > 8 for a in images)
    assert all(a.get("scope") for tag, a in elements.found if tag == "th")
    assert [tag for tag, _ in elements.found].count("h1") == 1
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"] for tag, a in elements.found if tag == "a"]
    assert {str(t)[1:] for t in targets} <= set(ids)


def test_answer_equals_a_plain_computation(study: ReportData, whole: Whole) -> None:
    elements, numbers, _ = whole
    base = plain_mean_dice(study.scores, "real.unet.aug")
    assert numbers["answer"]["baseline_dice"] == pytest.approx(base)
    found = {c["setting"]: c for c in numbers["answer"]["comparisons"]}
    assert set(found) == {"both.unet.aug", "synthetic.unet.aug"}
    for setting, comparison in found.items():
        ratio = plain_mean_dice(study.scores, setting) / base
        assert comparison["relative_dice"] == pytest.approx(ratio)
        assert comparison["low"] < ratio < comparison["high"]
        assert f"{100 * ratio:.0f} %" in elements.text
    # Patient T0's tumour was missed in both repeats of the synthetic setting, and nowhere else.
    assert (found["synthetic.unet.aug"]["missed"], found["synthetic.unet.aug"]["present"]) == (2, 12)
    assert found["both.unet.aug"]["missed"] == 0
    assert "2 of 12" in elements.text


def test_tables_are_written_with_their_numbers(study: ReportData, whole: Whole) -> None:
    folder = whole[2]
    dice = pd.read_csv(folder / "tables" / "dice.csv").set_index("setting")
    for setting in dice.index:
        assert dice.loc[setting, "mean_value"] == pytest.approx(plain_mean_dice(study.scores, setting))
    rows = study.scores.query("scope == 'whole' and class_name == 'core' and setting == 'real.unet.aug'")
    per_repeat = rows.assign(d=2 * rows.tp / (2 * rows.tp + rows.fp + rows.fn)).groupby("repeat")["d"].mean()
    assert dice.loc["real.unet.aug", "core_sd"] == pytest.approx(np.std(per_repeat.to_numpy()))
    one = rows.assign(d=2 * rows.tp / (2 * rows.tp + rows.fp + rows.fn))  # a patient's score of one training
    core = {part: dice.loc["real.unet.aug", f"core_{part}"] for part in ("value", "low", "high", "median")}
    assert core["median"] == pytest.approx(one.groupby("subject")["d"].mean().median())
    assert one["d"].min() <= core["low"] < core["value"] < core["high"] <= one["d"].max()
    surfel = pd.read_csv(folder / "tables" / "hd95_surfel.csv").set_index("setting")
    assert surfel.loc["real.unet.aug", "core_value"] == pytest.approx(rows["hd95_surfel"].mean())
    misses = pd.read_csv(folder / "tables" / "misses.csv")
    raw = study.scores.query("scope == 'whole' and class_name == 'core' and setting == 'synthetic.unet.aug'")
    missed = misses.query("setting == 'synthetic.unet.aug' and class_name == 'core'")["missed"].item()
    assert missed == ((raw["tp"] == 0) & (raw["fn"] > 0)).sum() > raw["predicted_empty"].sum()
    assert {p.stem for p in (folder / "tables").iterdir()} == {
        "conventions", "dice", "differences", "hd", "hd95_pooled", "hd95_surfel", "jobs",
        "misses", "patients", "sites", "cost", "annotated_slices", "table3_dice",
        "table5_relative_dice", "table8_hausdorff",
    }  # fmt: skip
    assert {p.suffix for p in (folder / "tables").iterdir()} == {".csv", ".tex", ".html"}


def test_memorization_is_said_to_be_unexamined(whole: Whole) -> None:
    elements, numbers, _ = whole
    assert "Not examined" in elements.text
    assert numbers["answer"]["conclusion"]["next"].startswith("understudy audit --training OUT/real")
    for key in ("release", "next"):  # the page says the same
        assert numbers["answer"]["conclusion"][key] in " ".join(elements.text.split())
    assert numbers["memorization_audited"] is False


def test_same_data_give_the_same_bytes(study: ReportData, whole: Whole, tmp_path: Path) -> None:
    built(fresh(study), tmp_path)
    for name in ("report.html", "report.json"):
        assert (tmp_path / name).read_bytes() == (whole[2] / name).read_bytes()


@pytest.mark.usefixtures("no_plots")
def test_another_seed_shows_other_slices(study: ReportData, whole: Whole, tmp_path: Path) -> None:
    other, _ = built(fresh(study, seed=1), tmp_path)
    first, second = ({a["src"] for tag, a in e.found if tag == "img"} for e in (whole[0], other))
    assert len(second - first) > 20


@pytest.mark.usefixtures("no_plots")
def test_how_a_folder_was_read_is_said(study: ReportData, tmp_path: Path) -> None:
    elements, numbers = built(fresh(study), tmp_path / "generated")
    assert "were read from a folder" not in elements.text
    made = SliceSet.open(study.synthetic["gan"])
    images, labels = made.read(slice(None))
    writer = SliceWriter(tmp_path / "set", made.channels, made.classes, 16, (1.0, 1.0, 1.0), ("P", "L"))
    writer.append(images, labels, [{"id": str(i), "generator": "gan"} for i in range(len(images))])
    fit = {"codes": {"core": 128.0, "edema": 255.0}, "mean_code_distance": 0.5, "largest_code_distance": 3.25,
           "tolerance": 31.75, "far_fraction": 0.0125}  # fmt: skip
    writer.close(source="folder", annotation=fit, notes=["2 files were left out, e.g. T0.png"])
    data = fresh(study, synthetic={"gan": tmp_path / "set"}, show_patient_ids=False)
    elements, numbers = built(data, tmp_path / "read")
    assert "0.50 grey levels from the nearest code on average, 3.25 in the worst slice" in elements.text
    assert "1.2 % of the annotated pixels are farther than 31.75" in elements.text
    assert "Note: 2 files were left out, e.g. patient 1.png." in elements.text
    (entry,) = [n for n in numbers["annotations"] if n["kind"] == "synthetic"]
    assert entry["reading"]["annotation"] == fit


@pytest.mark.usefixtures("no_plots")
def test_names_are_escaped(study: ReportData, tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    scores = study.scores.assign(site=evil, generator=study.scores["generator"].replace("gan", evil))
    data = fresh(
        study,
        title=evil,
        scores=scores,
        study={"name": evil, "</pre>": 1},
        synthetic={evil: study.synthetic["gan"]},
        generator_histories={evil: study.generator_histories["gan"]},
        provenance={"command": evil, evil: evil},
        problems=[{"patient": evil, "problem": evil, "file": evil, "fix": evil, "severity": "error"}],
    )
    elements, numbers = built(data, tmp_path)
    assert not any(tag == "script" for tag, _ in elements.found)
    assert elements.text.count(evil) > 5
    assert numbers["title"] == evil


@pytest.mark.usefixtures("no_plots")
def test_ids_are_hidden_everywhere_if_asked(study: ReportData, tmp_path: Path) -> None:
    data = fresh(
        study,
        show_patient_ids=False,
        study={"split": {"test": ["T0", "T1"], "train": ["P3"]}, "seed": 5},
        provenance={"source": "/data/T5/T5_flair.nii.gz"},
        problems=[
            {"patient": "Q9", "problem": "Q9: empty mask", "file": "Q9.nii", "fix": "look", "severity": "warning"}
        ],
    )
    elements, _ = built(data, tmp_path)
    written = [tmp_path / "report.json", *(tmp_path / "tables").iterdir()]
    texts = [elements.text, *(p.read_text() for p in written)]
    texts += [str(a.get("alt")) for _, a in elements.found]
    for text in texts:
        assert not re.search(r"\b(T[0-5]|P[0-5]|Q9)(?![A-Za-z0-9])", text), text[:200]
    assert "patient 1" in elements.text
    assert "Contains training images: not" in elements.text


@pytest.mark.usefixtures("no_plots")
def test_study_without_generator(study: ReportData, tmp_path: Path) -> None:
    real = study.scores[study.scores["training"] == "real"]
    elements, numbers = built(fresh(study, scores=real, synthetic={}, generator_histories={}), tmp_path)
    assert numbers["answer"]["verdict"] == "unanswered"
    assert "No synthetic slices" in elements.text
    assert "No generator" in elements.text


@pytest.mark.usefixtures("no_plots")
def test_study_without_scores_or_slices(tmp_path: Path) -> None:
    elements, numbers = built(ReportData(title="Nothing", study={}, scores=pd.DataFrame()), tmp_path)
    assert numbers["answer"]["headline"] == "Not answered yet."
    assert "no slices to examine" in elements.text
    assert "no scores to tabulate" in elements.text


@pytest.mark.usefixtures("no_plots")
def test_missing_files_are_named(study: ReportData, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    data = fresh(
        study,
        slices=gone,
        volumes=gone,
        synthetic={"gan": gone},
        generator_histories={"gan": gone},
        segmenter_histories=dict.fromkeys(study.segmenter_histories, gone),
    )
    elements, numbers = built(data, tmp_path / "out")
    assert len(numbers["missing"]) == 2
    assert "not a complete slice set" in elements.text
    assert "The test volumes could not be read" in elements.text
    assert "No history of this training was found" in elements.text
    assert "No histories of segmentation networks" in elements.text


def test_lost_and_damaged_predictions_are_named(study: ReportData, tmp_path: Path) -> None:
    means = patient_means(study, apply_policy(study.scores))
    for n in range(6):
        (tmp_path / f"T{n}.npz").write_bytes(b"not a zip file")
    data = fresh(study, predictions={**study.predictions, ("real.unet.aug", 0): tmp_path})
    cases, _, missing = segmentations(data, means, [])
    assert (len(cases), len(missing)) == (0, 3)
    assert all("is not shown: this is not a NumPy file" in m for m in missing)
    for path in tmp_path.iterdir():
        path.unlink()
    assert all("there is no prediction T" in m for m in segmentations(data, means, [])[2])
    assert segmentations(fresh(study, predictions={}), means, [])[2] == ["There are no predictions to show."]


def test_cases_run_from_best_to_worst(study: ReportData) -> None:
    means = patient_means(study, apply_policy(study.scores))
    cases, heads, missing = segmentations(study, means, [])
    assert missing == []
    assert heads == ["Slice", "Truth", "Real", "Real + synthetic", "Synthetic"]
    shown = [float(tiles[2].caption.removeprefix("Dice ")) for _, tiles in cases if tiles[2] is not None]
    assert shown == sorted(shown, reverse=True)
    mine = means.query("setting == 'real.unet.aug' and class_name == 'mean'")["dice"]
    assert (shown[0], shown[2]) == (round(mine.max(), 2), round(mine.min(), 2))


@pytest.mark.usefixtures("no_plots")
def test_unfinished_setting_is_left_out_by_name(study: ReportData, tmp_path: Path) -> None:
    drop = (
        (study.scores["setting"] == "both.unet.aug") & (study.scores["subject"] == "T2") & (study.scores["repeat"] == 1)
    )
    elements, numbers = built(fresh(study, scores=study.scores[~drop]), tmp_path)
    assert "“Real + synthetic” is not in the tables" in elements.text
    assert [c["setting"] for c in numbers["answer"]["comparisons"]] == ["synthetic.unet.aug"]


@pytest.mark.usefixtures("no_plots")
def test_unfinished_baseline_leaves_the_question_open(study: ReportData, tmp_path: Path) -> None:
    drop = (
        (study.scores["setting"] == "real.unet.aug") & (study.scores["subject"] == "T2") & (study.scores["repeat"] == 1)
    )
    elements, numbers = built(fresh(study, scores=study.scores[~drop]), tmp_path)
    assert numbers["answer"]["verdict"] == "unanswered"
    assert "nothing to compare with" in elements.text


@pytest.mark.usefixtures("no_plots")
def test_one_patient_one_repeat(study_factory: Callable[..., ReportData], tmp_path: Path) -> None:
    elements, numbers = built(study_factory(patients=1, repeats=1), tmp_path)
    assert numbers["answer"]["verdict"] in ("undecided", "unanswered")
    assert "1 test patient" in elements.text
    assert "trained once" in elements.text
    assert "±" not in (tmp_path / "report.html").read_text().split('id="tables"')[1].split("</section>")[0]


@pytest.mark.usefixtures("no_plots")
def test_undefined_scores_become_null(study: ReportData, tmp_path: Path) -> None:
    empty = dict.fromkeys(["tp", "fp", "fn", "truth_voxels", "predicted_voxels"], 0)
    undefined = dict.fromkeys(["hd", "hd95_pooled", "hd95_directed"], np.nan)
    nothing = study.scores.assign(**empty, **undefined, truth_empty=True, predicted_empty=True)
    elements, numbers = built(fresh(study, scores=nothing), tmp_path)
    paper = [e for e in numbers["summary"] if e["policy"] == "paper" and e["metric"] == "dice"]
    assert paper
    assert all(e["value"] is None for e in paper)
    assert "nan" not in elements.text.lower().split()


@pytest.mark.usefixtures("no_plots")
def test_collapsed_training_is_flagged(study_factory: Callable[..., ReportData], tmp_path: Path) -> None:
    data = study_factory(patients=2)
    data.segmenter_histories["synthetic.unet.aug", 1].with_name("config.json").write_text(
        '{"outcome": "collapsed", "collapse": "the loss was not finite"}'
    )
    elements, _ = built(data, tmp_path)
    assert "1 of 2 trainings of “Synthetic” collapsed (repeat 2: the loss was not finite)" in elements.text
    for table in ("dice", "hd", "misses", "conventions"):
        frame = pd.read_csv(tmp_path / "tables" / f"{table}.csv").set_index("setting")
        assert set(frame.loc[["synthetic.unet.aug"], "n_collapsed"]) == {1}, table
        assert set(frame.loc[["real.unet.aug"], "n_collapsed"]) == {0}
    dice = pd.read_csv(tmp_path / "tables" / "dice.csv").set_index("setting").loc["synthetic.unet.aug"]
    first = data.scores.query("repeat == 0")
    assert dice["mean_value"] == pytest.approx(plain_mean_dice(data.scores, "synthetic.unet.aug"))
    assert dice["mean_value_without_collapsed"] == pytest.approx(plain_mean_dice(first, "synthetic.unet.aug"))
    assert f"1 of 2 {dice['mean_value_without_collapsed']:.3f}" in elements.text
    assert "Synthetic [1 of 2 collapsed]" in elements.text


@pytest.mark.usefixtures("no_plots")
def test_kept_slices_alone_are_named_as_such(study: ReportData, tmp_path: Path) -> None:
    elements, numbers = built(fresh(study, scores=study.scores[study.scores["scope"] == "kept_slices"]), tmp_path)
    assert numbers["answer"]["comparisons"]
    assert "Kept slices only" in elements.text


def test_grid_of_networks_and_augmentations_has_a_label_each(study: ReportData) -> None:
    plain = study.scores.assign(augmentation=False, setting=study.scores["setting"].str.replace(".aug", ".plain"))
    swin = study.scores.assign(segmenter="swin", setting=study.scores["setting"].str.replace("unet", "swin"))
    data = fresh(study, scores=pd.concat([study.scores, plain, swin], ignore_index=True))
    assert len({s.label for s in data.settings}) == 9
    assert data.settings[0].id == "real.unet.aug"
    comparisons = make_answer(data, apply_policy(data.scores), []).comparisons
    assert sorted(c.setting.id for c in comparisons if c.primary) == ["both.unet.aug", "synthetic.unet.aug"]
