"""A study through a real SLURM of one machine: cancelled, killed, out of time, and yet the results of an unbroken run.

Needs root, Debian's slurm-wlm and munge, the extra `cluster`, and some ten minutes; see docs/slurm.md:

    UNDERSTUDY_SLURM=1 pytest tests/cluster/test_slurm.py -s
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))
from tiny_study import results, tiny_study

from understudy.io.files import read_json
from understudy.study.config.schema import load_study
from understudy.study.engine.jobs import is_locked
from understudy.study.engine.plan import make_plan
from understudy.study.engine.run import run_study
from understudy.study.engine.slurm import Queued, name_of, queued

pytestmark = pytest.mark.skipif(os.environ.get("UNDERSTUDY_SLURM") != "1", reason="needs SLURM on this machine")
if os.environ.get("UNDERSTUDY_SLURM") == "1":
    import snakemake_executor_plugin_slurm  # noqa: F401  (else the test waits for jobs that nobody queues)

STARTED: list[subprocess.Popen[str]] = []
NODE = Path(__file__).with_name("slurm_node.sh")
STUDY = (
    tiny_study("queue", kimg=9, tick=0.5, samples=160, seconds=0.2)
    + """
cluster:
  {cpus: 1, gpus: 0, memory_mb: 1500, minutes: 30, reserve_seconds: 3600, status_seconds: 2, latency_seconds: 5,
   stages: {generator: {minutes: MINUTES}}}
"""
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the study and its unbroken run by one process in `whole`, beside a SLURM that runs."""
    path = tmp_path_factory.mktemp("slurm")
    (path / "study.yaml").write_text(STUDY.replace("MINUTES", "60"))
    study = load_study(path / "study.yaml")
    run_study(make_plan(study), path / "whole", "cpu", progress=False, until="evaluate")
    (trained,) = (path / "whole").glob("jobs/generator-*/done.json")
    seconds = read_json(trained)["seconds"]  # as busy as this machine is; half of the limit is reserved
    minutes = round(0.8 * seconds / 60, 2)
    (path / "study.yaml").write_text(STUDY.replace("MINUTES", str(minutes)))
    told(f"the generator takes {seconds:.0f} s; its limit in the queue is {minutes:g} min, it stops half way")
    subprocess.run([NODE, "start", path / "node"], check=True)
    yield path
    for process in STARTED:
        process.kill()
    subprocess.run(["scancel", "--me"], check=True)
    wait_for(lambda: not mine(path), 60)  # slurmd does not leave before its jobs
    subprocess.run([NODE, "stop", path / "node"], check=True)


def start(place: Path) -> subprocess.Popen[str]:
    words = ["run", "study.yaml", "--cluster", "slurm", "--until", "evaluate", "--out", "broken", "--device", "cpu"]
    command = [sys.executable, "-m", "understudy.cli", *words]
    STARTED.append(subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True))
    return STARTED[-1]


def wait_for(happened: Callable[[], Any], seconds: float = 900) -> Any:
    """What `happened` gives once it is true; the wait is a safety net, nothing is measured by it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := happened():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def in_training(place: Path, stage: str) -> Path | None:
    """The folder of a stage's job that has a checkpoint and works."""
    for path in (place / "broken").glob(f"jobs/{stage}-*"):
        if list(path.glob("model/checkpoint-*.pt")) and is_locked(path):
            return path
    return None


def mine(place: Path, stage: str = "") -> list[Queued]:
    return [job for job in queued(name_of("queue", place / "broken")) if job.folder.startswith(stage)]


def child_of(process: subprocess.Popen[str]) -> int:
    """The process of Snakemake."""
    (found,) = subprocess.run(
        ["pgrep", "--parent", str(process.pid), "-f", "snakemake_process"], capture_output=True, text=True, check=True
    ).stdout.split()
    return int(found)


def logs(place: Path) -> str:
    return "\n".join(path.read_text() for path in (place / "broken" / "cluster" / "logs").rglob("*.log"))


def told(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def test_cancelled_killed_out_of_time_and_yet_the_same_results(place: Path) -> None:
    process = start(place)
    wait_for(lambda: in_training(place, "generator"))
    (first,) = mine(place, "generator")
    subprocess.run(["scancel", first.number], check=True)
    told(f"job {first.number} (generator) was cancelled")
    (second,) = wait_for(lambda: [job for job in mine(place, "generator") if job.number != first.number])
    told(f"Snakemake has sent job {second.number} in its place")
    wait_for(lambda: in_training(place, "generator"))
    os.kill(child_of(process), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert "Snakemake was ended by SIGKILL; run the same command again to continue" in errors
    assert [job.number for job in mine(place, "generator")] == [second.number]
    told(f"Snakemake was killed, the run left with 75; job {second.number} goes on")

    process = start(place)
    third = wait_for(lambda: [job for job in mine(place, "generator") if job.number != second.number])[0]
    told(f"the same command again: job {third.number} waits for the end of {second.number}")
    wait_for(lambda: in_training(place, "segmenter"), 2400)
    (done,) = (place / "broken").glob("jobs/generator-*/done.json")
    requeued = {job.number: logs(place).count(f"queued again as job {job.number}") for job in (second, third)}
    told(f"times that a job met its limit and was queued again: {requeued}, {read_json(done)['restarts']} restarts")
    assert sum(requeued.values()) >= 1
    process.kill()  # the run itself: its Snakemake leaves with it, and takes its jobs out of the queue
    process.communicate()
    wait_for(lambda: not mine(place))
    told("the run was killed; its queue is empty")

    process = start(place)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    told("the same command again: it has finished")
    assert results(place / "broken") == results(place / "whole")
    assert len(results(place / "broken")) == 6
    assert not list((place / "broken").glob("jobs/*/failed.json"))
