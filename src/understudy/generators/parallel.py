"""Data parallel training: processes on several devices and machines share every batch, through Lightning Fabric.

    train(..., devices=4)                                            # starts four processes on this machine
    torchrun --nproc-per-node 4 --nnodes 2 ... script.py             # or SLURM: `train` joins what was started

The processes draw the same random numbers for the whole batch, each computes its share, and gradients are averaged: the
result is that of one process, up to the order in which floats are added (see `shares`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators import models
from understudy.generators.shares import Workers
from understudy.generators.training import TrainingConfig
from understudy.slices import SliceSet


class FabricWorkers(Workers):
    """The processes of a launched `lightning_fabric.Fabric`."""

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.rank, self.world = int(fabric.global_rank), int(fabric.world_size)

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the workers; all at once, as one message costs less than many."""
        if not tensors:
            return
        flat = torch.cat([t.detach().flatten() for t in tensors])
        flat = self._fabric.all_reduce(flat, reduce_op="mean")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any worker."""
        raised = torch.tensor(float(flag), device=self._fabric.device)
        return bool(self._fabric.all_reduce(raised, reduce_op="sum") > 0)

    def wait(self) -> None:
        """Returns when all workers are here."""
        self._fabric.barrier()


def train(
    slices: SliceSet,
    rows: NDArray[np.int64] | None,
    model: Any,
    config: TrainingConfig,
    run_dir: str | Path,
    device: str = "auto",
    progress: bool = True,
    devices: int = 1,
    nodes: int = 1,
) -> Path:
    """As `models.train`, on `devices` devices of each of `nodes` machines.

    One machine's processes are started here; those of several, or of a queue, by torchrun or SLURM, and this function,
    called in each of them, joins them.

    Raises:
        UnderstudyError: also if lightning-fabric is missing, or several machines are wanted without a launcher.
        Interrupted: SIGTERM or SIGINT; the state was saved.
    """
    launched = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1
    if devices * nodes == 1 and not launched:
        return models.train(slices, rows, model, config, run_dir, device, progress)
    if nodes > 1 and not launched:
        raise UnderstudyError(
            f"{nodes} machines, but nothing has started processes on them", fix="start it by torchrun or srun"
        )
    fabric = _fabric(device, devices, nodes, launched)
    arguments = (str(slices.path), rows, model, config, str(run_dir), progress)
    if launched:
        fabric.launch()
        return _work(fabric, *arguments)
    with _passing_on_sigterm():
        outcome = fabric.launch(_report, *arguments)
    if isinstance(outcome, Exception):
        raise outcome
    return Path(run_dir)


def _fabric(device: str, devices: int, nodes: int, launched: bool) -> Any:
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise UnderstudyError(
            "several devices need lightning-fabric", fix="pip install lightning-fabric"
        ) from error
    kind = device.partition(":")[0]
    accelerator = {"auto": "auto", "cpu": "cpu", "cuda": "cuda"}.get(kind, kind)
    strategy = "ddp" if launched else "ddp_spawn"
    return Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy)


def _work(
    fabric: Any, slices: str, rows: NDArray[np.int64] | None, model: Any, config: TrainingConfig, run_dir: str,
    progress: bool,
) -> Path:  # fmt: skip
    opened, workers = SliceSet.open(slices), FabricWorkers(fabric)
    return models.train(opened, rows, model, config, run_dir, str(fabric.device), progress, workers)


def _report(fabric: Any, *arguments: Any) -> Exception | None:
    """`_work` in a process of its own: what the user must be told is the result, as exceptions lose their kind."""
    try:
        _work(fabric, *arguments)
    except (UnderstudyError, Interrupted) as error:
        return error
    return None


@contextlib.contextmanager
def _passing_on_sigterm() -> Iterator[None]:
    """SIGTERM goes to the processes started here, which save their state and end; SIGINT reaches them by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in multiprocessing.active_children():
            if process.pid:
                os.kill(process.pid, number)

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: None),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
