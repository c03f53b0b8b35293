"""How a slice becomes a network's input: resized once in float32, repeated to RGB, shifted and scaled.

The rule travels with every result: resizing alone moves an FID by more than a generator does (29, 37 and 44 for one
set in diffusion-posterior-sampling #5).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

Resize = Literal["antialiased_bicubic", "tf1"]


@dataclass(frozen=True)
class InputRule:
    """What is done to uint8 slices before a network sees them.

    Attributes:
        size: edge of the network's input, pixels; None leaves slices as they are.
        resize: "antialiased_bicubic" (float32, clipped to 0..255, as clean-fid: PIL's filter on float images), or
            "tf1": bilinear without antialiasing between corner-aligned grids, as TensorFlow 1 and so the first FID
            did; only to compare with old numbers.
        mean, std: input = (grey value - mean) / std, for each copy.
        copies: how often the one channel is repeated (3: RGB).
    """

    size: int | None
    resize: Resize = "antialiased_bicubic"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    copies: int = 3

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, stored with results."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def apply_rule(images: NDArray[np.uint8], rule: InputRule, device: torch.device | str = "cpu") -> torch.Tensor:
    """Images uint8 [n, H, W] as float32 [n, copies, size, size]."""
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device).float()[:, None]
    if rule.size is not None and x.shape[-2:] != (rule.size, rule.size):
        x = resized(x, rule.size, rule.resize)
    x = x.repeat(1, rule.copies, 1, 1)
    mean = torch.tensor(rule.mean, device=x.device).reshape(1, -1, 1, 1)
    std = torch.tensor(rule.std, device=x.device).reshape(1, -1, 1, 1)
    return (x - mean) / std


def resized(x: torch.Tensor, size: int, how: Resize) -> torch.Tensor:
    """Float32 [n, c, H, W] in 0..255 as [n, c, size, size] in 0..255."""
    if how == "tf1":
        rows = _tf1_weights(x.shape[-2], size).to(x.device)
        columns = _tf1_weights(x.shape[-1], size).to(x.device)
        return rows @ x @ columns.T
    out = torch.nn.functional.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return out.clamp(0, 255)  # the filter's negative lobes overshoot at edges


def _tf1_weights(inputs: int, outputs: int) -> torch.Tensor:
    """[outputs, inputs]: output i reads at i * inputs / outputs, between two neighbours, without half pixels."""
    at = torch.arange(outputs, dtype=torch.float32) * (inputs / outputs)
    low = at.floor().long().clamp(max=inputs - 1)
    high = (low + 1).clamp(max=inputs - 1)
    share = at - low
    weights = torch.zeros(outputs, inputs)
    rows = torch.arange(outputs)
    weights.index_put_((rows, low), 1 - share, accumulate=True)
    weights.index_put_((rows, high), share, accumulate=True)
    return weights
