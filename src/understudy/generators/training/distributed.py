"""Data parallel training: processes on several devices and machines share every batch, through Lightning Fabric.

    train(..., devices=4)                                            # starts four processes on this machine
    torchrun --nproc-per-node 4 --nnodes 2 ... script.py             # or srun: `train` joins what was started

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
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators import registry as models
from understudy.generators.training.config import TrainingConfig
from understudy.generators.training.shares import Workers
from understudy.runtime.checkpoints import STOPPING
from understudy.runtime.devices import resolve_device
from understudy.slices import SliceSet

OWN_PROCESSES: Literal["spawn", "forkserver"] = "spawn"  # Fabric refuses to fork where CUDA is in use already


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
        UnderstudyError: also if lightning-fabric is missing, or for what `check_devices` refuses.
        Interrupted: SIGTERM or SIGINT; the state was saved.
    """
    if devices * nodes == 1 and started()[1] == 1:
        return models.train(slices, rows, model, config, run_dir, device, progress)
    check_devices(device, devices, nodes)
    _need_fabric()
    arguments = (str(slices.folder), rows, model, config, str(run_dir), progress)
    if started()[1] > 1:
        fabric = _joined_fabric(device, devices, nodes)
        fabric.launch()
        folder = _work(fabric, *arguments)
        torch.distributed.destroy_process_group()
        return folder
    from understudy.generators.training.rendezvous import meeting_place

    with meeting_place() as port, _passing_on_signals() as passed:
        try:
            outcome = _own_fabric(device, devices, port).launch(_report, *arguments)
        except ProcessException as error:
            if passed:  # it ended processes that were still starting: nothing was done since the last checkpoint
                raise Interrupted("training stopped before its first step") from error
            raise
    if isinstance(outcome, Exception):
        raise outcome
    return Path(run_dir)


def started() -> tuple[int, int]:
    """(rank, number) of the processes that torchrun or srun has started, this one among them; (0, 1) without them.

    A script of sbatch sees its job's SLURM_NTASKS but is one process: only a step of srun has SLURM_STEP_NUM_TASKS.
    """
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in os.environ and world in os.environ:
            return int(os.environ[rank]), int(os.environ[world])
    return 0, 1


def check_devices(device: str, devices: int, nodes: int = 1) -> None:
    """Refuses devices that are not there, before any work is done.

    Raises:
        UnderstudyError: numbers below 1, more GPUs than this machine has, one GPU of a number and yet several devices,
            several machines without a launcher, another number of processes than the launcher has started.
    """
    if devices < 1 or nodes < 1:
        raise UnderstudyError(f"{devices} devices on {nodes} machines", fix="use at least one of each")
    kind = resolve_device(device)
    if kind.index is not None and devices > 1:
        raise UnderstudyError(f"{device} is one device, {devices} are wanted", fix=f"name the kind only: {kind.type}")
    present = torch.cuda.device_count()
    if kind.type == "cuda" and devices > max(1, present):
        raise UnderstudyError(f"{devices} GPUs wanted, this machine has {present}", fix=f"ask for at most {present}")
    world = started()[1]
    if nodes > 1 and world == 1:
        raise UnderstudyError(
            f"{nodes} machines, but nothing has started processes on them", fix="start it by torchrun or srun"
        )
    if world not in (1, devices * nodes):
        raise UnderstudyError(
            f"{world} processes were started for {devices} devices on each of {nodes} machines",
            fix=f"start {devices * nodes}: one for every device",
        )


def _need_fabric() -> None:
    try:
        import lightning_fabric  # noqa: F401
    except ImportError as error:
        raise UnderstudyError("several devices need lightning-fabric", fix="pip install lightning-fabric") from error


def _joined_fabric(device: str, devices: int, nodes: int) -> Any:
    """Of the processes that torchrun or srun has started."""
    from lightning_fabric import Fabric

    return Fabric(accelerator=resolve_device(device).type, devices=devices, num_nodes=nodes, strategy="ddp")


def _own_fabric(device: str, devices: int, port: int) -> Any:
    """Of processes that it starts, which meet at a port of this one."""
    from lightning_fabric import Fabric

    from understudy.generators.training.rendezvous import Guests, StartedHere

    own = StartedHere(port)  # else Fabric would wait for processes of SLURM inside a script of sbatch
    strategy = Guests(start_method=OWN_PROCESSES)
    accelerator = resolve_device(device).type
    return Fabric(accelerator=accelerator, devices=devices, strategy=strategy, plugins=[own])


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
def _passing_on_signals() -> Iterator[list[int]]:
    """SIGTERM and a queue's SIGUSR1 go to the processes started here, which save their state and end; SIGINT reaches
    them by itself.

    Gives a list of the signals that came.
    """
    passed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield passed
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        for process in multiprocessing.active_children():
            if process.pid and number != signal.SIGINT:
                os.kill(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in STOPPING}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
