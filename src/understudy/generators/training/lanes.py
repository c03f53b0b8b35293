"""Works side by side in one process, each in a lane: on its own part of the processor's threads.

Not every operation of a network makes good use of a second thread, and all of them have to wait for each other's end.
So a lane takes a part of the batch through the whole network instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Result = TypeVar("Result")

COUNT = 2  # lanes, where there are as many threads; more were not tried


class Lanes:
    """Threads for as many works at once as there are lanes.

    Works have to spend their time outside of Python, as TorchScript does, and must not write to what others read.

    Attributes:
        count: of lanes; 1 where torch has one thread.
    """

    def __init__(self) -> None:
        self.count = COUNT if torch.get_num_threads() >= COUNT else 1
        self._pool: ThreadPoolExecutor | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Within this, torch has the threads of one lane: what is computed is the same, bit by bit, as in a lane."""
        threads = torch.get_num_threads()
        torch.set_num_threads(max(threads // self.count, 1))
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def run(self, works: Sequence[Callable[[], Result]]) -> list[Result]:
        """The results of at most `count` works, the first of them done in this thread.

        Raises:
            Exception: of the first work that failed, once all are done.
        """
        with self.one():
            if self._pool is None:  # torch's number of threads belongs to a thread
                threads = torch.get_num_threads()
                self._pool = ThreadPoolExecutor(self.count, "lane", torch.set_num_threads, (threads,))
            others = [self._pool.submit(work) for work in works[1:]]
            try:
                return [*(work() for work in works[:1]), *(other.result() for other in others)]
            finally:
                wait(others)
