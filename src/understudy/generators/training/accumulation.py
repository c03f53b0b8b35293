"""A batch in micro-batches and over several processes: gradient accumulation, with smaller parts when memory runs out.

Everything random in a step is drawn for the whole batch. Process r of W takes the rows r, r + W, r + 2W, ..., and
computes them in k micro-batches, again every k-th row. Strided parts keep the groups of the minibatch standard
deviation together (sample n belongs to group n mod (N / group)), so the step is the same however the batch is divided,
up to the order in which floats are added.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from understudy.generators.training.distributed import ProcessGroup
from understudy.runtime.memory import FIX, OutOfMemory, current, is_out_of_memory, release_memory

TRAINING = "training of a generator"  # in the record of what ran out of memory

Inputs = Mapping[str, Any]
"""Tensors whose first dimension is the batch (or without dimensions), or such mappings."""


def strided_rows(inputs: Inputs, start: int, stride: int) -> dict[str, Any]:
    """Every `stride`-th row of the inputs from `start` on; what has no batch dimension is kept."""
    if stride == 1:
        return dict(inputs)
    rows = dict[str, Any]()
    for name, value in inputs.items():
        if isinstance(value, Mapping):
            rows[name] = strided_rows(value, start, stride)
        else:
            rows[name] = value[start::stride] if value.ndim else value
    return rows


class Attempt:
    """One attempt at a batch, a context that ends quietly with `failed` set where memory ran out in any process.

    The generator's buffers follow statistics of the batch (mean w, magnitudes). All micro-batches start from the same
    values; a move is linear in the statistic, so the moves add up to that of the whole batch.
    """

    def __init__(self, buffers: list[Tensor], parts: int, full: int, processes: ProcessGroup) -> None:
        self.parts, self.full, self.processes, self.failed = parts, full, processes, False
        self._divided = parts * processes.world_size > 1
        self._buffers, self._before = buffers, [b.clone() for b in buffers]
        self._moves = [torch.zeros_like(b) for b in buffers if self._divided]

    def micro_batches(self, inputs: Inputs, rows: int | None = None) -> Iterator[tuple[float, dict[str, Any]]]:
        """(part of the batch, inputs) of each micro-batch; empty ones are left out.

        Args:
            inputs: this process's. rows: theirs; None for a full batch.
        """
        rows = self.full if rows is None else rows
        for start in range(min(self.parts, rows)):
            weight = len(range(start, rows, self.parts)) / rows
            yield weight, strided_rows(inputs, start, self.parts)
            if self._divided:
                for move, buffer, before in zip(self._moves, self._buffers, self._before, strict=True):
                    move += (buffer - before) * weight
                    buffer.copy_(before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> bool:
        out_of_memory = isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error)
        if error is not None and not out_of_memory:
            return False
        self.failed = self.processes.any(out_of_memory)
        if self.failed:
            for buffer, before in zip(self._buffers, self._before, strict=True):
                buffer.copy_(before)
        elif self._divided:
            self.processes.all_reduce_mean(self._moves)
            for buffer, move in zip(self._buffers, self._moves, strict=True):
                buffer.add_(move)
        return True


class Accumulation:
    """Computes a process's rows of a batch in as many parts as memory needs.

    Args:
        network: everything that is trained. generator: whose buffers follow statistics of the batch (mean w,
            magnitudes). group: samples that have to be computed together. micro_batch: rows at once, None for all.
    """

    def __init__(
        self, network: nn.Module, generator: nn.Module, group: int, micro_batch: int | None, processes: ProcessGroup
    ) -> None:
        self.network, self.group, self.micro_batch, self.processes = network, group, micro_batch, processes
        self.least = current().least_parts  # parts; more where memory ran out
        self.buffers = [b for b in generator.buffers() if b.is_floating_point()]

    def parts(self, rows: int) -> int:
        """Micro-batches of a full batch of `rows` rows."""
        wanted, possible = max(self.least, math.ceil(rows / (self.micro_batch or rows))), self._possible(rows)
        return next((k for k in possible if k >= wanted), possible[-1])

    def _possible(self, rows: int) -> list[int]:
        """Numbers of equal parts that keep groups together."""
        return [k for k in range(1, rows + 1) if rows % k == 0 and rows // k % min(self.group, rows) == 0]

    def attempts(self, full: int) -> Iterator[Attempt]:
        """Attempts at a batch of `full` rows, in smaller parts each time, until one does not run out of memory.

        Example:
            >>> for attempt in accumulation.attempts(rows):  # doctest: +SKIP
            ...     with attempt:
            ...         for weight, part in attempt.micro_batches(inputs):
            ...             (loss(part) * weight).backward()
        """
        while True:
            attempt = Attempt(self.buffers, self.parts(full), full, self.processes)
            yield attempt
            if not attempt.failed:
                return
            self._use_smaller_parts(full)

    def _use_smaller_parts(self, full: int) -> None:
        self.network.zero_grad(set_to_none=True)
        release_memory()
        parts = self.parts(full)
        more = next((k for k in self._possible(full) if k >= 2 * parts), None)
        if more is None:
            raise OutOfMemory(f"memory runs out with {full // parts} images at once, the fewest possible", fix=FIX)
        self.least = more
        self.record(full)

    def record(self, full: int) -> None:
        """Notes that fewer rows are computed at once, if so."""
        if self.least > 1:
            current().divide(TRAINING, full // self.parts(full), full, "gradients are the same up to rounding")
