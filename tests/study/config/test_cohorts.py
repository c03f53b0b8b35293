"""Several cohorts in one study: parts, names, jobs that stay, the overview, and the paper's number of trainings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_json
from understudy.report.conclusion import LINES
from understudy.report.overview import write_overview
from understudy.study.config.cohorts import published_as
from understudy.study.config.schema import Study, load_study
from understudy.study.engine.jobs import Context, job_folder, plain_name
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.engine.run import run_study
from understudy.study.registry import STAGES

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "job_ids.json").read_text())

BASE: dict[str, Any] = {"name": "two", "slices": {"resolution": 32}, "generators": {"g": {"samples": 10}}}
TWO: dict[str, Any] = {"a": {"phantom": {"patients": 5}}, "b": {"phantom": {"patients": 6}}}


def study_of(**changes: Any) -> Study:
    return Study.model_validate({**BASE, "cohorts": TWO, **changes})


@pytest.mark.parametrize("name", GOLDEN)
def test_studies_with_one_cohort_keep_the_ids_that_they_had_before_there_were_several(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage, number in {
        "sample": 1,
        "segmenter": 2,
        "audit": 1,
        "quality": 1,
        "annotations": 1,
        "report": 1,
    }.items():  # as they were when the ids were written down
        monkeypatch.setitem(STAGES, stage, replace(STAGES[stage], version=number))
    study = load_study(EXAMPLES / Path(name).name)
    assert study.hash == GOLDEN[name]["hash"]
    assert {job.name: job.id[:12] for job in make_plan(study).jobs} == GOLDEN[name]["jobs"]
    assert study.parts() == {"": study}


def test_a_part_has_the_jobs_that_the_study_would_have_with_this_cohort_alone() -> None:
    plan = make_plan(study_of())
    seed = study_of().parts()["a"].phantom.seed  # type: ignore[union-attr]
    alone = make_plan(Study.model_validate({**BASE, "phantom": {"patients": 5, "seed": seed}}))
    mine = [job for job in plan.jobs if plan.cohort_of.get(job.id) == "a"]
    assert [j.id for j in mine if j.stage != "report"] == [j.id for j in alone.jobs if j.stage != "report"]
    assert all(job.name.startswith("a: ") for job in mine)
    assert [plain_name(job.name) for job in mine] == [job.name for job in alone.jobs]
    (overview,) = [job for job in plan.jobs if job.stage == "overview"]
    assert [role for role, _ in overview.inputs] == ["a", "b"]
    assert plan.jobs[-1] is overview
    assert plan.until("report").jobs == plan.jobs
    assert {j.stage for j in plan.until("evaluate").jobs} == set(STAGES) - {
        "audit", "quality", "annotations", "report", "overview"
    }  # fmt: skip


def test_another_cohort_redoes_nothing_but_the_overview() -> None:
    before, after = make_plan(study_of(cohorts={"a": TWO["a"]})), make_plan(study_of())
    left = {job.name for job in before.jobs if job.id not in after.by_id}
    assert left == {"overview"}


def test_phantoms_differ_by_cohort_unless_their_seed_is_given() -> None:
    same = {"phantom": {"patients": 8}}
    plan = make_plan(study_of(cohorts={"a": same, "b": same}))
    assert len({job.spec["seed"] for job in plan.jobs if job.stage == "phantom"}) == 2
    seeded = {"phantom": {"patients": 8, "seed": 3}}
    across = {**seeded, "split": {"test_sites": ["site2"]}}
    plan = make_plan(study_of(cohorts={"within": seeded, "across": across}))
    assert [job.name for job in plan.jobs if job.stage == "phantom"] == ["within: phantom"]
    assert {site for site, n in plan.facts["across"].by_site().items() if n["test"]} == {"site2"}
    assert plan.facts["across"].by_site()["site2"] == {"train": 0, "val": 0, "test": 2}
    with pytest.raises(UnderstudyError, match="a and b are the same patients in the same split"):
        make_plan(study_of(cohorts={"a": seeded, "b": seeded}))


def test_fields_of_a_cohort_replace_those_of_the_study() -> None:
    fields: dict[str, Any] = {"split": {"test_patients": 2}, "slices": {"resolution": 64, "rule_fraction": 0.1}}
    entry = {**TWO["a"], "split": {"train_patients": 1}, "slices": {"resolution": 32}}
    part = study_of(**fields, cohorts={"a": entry}).parts()["a"]
    assert (part.split.test_patients, part.split.train_patients) == (2, 1)
    assert (part.slices.resolution, part.slices.rule_fraction) == (32, 0.1)
    assert "seed" not in part.split.model_fields_set
    again = Study.model_validate(study_of(**fields, cohorts={"a": entry}).model_dump(mode="json"))
    assert again.parts()["a"].split.test_patients == 2
    assert again.hash == study_of(**fields, cohorts={"a": entry}).hash


def test_paths_and_lists_of_cohorts_are_relative_to_the_study_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "trainings: [real]\ncohorts:\n  a: {path: one}\n  b: {path: two, split: {method: list, test: test.txt}}\n"
    )
    parts = load_study(path).parts()
    assert parts["a"].cohort is not None
    assert parts["a"].cohort.path == tmp_path / "one"
    assert parts["b"].split.test == str(tmp_path / "test.txt")
    with pytest.raises(UnderstudyError, match=r"cohort a: .*does not exist[\s\S]*`cohorts: \{a: null\}`"):
        make_plan(load_study(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cohorts: {}", "line 2: `cohorts`: name at least one cohort"),
        ("cohorts: {jobs: {path: x}}", "line 2: `cohorts`: a cohort cannot be called 'jobs'"),
        ("cohorts: {'a b': {path: x}}", "letters, digits"),
        ("cohorts:\n  a: {split: {}}", "line 3: `cohorts.a`: give `path`"),
        ("cohorts:\n  a: {path: x, phantom: {}}", "line 3: `cohorts.a`: `path` is of patients on disk"),
        ("cohorts:\n  a: {path: x, splitt: {}}", "did you mean `split`?"),
        ("cohorts: {a: {path: x}}\nphantom: {}", "not both phantom and cohorts"),
    ],
)
def test_what_cannot_be_meant_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"trainings: [real]\n{text}\n")
    with pytest.raises(UnderstudyError) as caught:
        load_study(path)
    assert said in caught.value.message


def test_the_papers_cohorts_are_known_by_their_names() -> None:
    for name, means in {"BraTS-2020": "brats2020", "brats_2021": "brats2021", "brats": "none"}.items():
        assert published_as(name) == means
    cohorts = {"brats2020": TWO["a"], "mine": TWO["b"]}
    parts = study_of(cohorts=cohorts).parts()
    assert {name: part.report.published for name, part in parts.items()} == {
        "brats2020": "brats2020", "mine": "none",
    }  # fmt: skip
    told = study_of(cohorts=cohorts, report={"published": "brats2021"}).parts()
    assert {part.report.published for part in told.values()} == {"brats2021"}


def test_every_report_is_published_in_its_place(tmp_path: Path) -> None:
    def write(context: Context) -> dict[str, Any]:
        (context.folder / "report.html").write_text("+".join(context.inputs))
        return {"answer": "yes"}

    plan = make_plan(study_of(trainings=["real"], generators={}, audit=None))
    result = run_study(plan, tmp_path, progress=False, stages=dict.fromkeys(STAGES, write))
    assert result.complete
    assert result.page == tmp_path / "report.html"
    assert result.page.read_text() == "a+b"
    assert "segmenter" in (tmp_path / "a" / "report.html").read_text()
    assert (tmp_path / "b" / "report.html").is_file()


def test_the_overview_has_every_answer_and_the_tables_of_all(tmp_path: Path) -> None:
    for name, dice in (("a", 0.7), ("b", 0.8)):
        folder = tmp_path / name
        lines = dict.fromkeys(LINES, f"OUT/real {name}")
        answer = {"headline": f"Yes <{name}>.", "verdict": "yes", "conclusion": lines}
        write_json(folder / "report.json", {"answer": answer, "verdicts": [], "failed": []})
        (folder / "tables").mkdir()
        pd.DataFrame({"setting": ["real"], "dice": [dice]}).to_csv(folder / "tables" / "dice.csv", index=False)
        pd.DataFrame({"tp": [1]}).to_parquet(folder / "scores.parquet")
    spec = {"title": "Both", "study": {}, "study_hash": "x", "command": "understudy run both.yaml"}
    page = write_overview({name: tmp_path / name for name in ("a", "b")}, spec, tmp_path)
    text = page.read_text()
    assert "Yes &lt;a&gt;." in text
    assert 'href="b/report.html"' in text
    table = pd.read_csv(tmp_path / "tables" / "dice.csv")
    assert table.to_dict("list") == {"cohort": ["a", "b"], "setting": ["real", "real"], "dice": [0.7, 0.8]}
    assert list(pd.read_parquet(tmp_path / "scores.parquet")["cohort"]) == ["a", "b"]
    answer = read_json(tmp_path / "report.json")["answer"]
    assert answer["cohorts"]["b"]["verdict"] == "yes"
    assert answer["conclusion"]["next"] == "a: OUT/a/real a b: OUT/b/real b"
    with pytest.raises(UnderstudyError, match="no report of this cohort"):
        write_overview({"c": tmp_path / "c"}, spec, tmp_path)


def test_what_takes_one_cohort_says_so() -> None:
    with pytest.raises(UnderstudyError, match="several cohorts"):
        study_of().with_one_cohort("a sweep")
    assert isinstance(make_plan(study_of()), Plan)
    assert job_folder("out", make_plan(study_of()).jobs[0]).name.startswith("phantom-")


def test_the_overview_shows_each_cohorts_verdicts_and_ranks_over_all(tmp_path: Path) -> None:
    part = {"kind": "no", "title": "No: cannot replace", "lines": ["Alone 60 %."]}
    copy = {"kind": "copies_found", "title": "Yes: copies found", "lines": []}
    for name, ranks in (("a", (1, 2)), ("b", (1, 1))):
        parts = {"useful": part, "copy": copy, "better_than": part}
        verdicts = [{"generator": g, "name": g, **parts} for g in ("gan", "other")]
        lines = dict.fromkeys(LINES, "Copies of patients were found.")
        answer = {"headline": "No.", "verdict": "no", "conclusion": lines}
        content = {"answer": answer, "verdicts": verdicts, "failed": [{"name": "x"}]}
        write_json(tmp_path / name / "report.json", content)
        (tmp_path / name / "tables").mkdir()
        frame = pd.DataFrame({"generator": ["gan", "other"], "dice_unet_aug": ranks, "dice_unet_aug_published": 9})
        frame.to_csv(tmp_path / name / "tables" / "table1_ranks.csv", index=False)
        pd.DataFrame({"tp": [1]}).to_parquet(tmp_path / name / "scores.parquet")
    spec = {"title": "Both", "study": {}, "study_hash": "x", "command": "understudy run both.yaml"}
    text = write_overview({name: tmp_path / name for name in ("a", "b")}, spec, tmp_path).read_text()
    assert text.count("No: cannot replace") == 8
    assert "a: Copies of patients were found" in text
    assert "b: Copies of patients were found" in text
    assert "1 of its jobs failed" in text
    ranked = pd.read_csv(tmp_path / "tables" / "table1_all_cohorts.csv").set_index("generator")
    assert ranked.loc["other", "mean_rank"] == 1.5
    assert ranked.loc["gan", "cohorts"] == 2
    assert [v["cohort"] for v in read_json(tmp_path / "report.json")["verdicts"]] == ["a", "a", "b", "b"]
