"""The state of a training: networks, EMA, optimisers and counters; and how an update is made of a loss."""

import copy
import ctypes
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.registry import build
from understudy.generators.training.accumulation import Accumulation, Inputs, strided_rows
from understudy.generators.training.config import TrainingConfig
from understudy.generators.training.data import RealBatches
from understudy.generators.training.distributed import ProcessGroup
from understudy.runtime.devices import resolve_precision
from understudy.slices import SliceSet

Loss = Callable[[dict[str, Any]], tuple[Tensor, dict[str, Tensor]]]
"""Inputs of a micro-batch -> its mean loss, and mean stats for the history."""

REPAIRED = "repaired_gradients"  # the one stat of the history that is a count, not a mean


class TrainingState(ABC):
    """Everything that a training changes. Everything random in a step is drawn from (seed, step), so an interrupted and
    continued training equals an unbroken one bit by bit (on one CPU and thread count).

    Attributes:
        network: all that is trained; `generator`: the part that is sampled; `ema`: its moving average, the result.
        optimisers: by their names in the checkpoint.
        images: real images shown so far, by all processes. steps: done. seconds: spent, also by earlier processes.
        finished: set by `training_steps`: this was the last step.
    """

    optimisers: dict[str, torch.optim.Optimizer]
    quick_preview = True  # a preview costs little beside the steps between two lines of the history

    def __init__(
        self, slices: SliceSet, rows: NDArray[np.int64], model: Any, config: TrainingConfig, device: torch.device,
        processes: ProcessGroup | None = None,
    ) -> None:  # fmt: skip
        self.model, self.device, self.processes = model, device, processes or ProcessGroup()
        self.config: Any = config
        self.group = int(getattr(model, "mbstd_group", 1))  # samples that have to be computed together
        self.dtype = resolve_precision(config.precision, device)
        if device.type == "cpu":
            keep_freed_memory()
        self.network: Any = build(model, config.seed).to(device)
        self.generator: Any = self.network.generator
        self.ema: Any = copy.deepcopy(self.generator).requires_grad_(False).eval()
        # Lists made once: walking the modules in every step takes a twentieth of the time of a small one.
        self._parameters = [[p.detach() for p in g.parameters()] for g in (self.ema, self.generator)]
        self._buffers = list(zip(self.ema.buffers(), self.generator.buffers(), strict=True))
        self.images, self.steps, self.seconds, self.finished = 0, 0, 0.0, False
        self.stats: dict[str, tuple[float | Tensor, int]] = {}
        self.data = RealBatches(slices, rows, config, device, self.processes)
        self.accumulation = Accumulation(self.network, self.generator, self.group, config.micro_batch, self.processes)

    @abstractmethod
    def step(self) -> None:
        """One training step."""

    @abstractmethod
    def preview(self, count: int) -> Tensor:
        """Joint images float32 [count, C, R, R] on the CPU, of the EMA generator and always the same latents."""

    def record(self) -> dict[str, Any]:
        """What config.json says of the training beyond its configuration."""
        return {"precision": str(self.dtype).removeprefix("torch.")}

    # --- batches -----------------------------------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        """Images in the next step, of all processes."""
        return int(self.config.batch)

    @property
    def batches(self) -> set[int]:
        """All sizes of a batch that this training has."""
        return {self.batch}

    @property
    def local_batch(self) -> int:
        """Images of this process in the next step."""
        return self.batch // self.processes.world_size

    @property
    def parts(self) -> int:
        """Micro-batches of this process in the next step."""
        return self.accumulation.parts(self.local_batch)

    def check_batches(self) -> None:
        """Refuses batches that cannot be divided evenly and in whole groups among the processes."""
        world_size = self.processes.world_size
        for batch in sorted(self.batches):
            local, left = divmod(batch, world_size)
            if left or local % min(self.group, local):
                raise UnderstudyError(
                    f"batch size {batch} is not divisible by the world size {world_size} in groups of {self.group}",
                    fix="choose a batch that is a multiple of devices * mbstd_group",
                )

    def local_rows(self, inputs: Inputs) -> dict[str, Any]:
        """This process's rows of what was drawn for the whole batch, on its device; nothing waits for the copy."""

        def moved(values: Inputs) -> dict[str, Any]:
            return {
                name: moved(value) if isinstance(value, Mapping) else value.to(self.device, non_blocking=True)
                for name, value in values.items()
            }

        return moved(strided_rows(inputs, self.processes.rank, self.processes.world_size))

    # --- updates -----------------------------------------------------------------------------------------------------

    def backward_and_step(self, name: str, inputs: Inputs, loss: Loss, rows: int | None = None) -> dict[str, Tensor]:
        """One update of the parameters of optimiser `name` by the mean loss over the batch; gives the means of its
        stats, which go to the history.

        Args:
            inputs: this process's. rows: theirs; None for a full batch.
        """
        optimiser = self.optimisers[name]
        for attempt in self.accumulation.attempts(self.local_batch):
            stats: dict[str, Tensor] = {}
            with attempt:
                for weight, part in attempt.micro_batches(inputs, rows):
                    value, found = loss(part)
                    (value if weight == 1 else value * weight).backward()
                    for key, stat in found.items():
                        stats[key] = stats.get(key, 0) + stat.detach() * weight
        gradients = [p.grad for p in optimiser.param_groups[0]["params"] if p.grad is not None]
        self.processes.all_reduce_mean([*gradients, *stats.values()])
        broken = ~torch.stack(torch._foreach_norm(gradients)).isfinite().all()
        self.log({REPAIRED: broken.float()})
        if self.device.type != "cpu" or broken:  # to look would wait for a GPU
            for gradient in gradients:  # as the official code of StyleGAN 2 and 3
                torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.log(stats)
        return stats

    @torch.no_grad()
    def finish_step(self, ema_decay: float) -> None:
        """Counts the step and updates the EMA; ema_decay: weight of the EMA so far."""
        self.images += self.batch
        self.steps += 1
        ema, current = self._parameters
        torch._foreach_lerp_(ema, current, 1 - ema_decay)
        for ours, theirs in self._buffers:
            ours.copy_(theirs)

    # --- stats and checkpoints -------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, float | Tensor]) -> None:
        """Adds stats to those of the next line of the history."""
        for name, value in values.items():
            total, count = self.stats.get(name, (0.0, 0))
            self.stats[name] = (total + value, count + 1)

    def take_stats(self) -> dict[str, float | None]:
        """Means since the last call (a count for `repaired_gradients`), None where they are not finite."""
        totals = {k: (float(total), 1 if k == REPAIRED else n) for k, (total, n) in sorted(self.stats.items())}
        means = {k: total / n for k, (total, n) in totals.items() if k != REPAIRED or total}
        means |= {"shares": float(self.parts)} if self.parts > 1 else {}
        self.stats = {}
        return {k: v if math.isfinite(v) else None for k, v in means.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs to be the same training."""
        return {
            "network": self.network.state_dict(),
            "average": self.ema.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "images": self.images,
            "seconds": self.seconds,
            "shares": self.accumulation.least,
            "figures": {name: [float(total), count] for name, (total, count) in self.stats.items()},
        }

    def load_state_dict(self, steps: int, state: dict[str, Any]) -> None:
        """Continues from `state_dict()` after `steps` steps."""
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["average"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.steps, self.images, self.seconds = steps, state["images"], state["seconds"]
        self.accumulation.least = max(state["shares"], self.accumulation.least)
        self.stats = {name: (total, count) for name, (total, count) in state["figures"].items()}


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory it frees: by default it gives large blocks back and faults them in again, page
    by page, in every step (a tenth of the time of small models). Does nothing under another C library."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # numbers of the options of mallopt(3)
    mallopt(mmap_threshold, 2**25)
    mallopt(trim_threshold, 2**31 - 1)
