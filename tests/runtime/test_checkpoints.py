"""Checkpoints, stop requests and history."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.errors import UnderstudyError
from understudy.runtime.checkpoints import Checkpoints, History, StopRequest


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    assert checkpoints.latest() is None
    for step in (10, 20, 30):
        checkpoints.save({"w": torch.full((2,), float(step))}, step)
    step, state = checkpoints.latest()  # type: ignore[misc]
    assert (step, state["w"].tolist()) == (30, [30.0, 30.0])
    assert len(list(tmp_path.iterdir())) == 2
    checkpoints.clear()
    assert checkpoints.latest() is None


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save({"w": 1}, 1)
    checkpoints.save({"w": 2}, 2)
    newest = sorted(tmp_path.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    assert checkpoints.latest() == (1, {"w": 1})
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UnderstudyError, match="no checkpoint"):
        checkpoints.latest()


def test_one_changed_byte_of_a_tensor_falls_back_and_is_recorded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    for step in (1, 2):
        checkpoints.save({"w": torch.full((4096,), float(step))}, step)
    newest = sorted(tmp_path.iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[content.index(np.full(64, 2, np.float32).tobytes()) + 5000] ^= 1
    newest.write_bytes(content)
    step, state = checkpoints.latest() or (0, {})
    assert (step, state["w"].tolist(), checkpoints.damaged) == (1, [1.0] * 4096, [newest.name])


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "a").save({"w": 1}, 1)
    with pytest.raises(UnderstudyError, match="another training"):
        Checkpoints(tmp_path, "b").latest()


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save(Evil(), tmp_path / "checkpoint-000000000001.pt")
    with pytest.raises(UnderstudyError):
        Checkpoints(tmp_path, "a").latest()
    assert not (tmp_path / "ran").exists()


def test_sigterm_is_noted_and_the_old_handler_returns() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("damage", ["cut off", "flipped", "deleted"])
def test_a_resumed_run_goes_on_with_the_history_that_its_checkpoint_holds(tmp_path: Path, damage: str) -> None:
    history, checkpoints = History(tmp_path), Checkpoints(tmp_path, "a")
    for samples in (100, 200):
        history.append(samples=samples, loss=1 / samples)
    checkpoints.save({}, 200, history.text)
    history.append(samples=300, loss=1 / 300)  # which the checkpoint does not know
    whole = history.path.read_bytes()
    if damage == "deleted":
        history.path.unlink()
    else:
        history.path.write_bytes(whole[:-5] if damage == "cut off" else whole.replace(b"0.01", b"0.09"))
    resumed = Checkpoints(tmp_path, "a")
    assert resumed.latest() == (200, {})
    history.resume(resumed.history)
    history.append(samples=300, loss=0.5)
    assert [(r["samples"], r["loss"]) for r in History.read(history.path)] == [(100, 0.01), (200, 0.005), (300, 0.5)]


def test_a_damaged_history_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_bytes(b'{"kimg": 1}\n\xff{\n')
    with pytest.raises(UnderstudyError) as error:
        History.read(tmp_path / "history.jsonl")
    assert error.value.where == str(tmp_path / "history.jsonl")
