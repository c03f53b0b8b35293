"""What the queue starts for one job: done, failed, out of time, told to stop, killed, and never left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from understudy.io.files import read_json, write_json
from understudy.study.engine import slurm
from understudy.study.engine.cluster_step import Step, failed_for_good, memory_for
from understudy.study.engine.failures import record_failure
from understudy.study.engine.jobs import Job

JOB = Job("count", "a job", {})
# A job that needs `turns` runs: each but the last leaves with `status`, a negative one by that signal.
FAKE = """
import json, os, sys, time
from pathlib import Path
folder, turns, status = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with open(folder / "calls", "a") as handle:
    handle.write(os.environ["OMP_NUM_THREADS"] + " ")
if len((folder / "calls").read_text().split()) >= turns:
    (folder / "done.json").write_text(json.dumps({"id": folder.name[-12:], "results": {}}))
elif status < 0:
    os.kill(os.getpid(), -status)
else:
    sys.exit(status)
"""
WAITS = """
import signal, sys, time
def leave(*_):
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
open(sys.argv[1] + "/waits", "w").close()
time.sleep(60)
"""


def step(out: Path, turns: int = 1, status: int = 75, attempt: int = 1, **changed: Any) -> Step:
    """A step whose command is the fake."""
    asked = {"threads": 3, "gpus": 0, "stop_minutes": 0.5}
    plan = {"jobs": {JOB.folder_name: {"stage": "count"}}, "stages": {"count": asked}, "container": [], "gpus": [],
            "device": "cpu", "requeues": 2, **changed}  # fmt: skip
    made = Step(out, JOB.folder_name, plan, attempt)
    made.folder.mkdir(parents=True, exist_ok=True)
    write_json(out / "plan.json", {"jobs": [JOB.as_dict()]})
    made.command = lambda: [sys.executable, "-c", FAKE, str(made.folder), str(turns), str(status)]  # type: ignore[method-assign]
    return made


def calls(out: Path) -> int:
    return len((out / "jobs" / JOB.folder_name / "calls").read_text().split())


@pytest.fixture(autouse=True)
def _no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_a_job_that_is_done_and_one_that_was_done_before(tmp_path: Path) -> None:
    assert step(tmp_path).run() == 0
    assert step(tmp_path).run() == 0
    assert (tmp_path / "jobs" / JOB.folder_name / "calls").read_text() == "3 "  # threads; once


def test_out_of_time_is_no_failure_and_goes_on(tmp_path: Path) -> None:
    assert step(tmp_path, turns=3).run() == 0
    assert calls(tmp_path) == 3
    assert not (tmp_path / "jobs" / JOB.folder_name / "failed.json").exists()


def test_out_of_time_too_often_is_a_failure_that_says_so(tmp_path: Path) -> None:
    made = step(tmp_path, turns=9)
    assert made.run() == 1
    assert calls(tmp_path) == 3  # once and two requeues
    failed = read_json(made.folder / "failed.json")
    assert failed["class"] == "time_limit"
    assert "0.5 minutes 3 times" in failed["message"]
    assert failed_for_good(made.folder)


def test_a_job_that_hangs_past_its_limit_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.study.engine.cluster_step.STUCK", 0.5)
    made = step(tmp_path)
    made.plan["stages"]["count"]["stop_minutes"] = 0.01
    deaf = "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\ntime.sleep(60)"
    made.command = lambda: [sys.executable, "-c", deaf]  # type: ignore[method-assign]
    assert made.run() == 1
    failed = read_json(made.folder / "failed.json")
    assert failed["class"] == "time_limit"
    assert "0.01 minutes" in failed["message"]
    assert failed_for_good(made.folder)


@pytest.mark.parametrize(("restarts", "allowed", "status"), [(0, True, 75), (1, False, 75), (2, True, 1)])
def test_in_the_queue_slurm_is_asked_to_queue_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: int, allowed: bool, status: int
) -> None:
    asked: list[str] = []
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(slurm, "restarts", lambda number: restarts)
    monkeypatch.setattr(slurm, "requeue", lambda number: asked.append(number) or allowed)
    made = step(tmp_path, turns=9)
    assert made.run() == status
    assert calls(tmp_path) == 1
    assert asked == (["12"] if restarts < 2 else [])
    assert (made.folder / "failed.json").exists() == (restarts >= 2)


@pytest.mark.parametrize(("status", "said"), [(-9, "SIGKILL"), (3, "status 3")])
def test_a_process_that_ends_without_a_word_is_recorded_and_tried_again(tmp_path: Path, status: int, said: str) -> None:
    made = step(tmp_path, turns=2, status=status)
    assert made.run() == 1
    failed = read_json(made.folder / "failed.json")
    assert f"({said})" in failed["message"]
    assert not failed_for_good(made.folder)
    assert step(tmp_path, turns=2, status=status, attempt=2).run() == 0


def test_what_failed_for_good_is_not_tried_again(tmp_path: Path) -> None:
    made = step(tmp_path, turns=2, status=1, attempt=2)
    record_failure(made.folder, JOB, ValueError("a bug"))
    assert made.run() == 1
    assert not (made.folder / "calls").exists()
    assert read_json(made.folder / "failed.json")["message"] == "a bug"


def test_a_job_short_of_memory_asks_for_more(tmp_path: Path) -> None:
    class Wildcards:
        job = JOB.folder_name

    ask, folder = memory_for(tmp_path, 1000), step(tmp_path).folder
    assert [ask(Wildcards, attempt) for attempt in (1, 2)] == [1000, 1000]
    record_failure(folder, JOB, MemoryError())
    assert [ask(Wildcards, attempt) for attempt in (1, 2, 3)] == [1000, 1500, 2250]
    assert not failed_for_good(folder)


def test_the_command(tmp_path: Path) -> None:
    made = step(tmp_path, container=["apptainer", "exec", "image.sif"])
    del made.command  # the fake
    made.asked["gpus"] = 4
    made.plan["stages"]["count"]["gpus"] = 4
    assert made.command() == [
        "apptainer", "exec", "image.sif", "understudy", "job", JOB.folder_name, "--out", str(tmp_path),
        "--device", "cpu", "--minutes", "0.5", "--devices", "4",
    ]  # fmt: skip


def outer(out: Path) -> subprocess.Popen[bytes]:
    """A step in a process of its own, whose job waits; gives it once the job has begun."""
    made = step(out)
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_cluster_step as test
made = test.step(Path({str(out)!r}))
made.command = lambda: [sys.executable, "-c", test.WAITS, str(made.folder)]
sys.exit(made.run())
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    for _ in range(3000):
        if (made.folder / "waits").exists():
            return process
        time.sleep(0.02)
    raise AssertionError("it did not begin")


def test_told_to_stop_it_lets_the_job_save_its_state_and_does_not_go_on(tmp_path: Path) -> None:
    process = outer(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert not (tmp_path / "jobs" / JOB.folder_name / "failed.json").exists()


def test_it_leaves_when_what_started_it_is_gone(tmp_path: Path) -> None:
    between = os.fork()
    if between == 0:
        try:
            (tmp_path / "pid").write_text(str(outer(tmp_path).pid))
        finally:
            os._exit(0)  # never the rest of the tests
    os.waitpid(between, 0)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(3000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":  # nobody here buries it
            return
        time.sleep(0.02)
    raise AssertionError("it is still there")
