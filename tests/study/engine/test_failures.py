"""Classes of errors, which decide what is tried again."""

from __future__ import annotations

import errno

import pytest

from understudy.errors import UnderstudyError
from understudy.generators.training.health import Diverged
from understudy.runtime.memory import OutOfMemory
from understudy.study.engine.failures import TimeLimit, failure_class


@pytest.mark.parametrize(
    ("error", "stage", "expected"),
    [
        (MemoryError(), "generator", "out_of_memory"),
        (OutOfMemory("memory runs out"), "segmenter", "out_of_memory"),
        (TimeLimit(5), "generator", "time_limit"),
        (OSError(errno.ENOSPC, "full"), "sample", "disk"),
        (UnderstudyError("the disk is full"), "prepare", "disk"),
        (UnderstudyError("no T1"), "prepare", "bad_data"),
        (UnderstudyError("no T1"), "generator", "error"),
        (FloatingPointError("nan"), "generator", "nan"),
        (Diverged("the training diverged"), "generator", "nan"),
    ],
)
def test_classes(error: Exception, stage: str, expected: str) -> None:
    assert failure_class(error, stage) == expected
