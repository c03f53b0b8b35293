"""Where networks run, and in which type."""

from __future__ import annotations

import pytest
import torch

from understudy.errors import UnderstudyError
from understudy.generators.devices import resolve_device, resolve_precision


def test_a_device_is_taken_by_its_name() -> None:
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UnderstudyError, match="no device called 'gpu7'"):
        resolve_device("gpu7")


def test_precision_is_that_asked_for_or_what_the_device_multiplies_in() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == torch.float32
    assert resolve_precision("bf16", cpu) == torch.bfloat16
    assert resolve_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    assert resolve_precision("auto", torch.device("meta")) == torch.float32
