"""Several workers: order, the same results, a killed worker, a full disk, a diverged training, leases."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from understudy.io.files import read_json
from understudy.runtime.devices import described
from understudy.runtime.memory import current, in_parts
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Context, Job, job_folder
from understudy.study.engine.machine import leased
from understudy.study.engine.plan import Plan
from understudy.study.engine.run import run_study


def work(context: Context) -> dict[str, Any]:
    """Fails, or kills its process, in the way that the spec says; else counts from its inputs."""
    how, mark = context.spec.get("how"), context.folder / "mark"
    if how == "die" or (how == "die once" and not mark.exists()):
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory once" and not mark.exists():
        mark.write_text("")
        raise MemoryError
    if how == "memory for a quarter":
        in_parts(_holds_a_quarter, 8, "work")
        if current().halvings < 2:
            raise MemoryError
    if how == "slow once" and not mark.exists():
        mark.write_text("")
        time.sleep(60)  # which a signal ends
    if how == "slow":
        time.sleep(60)
    if how in ("hang", "hang with a child"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if how == "hang with a child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            with open(context.folder / "children", "a", encoding="utf-8") as listed:
                listed.write(f"{child.pid}\n")
        time.sleep(60)
    if how == "threads":
        import_module("torch")
    if how == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if how == "nan":
        raise FloatingPointError("the loss is nan")
    before = [read_json(f / "done.json")["results"]["n"] for fs in context.inputs.values() for f in fs]
    return {"n": 1 + sum(before)}


def _holds_a_quarter(rows: slice) -> int:
    if rows.stop - rows.start > 2:
        raise MemoryError
    return rows.start


STAGES = {"segmenter": work, "evaluate": work}


def plan_of(*hows: str) -> Plan:
    """A pair of jobs for each way, the second needing the first."""
    study = Study.model_validate({"name": "w", "phantom": {"patients": 3}, "trainings": ["real"]})
    jobs: list[Job] = []
    for n, how in enumerate(hows):
        first = Job("segmenter", f"first {n}", {"n": n, "how": how})
        jobs += [first, Job("evaluate", f"second {n}", {"n": n}, (("segmenter", first.id),))]
    return Plan(study, tuple(jobs))


def test_killed_and_memory_are_tried_again_and_the_rest_goes_on(tmp_path: Path) -> None:
    plan = plan_of("", "die once", "memory once", "nan")
    result = run_study(plan, tmp_path, "cpu", False, "report", 1, 2, stages=STAGES)
    assert [job.name for job, _ in result.failed] == ["first 3"]
    assert [job.name for job in result.blocked] == ["second 3"]
    alone = run_study(plan_of("", "", ""), tmp_path.with_name("alone"), "cpu", False, stages=STAGES)
    assert alone.complete
    for job in result.done:
        done = read_json(job_folder(tmp_path, job) / "done.json")
        assert done["results"] == {"n": 1 if job.stage == "segmenter" else 2}
    failed = read_json(job_folder(tmp_path, plan.jobs[6]) / "failed.json")
    assert (failed["class"], failed["attempts"]) == ("nan", 1)
    again = run_study(plan, tmp_path, "cpu", False, stages=STAGES)  # the diverged one is not tried again
    assert [job.name for job, _ in again.failed] == ["first 3"]
    assert read_json(job_folder(tmp_path, plan.jobs[6]) / "failed.json")["attempts"] == 1


def test_each_try_after_a_lack_of_memory_takes_less_and_the_record_says_so(tmp_path: Path) -> None:
    plan = plan_of("memory for a quarter", "")
    assert run_study(plan, tmp_path, "cpu", False, stages=STAGES).complete
    folder = job_folder(tmp_path, plan.jobs[0])
    done = read_json(folder / "done.json")
    assert done["memory"] == {"work": "2 of 8 at once: the same up to rounding"}
    assert done["results"] == {"n": 1}
    assert not (folder / "memory.json").exists()
    assert "memory" not in read_json(job_folder(tmp_path, plan.jobs[2]) / "done.json")


def test_a_job_that_takes_too_long_continues_once_and_is_then_given_up(tmp_path: Path) -> None:
    plan = plan_of("slow once", "slow", "")
    result = run_study(plan, tmp_path, "cpu", False, minutes=0.005, stages=STAGES)
    assert [job.name for job, _ in result.failed] == ["first 1"]
    assert [job.name for job in result.blocked] == ["second 1"]
    failed = read_json(job_folder(tmp_path, plan.jobs[2]) / "failed.json")
    assert (failed["class"], failed["attempts"]) == ("time_limit", 2)
    assert "longer than the 0.005 minutes" in failed["message"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_hangs_is_killed_and_one_that_is_slow_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("understudy.study.engine.failures.STUCK", 2)
    plan = plan_of("hang", "slow once")
    result = run_study(plan, tmp_path, "cpu", False, "report", 1, workers, minutes=0.02, stages=STAGES)
    assert [job.name for job, _ in result.failed] == ["first 0"]
    assert [job.name for job in result.blocked] == ["second 0"]
    assert [job.name for job in result.done] == ["first 1", "second 1"]
    failed = read_json(job_folder(tmp_path, plan.jobs[0]) / "failed.json")
    assert (failed["class"], failed["attempts"]) == ("time_limit", 2)
    assert "longer than the 0.02 minutes" in failed["message"]


def test_what_a_hanging_job_has_started_is_killed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.study.engine.failures.STUCK", 2)
    plan = plan_of("hang with a child")
    assert run_study(plan, tmp_path, "cpu", False, minutes=0.02, stages=STAGES).failed
    children = (job_folder(tmp_path, plan.jobs[0]) / "children").read_text().split()
    assert len(children) == 2  # one of each try
    for child in children:  # a zombie is dead; who has adopted it may not have buried it yet
        state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout
        assert state.strip()[:1] in ("", "Z")


def test_one_worker_computes_with_as_many_threads_as_the_run_itself(tmp_path: Path) -> None:
    plan = plan_of("threads")
    for name, minutes in (("here", None), ("there", 5.0)):
        assert run_study(plan, tmp_path / name, "cpu", False, minutes=minutes, stages=STAGES).complete
    here, there = (read_json(job_folder(tmp_path / name, plan.jobs[0]) / "done.json") for name in ("here", "there"))
    assert here["torch_threads"] == there["torch_threads"]
    assert here["device"] == there["device"] == described("cpu")


def test_every_try_at_a_job_whose_process_is_killed_counts(tmp_path: Path) -> None:
    plan = plan_of("die", "")
    for tries in (2, 4):  # two in each run
        result = run_study(plan, tmp_path, "cpu", False, "report", 1, 2, stages=STAGES)
        assert [job.name for job, _ in result.failed] == ["first 0"]
        failed = read_json(job_folder(tmp_path, plan.jobs[0]) / "failed.json")
        assert (failed["type"], failed["attempts"]) == ("LostWorker", tries)


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    result = run_study(plan_of("disk", "", ""), tmp_path, "cpu", False, stages=STAGES)
    assert [job.name for job, _ in result.failed] == ["first 0"]
    assert not result.done
    assert len(result.blocked) == 5


def test_a_leased_gpu_is_not_leased_twice(tmp_path: Path) -> None:
    three_times = [["0", "1"]] * 3
    with contextlib.ExitStack() as stack:
        one, two, three = (stack.enter_context(leased(d, tmp_path)) for d in three_times)
        assert (one, two, three) == ("0", "1", None)
    with leased(["0"], tmp_path) as again:
        assert again == "0"
