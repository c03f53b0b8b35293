"""The disk fills in the middle of a study: the run says so and ends; with more room the same command finishes it.

Once on a real file system that is too small (needs root and mounts), and without it by errors at every point where a
study writes.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_study import results, tiny_study

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.study.config.schema import Study, load_study
from understudy.study.engine.plan import make_plan
from understudy.study.engine.run import RunResult, run_study
from understudy.study.registry import STAGES

STUDY = tiny_study("full", kimg=0.1, tick=0.05, samples=80, seconds=0.05)


def run(folder: Path, out: Path) -> RunResult:
    return run_study(make_plan(load_study(folder / "study.yaml")), out, "cpu", False, "evaluate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study, and its unbroken run in `whole`."""
    path = tmp_path_factory.mktemp("full")
    (path / "study.yaml").write_text(STUDY)
    assert run(path, path / "whole").complete
    return path


def refused(result: RunResult) -> str:
    """The stage of the one job that failed, for the right reason and with an advice that helps."""
    ((job, message),) = result.failed
    assert "the disk is full" in message or "could not be written" in message, message
    assert "run the same command again" in message
    kind = read_json(result.out / "jobs" / job.folder_name / "failed.json").get("class") if _room(result) else "disk"
    assert kind == "disk"
    return job.stage


def _room(result: RunResult) -> bool:
    """Whether at least the small file that tells of the failure could be written."""
    return any(result.out.glob("jobs/*/failed.json"))


# --- a file system that is too small ----------------------------------------------------------------------------------


@contextmanager
def small_disk(at: Path, kilobytes: int) -> Iterator[None]:
    """A file system of this size at a folder.

    Skips the test where this process may not mount one.
    """
    at.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(at)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a file system can be mounted by root only, and not in every container: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a file system")
def test_a_disk_that_fills_in_the_middle_and_then_has_room(folder: Path) -> None:
    needed = sum(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file()) / 1024
    disk, stopped = folder / "disk", set()
    with small_disk(disk, round(0.2 * needed)):
        for share in (0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 5):
            subprocess.run(["mount", "-o", f"remount,size={round(share * needed)}k", str(disk)], check=True)
            result = run(folder, disk / "out")
            if result.complete:
                break
            stopped.add(refused(result))
        assert result.complete
        assert len(stopped) >= 2, f"it was full only in {stopped}"
        assert results(disk / "out") == results(folder / "whole")


# --- errors where a study writes --------------------------------------------------------------------------------------


class Full:
    """A disk with room for so many files; what is written into others does not fit.

    /dev/full takes an open and refuses the bytes, as a full disk does.
    """

    def __init__(self, root: Path, room: int) -> None:
        self.root, self.room, self.usual = str(root), room, open

    def __call__(self, file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        name = os.fspath(file) if isinstance(file, str | os.PathLike) else ""
        if str(name).startswith(self.root) and set(mode) & set("wxa") and not str(name).endswith("lock"):
            self.room -= 1
            if self.room < 0:
                return self.usual("/dev/full", mode.replace("x", "w"), *rest, **options)
        return self.usual(file, mode, *rest, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_every_point_where_a_study_writes_may_find_the_disk_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, stopped = folder / "broken", []
    for attempt in range(60):
        disk = Full(out, room=8 + attempt)
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", disk)
            patch.setattr("io.open", disk)
            try:
                result = run(folder, out)
            except UnderstudyError:  # before the first job: the plan itself did not fit
                continue
        if result.complete:
            break
        stopped.append(refused(result))
    assert result.complete
    assert len(set(stopped)) >= 3, f"it was full only in {stopped}"
    assert results(out) == results(folder / "whole")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_ends_the_run_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    plan = make_plan(Study.model_validate({"name": "x", "phantom": {"patients": 3}, "trainings": ["real"]}))
    asked: list[str] = []

    def stage(context: Any) -> dict[str, Any]:
        asked.append(context.folder.name)
        monkeypatch.setattr("understudy.io.files.os.replace", refuse)
        return {}

    result = run_study(plan, folder / f"none{number}", "cpu", False, stages=dict.fromkeys(STAGES, stage))
    assert len(asked) == 1
    assert len(result.failed) == 1
    assert len(result.blocked) == len(plan.jobs) - 1
