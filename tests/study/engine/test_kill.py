"""A real study in real processes, killed in every long stage: run again, it ends with an unbroken run's results."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest

from understudy import cli
from understudy.io.files import read_json
from understudy.slices import SliceSet
from understudy.study.stages.report import report_again
from understudy.study.stages.segmenter import SCORE_KEYS

STUDY = """
name: kill
phantom: {patients: 10, shape: [32, 32, 20], sites: 2}
slices: {resolution: 32, scaling: robust, rule_intensity: 20}
split: {test_patients: 6, validation_fraction: 0.25}
generators:
  g:
    model: {kind: stylegan2, z_dim: 16, w_dim: 16, mapping_layers: 2, channel_base: 128, channel_max: 8}
    training: {kimg: 0.4, batch: 8, tick_kimg: 0.08, checkpoint_seconds: 0.2}
    samples: 1100
segmenters:
  unet:
    model: {width: 4}
    training: {samples: 320, batch: 8, validations: 2, checkpoint_seconds: 0.2}
trainings: [synthetic]
"""

# What shows, from outside, that a stage is in the middle of its work.
SIGNS = {
    "generator": "model/checkpoint-*.pt",
    "sample": "slices.partial/parts/*.parquet",
    "segmenter": "model/checkpoint-*.pt",
    "evaluate": "patients/*.parquet",
}
HEAVY = [
    "understudy.study.engine.estimate",
    "understudy.study.engine.run",
    "understudy.study.stages.segmenter",
    "understudy.generators.sample",
]


def command(folder: str, out: str, until: str) -> None:
    """`understudy run`, in a process of its own that has imported everything already."""
    os.chdir(folder)
    sys.argv = ["understudy", "run", "study.yaml", "--quiet", "--workers", "1", "--until", until, "--out", out]
    with open("stderr", "w") as sys.stderr:
        cli.main()


def start(folder: Path, out: str, until: str = "evaluate") -> BaseProcess:
    """The command in a real process, forked from a server so that the imports are paid for once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    process = context.Process(target=command, args=(str(folder), out, until))
    process.start()
    return process


def finish(folder: Path, out: str, until: str = "evaluate") -> None:
    process = start(folder, out, until)
    process.join(300)
    assert process.exitcode == 0, (folder / "stderr").read_text()


def stop_in(folder: Path, out: str, stage: str, number: signal.Signals) -> tuple[Path, int | None, str]:
    """Runs the study and sends it a signal in the middle of a stage; gives (job's folder, exit status, stderr).

    A stage that was over before the signal arrived is thrown away and done again.
    """
    pattern = f"jobs/{stage}-*/{SIGNS[stage]}"
    for _ in range(5):
        before = set((folder / out).glob(pattern))
        process = start(folder, out)
        while process.is_alive() and not set((folder / out).glob(pattern)) - before:
            time.sleep(0.002)
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(300)
        errors = (folder / "stderr").read_text()
        assert process.exitcode not in (None, 1), errors
        (job,) = (folder / out / "jobs").glob(f"{stage}-*")
        if not (job / "done.json").exists():
            return job, process.exitcode, errors
        shutil.rmtree(job)
    raise AssertionError(f"{stage} was always over before the signal arrived")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study and its unbroken run in `whole`."""
    path = tmp_path_factory.mktemp("kill")
    (path / "study.yaml").write_text(STUDY)
    finish(path, "whole")
    return path


def test_a_study_killed_in_every_stage_ends_like_an_unbroken_one(folder: Path) -> None:
    job, status, errors = stop_in(folder, "broken", "generator", signal.SIGTERM)
    assert status == 75
    assert "continue" in errors
    assert not (job / "failed.json").exists()

    for stage in SIGNS:
        job, status, _ = stop_in(folder, "broken", stage, signal.SIGKILL)
        assert status == -signal.SIGKILL
    scored = {path: path.stat().st_mtime_ns for path in (job / "patients").glob("*.parquet")}
    assert 0 < len(scored) < 6
    finish(folder, "broken")

    assert {path: path.stat().st_mtime_ns for path in scored} == scored  # what was evaluated was kept
    assert len(list((job / "patients").glob("*.parquet"))) == 6
    compare(folder / "whole", folder / "broken")


def compare(whole: Path, broken: Path) -> None:
    """Both runs have the same jobs with the same results, and the broken one knows that it was."""
    names = sorted(path.name for path in (whole / "jobs").iterdir())
    assert sorted(path.name for path in (broken / "jobs").iterdir()) == names
    for name in names:
        one, other = (read_json(whole / "jobs" / name / "done.json"), read_json(broken / "jobs" / name / "done.json"))
        assert one["results"] == other["results"], name
        assert one["restarts"] == 0
        if one["stage"] in SIGNS:
            assert other["restarts"] >= 1
    (made,), (remade,) = ([*path.glob("jobs/sample-*/slices")] for path in (whole, broken))
    assert SliceSet.open(made).content_hash == SliceSet.open(remade).content_hash
    SliceSet.open(remade).verify()
    (scores,), (rescores,) = ([*path.glob("jobs/evaluate-*/scores.parquet")] for path in (whole, broken))
    pd.testing.assert_frame_equal(pd.read_parquet(scores), pd.read_parquet(rescores), check_exact=True)
    assert scores.read_bytes() == rescores.read_bytes()


def test_changing_the_study_of_a_finished_run_redoes_only_what_follows(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "whole" / "jobs").glob("*/done.json")}
    (folder / "study.yaml").write_text(STUDY.replace("validations: 2", "validations: 1"))
    finish(folder, "whole")
    (folder / "study.yaml").write_text(STUDY)
    after = {path: path.stat().st_mtime_ns for path in (folder / "whole" / "jobs").glob("*/done.json")}
    assert {path: after[path] for path in before} == before
    assert sorted(path.parent.name.split("-")[0] for path in after.keys() - before.keys()) == ["evaluate", "segmenter"]


def test_the_report_is_made_at_the_end_and_again_on_demand(folder: Path) -> None:
    finish(folder, "whole", until="report")
    page = folder / "whole" / "report.html"
    assert "<html" in page.read_text(encoding="utf-8")[:1000]
    rows = pd.read_parquet(folder / "whole" / "scores.parquet")
    assert set(rows["subject"]) == {path.stem for path in (folder / "whole").glob("jobs/evaluate-*/patients/*.parquet")}
    assert list(rows.columns[:8]) == SCORE_KEYS
    page.unlink()
    again, answer = report_again(folder / "whole")
    assert again == page
    assert page.is_file()
    assert answer == read_json(folder / "whole" / "report.json")["answer"]["conclusion"]
