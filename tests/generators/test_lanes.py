"""Works side by side: their threads, results and errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from understudy.generators.training.lanes import Lanes


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


def test_works_run_at_once_on_their_part_of_the_threads() -> None:
    meeting = threading.Barrier(2, timeout=30)  # broken if one had to wait for the other

    def work() -> tuple[int, int]:
        meeting.wait()
        return threading.get_ident(), torch.get_num_threads()

    lanes = Lanes()
    for _ in range(2):
        (first, threads), (second, others) = lanes.run([work, work])
        assert first == threading.get_ident() != second
        assert threads == others == 2
        assert torch.get_num_threads() == 4


def test_results_keep_their_order() -> None:
    assert Lanes().run([lambda: 1, lambda: 2]) == [1, 2]
    assert Lanes().run([lambda: 1]) == [1]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_waits_for_the_others_and_is_told(failing: int) -> None:
    done = threading.Event()

    def fails() -> None:
        raise ValueError("broken")

    works = [done.set, done.set]
    works[failing] = fails
    with pytest.raises(ValueError, match="broken"):
        Lanes().run(works)
    assert done.is_set()
    assert torch.get_num_threads() == 4


def test_one_thread_is_one_lane() -> None:
    torch.set_num_threads(1)
    assert Lanes().count == 1
