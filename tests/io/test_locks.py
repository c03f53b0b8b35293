"""A lock is held by one process at a time, and ends with it, however it ends."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from understudy.errors import UnderstudyError
from understudy.io.files import held_lock

HOLD = """
import sys, time
from pathlib import Path
from understudy.io.files import held_lock
with held_lock(Path(sys.argv[1]), "at home", "busy ({holder})", "wait"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        with (
            pytest.raises(UnderstudyError, match=rf"busy \(process {process.pid} at home\)"),
            held_lock(path, "here", "busy ({holder})", "wait"),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with held_lock(path, "here", "busy ({holder})", "wait"):
        assert path.read_text().endswith(" here\n")


def test_a_look_at_the_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`is_locked` holds the lock for an instant; a process that begins just then is not sent away."""
    path = tmp_path / "lock"
    path.touch()
    look = path.open()
    fcntl.flock(look, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: look.close())
    with held_lock(path, "here", "busy ({holder})", "wait"):
        assert path.read_text().endswith(" here\n")
