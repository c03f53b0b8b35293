"""A damaged artefact stops a run, is named by `status`, and is done again with what depends on it on demand."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from understudy.io.files import read_json
from understudy.io.seals import Damaged
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Context, Job, StageFunction, job_folder, saved_jobs, study_status
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.engine.publish import damaged_copies, read_published
from understudy.study.engine.run import claimed, run_study
from understudy.study.registry import STAGES
from understudy.study.stages.report import report_again

RAN: list[str] = []


def stage(context: Context) -> dict[str, Any]:
    RAN.append(context.folder.name)
    (context.folder / "result").write_text(context.folder.name)
    (context.folder / "report.json").write_text('{"settings": []}')
    (context.folder / "report.html").write_text("page")
    return {"answer": "yes"}


TABLE: dict[str, StageFunction] = dict.fromkeys(STAGES, stage)


def run(plan: Plan, out: Path, **options: Any) -> Any:
    RAN.clear()
    return run_study(plan, out, progress=False, stages=TABLE, **options)


def named(plan: Plan, stage: str) -> list[Job]:
    return [job for job in plan.jobs if job.stage == stage]


@pytest.fixture
def done(tmp_path: Path) -> tuple[Plan, Path]:
    """A finished study of stages that only write files."""
    base = {"name": "small", "phantom": {"patients": 3}, "slices": {"resolution": 32}, "generators": {"g": {}}}
    plan = make_plan(Study.model_validate(base))
    assert run(plan, tmp_path / "out").complete
    return plan, tmp_path / "out"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("content", [None, b"", b"{", b"5", b"{}"])
def test_a_lost_or_damaged_stamp_is_written_anew(done: tuple[Plan, Path], content: bytes | None) -> None:
    plan, out = done
    before = (out / "study.json").read_bytes()
    (out / "study.json").unlink()
    if content is not None:
        (out / "study.json").write_bytes(content)
    assert run(plan, out).complete
    assert RAN == []
    assert (out / "study.json").read_bytes() == before


def test_a_file_that_is_gone_stops_the_run_before_anything_is_done(done: tuple[Plan, Path]) -> None:
    plan, out = done
    (job_folder(out, named(plan, "generator")[0]) / "result").unlink()
    with pytest.raises(Damaged, match=r"generator g.* result is missing"):
        run(plan, out)
    assert RAN == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_changed_input_stops_the_run_where_it_is_read(done: tuple[Plan, Path], workers: int) -> None:
    plan, out = done
    (sample,) = named(plan, "sample")
    flip(job_folder(out, sample) / "result")
    for job in named(plan, "segmenter"):
        (job_folder(out, job) / "done.json").unlink()
    result = run(plan, out, workers=workers)
    assert not result.complete
    assert any("sample g" in message and "was changed" in message for _, message in result.failed)
    assert "damaged" in set(study_status(out)["failure"])


def test_repair_redoes_what_is_damaged_and_what_depends_on_it(
    done: tuple[Plan, Path], caplog: pytest.LogCaptureFixture
) -> None:
    plan, out = done
    (generator,) = named(plan, "generator")
    flip(job_folder(out, generator) / "result")
    with caplog.at_level(logging.WARNING):
        assert run(plan, out, again=True).complete
    after, needed = {generator.id}, {job_folder(out, generator).name}
    for job in plan.jobs:
        if any(before in after for _, before in job.inputs):
            after.add(job.id)
            needed.add(job_folder(out, job).name)
    assert sorted(RAN) == sorted(needed)
    assert 1 < len(needed) < len(plan.jobs)
    assert all(name in caplog.text for name in needed)
    assert set(study_status(out, verify=True)["state"]) == {"done"}
    assert not list((out / "jobs").glob(".*"))
    run(plan, out, again=True)
    assert RAN == []


def test_status_names_the_damaged_jobs(done: tuple[Plan, Path]) -> None:
    plan, out = done
    (prepare,), (audit,) = named(plan, "prepare"), named(plan, "audit")
    flip(job_folder(out, prepare) / "result")
    (job_folder(out, audit) / "done.json").write_text("{")
    table = study_status(out, verify=True).set_index("stage")
    assert table.loc["prepare", "state"] == "damaged"
    assert "result was changed" in table.loc["prepare", "detail"]
    assert table.loc["audit", "state"] == "damaged"
    assert (table["state"] == "damaged").sum() == 2


def test_what_is_published_is_checked_before_it_replaces_the_good_copy(done: tuple[Plan, Path]) -> None:
    plan, out = done
    assert read_published(out) == {"settings": []}
    flip(job_folder(out, named(plan, "report")[0]) / "report.html")
    with pytest.raises(Damaged, match=r"report\.html"):
        run(plan, out)
    assert (out / "report.html").read_text() == "page"
    assert damaged_copies(plan.jobs, out) == []
    flip(out / "report.json")
    assert damaged_copies(plan.jobs, out) == ["report.json was changed"]
    with pytest.raises(Damaged):
        read_published(out)


@pytest.mark.parametrize("content", ["{}", "[", "5"])
def test_a_damaged_list_of_what_is_published_is_named(done: tuple[Plan, Path], content: str) -> None:
    plan, out = done
    (out / "published.json").write_text(content)
    assert damaged_copies(plan.jobs, out)[0].startswith("published.json: ")
    assert run(plan, out).complete
    assert damaged_copies(plan.jobs, out) == []


def test_a_page_without_the_list_of_what_is_published_is_damaged(done: tuple[Plan, Path]) -> None:
    plan, out = done
    (out / "published.json").unlink()
    flip(out / "report.html")
    assert damaged_copies(plan.jobs, out) == ["published.json: the list of what was published is missing"]
    with pytest.raises(Damaged, match="list of what was published"):
        read_published(out)
    assert run(plan, out).complete
    assert (out / "report.html").read_text() == "page"
    assert damaged_copies(plan.jobs, out) == []


def test_the_plan_of_another_study_is_noticed(done: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, out = done
    other = plan.study.model_copy(update={"seed": 99})
    with claimed(tmp_path / "other", make_plan(other)):
        pass
    shutil.copy(tmp_path / "other" / "plan.json", out / "plan.json")
    with pytest.raises(Damaged, match="another study"):
        study_status(out)
    assert run(plan, out).complete
    assert set(study_status(out)["state"]) == {"done"}


def test_a_finished_job_that_lost_its_done_json_is_damaged_and_no_report_leaves_it_out(done: tuple[Plan, Path]) -> None:
    plan, out = done
    lost = named(plan, "audit")[0]
    (job_folder(out, lost) / "done.json").unlink()
    table = study_status(out).set_index("id")
    assert tuple(table.loc[lost.id, ["state", "detail"]]) == ("damaged", "done.json is missing")
    with pytest.raises(Damaged, match=r"done\.json is missing"):
        report_again(out)
    assert run(plan, out).complete
    assert set(study_status(out)["state"]) == {"done"}


def test_a_folder_that_lost_study_and_plan_goes_on(done: tuple[Plan, Path]) -> None:
    plan, out = done
    for name in ("study.json", "plan.json"):
        (out / name).unlink()
    result = run(plan, out)
    assert (len(result.reused), result.complete) == (len(plan.jobs), True)
    assert read_json(out / "study.json")["hash"] == plan.study.hash


def test_a_changed_plan_is_noticed_and_written_anew_by_the_next_run(done: tuple[Plan, Path]) -> None:
    plan, out = done
    text = (out / "plan.json").read_text()
    (out / "plan.json").write_text(text.replace("generator g", "generator h"))
    with pytest.raises(Damaged, match="run the study again"):
        saved_jobs(out)
    assert run(plan, out).complete
    assert [job.name for job in saved_jobs(out)] == [job.name for job in plan.jobs]
