"""Two processes through Lightning Fabric (gloo) are one with the same global batch, and stop together."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import small
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.multiprocessing import get_context

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.registry import build
from understudy.generators.training import distributed, loop
from understudy.runtime.checkpoints import History
from understudy.slices import SliceSet

pytest.importorskip("lightning_fabric")


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are forked from a server, which pays for the imports once; tests/test_cli.py starts them for real."""
    server = get_context("forkserver")
    server.set_forkserver_preload(["understudy.generators.training.rendezvous", "understudy.generators.training.loop"])
    monkeypatch.setattr(distributed, "START_METHOD", "forkserver")


def train(slices: Path, folder: Path, kimg: float) -> None:
    model, config = small("stylegan2", batch=16, kimg=kimg, tick_kimg=0.16)
    loop.train(SliceSet.open(slices), None, model, config, folder, "cpu", False, devices=2)


def distance(a: Path, b: Path, start: dict[str, torch.Tensor]) -> float:
    """Between two results, relative to the way from the start."""
    ours, theirs = (load_file(folder / "generator.safetensors") for folder in (a, b))
    apart, way = (sum(float((ours[k] - other[k]).square().sum()) for k in ours) ** 0.5 for other in (theirs, start))
    return apart / way


def stop_when_there_is(history: Path) -> None:
    """SIGTERM to this very process, at the first line of a training's history."""
    while not History.read(history):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


def test_processes_are_stopped_together_and_continue_bit_identically(slices: SliceSet, tmp_path: Path) -> None:
    """SIGTERM to the first process in the middle stops both at one step; the same call goes on as if unbroken.

    Compared with an unbroken run of two processes, so without a tolerance: after many steps of Adam even weights
    that differed by 1e-7 at the start are far apart, and no bound would tell that from a fault.
    """
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    threading.Thread(target=stop_when_there_is, args=(broken / "history.jsonl",), daemon=True).start()
    with pytest.raises(Interrupted, match="state saved"):  # the first line: 0.16 kimg, step 10 of 40
        train(slices.path, broken, 0.64)
    (checkpoint,) = broken.glob("checkpoint-*.pt")
    assert 10 <= int(checkpoint.stem.removeprefix("checkpoint-")) < 40
    train(slices.path, broken, 0.64)
    train(slices.path, whole, 0.64)
    ours, theirs = (load_file(folder / "generator.safetensors") for folder in (broken, whole))
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert json.loads((broken / "config.json").read_text())["kimg"] == 0.64


def test_a_port_that_others_have_taken_meanwhile_does_no_harm(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier training in this process has left its port in the environment, and somebody else has it by now."""
    with socket.create_server(("127.0.0.1", 0)) as others:
        taken = str(others.getsockname()[1])
        monkeypatch.setenv("MASTER_PORT", taken)
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        train(slices.path, tmp_path / "run", 0.016)
        assert os.environ["MASTER_PORT"] == taken
        assert "MASTER_ADDR" not in os.environ
    assert json.loads((tmp_path / "run" / "config.json").read_text())["kimg"] == 0.016


def test_two_processes_that_torchrun_has_started_are_one(slices: SliceSet, tmp_path: Path) -> None:
    """By the function that is the command `torchrun`; for two steps, in which roundings cannot grow."""
    folder = tmp_path / "two"
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, start_method="forkserver", logs_specs=DefaultLogsSpecs(str(tmp_path / "logs")),
    )  # fmt: skip
    elastic_launch(launch, train)(slices.path, folder, 0.032)
    model, config = small("stylegan2", batch=16, kimg=0.032)
    one = loop.train(slices, None, model, config, tmp_path / "one", "cpu", progress=False)
    start = build(model, config.seed).generator.state_dict()  # type: ignore[union-attr]
    assert distance(one, folder, start) < 1e-4


@pytest.mark.parametrize(
    ("device", "devices", "nodes", "environment", "said"),
    [
        ("cpu", 1, 2, {}, "2 machines"),
        ("cpu", 0, 1, {}, "0 devices"),
        ("cpu", 2, -1, {}, "-1 machines"),
        ("cuda", 3, 1, {}, "3 GPUs"),
        ("auto", 3, 1, {}, "3 GPUs"),
        ("cuda:1", 2, 1, {}, "cuda:1"),
        ("cpu", 2, 2, {"RANK": "1", "WORLD_SIZE": "3"}, "3 processes"),
        ("cpu", 1, 1, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "2 processes"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    device: str, devices: int, nodes: int, environment: dict[str, str], said: str, slices: SliceSet, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    model, config = small("stylegan2")
    with pytest.raises(UnderstudyError, match=said):
        loop.train(slices, None, model, config, tmp_path / "run", device, devices=devices, nodes=nodes)


def test_a_script_of_a_queue_is_not_taken_for_started_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a script of sbatch with --ntasks=4, srun has started nothing yet."""
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert distributed.started() == (0, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert distributed.started() == (3, 4)
