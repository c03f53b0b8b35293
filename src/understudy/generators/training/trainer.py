"""What the trainings of all generators share: data order, shares of a batch, updates, averaging, records, state.

Everything random in a step is drawn from (seed, step), so a run that was interrupted and continued equals an unbroken
one bit by bit (on one CPU and thread count).
"""

from __future__ import annotations

import copy
import ctypes
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.joint import encode
from understudy.generators.training.config import TrainingConfig
from understudy.generators.training.recording import Loss, Recordings
from understudy.generators.training.shares import Inputs, RunningMeans, Workers, rows_of, shares_of
from understudy.runtime.devices import resolve_precision
from understudy.runtime.memory import FIX, OutOfMemory, current, is_out_of_memory, release_memory
from understudy.slices import SliceSet

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of the options of mallopt(3)
TRAINING = "training of a generator"  # in the record of what memory was too small for
_COUNTED = "repaired_gradients"  # the one figure that is a count, not a mean


def random_generator(*key: int) -> torch.Generator:
    """A CPU generator of random numbers that depends on nothing but the key."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory it frees: by default it gives large blocks back and faults them in again, page
    by page, in every step (a tenth of the time of small models). Does nothing under another C library."""
    try:
        tune = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option, size in ((_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**31 - 1)):
        tune(option, size)


class Trainer(ABC):
    """The state of one training and its step.

    Attributes:
        config: how it is trained, the kind's own class.
        images: real images shown so far, by all workers. steps: optimiser steps done.
        seconds: spent in training, also by earlier processes.
        average: exponential moving average of the generator: the result.
    """

    config: Any
    side_by_side = False  # whether two halves of a batch at once are faster than two threads for each operation
    quick_preview = True  # a preview costs little beside the steps between two lines of the history

    def __init__(
        self, slices: SliceSet, rows: NDArray[np.int64], model: Any, config: TrainingConfig, device: torch.device,
        workers: Workers | None = None,
    ) -> None:  # fmt: skip
        self.slices, self.rows, self.model, self.config, self.device = slices, rows, model, config, device
        self.workers = workers or Workers()
        self.dtype = resolve_precision(config.precision, device)
        if device.type == "cpu":
            keep_freed_memory()
        self.network: Any = self._build()
        self.network.to(device)
        self.generator: Any = self.network.generator
        self.average: Any = copy.deepcopy(self.generator).requires_grad_(False).eval()
        # Lists made once: walking the modules in every step takes a twentieth of the time of a small one.
        self._averaged = [[p.detach() for p in g.parameters()] for g in (self.average, self.generator)]
        self._copied = list(zip(self.average.buffers(), self.generator.buffers(), strict=True))
        self.images, self.steps, self.seconds = 0, 0, 0.0
        self.figures: dict[str, tuple[float | Tensor, int]] = {}
        self._running = RunningMeans(self.generator)
        self._annotated = self._find_annotated(config) if config.balance_classes else None
        self._least_shares = current().least_parts  # more where memory ran out
        self.recordings = Recordings(active=device.type == "cpu" and self.workers.world == 1)
        self._side_by_side: dict[Hashable, bool] = {}
        self._prepare()
        self._note_shares()

    # --- what a kind of generator defines ---------------------------------------------------------------------------

    @abstractmethod
    def _build(self) -> Any:
        """The network with fresh weights: a module that has `generator`."""

    @abstractmethod
    def _prepare(self) -> None:
        """Makes optimisers and whatever else the kind needs, once the network is there."""

    @abstractmethod
    def step(self) -> None:
        """One training step; ends with `_finish_step`."""

    @abstractmethod
    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Name in the checkpoint -> optimiser."""

    @abstractmethod
    def preview(self, count: int) -> Tensor:
        """Joint images float32 [count, C, R, R] on the CPU, of the averaged generator and always the same latents."""

    def record(self) -> dict[str, Any]:
        """What the run's config.json tells about the training beyond its configuration."""
        return {"precision": str(self.dtype).removeprefix("torch.")}

    @property
    def batch(self) -> int:
        """Images in the next step, of all workers."""
        return int(self.config.batch)

    @property
    def batches(self) -> set[int]:
        """All sizes of a batch that this training has, `batch` is one of them."""
        return {self.batch}

    def check_parting(self) -> None:
        """Refuses batches that the workers cannot part evenly and in whole groups, before any work is done.

        Raises:
            UnderstudyError: says which.
        """
        for batch in sorted(self.batches):
            local, left = divmod(batch, self.workers.world)
            if left or local % min(self.group, local):
                raise UnderstudyError(
                    f"batch {batch} cannot be parted among {self.workers.world} devices in groups of {self.group}",
                    fix="choose a batch that is a multiple of devices * mbstd_group",
                )

    @property
    def local_batch(self) -> int:
        """Images of this worker in the next step."""
        return self.batch // self.workers.world

    @property
    def group(self) -> int:
        """Samples that have to be computed together."""
        return 1

    # --- data -------------------------------------------------------------------------------------------------------

    def _find_annotated(self, config: TrainingConfig) -> NDArray[np.bool_]:
        found = [labels.any(axis=(1, 2)) for _, _, labels in self.slices.blocks(self.rows)]
        annotated: NDArray[np.bool_] = np.concatenate(found)
        if not 0 < annotated.sum() < len(annotated):
            raise UnderstudyError(
                "balance_classes needs slices with and without annotation",
                where=self.slices.path,
                fix="leave balance_classes out",
            )
        return annotated

    def real_batch(self, step: int) -> Tensor:
        """This worker's real joint images [batch / workers, C, R, R] of a step: drawn with (seed, step) alone.

        With replacement, where the official codes go through all images before one comes again: so a step does not
        depend on those before it.
        """
        rng = np.random.default_rng([self.config.seed, 1, step])
        if self._annotated is None:
            rows = rng.choice(self.rows, self.batch)
        else:
            wanted = rng.random(self.batch) < self.config.balance_classes
            with_class = rng.choice(self.rows[self._annotated], self.batch)
            rows = np.where(wanted, with_class, rng.choice(self.rows[~self._annotated], self.batch))
        images, labels = self.slices.read(rows[self.workers.rank :: self.workers.world])
        return encode(images, labels, self.slices.classes, self.config.annotation).to(self.device)

    # --- one phase of a step ----------------------------------------------------------------------------------------

    @property
    def shares(self) -> int:
        """Parts in which a worker computes its rows, by `micro_batch` and by where memory ran out."""
        local = self.local_batch
        wanted = max(self._least_shares, math.ceil(local / (self.config.micro_batch or local)))
        return next((k for k in self._possible_shares() if k >= wanted), self._possible_shares()[-1])

    def _possible_shares(self) -> list[int]:
        local = self.local_batch
        return [k for k in range(1, local + 1) if self._can_part(k)]

    def _can_part(self, shares: int) -> bool:
        """Whether a worker's rows can be cut into so many shares of whole groups."""
        local = self.local_batch
        return local % shares == 0 and local // shares % min(self.group, local) == 0

    def local(self, inputs: Inputs) -> dict[str, Any]:
        """This worker's rows of what was drawn for the whole batch."""
        return rows_of(inputs, self.workers.rank, self.workers.world)

    def each_share(
        self, inputs: Inputs, count: int,
        work: Callable[[Sequence[tuple[float, dict[str, Any]]]], Iterable[Any]], lanes: int = 1,
    ) -> list[Any]:  # fmt: skip
        """What `work` gives for every share, as (part of the batch, inputs); once more in smaller shares if memory runs
        out.

        Args:
            inputs: this worker's. count: their rows. work: gets the shares of one time, one for each lane.

        Raises:
            UnderstudyError: memory runs out with the smallest shares as well.
        """
        while True:
            failed, found = False, list[Any]()
            lanes = lanes if self._can_part(self.shares * lanes) else 1
            shares = self.shares * lanes
            self._running.start()
            try:
                parts = list(shares_of(inputs, count, shares))
                for start in range(0, len(parts), lanes):
                    group = parts[start : start + lanes]
                    for (weight, _), result in zip(group, work(group), strict=True):
                        found.append(result)
                        if shares * self.workers.world > 1:
                            self._running.take(weight)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                failed = True  # and not here: the exception keeps what fills the memory
            if not self.workers.any(failed):
                self._running.finish(self.workers)
                return found
            self._running.reset()
            self._use_smaller_shares()

    def _use_smaller_shares(self) -> None:
        self.network.zero_grad(set_to_none=True)
        release_memory()
        local, shares = self.local_batch, self.shares
        more = next((k for k in self._possible_shares() if k >= 2 * shares), None)
        if more is None:
            raise OutOfMemory(
                f"memory runs out with {local // shares} images at once, and they cannot be parted", fix=FIX
            )
        self._least_shares = more
        self._note_shares()

    def _note_shares(self) -> None:
        if self._least_shares > 1:
            local = self.local_batch
            current().divide(TRAINING, local // self.shares, local, "gradients are the same up to rounding")

    def _numbers(self) -> Hashable:
        """What the losses depend on besides their inputs and the networks; None: they cannot be recorded."""
        return None

    def descend(
        self, name: str, optimiser: torch.optim.Optimizer, inputs: Inputs, count: int, loss: Loss
    ) -> dict[str, Tensor]:
        """One update of the optimiser's parameters by the mean loss over the batch.

        Args:
            name: of the loss. inputs: this worker's. count: their rows.
            loss: inputs of a share -> its mean loss, and mean figures for the history.

        Returns:
            The figures' means over the batch; they are recorded.
        """

        numbers, parameters = self._numbers(), optimiser.param_groups[0]["params"]
        key = None if numbers is None else (name, numbers)

        def backward(group: Sequence[tuple[float, dict[str, Any]]]) -> Iterator[dict[str, Tensor]]:
            found = self.recordings.descend(key, loss, group, parameters)
            for figures, (weight, _) in zip(found, group, strict=True):
                yield {name: figure * weight for name, figure in figures.items()}

        lanes = self._lanes(key, inputs, count, loss, parameters) if self.side_by_side else 1
        found = self.each_share(inputs, count, backward, lanes)
        figures = {name: sum((f[name] for f in found[1:]), found[0][name]) for name in found[0]}
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.workers.mean([*gradients, *figures.values()])
        norms = torch.stack(torch._foreach_norm(gradients))
        if not torch.isfinite(norms).all():
            for gradient in gradients:
                torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)
            self.note({_COUNTED: 1.0})
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.note(figures)
        return figures

    def _lanes(self, key: Hashable, inputs: Inputs, count: int, loss: Loss, parameters: Sequence[Tensor]) -> int:
        """Shares that are computed side by side: as many as there are lanes, if the loss can be recorded.

        It is decided when a loss comes for the first time and by sizes alone, so that a resumed training decides alike.
        """
        lanes, shares = self.recordings.lanes.count, self.shares
        if lanes == 1 or key is None or not self.recordings.active or not self._can_part(shares * lanes):
            return 1
        sized = (key, count, shares)
        if sized not in self._side_by_side:
            _, part = next(shares_of(inputs, count, shares * lanes))
            self._running.start()
            self._side_by_side[sized] = self.recordings.can_record(loss, part, parameters)
            self._running.reset()
        return lanes if self._side_by_side[sized] else 1

    def _finish_step(self, beta: float) -> None:
        """Counts the step and averages the generator; beta: weight of the average so far."""
        self.images += self.batch
        self.steps += 1
        with torch.no_grad():
            average, current = self._averaged
            torch._foreach_lerp_(average, current, 1 - beta)
            for ours, theirs in self._copied:
                ours.copy_(theirs)

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    def note(self, values: dict[str, Any]) -> None:
        """Adds figures to those of the next line of the history."""
        for name, value in values.items():
            total, count = self.figures.get(name, (0.0, 0))
            self.figures[name] = (total + value, count + 1)

    def take_figures(self) -> dict[str, float | None]:
        """Means since the last call (a count for `repaired_gradients`), None where nothing finite was recorded."""
        means = {k: float(t) / (1 if k == _COUNTED else n) for k, (t, n) in sorted(self.figures.items())}
        self.figures = {}
        if self.shares > 1:
            means["shares"] = float(self.shares)
        return {k: v if math.isfinite(v) else None for k, v in means.items()}

    def state(self) -> dict[str, Any]:
        """Everything a resumed training needs to be the same training."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": {name: o.state_dict() for name, o in self._optimisers().items()},
            "images": self.images,
            "seconds": self.seconds,
            "shares": self._least_shares,
            "figures": {name: [float(total), count] for name, (total, count) in self.figures.items()},
        }

    def restore(self, steps: int, state: dict[str, Any]) -> None:
        """Continues from `state()` after `steps` steps."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for name, optimiser in self._optimisers().items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.steps, self.images, self.seconds = steps, state["images"], state["seconds"]
        self._least_shares = max(state["shares"], self._least_shares)
        self._note_shares()
        self.figures = {name: (total, count) for name, (total, count) in state["figures"].items()}


def annealed_beta(batch: int, images: int, half_life: float, rampup: float | None) -> float:
    """Weight of the average so far after a step of `batch` images: it halves every `half_life` images.

    Args:
        images: shown so far, this step included. rampup: the half-life is at most this part of them.
    """
    if rampup is not None:
        half_life = min(half_life, images * rampup)
    return float(0.5 ** (batch / max(half_life, 1e-8)))
