"""A real study by two workers: the run or a worker killed, the same command ends with the results of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_study import results, tiny_study

from understudy.io.files import read_json
from understudy.study.engine.jobs import is_locked

STUDY = tiny_study("kill", kimg=0.6, tick=0.3, samples=160, seconds=0.2, generators=("one", "two"))


def start(folder: Path, out: str, workers: int) -> subprocess.Popen[str]:
    words = ["run", "study.yaml", "--workers", str(workers), "--until", "evaluate", "--out", out]
    return subprocess.Popen(
        [sys.executable, "-m", "understudy.cli", *words], cwd=folder, stderr=subprocess.PIPE, text=True
    )


def wait_for(happened: Callable[[], Any], seconds: float = 120) -> Any:
    """What `happened` gives once it is true; the wait is a safety net, nothing is measured by it."""
    for _ in range(int(seconds / 0.02)):
        if found := happened():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def in_training(out: Path, stage: str = "generator") -> list[Path]:
    """Jobs of a stage that have written a checkpoint and are not done."""
    found = {path.parents[1] for path in out.glob(f"jobs/{stage}-*/model/checkpoint-*.pt")}
    return sorted(job for job in found if not (job / "done.json").exists())


def holder_of(job: Path, since: float) -> int | None:
    """Process that holds a job's lock; None as long as it has not written its name over that of the one before it."""
    lock = job / "lock"
    if not is_locked(job) or lock.stat().st_mtime < since:
        return None
    words = lock.read_text().split()
    return int(words[1]) if words else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study and its run by one process in `whole`."""
    path = tmp_path_factory.mktemp("workers")
    (path / "study.yaml").write_text(STUDY)
    process = start(path, "whole", 1)
    assert process.communicate()[1] is not None
    assert process.returncode == 0
    return path


def test_the_run_is_stopped_and_killed_and_a_worker_is_killed(folder: Path) -> None:
    out = folder / "broken"
    process = start(folder, "broken", 2)
    wait_for(lambda: in_training(out))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert "continue" in errors
    assert not list(out.glob("jobs/*/failed.json"))
    assert not any(is_locked(job) for job in out.glob("jobs/*"))

    process = start(folder, "broken", 2)
    (job, *_) = wait_for(lambda: [j for j in in_training(out) if is_locked(j)])
    process.kill()
    process.communicate()
    wait_for(lambda: not any(is_locked(path) for path in out.glob("jobs/*")))  # the workers have left by themselves

    begun = time.time()
    process = start(folder, "broken", 2)
    job, holder = wait_for(lambda: [(j, pid) for j in in_training(out) if (pid := holder_of(j, begun))])[0]
    os.kill(holder, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "(SIGKILL)" in errors
    assert results(out) == results(folder / "whole")
    assert len(results(out)) == 10  # phantom, prepare, two each of generator, sample, segmenter and evaluate
    assert read_json(job / "done.json")["restarts"] >= 1
