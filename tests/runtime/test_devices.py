"""Where networks run, and in which type."""

from __future__ import annotations

import pytest
import torch

from understudy.errors import UnderstudyError
from understudy.runtime.devices import check_device_name, described, resolve_device, resolve_precision


def with_gpus(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_a_device_is_taken_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(2, monkeypatch)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("meta")) == torch.device("meta")
    with_gpus(0, monkeypatch)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "hint"),
    [
        ("gpu", "did you mean cuda?"), ("CUDA", "did you mean cuda?"), ("gpu:0", "did you mean cuda?"),
        ("cudaa", "did you mean cuda?"), ("", "use auto"), ("xpu", "use auto"), ("meta", "use auto"),
        ("cuda:", "cuda"), ("cuda:-1", "cuda"), ("cuda:1x", "cuda"), ("cpu:3", "cpu"),
    ],
)  # fmt: skip
def test_what_names_no_device_is_refused_with_what_was_meant(
    device: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(2, monkeypatch)
    for check in (resolve_device, check_device_name):
        with pytest.raises(UnderstudyError, match="no device called") as refused:
            check(device)
        assert hint in str(refused.value.fix)


@pytest.mark.parametrize(
    ("device", "gpus", "what", "fix"),
    [
        ("cuda", 0, "finds no GPU", "use cpu or auto"),
        ("cuda:1", 0, "finds no GPU", "use cpu or auto"),
        ("cuda:7", 1, "this machine has one GPU, cuda:0", "one of these"),
        ("cuda:3", 3, "3 GPUs, cuda:0 to cuda:2", "one of these"),
        ("mps", 0, "no Apple GPU", "auto or cpu"),
    ],
)
def test_a_device_that_this_machine_lacks_is_refused_but_known_elsewhere(
    device: str, gpus: int, what: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(gpus, monkeypatch)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UnderstudyError) as refused:
        resolve_device(device)
    assert what in refused.value.what
    assert refused.value.where == f"device {device}"
    assert fix in str(refused.value.fix)
    check_device_name(device)


def test_precision_is_that_asked_for_or_what_the_device_multiplies_in() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == torch.float32
    assert resolve_precision("bf16", cpu) == torch.bfloat16
    assert resolve_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    assert resolve_precision("auto", torch.device("meta")) == torch.float32


def test_the_device_and_its_precision_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert described("cpu") == "cpu, float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert described("cpu") == "cpu, bfloat16"
    with_gpus(1, monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert described("auto") == "NVIDIA H200, bfloat16"
