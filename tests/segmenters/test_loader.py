from __future__ import annotations

import threading

import numpy as np
import pytest

from understudy.errors import UnderstudyError
from understudy.segmenters import loader
from understudy.segmenters.loader import Ahead, Slices


def test_batches_come_in_order_and_end() -> None:
    with Ahead(lambda n: (n.astype(np.uint8), n.astype(np.uint8)), batch=3, start=1, stop=4) as batches:
        got = [batches.next() for _ in range(3)]
        with pytest.raises(StopIteration):
            batches.next()
    np.testing.assert_array_equal(np.concatenate([numbers for numbers, _, _ in got]), np.arange(3, 12))
    np.testing.assert_array_equal(np.concatenate([images for _, images, _ in got]), np.arange(3, 12))


def test_the_next_batch_is_read_while_this_one_is_in_use() -> None:
    """Deterministic: the second read is waited for before the second batch is asked for."""
    started = [threading.Event() for _ in range(3)]

    def read(numbers: np.ndarray) -> Slices:
        started[numbers[0]].set()
        return numbers, numbers

    with Ahead(read, batch=1, start=0, stop=3) as batches:
        batches.next()
        assert started[1].wait(10)
        assert not started[2].is_set()  # one ahead, not more: memory stays bounded
        batches.next()
        assert started[2].wait(10)


def test_what_is_waited_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 10.5, 20.0, 22.0])  # before and after each wait
    monkeypatch.setattr(loader, "clock", lambda: next(ticks))
    with Ahead(lambda n: (n, n), batch=1, start=0, stop=2) as batches:
        batches.next()
        batches.next()
    assert batches.waited == 2.5


def test_errors_of_the_reading_arrive() -> None:
    def read(numbers: np.ndarray) -> Slices:
        raise UnderstudyError("the slices cannot be read")

    with Ahead(read, batch=1, start=0, stop=2) as batches, pytest.raises(UnderstudyError, match="cannot be read"):
        batches.next()
