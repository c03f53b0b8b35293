"""A study's jobs: ids, order, inputs; the order of jobs side by side, and how long they take."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.cohort.config import CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.errors import UnderstudyError
from understudy.study.config.grid import baseline, settings
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Job, find_job
from understudy.study.engine.plan import Plan, elapsed, longest_after, make_plan, width
from understudy.study.facts import fingerprint

BASE: dict[str, Any] = {
    "name": "test",
    "phantom": {"patients": 5},
    "slices": {"resolution": 32},
    "generators": {"g": {"samples": 10}, "h": {"samples": 10}},
    "repeats": 2,
}


def plan_of(**changes: Any) -> Plan:
    return make_plan(Study.model_validate({**BASE, **changes}))


def redone(before: Plan, after: Plan) -> set[str]:
    """Names of the jobs of the second plan that the first has not done."""
    return {job.name for job in after.jobs if job.id not in before.by_id}


def test_every_job_comes_after_its_inputs() -> None:
    seen: set[str] = set()
    for job in plan_of().jobs:
        assert {job_id for _, job_id in job.inputs} <= seen
        seen.add(job.id)
    assert len(seen) == 1 + 1 + 2 * 4 + 2 * 5 * 2 + 1


def test_the_grid_of_settings() -> None:
    study = Study.model_validate({**BASE, "augmentation": [True, False]})
    ids = [setting.id for setting in settings(study)]
    assert ids[:5] == [
        "real.unet.aug", "synthetic-g.unet.aug", "synthetic-h.unet.aug", "both-g.unet.aug", "both-h.unet.aug",
    ]  # fmt: skip
    assert len(set(ids)) == 10
    assert baseline(study) == "real.unet.aug"
    assert baseline(Study.model_validate({**BASE, "augmentation": [False]})) == "real.unet.noaug"


def test_planning_twice_gives_the_same_ids() -> None:
    assert [job.id for job in plan_of().jobs] == [job.id for job in plan_of().jobs]


def test_a_changed_field_redoes_only_what_depends_on_it() -> None:
    before = plan_of()
    changed = redone(before, plan_of(generators={"g": {"samples": 11}, "h": {"samples": 10}}))
    assert "sample g" in changed
    assert not changed & {"phantom", "prepare", "generator g", "generator h", "sample h"}
    trained = {name for name in changed if name.startswith("segmenter")}
    assert trained == {f"segmenter {kind}-g.unet.aug, repeat {i}" for kind in ("synthetic", "both") for i in (1, 2)}


def test_regions_change_the_scores_only() -> None:
    changed = redone(plan_of(), plan_of(evaluation={"regions": {"core": ["NCR/NET", "ET"]}}))
    assert changed
    assert all(name == "report" or name.startswith("evaluate") for name in changed)


def test_regions_of_unknown_classes_are_refused_before_anything_runs() -> None:
    for regions in ({"core": ["NCR", "ET"]}, {"ED": ["ET"]}):
        with pytest.raises(UnderstudyError, match=r"evaluation.regions[\s\S]*NCR/NET, ED, ET"):
            plan_of(evaluation={"regions": regions})


def test_more_repeats_and_another_generator_add_jobs_and_redo_none() -> None:
    before = plan_of()
    more = redone(before, plan_of(repeats=3))
    assert {name for name in more if name != "report"} == {
        f"{stage} {setting.id}, repeat 3" for stage in ("segmenter", "evaluate") for setting in settings(before.study)
    }
    added = redone(before, plan_of(generators={**BASE["generators"], "k": {}}))
    assert all("k" in name.split(".")[0] or name == "report" for name in added)


def test_the_order_of_generators_the_name_and_how_often_is_saved_redo_no_training() -> None:
    before = plan_of()
    assert redone(before, plan_of(generators=dict(reversed(BASE["generators"].items())))) == {"report"}
    assert redone(before, plan_of(name="other")) == {"report"}
    generators = {"g": {"samples": 10, "training": {"checkpoint_seconds": 7}}, "h": {"samples": 10}}
    assert redone(before, plan_of(generators=generators)) <= {"report"}
    assert redone(before, plan_of(slices={"resolution": 32, "workers": 7})) == set()


def test_another_seed_redoes_everything() -> None:
    before, after = plan_of(), plan_of(seed=1)
    assert redone(before, after) == {job.name for job in after.jobs}


def test_trainings_have_different_seeds() -> None:
    seeds = [job.spec["training"]["seed"] for job in plan_of().jobs if job.stage in ("generator", "segmenter")]
    assert len(set(seeds)) == len(seeds)


def test_a_job_survives_json() -> None:
    for job in plan_of().jobs:
        entry = job.as_dict()
        entry["inputs"] = tuple(tuple(pair) for pair in entry["inputs"])
        assert entry.pop("id") == Job(**entry).id == job.id


def test_jobs_are_found_by_the_start_of_their_id() -> None:
    plan = plan_of()
    assert find_job(plan.jobs, plan.jobs[3].id[:12], "here") == plan.jobs[3]
    assert find_job(plan.jobs, plan.jobs[3].folder_name, "here") == plan.jobs[3]
    with pytest.raises(UnderstudyError, match="no job"):
        find_job(plan.jobs, "zzz", "here")
    with pytest.raises(UnderstudyError, match="more than one"):
        find_job(plan.jobs, "", "here")


def test_a_part_of_the_plan() -> None:
    assert {job.stage for job in plan_of().until("sample").jobs} == {"phantom", "prepare", "generator", "sample"}
    with pytest.raises(UnderstudyError, match="no stage"):
        plan_of().until("sampling")


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two patients' files: what is in them is not read by the plan."""
    for patient in ("A", "B"):
        for name in ("t1", "t1ce", "t2", "flair", "seg"):
            path = tmp_path / "cohort" / patient / f"{patient}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(f"{patient}{name}".encode(), mtime=0))
    return tmp_path / "cohort"


def mark(path: Path) -> str:
    return fingerprint(find_patients(CohortConfig(path=path)))


def test_the_fingerprint_follows_content_and_not_place_or_time(cohort: Path, tmp_path: Path) -> None:
    first = mark(cohort)
    moved = cohort.rename(tmp_path / "elsewhere")
    os.utime(moved / "A" / "A_t1.nii.gz", (1, 1))
    assert mark(moved) == first
    (moved / "A" / "A_t1.nii.gz").write_bytes(gzip.compress(b"At9", mtime=0))  # as long as before
    assert mark(moved) != first


def test_the_fingerprint_follows_sites_and_missing_files(cohort: Path) -> None:
    first = mark(cohort)
    (cohort / "participants.tsv").write_text("participant_id\tsite\nA\tx\nB\ty\n")
    second = mark(cohort)
    (cohort / "B" / "B_flair.nii.gz").unlink()
    assert len({first, second, mark(cohort)}) == 3


def test_the_fingerprint_follows_whose_scans_they_are(cohort: Path) -> None:
    found = find_patients(CohortConfig(path=cohort))
    one, other = found.patients
    assert fingerprint(replace(found, patients=(one, replace(other, subject=one.id)))) != fingerprint(found)


def test_a_cohort_enters_by_its_content(cohort: Path, tmp_path: Path) -> None:
    split = {"test_patients": 1, "validation_fraction": 0}
    changes: dict[str, Any] = {"phantom": None, "cohort": {"path": str(cohort)}, "split": split}
    before = plan_of(**changes)
    assert "phantom" not in {job.stage for job in before.jobs}
    moved = cohort.rename(tmp_path / "elsewhere")
    assert redone(before, plan_of(phantom=None, cohort={"path": str(moved)}, split=split)) == set()
    (moved / "A" / "A_t2.nii.gz").write_bytes(gzip.compress(b"something else", mtime=0))
    after = plan_of(phantom=None, cohort={"path": str(moved)}, split=split)
    assert redone(before, after) == {job.name for job in after.jobs}


def test_a_missing_cohort_or_list_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="does not exist"):
        plan_of(phantom=None, cohort={"path": str(tmp_path / "nothing")})
    with pytest.raises(UnderstudyError, match=r"split\.test"):
        plan_of(split={"method": "list", "test": str(tmp_path / "nothing.txt")})


def job(n: int, seconds: float, *before: Job) -> Job:
    return Job("x", str(n), {"n": n}, tuple(("x", b.id) for b in before), seconds=seconds)


def test_the_longest_chain_goes_first() -> None:
    a, b = job(1, 1), job(2, 5)
    c = job(3, 10, a)
    assert longest_after([a, b, c]) == {a.id: 11, b.id: 5, c.id: 10}
    assert width([a, b, c]) == 2
    assert elapsed([a, b, c], 2) == 11  # b beside a and c
    assert elapsed([a, b, c], 1) == 16
    assert elapsed([c], 2) == 10  # a was done before


def test_the_end_of_a_job_frees_a_worker_for_the_longest_chain_that_is_ready() -> None:
    # by hand: 4 | 3, then (at 3) 3 | and (at 4) 2: ends at 6
    assert elapsed([job(1, 4), job(2, 3), job(3, 3), job(4, 2)], 2) == 6


@st.composite
def graphs(draw: st.DrawFn) -> list[Job]:
    jobs: list[Job] = []
    for n in range(draw(st.integers(0, 12))):
        before = draw(st.lists(st.sampled_from(jobs), max_size=3, unique_by=lambda j: j.id)) if jobs else []
        jobs.append(job(n, draw(st.integers(0, 50)), *before))
    return jobs


@hypothesis.settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 5))
def test_between_what_no_schedule_can_beat_and_what_none_exceeds(jobs: list[Job], workers: int) -> None:
    """Graham 1966: a list schedule takes at most work / m + (1 - 1/m) times the longest chain."""
    work = sum(j.seconds for j in jobs)
    chain = max(longest_after(jobs).values(), default=0)
    found = elapsed(jobs, workers)
    assert found >= max(chain, work / workers) - 1e-9
    assert found <= work / workers + (1 - 1 / workers) * chain + 1e-9
    assert elapsed(jobs, 1) == pytest.approx(work)
    assert elapsed(jobs, len(jobs) + 1) == pytest.approx(chain)
