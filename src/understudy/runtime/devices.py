"""Where networks run, and the type of their activations."""

import difflib
import re

import torch

from understudy.errors import UnderstudyError


def check_device_name(device: str) -> None:
    """Raises `UnderstudyError` for what is not auto, cpu, cuda, cuda:NUMBER or mps, on this machine or not."""
    if not re.fullmatch(r"auto|cuda(:[0-9]{1,3})?|(cpu|mps)(:0)?", device):
        asked, kinds = "cuda" if "gpu" in device.lower() else device.lower(), ("auto", "cpu", "cuda", "mps")
        hint = "".join(f"did you mean {name}? " for name in difflib.get_close_matches(asked, kinds, n=1))
        fix = f"{hint}use auto (a GPU if there is one), cpu, cuda or cuda:1"
        raise UnderstudyError(f"there is no device called {device!r}", where=f"device {device}", fix=fix)


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is the first GPU if there is one, else the CPU; raises for a device that this machine does not have."""
    if isinstance(device, torch.device):
        return device
    check_device_name(device)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if gpus else "cpu")
    found, where = torch.device(device), f"device {device}"
    if found.type == "cuda" and not gpus:
        why = "" if torch.backends.cuda.is_built() else " (it was installed without support for them)"
        fix = "use cpu or auto; for an NVIDIA GPU install its driver and PyTorch with CUDA"
        raise UnderstudyError(f"PyTorch finds no GPU on this machine{why}", where=where, fix=fix)
    if found.type == "cuda" and (found.index or 0) >= gpus:
        present = "one GPU, cuda:0" if gpus == 1 else f"{gpus} GPUs, cuda:0 to cuda:{gpus - 1}"
        raise UnderstudyError(f"there is no {device}: this machine has {present}", where=where, fix="use one of these")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise UnderstudyError("PyTorch finds no Apple GPU on this machine", where=where, fix="use auto or cpu")
    return found


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Type of the activations: bfloat16 for "bf16", or for "auto" where the device multiplies in it; else float32."""
    chosen = precision == "bf16"
    if precision == "auto" and device.type == "cuda":
        chosen = torch.cuda.is_bf16_supported(including_emulation=False)
    elif precision == "auto" and device.type == "cpu":
        # a CPU without the instructions emulates bfloat16, which is slower than float32
        chosen = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if chosen else torch.float32


def described(device: str | torch.device) -> str:
    """Device and type of activations that `auto` means there, e.g. "NVIDIA H200, bfloat16"; for records."""
    where = resolve_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    return f"{name}, {str(resolve_precision('auto', where)).removeprefix('torch.')}"
