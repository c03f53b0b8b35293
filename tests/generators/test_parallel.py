"""Two processes through Lightning Fabric (gloo) are one with the same global batch, and stop together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import small

from understudy.checkpoints import History
from understudy.errors import UnderstudyError
from understudy.generators import models, parallel
from understudy.slices import SliceSet

pytest.importorskip("lightning_fabric")

SCRIPT = """
import sys
from understudy.errors import Interrupted
from understudy.generators import parallel
from understudy.slices import SliceSet

if __name__ == "__main__":
    sys.path.insert(0, {path!r})
    from small_models import small
    model, config = small("stylegan2", batch=16, kimg={kimg}, tick_kimg=1.0)
    try:
        parallel.train(SliceSet.open({slices!r}), None, model, config, {folder!r}, "cpu", False, devices=2)
    except Interrupted as stop:
        sys.exit(str(stop))
"""


def script(tmp_path: Path, slices: SliceSet, folder: Path, kimg: float) -> Path:
    text = SCRIPT.format(
        path=str(Path(__file__).parent), kimg=kimg, slices=str(slices.path), folder=str(folder)
    )
    path = tmp_path / "train_in_parallel.py"
    path.write_text(text)
    return path


def distance(a: Path, b: Path, start: dict[str, torch.Tensor]) -> float:
    """Between two results, relative to the way from the start."""
    ours, theirs = (load_file(folder / "generator.safetensors") for folder in (a, b))
    apart, way = (
        sum(float((ours[k] - other[k]).square().sum()) for k in ours) ** 0.5 for other in (theirs, start)
    )
    return apart / way


def test_processes_are_stopped_together_and_continue_bit_identically(
    slices: SliceSet, tmp_path: Path
) -> None:
    """SIGTERM to the first process in the middle stops both at one step; the same command goes on as if unbroken.

    Compared with an unbroken run of two processes, so without a tolerance: after a hundred steps of Adam even weights
    that differed by 1e-7 at the start are 3 % of the way apart, and no bound would tell that from a fault.
    """
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    command = [sys.executable, str(script(tmp_path, slices, broken, kimg=3.2))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not History.read(broken / "history.jsonl"):  # the first line: 1 kimg, step 63 of 200
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=120)
    assert "state saved" in message
    assert process.returncode == 1
    (checkpoint,) = broken.glob("checkpoint-*.pt")
    assert 63 <= int(checkpoint.stem.removeprefix("checkpoint-")) < 200
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    unbroken = [sys.executable, str(script(tmp_path, slices, whole, kimg=3.2))]
    subprocess.run(unbroken, check=True, capture_output=True, timeout=300)
    ours, theirs = (load_file(folder / "generator.safetensors") for folder in (broken, whole))
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert json.loads((broken / "config.json").read_text())["kimg"] == 3.2


def test_two_processes_that_torchrun_has_started_are_one(slices: SliceSet, tmp_path: Path) -> None:
    """For two steps, in which roundings cannot grow."""
    folder = tmp_path / "two"
    path = script(tmp_path, slices, folder, kimg=0.032)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    model, config = small("stylegan2", batch=16, kimg=0.032, tick_kimg=1.0)
    one = models.train(slices, None, model, config, tmp_path / "one", "cpu", progress=False)
    start = models.build(model, config.seed).generator.state_dict()  # type: ignore[union-attr]
    assert distance(one, folder, start) < 1e-4


def test_several_machines_need_a_launcher(slices: SliceSet, tmp_path: Path) -> None:
    model, config = small("stylegan2")
    with pytest.raises(UnderstudyError, match="2 machines"):
        parallel.train(slices, None, model, config, tmp_path / "run", nodes=2)
