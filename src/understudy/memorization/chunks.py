"""Slices read and computed in chunks that run beside each other, each with one thread of torch.

Chunks are always of the same size and torch would add up in another order with more threads, so that results do not
depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from understudy.memorization.frames import sized
from understudy.roles import Part
from understudy.runtime.progress import track

READ = 16  # slices that are read at a time
FINEST = 64  # pixels of a slice; larger ones are made smaller first
T = TypeVar("T")


@contextmanager
def single_threaded() -> Iterator[int]:
    """One thread for torch; gives the number that it had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def in_chunks(
    part: Part, channels: Sequence[str], size: int, work: Callable[[torch.Tensor, torch.Tensor, int], T],
    device: str = "cpu", what: str = "", progress: bool = False,
) -> Iterator[T]:  # fmt: skip
    """What `work` makes of images float32 [size, C, h, w], labels [size, H, W] and the position of the first, in order.

    `h` is `FINEST` at most; channels in this order.
    """
    order = [part.slices.channels.index(name) for name in channels]

    def chunk(start: int) -> T:
        rows, given, marks = part.rows[start : start + size], [], []
        with torch.inference_mode():
            for first in range(0, len(rows), READ):  # large slices take memory until they are made smaller
                images, labels = part.slices.read(rows[first : first + READ])
                given.append(sized(torch.from_numpy(images[:, order]).to(device).float(), FINEST))
                marks.append(torch.from_numpy(labels).to(device))
            return work(torch.cat(given), torch.cat(marks), start)

    count = len(part.rows)
    with (
        single_threaded() as threads,
        track(count, what, "slices", 0, progress) as meter,
        ThreadPoolExecutor(threads if device == "cpu" else 1) as pool,
    ):
        for start, made in zip(range(0, count, size), pool.map(chunk, range(0, count, size)), strict=True):
            meter.advance(min(size, count - start))
            yield made
