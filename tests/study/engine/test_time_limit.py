"""A job's time limit: it saves its state and says that it is to be continued, which is no failure."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from understudy import cli
from understudy.errors import Interrupted
from understudy.runtime.checkpoints import StopRequest, time_limit
from understudy.study.engine.execute import run_job
from understudy.study.engine.jobs import Context, Job, job_folder, state_of


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


STAGES = {"train": train, "wait": wait}


@pytest.mark.parametrize("stage", ["train", "wait"])
def test_the_time_is_over(tmp_path: Path, stage: str) -> None:
    job = Job(stage, "a", {})
    before = signal.getsignal(signal.SIGUSR1)
    with (
        pytest.raises(Interrupted, match=r"met its limit of 0\.001 minutes, to be continued: (saved|stopped)"),
        time_limit(0.001),
    ):
        run_job(job, {job.id: job}, tmp_path, STAGES)
    assert state_of(job_folder(tmp_path, job)) == "waiting"
    assert signal.getsignal(signal.SIGUSR1) == before


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    job = Job("train", "a", {})
    for saved in ("1", "2"):
        with pytest.raises(Interrupted), time_limit(0.02):  # time enough to begin, on a busy machine too
            run_job(job, {job.id: job}, tmp_path, STAGES)
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
