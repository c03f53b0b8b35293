"""The training's batches, read from disk while the one before is trained on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter as clock
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

Slices = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class Ahead:
    """Gives the batches of a training in order and holds the next one ready: two batches in memory, no more.

    Args:
        read: images and labels of samples with these numbers (`Mixture.read`); called from one other thread only.
        batch: samples in each.
        start, stop: numbers of the first batch and of the one after the last.

    Attributes:
        waited: seconds that `next` has taken, so what a faster disk could save.

    Example:
        >>> with Ahead(lambda numbers: (numbers, -numbers), batch=2, start=3, stop=5) as batches:
        ...     [images.tolist() for _, images, _ in (batches.next(), batches.next())]
        [[6, 7], [8, 9]]
    """

    def __init__(self, read: Callable[[NDArray[np.int64]], Slices], batch: int, start: int, stop: int) -> None:
        self._read, self._batch, self._number, self._stop = read, batch, start, stop
        self.waited = 0.0
        self._pool = ThreadPoolExecutor(1, "loader")
        self._pending: Future[Slices] | None = None
        self._submit()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        more = self._number < self._stop
        self._pending = self._pool.submit(self._read, self._numbers()) if more else None

    def _numbers(self) -> NDArray[np.int64]:
        return np.arange(self._number * self._batch, (self._number + 1) * self._batch)

    def next(self) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]:
        """Numbers of the samples, images and labels; the batch after them is read from now on.

        Raises:
            StopIteration: there was no batch left.
            UnderstudyError: of the reading.
        """
        if self._pending is None:
            raise StopIteration
        asked = clock()
        images, labels = self._pending.result()
        self.waited += clock() - asked
        numbers = self._numbers()
        self._number += 1
        self._submit()
        return numbers, images, labels
