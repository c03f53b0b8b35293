"""The real images of every step."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.joint import encode
from understudy.generators.training.config import TrainingConfig
from understudy.generators.training.distributed import ProcessGroup
from understudy.slices import SliceSet


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator of random numbers that depends on nothing but the key."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


class RealBatches:
    """Batches of rows of a slice set, as joint images on a device.

    They are drawn from (seed, step) alone, with replacement (the official codes go through all images before one comes
    again): so a step does not depend on those before it, and a resumed training sees the same images.
    """

    def __init__(
        self, slices: SliceSet, rows: NDArray[np.int64], config: TrainingConfig, device: torch.device,
        processes: ProcessGroup,
    ) -> None:  # fmt: skip
        self.slices, self.rows, self.config, self.device, self.processes = slices, rows, config, device, processes
        self._pool = ThreadPoolExecutor(1, "prefetch")  # reads the next step's batch for another device
        self._pending: tuple[tuple[int, int], Future[Tensor] | None] = (0, 0), None
        self._annotated: NDArray[np.bool_] | None = None
        if config.balance_classes:
            annotated = np.concatenate([labels.any(axis=(1, 2)) for _, _, labels in slices.blocks(rows)])
            if not 0 < annotated.sum() < len(annotated):
                raise UnderstudyError(
                    "balance_classes needs slices with and without annotation", slices.path, "leave it out"
                )
            self._annotated = annotated

    def batch(self, step: int, size: int) -> Tensor:
        """This process's joint images float32 [size / world size, C + A, R, R] of a step's batch of `size`."""
        if self.device.type == "cpu":  # whose cores are busy with the step
            return self._read(step, size)
        asked, pending = self._pending
        joint = pending.result() if pending is not None and asked == (step, size) else self._read(step, size)
        self._pending = (step + 1, size), self._pool.submit(self._read, step + 1, size)
        return joint.to(self.device, non_blocking=True)

    def _read(self, step: int, size: int) -> Tensor:
        rng = np.random.default_rng([self.config.seed, 1, step])
        if self._annotated is None:
            rows = rng.choice(self.rows, size)
        else:
            annotated = rng.random(size) < (self.config.balance_classes or 0)
            with_class = rng.choice(self.rows[self._annotated], size)
            rows = np.where(annotated, with_class, rng.choice(self.rows[~self._annotated], size))
        images, labels = self.slices.read(rows[self.processes.rank :: self.processes.world_size])
        return encode(images, labels, self.slices.classes, self.config.annotation)
