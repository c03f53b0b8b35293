"""A batch in shares: for several devices, and for as much at once as fits into memory.

Everything random of a step is drawn for the whole batch. Worker w of W takes the rows w, w + W, w + 2W, ..., and
computes them in k shares, again every k-th row; gradients are averaged. Strided shares keep the groups of the minibatch
standard deviation together (sample n belongs to group n mod (N / group)), so the step is the same however it is cut,
up to the order in which floats are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

Inputs = Mapping[str, Any]
"""What a step was given: tensors whose first dimension is the batch (or without dimensions), or such mappings."""


class Workers:
    """The processes that train together: here this one alone; see `parallel.FabricWorkers` for several."""

    rank, world = 0, 1

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the workers."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any worker."""
        return flag

    def wait(self) -> None:
        """Returns when all workers are here."""


def rows_of(inputs: Inputs, start: int, stride: int) -> dict[str, Any]:
    """Every `stride`-th row of the inputs from `start` on; what has no batch dimension is kept."""
    if stride == 1:
        return dict(inputs)
    return {
        name: rows_of(value, start, stride)
        if isinstance(value, Mapping)
        else value[start::stride]
        if value.ndim
        else value
        for name, value in inputs.items()
    }


class RunningMeans:
    """Buffers that a pass moves towards a statistic of its batch (mean w, magnitudes of activations).

    All shares start from the same values, and where they end is averaged: that is where the whole batch would have
    ended, because such a move is linear in the statistic.
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [b for b in module.buffers() if b.is_floating_point()]
        self._before: list[Tensor] = []
        self._moves: list[Tensor] = []

    def start(self) -> None:
        """Remembers the values before the first share."""
        self._before = [b.clone() for b in self._buffers]
        self._moves = []

    def reset(self) -> None:
        """Back to the values before the first share."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)

    def take(self, weight: float) -> None:
        """Takes note of a share that is `weight` of the worker's batch, and resets."""
        moves = [(b - before) * weight for b, before in zip(self._buffers, self._before, strict=True)]
        self._moves = [a + b for a, b in zip(self._moves, moves, strict=True)] if self._moves else moves
        self.reset()

    def finish(self, workers: Workers) -> None:
        """Sets the buffers to where the whole batch moves them."""
        if not self._moves:
            return
        workers.mean(self._moves)
        for buffer, move in zip(self._buffers, self._moves, strict=True):
            buffer.add_(move)


def shares_of(inputs: Inputs, count: int, shares: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """(part of the batch, inputs) of each share of `count` rows; empty shares are left out."""
    for start in range(min(shares, count)):
        size = len(range(start, count, shares))
        yield size / count, rows_of(inputs, start, shares)
