"""Data parallel training: processes on several devices and machines share every batch, through Lightning Fabric.

    train(..., devices=4)                                            # starts four processes on this machine
    torchrun --nproc-per-node 4 --nnodes 2 ... script.py             # or srun: `train` joins what was started

All processes draw the same random numbers for the whole batch, each computes its rows, and gradients are averaged.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException

from understudy.errors import Interrupted, UnderstudyError
from understudy.runtime.checkpoints import STOPPING
from understudy.runtime.devices import resolve_device
from understudy.slices import SliceSet

START_METHOD: Literal["spawn", "forkserver"] = "spawn"  # Fabric refuses to fork where CUDA is in use already


class ProcessGroup:
    """The processes that train together: here this one alone, see `FabricGroup` for several."""

    rank, world_size = 0, 1

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def barrier(self) -> None:
        """Returns when all processes are here."""


class FabricGroup(ProcessGroup):
    """The processes of a launched `lightning_fabric.Fabric`."""

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.rank, self.world_size = int(fabric.global_rank), int(fabric.world_size)

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        flat = torch.cat([t.detach().flatten() for t in tensors])  # one message costs less than many
        flat = self._fabric.all_reduce(flat, reduce_op="mean")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        raised = torch.tensor(float(flag), device=self._fabric.device)
        return bool(self._fabric.all_reduce(raised, reduce_op="sum") > 0)

    def barrier(self) -> None:
        self._fabric.barrier()


def started() -> tuple[int, int]:
    """(rank, number) of the processes that torchrun or srun has started, this one among them; (0, 1) without them.

    A script of sbatch sees its job's SLURM_NTASKS but is one process: only a step of srun has SLURM_STEP_NUM_TASKS.
    """
    for rank, world_size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in os.environ and world_size in os.environ:
            return int(os.environ[rank]), int(os.environ[world_size])
    return 0, 1


def check_devices(device: str, devices: int, nodes: int = 1) -> None:
    """Raises UnderstudyError for devices that are not there, or not as many as processes were started."""
    if devices < 1 or nodes < 1:
        raise UnderstudyError(f"{devices} devices on {nodes} machines", fix="use at least one of each")
    kind = resolve_device(device)
    if kind.index is not None and devices > 1:
        raise UnderstudyError(f"{device} is one device, {devices} are wanted", fix=f"name the kind only: {kind.type}")
    present = torch.cuda.device_count()
    if kind.type == "cuda" and devices > max(1, present):
        raise UnderstudyError(f"{devices} GPUs wanted, this machine has {present}", fix=f"ask for at most {present}")
    world_size = started()[1]
    if nodes > 1 and world_size == 1:
        raise UnderstudyError(f"{nodes} machines, but no processes were started on them", fix="use torchrun or srun")
    if world_size not in (1, devices * nodes):
        raise UnderstudyError(
            f"{world_size} processes were started for {devices} devices on each of {nodes} machines",
            fix=f"start {devices * nodes}: one for every device",
        )


def launch(train: Callable[..., Path], arguments: dict[str, Any], device: str, devices: int, nodes: int) -> Path:
    """Calls `train(**arguments, device=, processes=)` in a process for each device; raises what it raises.

    One machine's processes are started here; those of several, or of a queue, were started by torchrun or SLURM, and
    each of them calls this to join the others. Each opens `arguments["slices"]` again, where it has a folder.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise UnderstudyError("several devices need lightning-fabric", fix="pip install lightning-fabric") from error
    from understudy.generators.training.rendezvous import ClientDDPStrategy, LocalEnvironment, local_store

    accelerator = resolve_device(device).type
    slices = arguments["slices"]
    arguments = arguments | {"slices": slices.path or slices}
    if started()[1] > 1:
        fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy="ddp")
        fabric.launch()
        folder = _train(fabric, train, arguments)
        torch.distributed.destroy_process_group()
        return folder
    with local_store() as port, _forwarded_signals() as forwarded:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, strategy=ClientDDPStrategy(start_method=START_METHOD),
            plugins=[LocalEnvironment(port)],
        )  # fmt: skip
        try:
            outcome = fabric.launch(_train_and_report, train, arguments)  # type: ignore[arg-type]
        except ProcessException as error:
            if forwarded:  # it ended processes that were still starting: nothing was done since the last checkpoint
                raise Interrupted("training stopped before its first step") from error
            raise
    if isinstance(outcome, Exception):
        raise outcome
    return Path(arguments["run_dir"])


def _train(fabric: Any, train: Callable[..., Path], arguments: dict[str, Any]) -> Path:
    slices = arguments["slices"]
    slices = SliceSet.open(slices) if isinstance(slices, Path) else slices
    return train(**arguments | {"slices": slices}, device=str(fabric.device), processes=FabricGroup(fabric))


def _train_and_report(fabric: Any, train: Callable[..., Path], arguments: dict[str, Any]) -> Exception | None:
    """As `_train`, in a process of its own: what the user must see is the result, as exceptions lose their class."""
    try:
        _train(fabric, train, arguments)
    except (UnderstudyError, Interrupted) as error:
        return error
    return None


@contextlib.contextmanager
def _forwarded_signals() -> Iterator[list[int]]:
    """SIGTERM and a queue's SIGUSR1 go to the processes started here, which save their state and end; SIGINT reaches
    them by itself. Yields the list of the signals that came."""
    forwarded: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield forwarded
        return

    def forward(number: int, frame: FrameType | None) -> None:
        forwarded.append(number)
        for process in multiprocessing.active_children():
            if process.pid and number != signal.SIGINT:
                os.kill(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in STOPPING}
    try:
        yield forwarded
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
