"""A batch in micro-batches and over several processes: gradient accumulation, with smaller parts when memory runs out.

Everything random in a step is drawn for the whole batch. Process r of W takes the rows r, r + W, r + 2W, ..., and
computes them in k micro-batches, again every k-th row. Strided parts keep the groups of the minibatch standard
deviation together (sample n belongs to group n mod (N / group)), so the step is the same however the batch is divided,
up to the order in which floats are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

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


def micro_batches(inputs: Inputs, rows: int, parts: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """(part of the batch, inputs) of each micro-batch of `rows` rows; empty ones are left out."""
    for start in range(min(parts, rows)):
        yield len(range(start, rows, parts)) / rows, strided_rows(inputs, start, parts)


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
        self._buffers = [b for b in generator.buffers() if b.is_floating_point()]

    def parts(self, rows: int) -> int:
        """Micro-batches of a full batch of `rows` rows."""
        wanted, possible = max(self.least, math.ceil(rows / (self.micro_batch or rows))), self._possible(rows)
        return next((k for k in possible if k >= wanted), possible[-1])

    def _possible(self, rows: int) -> list[int]:
        """Numbers of equal parts that keep groups together."""
        return [k for k in range(1, rows + 1) if rows % k == 0 and rows // k % min(self.group, rows) == 0]

    def run(self, inputs: Inputs, rows: int, full: int, work: Callable[[float, dict[str, Any]], Any]) -> list[Any]:
        """`work(part of the batch, inputs)` of every micro-batch; again in smaller ones if memory runs out.

        Args:
            inputs: this process's. rows: theirs. full: those of a full batch, which decide the number of parts.
        """
        while True:
            failed, results, parts = False, list[Any](), self.parts(full)
            divided = parts * self.processes.world_size > 1
            before = [b.clone() for b in self._buffers]
            moves = [torch.zeros_like(b) for b in before if divided]
            try:
                for weight, part in micro_batches(inputs, rows, parts):
                    results.append(work(weight, part))
                    if divided:  # all start from the same buffers; a move is linear in the statistic: moves add up
                        for move, buffer, start in zip(moves, self._buffers, before, strict=True):
                            move += (buffer - start) * weight
                            buffer.copy_(start)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                failed = True  # and not here: the exception keeps what fills the memory
            if not self.processes.any(failed):
                if divided:
                    self.processes.all_reduce_mean(moves)
                    for buffer, move in zip(self._buffers, moves, strict=True):
                        buffer.add_(move)
                return results
            for buffer, start in zip(self._buffers, before, strict=True):
                buffer.copy_(start)
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
