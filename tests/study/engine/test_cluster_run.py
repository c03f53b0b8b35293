"""A study through Snakemake on this machine: order, failures, lost jobs, limits; killed in the middle and continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny_study import results, tiny_study

from understudy.errors import Interrupted
from understudy.io.files import read_json
from understudy.study.config.schema import load_study
from understudy.study.engine.cluster import run_on_cluster
from understudy.study.engine.jobs import Job, is_locked, job_folder
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.engine.run import run_study

STUDY = tiny_study("tiny", kimg=0.4, tick=0.1, samples=80, seconds=0.05)

# Stands where a container's program would: does what the job's spec says, without any of our code.
FAKE = """
import json, os, signal, sys
from pathlib import Path
image, program, command, name, _, out = sys.argv[1:7]
assert (image, program, command) == ("image.sif", "understudy", "job")
(job,) = (j for j in json.loads(Path(out, "plan.json").read_text())["jobs"] if name == j["stage"] + "-" + j["id"][:12])
folder = Path(out, "jobs", name)
folder.mkdir(parents=True, exist_ok=True)
for role, before in job["inputs"]:
    assert list(Path(out, "jobs").glob(f"*-{before[:12]}/done.json")), "its input is not done"
with open(folder / "calls", "a") as handle:
    handle.write("x")
turn, does = len((folder / "calls").read_text()), job["spec"]["does"]
if does == "limit" and turn < 3:
    sys.exit(75)
if does == "killed" and turn < 2:
    os.kill(os.getpid(), signal.SIGKILL)
if does == "fails" and not Path(out, "mended").exists():
    failed = {"class": "bad_data", "type": "UnderstudyError", "message": "no luck", "attempts": 1}
    (folder / "failed.json").write_text(json.dumps(failed))
    sys.exit(1)
(folder / "failed.json").unlink(missing_ok=True)
done = {"id": job["id"], "results": {"turn": turn}, "seconds": 1.0, "restarts": 0}
(folder / "done.json").write_text(json.dumps(done))
"""


def fake_plan(folder: Path) -> Plan:
    """first -> limit -> (killed -> evaluated, fails -> blocked)."""
    (folder / "fake.py").write_text(FAKE)
    cluster = {
        "container": "image.sif", "container_command": f"{sys.executable} {folder / 'fake.py'}", "requeues": 2,
    }  # fmt: skip
    (folder / "study.yaml").write_text(f"{STUDY}cluster: {json.dumps(cluster)}\n")
    first = Job("phantom", "first", {"does": "done"})
    limit = Job("prepare", "limit", {"does": "limit"}, (("phantom", first.id),))
    killed = Job("generator", "killed", {"does": "killed"}, (("prepare", limit.id),))
    fails = Job("generator", "fails", {"does": "fails"}, (("prepare", limit.id),))
    blocked = Job("sample", "blocked", {"does": "done"}, (("generator", fails.id),))
    evaluated = Job("evaluate", "evaluated", {"does": "done"}, (("generator", killed.id),))
    return Plan(load_study(folder / "study.yaml"), (first, limit, killed, fails, blocked, evaluated))


def test_what_fails_is_left_out_what_is_lost_or_late_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, out = fake_plan(tmp_path), tmp_path / "out"
    reported: list[Path] = []

    def report_again(folder: Path) -> tuple[Path, str]:
        reported.append(folder)
        return folder / "report.html", "of what is there"

    monkeypatch.setattr("understudy.study.engine.run.report_again", report_again)
    result = run_on_cluster(plan, out, "local", progress=False, at_once=2)
    assert [job.name for job in result.done] == ["first", "limit", "killed", "evaluated"]
    assert [(job.name, message) for job, message in result.failed] == [("fails", "no luck")]
    assert [job.name for job in result.blocked] == ["blocked"]
    assert (reported, result.answer) == ([out.absolute()], "of what is there")
    calls = {job.name: job_folder(out, job) / "calls" for job in plan.jobs}
    turns = {name: len(path.read_text()) for name, path in calls.items() if path.exists()}
    assert turns == {"first": 1, "limit": 3, "killed": 2, "fails": 1, "evaluated": 1}

    (out / "mended").touch()
    result = run_on_cluster(plan, out, "local", progress=False)
    assert result.complete
    assert [job.name for job in result.done] == ["fails", "blocked"]
    assert [entry["after"] for entry in read_json(out / "cluster" / "jobs.json")["jobs"].values()] == [
        [], [job_folder(out, result.done[0]).name],
    ]  # fmt: skip
    assert [job.name for job in result.reused] == ["first", "limit", "killed", "evaluated"]


def kill_snakemake(out: Path) -> None:
    """SIGKILL of this process's Snakemake once a generator is in the middle of its training."""
    for _ in range(10_000):
        for job in out.glob("jobs/generator-*"):
            if list(job.glob("model/checkpoint-*.pt")) and is_locked(job):
                words = ["pgrep", "--parent", str(os.getpid()), "-f", "cluster_step snakemake"]
                found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
                os.kill(int(found[0]), signal.SIGKILL)
                return
        time.sleep(0.02)


def test_snakemake_is_killed_and_the_results_are_those_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    plan, whole, broken = (make_plan(load_study(tmp_path / "study.yaml")), tmp_path / "whole", tmp_path / "broken")
    run_study(plan, broken, "cpu", progress=False, until="prepare")
    shutil.copytree(broken, whole)
    run_study(plan, whole, "cpu", progress=False, until="sample")

    killer = threading.Thread(target=kill_snakemake, args=[broken], daemon=True)
    killer.start()
    with pytest.raises(Interrupted, match="SIGKILL"):
        run_on_cluster(plan, broken, "local", "cpu", progress=False, until="sample")
    assert not any(is_locked(job) for job in broken.glob("jobs/*"))  # its job has left by itself
    assert not list(broken.glob("jobs/*/failed.json"))

    result = run_on_cluster(plan, broken, "local", "cpu", progress=False, until="sample")
    assert [job.stage for job in result.reused] == ["phantom", "prepare"]
    assert [job.stage for job in result.done] == ["generator", "sample"]
    assert results(broken) == results(whole)
    (done,) = broken.glob("jobs/generator-*/done.json")
    assert read_json(done)["restarts"] == 1
