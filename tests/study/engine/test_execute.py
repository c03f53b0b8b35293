"""One job: done once, locked, continued, failed, interrupted, and stopped when its time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from understudy import cli
from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import read_json
from understudy.runtime.checkpoints import StopRequest, time_limit
from understudy.study.engine import failures
from understudy.study.engine.execute import Heartbeat, run_job
from understudy.study.engine.failures import failure_message
from understudy.study.engine.jobs import Context, Job, is_locked, job_folder, locked, read_done, state_of


def count_calls(context: Context) -> dict[str, Any]:
    """A stage that leaves a line for each call."""
    with open(context.folder / "calls", "a") as handle:
        handle.write("x")
    return {"calls": len((context.folder / "calls").read_text())}


def fail(context: Context) -> dict[str, Any]:
    raise UnderstudyError("no luck", where="here", fix="try later")


STAGES = {"count": count_calls, "fail": fail}


def test_the_id_depends_on_stage_spec_inputs_and_version_and_on_nothing_else() -> None:
    job = Job("count", "a", {"x": 1, "y": [1, 2]}, (("data", "abc"),))
    same = Job("count", "another name", {"y": [1, 2], "x": 1}, (("data", "abc"),), local={"path": "/x"}, seconds=9)
    assert job.id == same.id
    others = [
        Job("fail", "a", {"x": 1, "y": [1, 2]}, (("data", "abc"),)),
        Job("count", "a", {"x": 1, "y": [2, 1]}, (("data", "abc"),)),
        Job("count", "a", {"x": 1, "y": [1, 2]}, (("data", "abd"),)),
        Job("count", "a", {"x": 1, "y": [1, 2]}, (("data", "abc"),), version=2),
    ]
    assert len({job.id, *(other.id for other in others)}) == 5


def test_a_job_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    job = Job("count", "a", {"x": 1})
    first = run_job(job, {}, tmp_path, STAGES)
    assert run_job(job, {}, tmp_path, STAGES) == first
    assert first["results"] == {"calls": 1}
    assert first["id"] == job.id
    assert first["software"]["understudy"]
    assert read_json(job_folder(tmp_path, job) / "spec.json")["spec"] == {"x": 1}
    assert state_of(job_folder(tmp_path, job)) == "done"


def test_a_process_that_only_takes_part_needs_no_lock_and_leaves_no_record(tmp_path: Path) -> None:
    """As rank 1 of torchrun or srun: the first process holds the lock and writes the results."""
    job = Job("count", "a", {})
    folder = job_folder(tmp_path, job)
    with locked(folder):
        assert run_job(job, {}, tmp_path, STAGES, devices=2, rank=1) == {"calls": 1}
    assert sorted(path.name for path in folder.iterdir()) == ["calls", "lock"]


def test_done_names_the_inputs_and_a_job_waits_for_them(tmp_path: Path) -> None:
    first = Job("count", "first", {})
    second = Job("count", "second", {}, (("data", first.id),))
    by_id = {first.id: first, second.id: second}
    with pytest.raises(UnderstudyError, match=r"needs `first`"):
        run_job(second, by_id, tmp_path, STAGES)
    run_job(first, by_id, tmp_path, STAGES)
    done = run_job(second, by_id, tmp_path, STAGES)
    assert [(entry["role"], entry["id"]) for entry in done["inputs"]] == [("data", first.id)]


def test_a_failure_is_recorded_and_gone_after_success(tmp_path: Path) -> None:
    job = Job("fail", "unlucky", {})
    folder = job_folder(tmp_path, job)
    with pytest.raises(UnderstudyError, match="no luck"):
        run_job(job, {}, tmp_path, STAGES)
    assert state_of(folder) == "failed"
    assert "no luck" in read_json(folder / "failed.json")["message"]
    assert run_job(job, {}, tmp_path, {"fail": count_calls})["restarts"] == 1
    assert state_of(folder) == "done"
    assert not (folder / "failed.json").exists()


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    def broken(context: Context) -> dict[str, Any]:
        raise ZeroDivisionError("by zero")

    job = Job("broken", "broken", {})
    with pytest.raises(ZeroDivisionError):
        run_job(job, {}, tmp_path, {"broken": broken})
    failed = read_json(job_folder(tmp_path, job) / "failed.json")
    assert failed["type"] == "ZeroDivisionError"
    assert "in broken" in failed["traceback"]
    log = job_folder(tmp_path, job) / "error.log"
    assert "in broken" in log.read_text()
    assert failure_message(ZeroDivisionError("by zero"), log.parent).splitlines()[:2] == [
        "unexpected ZeroDivisionError: by zero", f"  where: {log}",
    ]  # fmt: skip
    assert "memory ran out" in failure_message(MemoryError(), log.parent)
    assert failure_message(FloatingPointError("the loss is not finite"), log.parent) == "the loss is not finite"


def test_time_and_memory_go_on_after_a_restart(tmp_path: Path) -> None:
    with Heartbeat(tmp_path) as heart:
        assert heart.account["restarts"] == 0
    account = read_json(tmp_path / "heartbeat.json")
    (tmp_path / "heartbeat.json").write_text(
        f'{{"seconds": 100.0, "peak_rss_mb": 1e9, "restarts": {account["restarts"]}}}'
    )
    with Heartbeat(tmp_path) as heart:
        assert 100 <= heart.account["seconds"] < 110
        assert heart.account["restarts"] == 1
        assert heart.account["peak_rss_mb"] == 1e9


def test_a_damaged_heartbeat_does_not_stop_a_job(tmp_path: Path) -> None:
    job = Job("count", "a", {})
    job_folder(tmp_path, job).mkdir(parents=True)
    (job_folder(tmp_path, job) / "heartbeat.json").write_text('{"seconds": 1')
    assert run_job(job, {}, tmp_path, STAGES)["results"] == {"calls": 1}


HOLDER = """
import sys, time
from pathlib import Path
from understudy.study.engine.jobs import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_run_one_job_and_a_dead_one_loses_its_lock(tmp_path: Path) -> None:
    job = Job("count", "a", {})
    folder = job_folder(tmp_path, job)
    folder.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(folder)
        assert state_of(folder) == "running"
        with pytest.raises(UnderstudyError, match=f"process {holder.pid}"):
            run_job(job, {}, tmp_path, STAGES)
        holder.kill()
        holder.wait()
    assert not is_locked(folder)
    assert run_job(job, {}, tmp_path, STAGES)["results"] == {"calls": 1}


def test_the_lock_is_given_up_at_the_end(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "absent")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_a_stage_and_leaves_no_failure(tmp_path: Path, number: signal.Signals) -> None:
    def signalled(context: Context) -> dict[str, Any]:
        os.kill(os.getpid(), number)
        time.sleep(5)
        raise AssertionError("the signal did not arrive")

    job = Job("signalled", "a", {})
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name):
        run_job(job, {}, tmp_path, {"signalled": signalled})
    assert signal.getsignal(number) is before
    assert state_of(job_folder(tmp_path, job)) == "stopped"
    assert read_done(job_folder(tmp_path, job)) is None


def test_peak_memory_is_that_of_the_job(tmp_path: Path) -> None:
    script = """
    import sys
    from pathlib import Path
    from understudy.study.engine.execute import Heartbeat, peak_rss_mb
    block = bytearray(300 << 20)
    high = peak_rss_mb()
    del block
    with Heartbeat(Path(sys.argv[1])) as heart:
        print(high, heart.account["peak_rss_mb"])
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    high, low = map(float, ran.stdout.split())
    assert high > 300
    if sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK):
        assert low < high - 200


def test_a_full_disk_does_not_hide_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_json(path: Path, value: Any) -> None:
        if path.name == "failed.json":
            raise UnderstudyError("the disk is full", where=path)
        original(path, value)

    original = failures.write_json
    monkeypatch.setattr(failures, "write_json", write_json)
    with pytest.raises(UnderstudyError, match="no luck"):
        run_job(Job("fail", "a", {}), {}, tmp_path, STAGES)


@pytest.mark.parametrize(
    "error", [RuntimeError("I/O error: No space left on device (os error 28)"), OSError(28, "No space left on device")]
)
def test_a_full_disk_is_recognised_in_a_librarys_own_words(tmp_path: Path, error: Exception) -> None:
    def full(context: Context) -> dict[str, Any]:
        raise error

    job = Job("full", "a", {})
    with pytest.raises(UnderstudyError, match="disk"):
        run_job(job, {}, tmp_path, {"full": full})
    assert "the disk is full" in read_json(job_folder(tmp_path, job) / "failed.json")["message"]


def train(context: Context) -> dict[str, Any]:
    """Counts to three, one step a run: it saves its count when it is asked to stop."""
    path = context.folder / "count"
    count = int(path.read_text()) if path.exists() else 0
    with StopRequest() as stop:
        while count < 3:
            count += 1
            for _ in range(2000):
                if stop.requested:
                    path.write_text(str(count))
                    raise Interrupted(f"saved at {count}")
                time.sleep(0.005)
    return {"count": count}


def wait(context: Context) -> dict[str, Any]:
    """A stage that saves nothing."""
    time.sleep(60)
    return {}


SLOW = {"train": train, "wait": wait}


@pytest.mark.parametrize("stage", ["train", "wait"])
def test_the_time_is_over(tmp_path: Path, stage: str) -> None:
    job = Job(stage, "a", {})
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Interrupted, match=r"0\.001 minutes.*(saved|stopped)"), time_limit(0.001):
        run_job(job, {job.id: job}, tmp_path, SLOW)
    assert state_of(job_folder(tmp_path, job)) == "stopped"
    assert signal.getsignal(signal.SIGUSR1) == before


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    job = Job("train", "a", {})
    for saved in ("1", "2"):
        with pytest.raises(Interrupted), time_limit(0.02):  # time enough to begin, on a busy machine too
            run_job(job, {job.id: job}, tmp_path, SLOW)
        assert (job_folder(tmp_path, job) / "count").read_text() == saved


def test_within_its_time_nothing_happens() -> None:
    with time_limit(10), time_limit(None):
        pass
    with pytest.raises(ValueError, match="as it is"), time_limit(10):
        raise ValueError("as it is")


def test_another_signal_is_not_called_the_limit() -> None:
    with pytest.raises(Interrupted) as caught, time_limit(10):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(10)
    assert "limit" not in str(caught.value)


def test_a_signal_that_comes_twice_at_once_is_one_request() -> None:
    """SLURM signals every process of a job, and one that started another passes it on."""
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_bad_values_are_refused(tmp_path: Path) -> None:
    for words, said in (
        (["abc", "--minutes", "0", "--out", str(tmp_path)], "--minutes is 0"),
        (["abc"], "neither a study nor a folder"),
    ):
        result = CliRunner().invoke(cli.app, ["job", *words])
        assert said in str(result.exception)
