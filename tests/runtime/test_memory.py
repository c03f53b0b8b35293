"""Smaller parts where memory runs out: what is computed is the same, and the record says so."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.io.files import read_json
from understudy.runtime.memory import OutOfMemory, current, in_parts, is_out_of_memory, oom_fallback


def small(limit: int, data: np.ndarray, asked: list[int]) -> object:
    """Work that holds no more than `limit` rows at once."""

    def work(rows: slice) -> np.ndarray:
        asked.append(len(data[rows]))
        if asked[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return data[rows] ** 2

    return work


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_parts_together_are_the_whole(count: int, limit: int) -> None:
    data, asked = np.arange(count), list[int]()
    with mock.patch("understudy.runtime.memory.release_memory"):  # a tenth of a second each
        found = in_parts(small(limit, data, asked), count, f"squares {count} {limit}")  # type: ignore[arg-type]
    assert np.concatenate(found).tolist() == (data**2).tolist()
    assert max(len(part) for part in found) <= limit


def test_smaller_parts_are_remembered_and_recorded(tmp_path: Path) -> None:
    data, asked, path = np.arange(8), list[int](), tmp_path / "memory.json"
    with oom_fallback(path) as found:
        for _ in range(2):
            in_parts(small(2, data, asked), 8, "squares", "the same")  # type: ignore[arg-type]
        assert found.record == {"squares": "2 of 8 at once: the same"}
    assert asked == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]  # twice too many, then four parts; four at once the next time
    assert read_json(path)["record"] == found.record
    assert current().divided("squares") == 1  # what one job found out holds for it alone


def test_a_try_after_one_that_ran_out_of_memory_begins_with_less(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    for expected in (2, 4):
        with oom_fallback(path, more=True):
            assert current().least_parts == expected
    with oom_fallback(path):
        assert current().least_parts == 4
    path.write_text('{"halvings": 3, "rec')
    with oom_fallback(path):
        assert current().least_parts == 1


def test_one_row_that_is_too_large_is_an_error_of_its_own_class() -> None:
    with pytest.raises(OutOfMemory, match="squares") as caught:
        in_parts(small(0, np.arange(3), []), 3, "squares")  # type: ignore[arg-type]
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_other_errors_pass() -> None:
    def broken(rows: slice) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        in_parts(broken, 4, "nothing")
