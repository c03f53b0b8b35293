"""Where networks run, and the type of their activations."""

from __future__ import annotations

import torch

from understudy.errors import UnderstudyError


def resolve_device(device: str) -> torch.device:
    """ "auto" is the first GPU if there is one, else the CPU.

    Raises:
        UnderstudyError: a name that torch does not know.
    """
    try:
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError as error:
        raise UnderstudyError(
            f"there is no device called {device!r}", fix="use auto, cpu, cuda or cuda:1"
        ) from error


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Type of the activations: bfloat16 if asked for ("bf16"), or if "auto" and the device multiplies in it; otherwise
    float32."""
    if precision == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
