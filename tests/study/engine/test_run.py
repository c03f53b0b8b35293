"""The runner, with stages that only write a file: order, reuse, failures, foreign folders, status."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import read_json, write_json
from understudy.study.config.schema import Study
from understudy.study.engine.display import RunLog
from understudy.study.engine.jobs import (
    Context,
    Job,
    StageFunction,
    job_folder,
    locked,
    pages_version,
    saved_jobs,
    study_status,
)
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.engine.run import claimed, run_study
from understudy.study.registry import STAGES


def study(**changes: Any) -> Study:
    base = {"name": "small", "phantom": {"patients": 3}, "slices": {"resolution": 32}, "generators": {"g": {}}}
    return Study.model_validate({**base, **changes})


class Stages:
    """Fake stages that record what ran; those in `broken` raise."""

    def __init__(self, **broken: Exception) -> None:
        self.ran: list[str] = []
        self.broken = broken

    def _run(self, stage: str, context: Context) -> dict[str, Any]:
        self.ran.append(stage)
        cell = context.spec.get("cell", {}).get("training", "")
        error = self.broken.get(f"{stage}_{cell}") or self.broken.get(stage)
        if error:
            raise error
        (context.folder / "report.html").write_text("page")
        return {"answer": "yes"}

    @property
    def table(self) -> dict[str, StageFunction]:
        return {
            stage: (lambda context, stage=stage: self._run(stage, context))  # type: ignore[misc]
            for stage in STAGES
        }


def run(plan: Plan, out: Path, stages: Stages, **options: Any) -> Any:
    return run_study(plan, out, progress=False, **options, stages=stages.table)


def test_all_jobs_run_once_in_order_and_the_report_is_published(tmp_path: Path) -> None:
    stages, plan, out = Stages(), make_plan(study()), tmp_path / "out"
    result = run(plan, out, stages)
    assert result.complete
    assert stages.ran == [job.stage for job in plan.jobs]
    assert (result.answer, result.page.read_text()) == ("yes", "page")
    again = run(plan, out, stages)
    assert again.complete
    assert len(stages.ran) == len(plan.jobs)
    assert len(again.reused) == len(plan.jobs)
    assert set(study_status(out)["state"]) == {"done"}
    assert [job.id for job in saved_jobs(out)] == [job.id for job in plan.jobs]


def test_a_failed_job_blocks_what_needs_it_and_nothing_else(tmp_path: Path) -> None:
    plan = make_plan(study())
    result = run(plan, tmp_path / "out", Stages(segmenter_synthetic=UnderstudyError("no memory", fix="buy some")))
    assert [job.name for job, _ in result.failed] == ["segmenter synthetic-g.unet.aug, repeat 1"]
    assert [job.name for job in result.blocked] == ["evaluate synthetic-g.unet.aug, repeat 1", "report"]
    assert not result.complete
    table = study_status(tmp_path / "out").set_index("name")
    assert table.loc["evaluate both-g.unet.aug, repeat 1", "state"] == "done"
    assert table.loc["segmenter synthetic-g.unet.aug, repeat 1", ["state", "detail"]].tolist() == [
        "failed",
        "no memory",
    ]
    stages = Stages()
    assert run(plan, tmp_path / "out", stages).complete
    assert stages.ran == ["segmenter", "evaluate", "report"]


def test_a_bug_in_one_job_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(make_plan(study()), tmp_path / "out", Stages(generator=ZeroDivisionError("oh")))
    ((job, message),) = result.failed
    log = job_folder(tmp_path / "out", job) / "error.log"
    assert message.splitlines()[:2] == ["unexpected ZeroDivisionError: oh", f"  where: {log}"]
    assert "ZeroDivisionError: oh" in log.read_text()
    assert "Traceback" in log.read_text()
    assert "evaluate real.unet.aug, repeat 1" in {job.name for job in result.done}
    assert "Traceback" not in capsys.readouterr().err
    assert run(make_plan(study()), tmp_path / "out", Stages()).complete
    assert not log.exists()


def test_an_interruption_ends_the_run_and_the_next_one_continues(tmp_path: Path) -> None:
    plan = make_plan(study())
    with pytest.raises(Interrupted):
        run(plan, tmp_path / "out", Stages(sample=Interrupted("stopped")))
    assert study_status(tmp_path / "out").set_index("stage").loc["sample", "state"] == "stopped"
    stages = Stages()
    assert run(plan, tmp_path / "out", stages).complete
    assert stages.ran == [job.stage for job in plan.jobs[3:]]


def test_a_changed_study_keeps_what_it_does_not_touch(tmp_path: Path) -> None:
    run(make_plan(study()), tmp_path / "out", Stages())
    stages = Stages()
    assert run(make_plan(study(repeats=2)), tmp_path / "out", stages).complete
    assert stages.ran == ["segmenter", "evaluate"] * 3 + ["report"]
    assert read_json(tmp_path / "out" / "study.json")["study"]["repeats"] == 2


def test_a_finished_study_gets_its_new_page_when_pages_are_made_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(make_plan(study()), tmp_path / "out", Stages()).complete
    before = make_plan(study())
    monkeypatch.setattr("understudy.study.engine.jobs.pages_version", lambda: 5)
    after, stages = make_plan(study()), Stages()
    changed = [a.stage for a, b in zip(after.jobs, before.jobs, strict=True) if a.id != b.id]
    assert changed == ["report"]
    assert run(after, tmp_path / "out", stages).complete
    assert stages.ran == ["report"]


def test_the_version_of_pages_follows_from_every_file_that_they_are_made_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["report/page.py", "report/templates/page.html.j2", "metrics/scores.py", "study/stages/report.py"]
    others = ["report/__pycache__/page.pyc", "study/run.py"]
    monkeypatch.setattr("understudy.__file__", str(tmp_path / "__init__.py"))
    for name in (*files, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    found = [pages_version.__wrapped__()]
    for name in (*files, *others):
        (tmp_path / name).write_text("2")
        found.append(pages_version.__wrapped__())
    assert len(set(found)) == 1 + len(files)
    assert found[-1] == found[len(files)]


def test_a_run_of_the_first_stages_only(tmp_path: Path) -> None:
    stages, plan = Stages(), make_plan(study())
    result = run(plan, tmp_path / "out", stages, until="generator")
    assert stages.ran == ["phantom", "prepare", "generator"]
    assert result.page is None
    assert len(study_status(tmp_path / "out")) == len(plan.jobs)


def test_the_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    run(make_plan(study()), tmp_path / "out", Stages())
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    stages = Stages()
    with pytest.raises(UnderstudyError, match=r"'small'.*'other'"):
        run(make_plan(study(name="other")), tmp_path / "out", stages)
    assert stages.ran == []
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before


def test_folders_with_other_things_are_refused(tmp_path: Path) -> None:
    plan = make_plan(study())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("x")
    with pytest.raises(UnderstudyError, match="not empty"):
        run(plan, tmp_path / "photos", Stages())
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.png"]
    with pytest.raises(UnderstudyError, match="a file"):
        run(plan, tmp_path / "photos" / "cat.png", Stages())
    (tmp_path / "odd").mkdir()
    write_json(tmp_path / "odd" / "study.json", {"format": "something else"})
    with pytest.raises(UnderstudyError, match="another version of Understudy"):
        run(plan, tmp_path / "odd", Stages())


def test_two_runs_of_one_study_do_not_mix_but_single_jobs_may_join(tmp_path: Path) -> None:
    plan, out = make_plan(study()), tmp_path / "out"
    run(plan, out, Stages(), until="prepare")
    with claimed(out, plan):
        with pytest.raises(UnderstudyError, match="another process"), claimed(out, plan):
            pass
        with claimed(out, plan, exclusive=False) as folder:
            assert folder == out
    with locked(job_folder(out, plan.jobs[2])):
        result = run(plan, out, Stages(), until="generator")
    assert "another process" in result.failed[0][1]


def test_of_two_runs_that_begin_together_one_is_told_of_the_other(tmp_path: Path) -> None:
    plan = make_plan(study())
    for turn in range(12):
        both, lost, told = threading.Barrier(2), threading.Event(), list[str]()

        def begin(out: Path, both: threading.Barrier, lost: threading.Event, told: list[str]) -> None:
            both.wait()
            try:
                with claimed(out, plan):
                    lost.wait(30)
            except UnderstudyError as error:
                told.append(error.what)
                lost.set()

        arguments = (tmp_path / str(turn), both, lost, told)
        threads = [threading.Thread(target=begin, args=arguments) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ["another process" in what for what in told] == [True]


def test_no_study_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="no study"):
        study_status(tmp_path)


def test_status_shows_a_trainings_last_figures(tmp_path: Path) -> None:
    plan, out = make_plan(study()), tmp_path / "out"
    run(plan, out, Stages(), until="prepare")
    model = job_folder(out, plan.jobs[2]) / "model"
    model.mkdir(parents=True)
    (model / "history.jsonl").write_text('{"kimg": 1.0, "loss_d": 0.5}\n{"kimg": 2.0, "loss_d": 0.25}\n{"kimg": 3.')
    (job_folder(out, plan.jobs[2]) / "heartbeat.json").write_text('{"seconds": 12.5, "restarts": 1}')
    row = study_status(out).set_index("stage").loc["generator"]
    assert (row["state"], row["seconds"], row["detail"]) == ("stopped", 12.5, "kimg 2, loss_d 0.25")
    told = {"what": "training", "done": 450, "total": 1000, "unit": "images", "rate": 109.2, "figures": "loss_d 0.2"}
    write_json(job_folder(out, plan.jobs[2]) / "heartbeat.json", {"seconds": 1, "progress": told})
    with locked(job_folder(out, plan.jobs[2])):
        row = study_status(out).set_index("stage").loc["generator"]
    assert (row["state"], row["detail"]) == ("running", "training 45 %, 109 images/s, loss_d 0.2")


def test_a_stopped_training_says_how_far_it_was(tmp_path: Path) -> None:
    plan, out = make_plan(study()), tmp_path / "out"
    run(plan, out, Stages(), until="prepare")
    told = {"what": "training", "done": 17, "total": 100, "unit": "images", "rate": 1.0, "figures": ""}
    write_json(job_folder(out, plan.jobs[2]) / "heartbeat.json", {"seconds": 9, "progress": told})
    table = study_status(out).set_index("stage")
    assert (table.loc["generator", "state"], table.loc["generator", "detail"]) == ("stopped", "at 17 %")
    assert table.loc["sample", "state"] == "waiting"


def test_what_is_left_is_told_for_as_many_workers_as_there_are(tmp_path: Path) -> None:
    jobs = tuple(Job("segmenter", f"job {n}", {"n": n}, seconds=100) for n in range(4))
    said = []
    for workers in (1, 2):
        text = io.StringIO()
        RunLog(Plan(study(), jobs), tmp_path, True, Console(file=text)).announce(1, jobs[0], workers)
        said.append(text.getvalue())
    assert "whole study 6 min 40 s" in said[0]
    assert "whole study 3 min 20 s" in said[1]


def test_a_record_of_a_failure_that_is_none_stops_nothing(tmp_path: Path) -> None:
    plan, out = make_plan(study()), tmp_path / "out"
    contents = ["5", "[]", "null", '{"attempts": "many", "class": [], "message": 3}', "{", "\x00"]
    for job, content in zip(plan.jobs, contents, strict=False):
        job_folder(out, job).mkdir(parents=True)
        (job_folder(out, job) / "failed.json").write_text(content)
    write_json(out / "study.json", {"format": "understudy-study-1", "name": "small"})
    assert run(plan, out, Stages()).complete


def test_a_job_whose_folder_is_a_file_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    plan, out = make_plan(study()), tmp_path / "out"
    broken = next(job for job in plan.jobs if job.stage == "generator")
    job_folder(out, broken).parent.mkdir(parents=True)
    job_folder(out, broken).write_text("a file")
    write_json(out / "study.json", {"format": "understudy-study-1", "name": "small"})
    stages = Stages()
    result = run(plan, out, stages)
    assert [job.id for job, _ in result.failed] == [broken.id]
    assert "a file stands where a folder is needed" in result.failed[0][1]
    assert job_folder(out, broken).read_text() == "a file"
    assert "segmenter" in stages.ran  # of the setting that needs no generator
    assert "waiting" in set(study_status(out)["state"])


def test_a_finished_study_is_looked_at_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried on a disk that is mounted read-only as well; here whatever asks for a lock fails."""
    plan, out, stages = make_plan(study()), tmp_path / "out", Stages()
    run(plan, out, stages)
    monkeypatch.setattr("understudy.study.engine.run.os.access", lambda *_: False)
    for module in ("run", "execute", "jobs"):
        monkeypatch.setattr(f"understudy.study.engine.{module}.locked", no_lock)
    again = run(plan, out, stages)
    assert (again.complete, again.page, again.answer) == (True, out / "report.html", "yes")
    assert len(again.reused) == len(plan.jobs) == len(stages.ran)
    assert set(study_status(out, verify=True)["state"]) == {"done"}
    with pytest.raises(UnderstudyError, match="read-only"):  # where something is to be done
        run(make_plan(study(repeats=2)), out, stages)


def no_lock(folder: Path) -> Any:
    raise UnderstudyError("the file system is read-only", where=folder)


def test_what_killed_processes_left_is_swept_by_the_next_run(tmp_path: Path) -> None:
    plan, out = make_plan(study()), tmp_path / "out"
    run(plan, out, Stages(), until="prepare")
    inside = job_folder(out, next(job for job in plan.jobs if job.stage == "generator")) / "model"
    busy = job_folder(out, plan.jobs[0])  # done: nobody works in it
    inside.mkdir(parents=True)
    left = [
        out / ".report.html.77.tmp",
        out / "figures" / ".a.svg.77.tmp",
        inside / ".checkpoint-000000000001.pt.77.tmp",
    ]
    kept = [busy / ".other.tmp", inside / "checkpoint-000000000001.pt", out / ".mine.tmp"]
    for path in left + kept:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    (out / "jobs" / ".generator-0123.77.tmp").mkdir()
    run(plan, out, Stages())
    assert not any(path.exists() for path in [*left, out / "jobs" / ".generator-0123.77.tmp"])
    assert all(path.exists() for path in kept)
