"""What is given to Snakemake and asked of SLURM, with programs that only pretend to be a queue."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from understudy import cli
from understudy.errors import UnderstudyError
from understudy.study.config.cluster import ClusterConfig
from understudy.study.config.schema import load_study
from understudy.study.engine import cluster, slurm
from understudy.study.engine.display import RunLog
from understudy.study.engine.jobs import Job, job_folder, locked
from understudy.study.engine.plan import Plan, make_plan

FIRST = Job("generator", "first", {"n": 1})
SECOND = Job("sample", "second", {"n": 2}, (("generator", FIRST.id),))
THIRD = Job("evaluate", "third", {"n": 3}, (("generator", FIRST.id), ("sample", SECOND.id)))


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs called as SLURM's: each prints the file of its name, and notes its arguments in `calls`."""
    place = tmp_path / "queue"
    place.mkdir()
    for name in ("squeue", "scancel", "scontrol", "sacct", "sbatch"):
        script = f'#!/bin/sh\necho {name} "$@" >> {place}/calls\ncat {place}/{name}.said 2>/dev/null\n'
        (place / name).write_text(f"{script}exit $(cat {place}/{name}.status 2>/dev/null || echo 0)\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


def test_jobs_of_this_study_are_found_in_the_queue(queue: Path, tmp_path: Path) -> None:
    name = slurm.name_of("a-study", tmp_path)
    assert name != slurm.name_of("a-study", tmp_path / "other")
    assert len(name) <= 50  # what Snakemake's plugin allows
    lines = [
        f"12|RUNNING|{name}_uuid|rule_generator_wildcards_{FIRST.folder_name}",
        f"13|PENDING|{name}_uuid|(null)",
        "14|RUNNING|other|rule_generator_wildcards_generator-0123456789ab",
    ]
    (queue / "squeue.said").write_text("\n".join(lines) + "\n")
    found = slurm.queued(name)
    assert found == [slurm.Queued("12", "RUNNING", FIRST.folder_name), slurm.Queued("13", "PENDING", "")]
    slurm.cancel(found)
    slurm.cancel([])
    assert (queue / "calls").read_text().splitlines()[1:] == ["scancel 12 13"]


def test_restarts_and_once_more(queue: Path) -> None:
    (queue / "scontrol.said").write_text("JobId=7 JobName=a Requeue=1 Restarts=3 BatchFlag=1\n")
    assert slurm.restarts("7") == 3
    assert slurm.requeue("7")
    (queue / "scontrol.status").write_text("1")
    assert not slurm.requeue("7")
    with pytest.raises(UnderstudyError, match="SLURM refuses"):
        slurm.restarts("7")


def test_without_accounts_the_queue_itself_is_asked(queue: Path, tmp_path: Path) -> None:
    def status_command() -> str:
        words = cluster.arguments("a", tmp_path, ClusterConfig(), "slurm", None, {"gpus": []})
        return words[words.index("--slurm-status-command") + 1]

    assert status_command() == "sacct"
    (queue / "sacct.status").write_text("1")
    assert status_command() == "squeue"


def test_what_an_earlier_run_left_is_waited_for_or_cancelled(queue: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    name = slurm.name_of("tiny", out)
    lines = [
        f"12|RUNNING|{name}_uuid|rule_generator_wildcards_{FIRST.folder_name}",
        f"13|PENDING|{name}_uuid|rule_sample_wildcards_{SECOND.folder_name}",
    ]
    (queue / "squeue.said").write_text("\n".join(lines) + "\n")
    plan = Plan(load_study("quickstart"), (FIRST, SECOND))
    log = RunLog(plan, out, False)
    with locked(job_folder(out, FIRST)):  # it runs
        running = cluster.settle("tiny", out, plan.jobs, "slurm", log)
    assert running == {FIRST.folder_name: "12"}
    assert "scancel 13" in (queue / "calls").read_text().splitlines()
    given = cluster.queue_plan(plan.jobs, out, plan.study.cluster, "slurm", "auto", running)["jobs"]
    assert given[FIRST.folder_name]["sbatch"].endswith("--dependency=afterany:12")
    assert "dependency" not in given[SECOND.folder_name]["sbatch"]


def test_a_job_that_somebody_works_at_is_not_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.1)
    log = RunLog(Plan(load_study("quickstart"), (FIRST,)), tmp_path, False)
    with locked(job_folder(tmp_path, FIRST)), pytest.raises(UnderstudyError, match="`first`"):
        cluster.settle("tiny", tmp_path, [FIRST], "local", log)


def test_only_what_is_left_is_given_with_its_resources(tmp_path: Path) -> None:
    config = ClusterConfig.model_validate(
        {"partition": "gpu", "account": "abc", "constraint": "a100", "sbatch": ["--exclude=node 7"],
         "stages": {"generator": {"gpus": 2, "minutes": 90.5}}}
    )  # fmt: skip
    given = cluster.queue_plan([SECOND, THIRD], tmp_path, config, "slurm", "cuda", {})  # FIRST is done
    assert {name: job["after"] for name, job in given["jobs"].items()} == {
        SECOND.folder_name: [], THIRD.folder_name: [SECOND.folder_name],
    }  # fmt: skip
    assert shlex.split(given["jobs"][SECOND.folder_name]["sbatch"]) == ["--open-mode=append", "--exclude=node 7"]
    assert list(given["stages"]) == ["sample", "evaluate"]
    assert given["stages"]["sample"]["resources"] == {
        "runtime": 240, "gpu": 1, "slurm_partition": "gpu", "slurm_account": "abc", "constraint": "a100",
    }  # fmt: skip
    generator = cluster.stage_plan("generator", config, "slurm", False)
    assert (generator["resources"]["runtime"], generator["gpus"], generator["stop_minutes"]) == (91, 2, 88.5)
    here = cluster.stage_plan("generator", config, "local", False)
    assert (here["threads"], here["gpus"]) == (1, 0)


def test_what_would_be_run_is_shown_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text("preset: quickstart\nname: a\ncluster: {partition: gpu, gpus: 0}\n")
    result = CliRunner().invoke(cli.app, ["run", "study.yaml", "--cluster", "slurm", "--dry-run"])
    assert result.exit_code == 0, result.output
    jobs = make_plan(load_study("study.yaml")).jobs
    assert f"{len(jobs)} of {len(jobs)} jobs to do" in result.output
    assert "partition gpu" in result.output
    assert "snakemake --snakefile" in result.output
    assert list(tmp_path.iterdir()) == [tmp_path / "study.yaml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cluster", "pbs"], "--cluster is 'pbs'"),
        (["--dry-run"], "--cluster is ''"),
        (["--cluster", "local", "--job-minutes", "2"], "--job-minutes does not go with --cluster"),
        (["--cluster", "local", "--devices", "2"], "--devices does not go with --cluster"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: list[str], said: str) -> None:
    result = CliRunner().invoke(cli.app, ["run", "quickstart", *words])
    assert said in str(result.exception)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UnderstudyError, match="no command sbatch"):
        cluster.check_tools("slurm")
    with pytest.raises(UnderstudyError, match="no command squeue"):
        slurm.queued("a")
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnderstudyError, match=r"pip install 'understudy-mri\[cluster\]'"):
        cluster.check_tools("local")


def test_a_snakemake_that_runs_nothing_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "snakemake.log").write_text("a\n\nWorkflowError: no such partition\n")
    result = cluster.RunResult(tmp_path)
    with pytest.raises(UnderstudyError, match="no such partition"):
        cluster.collect([FIRST, SECOND], result, tmp_path, 1)


def test_snakemake_leaves_with_the_process_that_started_it(tmp_path: Path) -> None:
    module = [sys.executable, "-m", "understudy.study.engine.cluster_step", "snakemake"]
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "Snakefile").write_text("rule all:\n    shell: 'sleep 60'\n")
    words = [*module, str(gone.pid), "9", "--cores", "1", "--directory", str(tmp_path)]
    process = subprocess.run([*words, "--snakefile", str(tmp_path / "Snakefile")], check=False, capture_output=True)
    assert process.returncode == -9
